//! Property tests: the strict and the lenient form of an event give the same result, in which no price repeats and
//! every row is accounted for.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::*;
use oddsd_testkit::mutate::mutated_json_with;

fn bookmaker(key: &str) -> Value {
    json!({
        "key": key, "title": "Draft \"Kings\"", "last_update": "2026-08-04T11:59:00Z", "markets": [
            {"key": "h2h", "last_update": "2026-08-04T11:58:00Z", "outcomes": [
                {"name": "Lynx", "price": -110}, {"name": "Aces", "price": 150}]},
            {"key": "totals", "outcomes": [
                {"name": "Over", "price": 105, "point": 22.50, "description": null},
                {"name": "Over", "price": -120, "point": 1.5, "description": "A. Wilson"}]},
        ],
    })
}

fn event(id: &str) -> Value {
    json!({
        "id": id, "sport_key": "basketball_wnba", "sport_title": "WNBA",
        "commence_time": "2026-08-05T00:00:00Z", "home_team": "Lynx", "away_team": "Aces",
        "bookmakers": [bookmaker("draftkings"), bookmaker("fanduel")],
    })
}

fn damaged_events() -> impl Strategy<Value = Value> {
    let texts = [
        "h2h",
        "Draft Kings",
        "fanduel",
        "Over",
        "g1",
        "2026-08-06T00:00:00Z",
    ];
    let mut values: Vec<Value> = texts.map(Value::from).into();
    values.extend([
        json!(-150),
        bookmaker("bovada"),
        json!([bookmaker("bovada")]),
    ]);
    mutated_json_with(json!([event("g1"), event("g2"), event("g1")]), values)
}

proptest! {
    #[test]
    fn strict_and_lenient_parsing_give_the_same_result(
        events in damaged_events(),
        flip in prop::option::of((any::<Index>(), any::<u8>())),
        format in prop::sample::select(vec![OddsFormat::American, OddsFormat::Decimal]),
        one_by_one: bool,
    ) {
        let now = "2026-08-04T12:00:00Z".parse().expect("valid");
        let mut both = OddsParser::new(now, "basketball_wnba", format);
        let mut lenient = OddsParser::new(now, "basketball_wnba", format);
        for event in events.as_array().into_iter().flatten() {
            let mut text = event.to_string().into_bytes();
            if let Some((at, byte)) = flip {
                let at = at.index(text.len());
                text[at] = byte;
            }
            let text = String::from_utf8_lossy(&text);
            prop_assert_eq!(both.parse(&text), lenient.parse_lenient(&text));
            prop_assert_eq!(&both.parsed, &lenient.parsed, "{}", text);
            if one_by_one {
                prop_assert_eq!(both.take_event(), lenient.take_event());
            }
        }
        let mut prices = 0;
        for event in &both.parsed.events {
            let keys: HashSet<_> = event.prices.iter().map(|price| &price.key).collect();
            prop_assert_eq!(keys.len(), event.prices.len(), "{:?}", event);
            prices += event.prices.len() as u64;
        }
        let accounted = prices + both.parsed.rejected.total();
        prop_assert!(one_by_one || both.parsed.prices_seen == accounted);
    }

    #[test]
    fn keys_are_found_by_hash_as_one_by_one(events in damaged_events(), copies in 1usize..40) {
        let now = "2026-08-04T12:00:00Z".parse().expect("valid");
        let parse = |many: usize| {
            let mut parser = OddsParser::new(now, "basketball_wnba", OddsFormat::American);
            for event in events.as_array().into_iter().flatten() {
                let mut event = event.clone();
                // Copies of a market are rejected as duplicates, and make its keys be collected.
                if let Some(market) = event.pointer("/bookmakers/0/markets/0").cloned()
                    && let Some(Value::Array(markets)) = event.pointer_mut("/bookmakers/0/markets")
                {
                    markets.extend(std::iter::repeat_n(market, many));
                }
                parser.parse(&event.to_string()).expect("few prices");
            }
            let events = parser.parsed.events.into_iter();
            events.map(|event| event.prices).collect::<Vec<_>>()
        };
        prop_assert_eq!(parse(0), parse(copies));
    }
}

#[test]
fn a_documented_event_has_the_strict_form() {
    assert!(parse_object::<EventJson<'_, false>>(&event("g1").to_string()).is_ok());
}
