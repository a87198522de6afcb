//! Tests of The Racing API feed: its answers, its failures, and a simulated day in its format.

mod failures;
mod fingerprints;
mod parsing;
mod properties;
mod recorded;
mod requests;
mod simulated;

use chrono::{DateTime, Utc};
use oddsd_core::model::{EventSnapshot, Price, Snapshot};
use oddsd_feeds::Feed;
use oddsd_feeds::racing_api::{RacingApi, RacingApiSettings};
use oddsd_testkit::racing_provider::races::{odds, race, runner};

/// The time of these tests: half past two in Britain.
fn now() -> DateTime<Utc> {
    utc("2025-10-13T13:30:00Z")
}

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().expect("an RFC 3339 time")
}

fn racing_feed(settings: RacingApiSettings) -> Feed {
    let feed = RacingApi::new(settings).expect("valid settings");
    Feed::RacingApi(Box::new(feed))
}

fn prices(snapshot: &Snapshot) -> usize {
    snapshot.events.iter().map(|e| e.prices.len()).sum()
}

fn price<'a>(race: &'a EventSnapshot, bookmaker: &str) -> &'a Price {
    race.prices
        .iter()
        .find(|price| price.key.bookmaker.as_str() == bookmaker)
        .unwrap_or_else(|| panic!("no price of {bookmaker} in {:?}", race.prices))
}
