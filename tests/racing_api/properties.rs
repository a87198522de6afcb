//! Property tests of the card parser: damaged input never panics, and every row is stored or counted.

use oddsd_feeds::racing_api::parse_cards;
use oddsd_testkit::mutate::mutated_json;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::json;

use super::parsing::assert_accounted;
use super::{now, race};

proptest! {
    #[test]
    fn parser_accounts_for_damaged_bytes(
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
    fn parser_loses_no_row_of_a_damaged_card(
        card in mutated_json(json!({"racecards": [race("rac_1"), race("rac_2")], "total": 2})),
    ) {
        if let Ok(parsed) = parse_cards(&card.to_string(), now()) {
            assert_accounted(&parsed);
            let races = card["racecards"].as_array().map_or(1, Vec::len);
            // Every race is an event or a counted row.
            prop_assert!(parsed.events.len() as u64 + parsed.rejected.total() >= races as u64);
            prop_assert!(parsed.events.iter().all(|e| !e.event.id.as_str().is_empty()));
        }
    }
}
