//! The whole daemon as the system sees it, in a process of its own: its memory, its CPU time, and
//! what it says to the database.

use std::time::Duration;

use anyhow::ensure;
use fastrand::Rng;

use super::Sizes;
use super::card::Card;
use super::child::Child;
use super::course::{Course, SEED};
use super::postgres::Database;
use super::provider::Provider;
use super::report::{Bar, Measure, median};
use super::wire::Wire;

pub const MEASURES: [&str; 4] = [
    "rss_12k",
    "quiet_process_cpu",
    "quiet_statements",
    "statements_a_cycle",
];
const SHARE: f64 = 0.1;
const MEGABYTE: f64 = 1e6;
/// The pool tidies up behind a look; nothing is on its way any more after this.
const TIDY: Duration = Duration::from_millis(100);

pub async fn measure(db: &Database, sizes: &Sizes) -> anyhow::Result<Vec<Measure>> {
    let course = Course::set(db, sizes.day).await?;
    let Course {
        daemon, card, eye, ..
    } = course;
    daemon.leave().await?;
    let watched = Watched::run(db, card, sizes.runs).await?;
    drop(eye);
    Ok(vec![
        watched.memory("rss_12k", 40.0),
        Measure::new(
            "quiet_process_cpu",
            "ms CPU",
            median(&watched.quiet_cpu),
            Bar::None,
        )
        .note("all threads of the daemon's process, the answer received over HTTP included"),
        Measure::new(
            "quiet_statements",
            "trips",
            watched.quiet_trips as f64,
            Bar::AtMost(0.0),
        )
        .note(format!(
            "round trips to the database in {} quiet looks of the daemon's process",
            watched.quiet_cpu.len()
        )),
        Measure::new(
            "statements_a_cycle",
            "trips",
            median(&watched.trips),
            Bar::None,
        )
        .note("round trips of a look that changed 10 %, the pool's tidying up behind it included"),
    ])
}

/// What was seen of one daemon.
pub struct Watched {
    peak: Option<u64>,
    peak_all_gone: Option<u64>,
    pub quiet_cpu: Vec<f64>,
    quiet_trips: u64,
    trips: Vec<f64>,
}

impl Watched {
    /// A cold start, looks that change 10 %, and quiet ones. The rows are stored already.
    pub async fn run(db: &Database, card: Card, turns: usize) -> anyhow::Result<Self> {
        let wire = Wire::before(db.address().await?, Duration::ZERO).await?;
        let settings = db.settings_through(wire.port)?;
        let provider = Provider::serving(card.clone()).await?;
        let mut child = Child::looking(&settings, &provider, card.days())?;
        let first = child.look().await?;
        ensure!(first.changed == 0, "a cold start found changes: {first:?}");
        let (mut card, mut rng) = (card, Rng::with_seed(SEED + 2));
        let mut seen = Self {
            peak: first.peak_memory,
            peak_all_gone: None,
            quiet_cpu: Vec::new(),
            quiet_trips: 0,
            trips: Vec::new(),
        };
        for _ in 0..turns {
            let (next, moved) = card.moved(SHARE, &mut rng);
            card = next;
            provider.serve(card.clone());
            let before = wire.round_trips();
            let looked = child.look().await?;
            tokio::time::sleep(TIDY).await;
            ensure!(
                looked.changed == moved.len() as u64,
                "the daemon changed {} prices where {} had moved",
                looked.changed,
                moved.len()
            );
            seen.trips.push((wire.round_trips() - before) as f64);
            let (trips, bytes) = (wire.round_trips(), wire.bytes_sent());
            let quiet = child.look().await?;
            tokio::time::sleep(TIDY).await;
            ensure!(quiet.changed == 0, "a quiet look changed prices: {quiet:?}");
            ensure!(
                quiet.unchanged == card.prices() as u64,
                "a quiet look saw {} of {} prices",
                quiet.unchanged,
                card.prices()
            );
            seen.quiet_trips +=
                (wire.round_trips() - trips).max(u64::from(wire.bytes_sent() > bytes));
            seen.quiet_cpu.extend(quiet.cpu_ms);
            seen.peak = quiet.peak_memory;
        }
        let (stored, expected) = (db.eye().await?.stored().await?, card.check());
        ensure!(
            stored == expected,
            "the daemon stored {stored:?} where the card says {expected:?}"
        );
        seen.peak_all_gone = all_gone(&mut child, &provider, card.prices()).await?;
        Ok(seen)
    }

    pub fn memory(&self, name: &'static str, megabytes: f64) -> Measure {
        Measure::new(name, "MB", in_megabytes(self.peak), Bar::AtMost(megabytes)).note(
            "peak resident memory of the daemon's process: cold start, looks that changed 10 %, quiet looks",
        )
    }

    pub fn memory_all_gone(&self, name: &'static str) -> Measure {
        Measure::new(name, "MB", in_megabytes(self.peak_all_gone), Bar::None)
            .note("then an answer without a race, believed at the second look: every price withdrawn in one cycle")
    }
}

/// A day that loses all its races is not believed at once.
async fn all_gone(
    child: &mut Child,
    provider: &Provider,
    prices: usize,
) -> anyhow::Result<Option<u64>> {
    provider.serve_no_races();
    let doubted = child.look().await?;
    ensure!(doubted.changed == 0, "believed at once: {doubted:?}");
    let believed = child.look().await?;
    ensure!(
        believed.changed == prices as u64,
        "{} of {prices} prices were withdrawn",
        believed.changed
    );
    Ok(believed.peak_memory)
}

fn in_megabytes(bytes: Option<u64>) -> f64 {
    bytes.map_or(f64::NAN, |bytes| bytes as f64 / MEGABYTE)
}
