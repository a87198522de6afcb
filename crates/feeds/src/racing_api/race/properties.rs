//! Property tests: the strict and the lenient form of a race give the same result, and skipping stored races gives
//! the same as parsing them.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::*;
use crate::racing_api::answer::parse_page;
use oddsd_core::diff::EventSink;
use oddsd_core::model::Fingerprint;
use oddsd_testkit::mutate::mutated_json_with;
use oddsd_testkit::racing_provider::races::{self, odds, runner};

fn now() -> DateTime<Utc> {
    "2025-10-13T13:30:00Z".parse().expect("valid")
}

fn race(id: &str) -> Value {
    let rows = json!([
        odds("Bet365", "4.33"),
        odds("Coral", "17"),
        odds("Spread Ex", "-")
    ]);
    let mut race = races::race(id);
    race["race_name"] = json!("Mares' \"National Hunt\" Hurdle");
    race["weather"] = json!({"deep": [1]});
    race["runners"] = json!([runner("hrs_1", rows.clone()), runner("hrs_2", rows)]);
    race["runners"][0]["odds"][0]["fractional"] = json!("10/3");
    race
}

/// Races in which some values, and sometimes a byte, are replaced.
fn damaged_races() -> impl Strategy<Value = Vec<String>> {
    let races = json!([race("rac_1"), race("rac_2"), race("rac_1"), race("rac_3")]);
    let mut values = vec![runner("hrs_3", json!([])), odds("Ladbrokes", "2.50")];
    values.extend(
        [
            "Bet 365",
            "coral",
            "hrs_1",
            "rac_1",
            "NON-RUNNER",
            "Abandoned",
            "2025-10-13 15:59:59",
            "2025-10-13 13:00:00",
        ]
        .map(Value::from),
    );
    let flip = prop::option::weighted(0.3, (any::<Index>(), any::<u8>()));
    (mutated_json_with(races, values), flip).prop_map(|(races, flip)| {
        let races = races.as_array().cloned().unwrap_or(vec![races]);
        let mut races: Vec<_> = races.iter().map(|race| race.to_string()).collect();
        if let (Some((at, byte)), Some(race)) = (flip, races.first_mut()) {
            let mut bytes = race.clone().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            *race = String::from_utf8_lossy(&bytes).into_owned();
        }
        races
    })
}

fn totals(parser: &RaceParser) -> impl PartialEq + std::fmt::Debug {
    (
        parser.bookmakers.listed.clone(),
        parser.rejects.clone(),
        parser.in_doubt.clone(),
        (parser.prices_seen, parser.rows_rejected),
        parser.listed_twice.clone(),
    )
}

/// Collects what a fetch hands over, and knows the texts of `stored`.
#[derive(Default)]
struct SkippingSink {
    stored: HashMap<Fingerprint, EventId>,
    parsed: Vec<(EventSnapshot, Option<Fingerprint>)>,
    unchanged: Vec<EventId>,
}

impl EventSink for SkippingSink {
    fn start(&mut self, _: DateTime<Utc>) {}

    fn find_unchanged(&self, fingerprint: &Fingerprint) -> Option<EventId> {
        self.stored.get(fingerprint).cloned()
    }

    fn mark_unchanged(&mut self, fingerprint: &Fingerprint) {
        self.unchanged.extend(self.find_unchanged(fingerprint));
    }

    fn push(&mut self, event: EventSnapshot, fingerprint: Option<Fingerprint>) {
        self.parsed.push((event, fingerprint));
    }
}

proptest! {
    #[test]
    fn strict_and_lenient_parsing_give_the_same_result(
        races in damaged_races(),
        positions in prop::collection::vec((0usize..2, 0usize..2), 4),
    ) {
        let (mut both, mut lenient) = (RaceParser::new(now()), RaceParser::new(now()));
        for (race, (day, page)) in races.iter().zip(positions) {
            let position = ListPosition { day, page };
            let expected = lenient.parse_lenient(race, position);
            prop_assert_eq!(both.parse(race, position), expected, "{}", race);
            prop_assert_eq!(totals(&both), totals(&lenient), "{}", race);
        }
    }

    #[test]
    fn skipping_stored_races_gives_the_same_as_parsing_them(races in damaged_races()) {
        let body = format!("{{\"racecards\":[{}]}}", races.join(" ,\n"));
        let parse = |sink: &mut SkippingSink| {
            let mut parser = RaceParser::new(now());
            let page = parse_page(&body, None, &mut parser, sink, ListPosition::default());
            (page.map(|page| (page.races_seen, page.whole, page.fingerprints)), parser.rejects, parser.in_doubt.clone())
        };
        let mut all = SkippingSink::default();
        let expected = parse(&mut all);
        let clean = all.parsed.iter().filter_map(|(race, fingerprint)| {
            fingerprint.map(|fingerprint| (fingerprint, race.event.id.clone()))
        });
        let mut skipping = SkippingSink { stored: clean.collect(), ..Default::default() };
        prop_assert_eq!(parse(&mut skipping), expected);
        let rejected: Vec<_> = all.parsed.iter().filter(|(_, fingerprint)| fingerprint.is_none()).collect();
        prop_assert_eq!(skipping.parsed.iter().collect::<Vec<_>>(), rejected);
        prop_assert_eq!(skipping.unchanged.len() + skipping.parsed.len(), all.parsed.len());
    }
}

#[test]
fn a_documented_race_has_the_strict_form() {
    assert!(parse_object::<StrictRace<'_>>(&race("rac_1").to_string()).is_ok());
}
