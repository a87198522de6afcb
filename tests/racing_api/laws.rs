//! Laws of the parser: nothing breaks it, and no row is ever lost.

use oddsd::feed::racing_api::parse_cards;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::card::assert_accounted;
use super::{now, race};

/// Every value in a card, by its JSON pointer.
fn places(value: &Value, at: &str, into: &mut Vec<String>) {
    into.push(at.to_owned());
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(k, v)| places(v, &format!("{at}/{k}"), into)),
        Value::Array(list) => {
            list.iter()
                .enumerate()
                .for_each(|(n, v)| places(v, &format!("{at}/{n}"), into));
        }
        _ => {}
    }
}

fn junk() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[0-9:/. -]{0,20}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([[{"horse_id": "hrs_1"}]])),
    ]
}

proptest! {
    #[test]
    fn bytes_that_flip_or_end_early_never_break_the_parser(
        flips in prop::collection::vec((any::<Index>(), any::<u8>()), 0..8),
        end in any::<Index>(),
        whole: bool,
    ) {
        let mut bytes = json!({"racecards": [race("rac_1"), race("rac_2")]}).to_string().into_bytes();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if !whole {
            bytes.truncate(end.index(bytes.len()));
        }
        if let Ok(parsed) = parse_cards(&String::from_utf8_lossy(&bytes), now()) {
            assert_accounted(&parsed);
        }
    }

    #[test]
    fn values_that_turn_into_anything_lose_no_row(
        changes in prop::collection::vec((any::<Index>(), junk()), 1..6),
    ) {
        let mut card = json!({"racecards": [race("rac_1"), race("rac_2")], "total": 2});
        for (at, junk) in changes {
            let mut all = Vec::new();
            places(&card, "", &mut all);
            *card.pointer_mut(&all[at.index(all.len())]).expect("just listed") = junk;
        }
        if let Ok(parsed) = parse_cards(&card.to_string(), now()) {
            assert_accounted(&parsed);
            let races = card["racecards"].as_array().map_or(1, Vec::len);
            // Every race is an event or a counted row.
            prop_assert!(parsed.events.len() as u64 + parsed.rejects.total() >= races as u64);
            prop_assert!(parsed.events.iter().all(|e| !e.event.id.as_str().is_empty()));
        }
    }
}
