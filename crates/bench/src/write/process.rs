//! Measures the poller in a process of its own: its memory, its CPU time and its round trips to the database. It is a
//! section of `oddsd-bench write`, and `large` uses it, too.

use std::time::Duration;

use anyhow::ensure;
use fastrand::Rng;

use super::poll_worker::PollWorker;
use super::scenario::Scenario;
use super::sizes::WriteSizes;
use crate::database::Database;
use crate::fixture::{Fixture, SEED};
use crate::provider::FixtureProvider;
use crate::report::{Measure, Target, median};
use oddsd_testkit::proxy::FaultProxy;

pub const MEASURES: [&str; 4] = [
    "rss_12k",
    "quiet_process_cpu",
    "quiet_statements",
    "statements_a_cycle",
];
const SHARE: f64 = 0.1;
const MEGABYTE: f64 = 1e6;
/// After a cycle the pool checks the returned connection; its traffic has ended after this time.
const POOL_PAUSE: Duration = Duration::from_millis(100);

pub async fn measure(db: &Database, sizes: &WriteSizes) -> anyhow::Result<Vec<Measure>> {
    let scenario = Scenario::prepare(db, sizes.day).await?;
    let Scenario {
        daemon,
        fixture,
        probe,
        ..
    } = scenario;
    daemon.stop().await?;
    let figures = ProcessFigures::measure(db, fixture, sizes.runs).await?;
    drop(probe);
    Ok(vec![
        figures.memory("rss_12k", 60.0),
        Measure::new(
            "quiet_process_cpu",
            "ms CPU",
            median(&figures.quiet_cpu),
            Target::None,
        )
        .note("all threads of the daemon's process, the answer received over HTTP included"),
        Measure::new(
            "quiet_statements",
            "trips",
            figures.quiet_trips as f64,
            Target::AtMost(0.0),
        )
        .note(format!(
            "round trips to the database in {} cycles without changes of the daemon's process",
            figures.quiet_cpu.len()
        )),
        Measure::new(
            "statements_a_cycle",
            "trips",
            median(&figures.trips),
            Target::None,
        )
        .note(
            "round trips of a cycle that changed 10 %, the pool's check of the connection included",
        ),
    ])
}

/// Memory, CPU time and round trips of one process.
pub struct ProcessFigures {
    peak: Option<u64>,
    peak_all_gone: Option<u64>,
    pub quiet_cpu: Vec<f64>,
    quiet_trips: u64,
    trips: Vec<f64>,
}

impl ProcessFigures {
    /// Measures a cold start, cycles that change 10 %, and cycles without changes. The rows are stored before.
    pub async fn measure(db: &Database, fixture: Fixture, turns: usize) -> anyhow::Result<Self> {
        let proxy = FaultProxy::in_front_of(db.address().await?).await;
        let settings = db.settings_through(proxy.port())?;
        let provider = FixtureProvider::start(fixture.clone()).await?;
        let mut worker = PollWorker::start(&settings, &provider, fixture.days())?;
        let first = worker.run_cycle().await?;
        ensure!(first.changed == 0, "a cold start found changes: {first:?}");
        let (mut fixture, mut rng) = (fixture, Rng::with_seed(SEED + 2));
        let mut figures = Self {
            peak: first.peak_memory,
            peak_all_gone: None,
            quiet_cpu: Vec::new(),
            quiet_trips: 0,
            trips: Vec::new(),
        };
        for _ in 0..turns {
            let (next, changed) = fixture.with_changes(SHARE, &mut rng);
            fixture = next;
            provider.serve(fixture.clone());
            let before = proxy.round_trips();
            let timing = worker.run_cycle().await?;
            tokio::time::sleep(POOL_PAUSE).await;
            ensure!(
                timing.changed == changed.len() as u64,
                "the daemon changed {} prices of {}",
                timing.changed,
                changed.len()
            );
            figures.trips.push((proxy.round_trips() - before) as f64);
            let (trips, bytes) = (proxy.round_trips(), proxy.bytes_sent());
            let quiet = worker.run_cycle().await?;
            tokio::time::sleep(POOL_PAUSE).await;
            ensure!(
                quiet.changed == 0,
                "a cycle without changes changed prices: {quiet:?}"
            );
            ensure!(
                quiet.unchanged == fixture.prices() as u64,
                "a cycle without changes found {} of {} prices",
                quiet.unchanged,
                fixture.prices()
            );
            figures.quiet_trips +=
                (proxy.round_trips() - trips).max(u64::from(proxy.bytes_sent() > bytes));
            figures.quiet_cpu.extend(quiet.cpu_ms);
            figures.peak = quiet.peak_memory;
        }
        db.probe().await?.verify(&fixture).await?;
        figures.peak_all_gone = withdraw_all(&mut worker, &provider, fixture.prices()).await?;
        Ok(figures)
    }

    pub fn memory(&self, name: &'static str, megabytes: f64) -> Measure {
        Measure::new(name, "MB", megabytes_of(self.peak), Target::AtMost(megabytes)).note(
            "peak resident memory of the daemon's process: cold start, cycles that changed 10 %, cycles without changes",
        )
    }

    pub fn memory_all_gone(&self, name: &'static str) -> Measure {
        Measure::new(name, "MB", megabytes_of(self.peak_all_gone), Target::None)
            .note("then answers without a race, accepted at the second: every price withdrawn in one cycle")
    }
}

/// Withdraws every price. The shrink guard accepts an answer without races at the second cycle.
async fn withdraw_all(
    worker: &mut PollWorker,
    provider: &FixtureProvider,
    prices: usize,
) -> anyhow::Result<Option<u64>> {
    provider.serve_no_races();
    let held_back = worker.run_cycle().await?;
    ensure!(held_back.changed == 0, "accepted at once: {held_back:?}");
    let accepted = worker.run_cycle().await?;
    ensure!(
        accepted.changed == prices as u64,
        "{} of {prices} prices were withdrawn",
        accepted.changed
    );
    Ok(accepted.peak_memory)
}

fn megabytes_of(bytes: Option<u64>) -> f64 {
    bytes.map_or(f64::NAN, |bytes| bytes as f64 / MEGABYTE)
}
