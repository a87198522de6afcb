//! Fuzzes the parser of The Odds API's answers, in both odds formats. Every row is either a price or a
//! reject.

#![no_main]

use chrono::DateTime;
use libfuzzer_sys::fuzz_target;
use oddsd_feeds::odds_api::{OddsFormat, parse_odds};

fuzz_target!(|body: &str| {
    for format in [OddsFormat::American, OddsFormat::Decimal] {
        if let Ok(parsed) = parse_odds(body, DateTime::UNIX_EPOCH, "league", format) {
            let prices: usize = parsed.events.iter().map(|event| event.prices.len()).sum();
            assert_eq!(prices as u64 + parsed.rejected.total(), parsed.prices_seen);
        }
    }
});
