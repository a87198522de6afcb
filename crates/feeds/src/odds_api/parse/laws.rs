//! Property tests: the strict and the lenient path give the same result for the events that both accept.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::*;
use oddsd_testkit::mutate::json_pointers;

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

fn other() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-300i64..300).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(json!("h2h")),
        Just(json!("Draft Kings")),
        Just(json!("fanduel")),
        Just(json!("Over")),
        Just(json!("g1")),
        Just(json!("2026-08-06T00:00:00Z")),
        Just(json!([])),
        Just(json!({})),
        Just(bookmaker("bovada")),
        Just(json!([bookmaker("bovada")])),
    ]
}

proptest! {
    #[test]
    fn strict_and_lenient_parsing_give_the_same_result(
        changes in prop::collection::vec((any::<Index>(), other()), 0..5),
        flip in prop::option::of((any::<Index>(), any::<u8>())),
        american: bool,
        one_by_one: bool,
    ) {
        let mut events = json!([event("g1"), event("g2"), event("g1")]);
        for (at, other) in changes {
            let all = json_pointers(&events).split_off(1);
            *events.pointer_mut(&all[at.index(all.len())]).expect("just listed") = other;
        }
        let format = match american {
            true => OddsFormat::American,
            false => OddsFormat::Decimal,
        };
        let now = "2026-08-04T12:00:00Z".parse().expect("valid");
        let mut both = OddsParser::new(now, "basketball_wnba", format);
        let mut lenient = OddsParser::new(now, "basketball_wnba", format);
        for event in events.as_array().expect("a list") {
            let mut text = event.to_string().into_bytes();
            if let Some((at, byte)) = flip {
                let at = at.index(text.len());
                text[at] = byte;
            }
            let text = String::from_utf8_lossy(&text);
            if serde_json::from_str::<&RawValue>(&text).is_err() {
                prop_assert!(both.parse_strict(&text).is_none(), "{}", text);
                // The whole answer cannot be read then.
                return Ok(());
            }
            prop_assert_eq!(both.parse(&text), lenient.parse_lenient(&text));
            prop_assert_eq!(&both.parsed, &lenient.parsed, "{}", text);
            if one_by_one {
                prop_assert_eq!(both.take_event(), lenient.take_event());
            }
        }
    }
}

#[test]
fn a_documented_event_is_parsed_strictly() {
    let now = "2026-08-04T12:00:00Z".parse().expect("valid");
    let mut parser = OddsParser::new(now, "basketball_wnba", OddsFormat::American);
    assert_eq!(parser.parse_strict(&event("g1").to_string()), Some(()));
    assert_eq!(parser.parsed.prices_seen, 8);
}
