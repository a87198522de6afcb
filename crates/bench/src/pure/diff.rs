//! Measures the diff and the application of its changes without a database, for `oddsd-bench pure`.
//! Each line is the median of several snapshots of a fixture in which a share of the prices changed.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::fixture::{Fixture, SEED};
use crate::output::out;
use chrono::Utc;
use fastrand::Rng;
use oddsd_core::diff::stored_state::StoredState;
use oddsd_core::diff::{ShrinkGuard, compute_changes};
use oddsd_core::model::{Scope, Snapshot};

const SIZES: [usize; 2] = [12_000, 1_000_000];
const SHARES: [f64; 4] = [0.0, 0.01, 0.1, 0.9];
/// Measured turns, after one to warm up.
const TURNS: usize = 5;

pub fn measure() -> anyhow::Result<()> {
    out!(
        "{:>9}  {:>7}  {:>10}  {:>14}  {:>10}",
        "prices",
        "changed",
        "diff",
        "speed",
        "apply"
    );
    for prices in SIZES {
        let mut fixture = Fixture::new(prices, SEED, Utc::now());
        let mut rng = Rng::with_seed(SEED);
        let mut state = StoredState::default();
        let first = compute_changes(&state, 0, &observe(&fixture)?, &ShrinkGuard::OFF);
        state.apply(first);
        for share in SHARES {
            let (mut diffs, mut applies) = (Vec::new(), Vec::new());
            for turn in 0..=TURNS {
                let changed;
                (fixture, changed) = fixture.with_changes(share, &mut rng);
                let snapshot = observe(&fixture)?;
                let started = Instant::now();
                let changes = black_box(compute_changes(&state, 0, &snapshot, &ShrinkGuard::OFF));
                let compared = started.elapsed();
                assert_eq!(changes.prices.len(), changed.len(), "every change is found");
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
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// A snapshot that removes nothing.
fn observe(fixture: &Fixture) -> anyhow::Result<Snapshot> {
    let snapshot = fixture.snapshot()?;
    assert!(snapshot.rejected.is_empty(), "{}", snapshot.rejected);
    Ok(Snapshot {
        scope: Scope::Listed,
        ..snapshot
    })
}
