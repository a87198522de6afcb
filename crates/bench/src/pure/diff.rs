//! Measures the diff and the application of its changes without a database, for `oddsd-bench pure`.
//! Each line is the median of several snapshots of a card in which a share of the prices changed.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::card::Card;
use crate::output::out;
use chrono::{DateTime, TimeDelta, Utc};
use fastrand::Rng;
use oddsd_core::diff::stored_state::StoredState;
use oddsd_core::diff::{ShrinkGuard, compute_changes};
use oddsd_core::model::{Scope, Snapshot};
use oddsd_feeds::racing_api::parse_cards;

const SIZES: [usize; 2] = [12_000, 1_000_000];
const SHARES: [f64; 4] = [0.0, 0.01, 0.1, 0.9];
const SEED: u64 = 20_251_013;
/// Measured turns, after one to warm up.
const TURNS: usize = 5;

pub fn measure() {
    out!(
        "{:>9}  {:>7}  {:>10}  {:>14}  {:>10}",
        "prices",
        "changed",
        "diff",
        "speed",
        "apply"
    );
    for prices in SIZES {
        let now = Utc::now();
        let (mut card, mut rng) = (Card::new(prices, SEED, now), Rng::with_seed(SEED));
        let mut state = StoredState::default();
        let first = compute_changes(&state, &observed(&card, now), &ShrinkGuard::OFF);
        state.apply(first);
        let mut snapshots = 0;
        for share in SHARES {
            let (mut diffs, mut applies) = (Vec::new(), Vec::new());
            for turn in 0..=TURNS {
                let moved;
                (card, moved) = card.moved(share, &mut rng);
                snapshots += 1;
                let snapshot = observed(&card, now + TimeDelta::seconds(snapshots));
                let started = Instant::now();
                let changes = black_box(compute_changes(&state, &snapshot, &ShrinkGuard::OFF));
                let compared = started.elapsed();
                assert_eq!(changes.prices.len(), moved.len(), "every change is found");
                let started = Instant::now();
                state.apply(changes);
                let applied = started.elapsed();
                if turn > 0 {
                    diffs.push(compared);
                    applies.push(applied);
                }
            }
            let (compared, applied) = (median(diffs), median(applies));
            out!(
                "{prices:>9}  {:>5} %  {:>7.2} ms  {:>8.1} M/s  {:>7.2} ms",
                share * 100.0,
                compared.as_secs_f64() * 1000.0,
                prices as f64 / compared.as_secs_f64() / 1e6,
                applied.as_secs_f64() * 1000.0
            );
        }
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// The parsed pages of the card.
fn observed(card: &Card, as_of: DateTime<Utc>) -> Snapshot {
    let mut snapshot = Snapshot {
        source: "racing_api".into(),
        as_of,
        scope: Scope::Listed,
        events: Vec::new(),
        bookmakers: Vec::new(),
        rejected: Default::default(),
    };
    for page in card.pages() {
        let page = parse_cards(&page, as_of).expect("a card of our own");
        assert!(page.rejected.is_empty(), "{}", page.rejected);
        snapshot.events.extend(page.events);
        snapshot.bookmakers = page.bookmakers;
    }
    snapshot
}
