//! Measures reads of one event's prices through the store, on an idle database and while nearly every price is
//! rewritten. It is a section of `oddsd-bench write`.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tokio_util::sync::CancellationToken;

use super::scenario::Scenario;
use super::sizes::WriteSizes;
use crate::database::Database;
use crate::report::{Measure, Target, median, p99};
use oddsd_core::model::EventId;
use oddsd_store::Store;

pub const MEASURES: [&str; 1] = ["reader_p99"];
const REWRITES_A_TURN: usize = 10;
const REWRITTEN_SHARE: f64 = 0.9;
/// Milliseconds that the p99 beside a writer may lie above twice the idle p99.
const ALLOWED_EXTRA_MS: f64 = 5.0;

pub async fn measure(db: &Database, sizes: &WriteSizes) -> anyhow::Result<Vec<Measure>> {
    let mut scenario = Scenario::prepare(db, sizes.day).await?;
    let store = db.store().await?;
    let event = EventId::new(scenario.fixture.race_id(0));
    let (mut idle, mut loaded) = (Vec::new(), Vec::new());
    for turn in 0..=sizes.runs {
        let mut rewrites = Vec::with_capacity(REWRITES_A_TURN);
        for _ in 0..REWRITES_A_TURN {
            rewrites.push(scenario.next_snapshot(REWRITTEN_SHARE)?);
        }
        let stop = CancellationToken::new();
        let reading = tokio::spawn(read_until(stop.clone(), store.clone(), event.clone()));
        // Not `scenario.run_cycle`, which reads all prices after each cycle.
        for (snapshot, changed) in &rewrites {
            let timing = scenario.daemon.run_cycle(snapshot).await?;
            ensure!(timing.changed == changed.len(), "a rewrite missed changes");
        }
        stop.cancel();
        let loaded_times = reading.await??;
        scenario.verify().await?;

        // The same reads on the idle database, for as long as the loaded reads took.
        scenario.probe.vacuum().await?;
        let stop = CancellationToken::new();
        let reading = tokio::spawn(read_until(stop.clone(), store.clone(), event.clone()));
        let loaded_seconds = loaded_times.iter().sum::<f64>() / 1000.0;
        tokio::time::sleep(Duration::from_secs_f64(loaded_seconds)).await;
        stop.cancel();
        let idle_times = reading.await??;
        if turn > 0 {
            loaded.extend(loaded_times);
            idle.extend(idle_times);
        }
    }
    store.close().await;
    let idle_p99 = p99(&idle);
    let limit = 2.0 * idle_p99 + ALLOWED_EXTRA_MS;
    Ok(vec![
        Measure::new("reader_p99", "ms", p99(&loaded), Target::AtMostTimes(1.0))
            .against(limit)
            .note(format!(
                "against 2 × the idle p99 of {idle_p99:.2} ms + {ALLOWED_EXTRA_MS} ms; medians {:.2} and {:.2} ms; {} and {} reads",
                median(&loaded),
                median(&idle),
                loaded.len(),
                idle.len()
            )),
    ])
}

/// Reads at least once; returns the milliseconds of each read.
async fn read_until(
    stop: CancellationToken,
    store: Store,
    event: EventId,
) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::new();
    while times.is_empty() || !stop.is_cancelled() {
        let started = Instant::now();
        let found = store.event_prices(&event).await?.value;
        times.push(started.elapsed().as_secs_f64() * 1000.0);
        ensure!(
            found.is_some_and(|found| !found.prices.is_empty()),
            "event {event} has no prices to read"
        );
    }
    Ok(times)
}
