//! Property tests: the strict and the lenient path give the same result for the races that both accept, and
//! skipping stored races gives the same as parsing them.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::*;
use crate::racing_api::answer::parse_page;
use oddsd_core::diff::EventSink;
use oddsd_core::model::Fingerprint;
use oddsd_testkit::mutate::json_pointers;

fn now() -> DateTime<Utc> {
    "2025-10-13T13:30:00Z".parse().expect("valid")
}

fn odds(bookmaker: &str, decimal: &str) -> Value {
    json!({
        "bookmaker": bookmaker, "fractional": "10/3", "decimal": decimal, "ew_places": "3",
        "ew_denom": "5", "updated": "2025-10-13 14:11:07", "history": [],
    })
}

fn runner(id: &str) -> Value {
    json!({
        "horse_id": id, "horse": "Quiet Kettle", "age": "5", "trainer": "Ned \"Ness\" Vaisey",
        "jockey": "Isla Hexley", "number": "1", "draw": "0", "lbs": "158", "form": "542-",
        "odds": [odds("Bet365", "4.33"), odds("Coral", "17"), odds("Spread Ex", "-")],
    })
}

fn race(id: &str) -> Value {
    json!({
        "race_id": id, "course": "Hereford", "date": "2025-10-13", "off_time": "3:05",
        "off_dt": "2025-10-13T15:05:00+01:00", "race_name": "Mares' \"National Hunt\" Hurdle",
        "distance": "2m53y", "region": "GB", "race_class": "Class 4", "type": "Hurdle",
        "prize": "\u{a3}4,193", "field_size": "1", "going": "Good", "surface": "Turf",
        "big_race": false, "is_abandoned": false, "race_status": null, "weather": {"deep": [1]},
        "runners": [runner("hrs_1"), runner("hrs_2")],
    })
}

fn other() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        " {0,2}[0-9:/. R-]{0,20}".prop_map(Value::from),
        "2025-10-13 1[0-9]:[0-9]{2}:[0-9]{2}".prop_map(Value::from),
        Just(json!("Bet 365")),
        Just(json!("coral")),
        Just(json!("hrs_1")),
        Just(json!("rac_1")),
        Just(json!("NON-RUNNER")),
        Just(json!("Abandoned")),
        Just(json!([])),
        Just(json!({})),
        Just(runner("hrs_3")),
        Just(odds("Ladbrokes", "2.50")),
    ]
}

/// Races in which some values, and some bytes, are replaced.
fn races() -> impl Strategy<Value = Vec<String>> {
    let changes = prop::collection::vec((any::<Index>(), other()), 0..5);
    let flips = prop::collection::vec((any::<Index>(), any::<u8>()), 0..2);
    (changes, flips, 0u8..3).prop_map(|(changes, flips, flipped)| {
        let mut races = json!([race("rac_1"), race("rac_2"), race("rac_1"), race("rac_3")]);
        for (at, other) in changes {
            let all = json_pointers(&races).split_off(1);
            *races
                .pointer_mut(&all[at.index(all.len())])
                .expect("just listed") = other;
        }
        let races = races.as_array().expect("a list").iter();
        let mut races: Vec<_> = races.map(|race| race.to_string().into_bytes()).collect();
        for (at, byte) in flips.into_iter().filter(|_| flipped == 0) {
            let at = at.index(races[0].len());
            races[0][at] = byte;
        }
        let text = |race: Vec<u8>| String::from_utf8_lossy(&race).into_owned();
        races.into_iter().map(text).collect()
    })
}

fn totals(parser: &RaceParser) -> impl PartialEq + std::fmt::Debug {
    (
        parser.bookmakers.listed.clone(),
        parser.rejects.clone(),
        parser.partial,
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
        races in races(),
        positions in prop::collection::vec((0usize..2, 0usize..2), 4),
    ) {
        let (mut both, mut lenient) = (RaceParser::new(now()), RaceParser::new(now()));
        for (race, (day, page)) in races.iter().zip(positions) {
            let position = ListPosition { day, page };
            match serde_json::from_str::<&RawValue>(race) {
                Ok(raw) => {
                    let expected = lenient.parse_lenient(raw, position);
                    prop_assert_eq!(both.parse(raw, position), expected, "{}", race);
                }
                Err(_) => prop_assert!(both.parse_strict(race, position).is_none(), "{}", race),
            }
            prop_assert_eq!(totals(&both), totals(&lenient), "{}", race);
        }
    }

    #[test]
    fn skipping_stored_races_gives_the_same_as_parsing_them(races in races()) {
        let body = format!("{{\"racecards\":[{}]}}", races.join(" ,\n"));
        let parse = |sink: &mut SkippingSink| {
            let mut parser = RaceParser::new(now());
            let page = parse_page(&body, &mut parser, sink, ListPosition::default());
            (page.map(|page| (page.races_seen, page.whole, page.fingerprints)), parser.rejects, parser.partial)
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
fn a_documented_race_is_parsed_strictly() {
    let mut parser = RaceParser::new(now());
    let race = parser.parse_strict(&race("rac_1").to_string(), ListPosition::default());
    assert_eq!(race.expect("strict").prices.len(), 6);
}
