//! Fuzzes the parser of The Racing API's cards. Every row is either a price or a reject.

#![no_main]

use chrono::DateTime;
use libfuzzer_sys::fuzz_target;
use oddsd_feeds::racing_api::parse_cards;

fuzz_target!(|body: &str| {
    if let Ok(parsed) = parse_cards(body, DateTime::UNIX_EPOCH) {
        let prices: usize = parsed.events.iter().map(|event| event.prices.len()).sum();
        assert!(prices as u64 <= parsed.prices_seen);
    }
});
