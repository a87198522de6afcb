//! Measures reads of one event's prices through the store, on an idle database and while nearly every price is
//! rewritten. It is a section of `oddsd-bench write`.

use std::time::Instant;

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
const SHARE: f64 = 0.9;
/// Milliseconds that a read may take beyond twice its idle time.
const MORE_MS: f64 = 5.0;

pub async fn measure(db: &Database, sizes: &WriteSizes) -> anyhow::Result<Vec<Measure>> {
    let mut scenario = Scenario::prepare(db, sizes.day).await?;
    let reader = db.store().await?;
    let event = EventId::new(scenario.fixture.race_id(0));
    let (mut idle, mut loaded) = (Vec::new(), Vec::new());
    for turn in 0..=sizes.runs {
        let mut rewrites = Vec::with_capacity(REWRITES_A_TURN);
        for _ in 0..REWRITES_A_TURN {
            rewrites.push(scenario.next_snapshot(SHARE)?.0);
        }
        let over = CancellationToken::new();
        let reading = tokio::spawn(read(reader.clone(), event.clone(), over.clone()));
        for rewrite in &rewrites {
            scenario.daemon.run_cycle(rewrite).await?;
        }
        over.cancel();
        let beside = reading.await??;
        scenario.verify().await?;

        // For as long as the reads beside the writer took.
        let over = CancellationToken::new();
        let reading = tokio::spawn(read(reader.clone(), event.clone(), over.clone()));
        let took = beside.iter().sum::<f64>() / 1000.0;
        tokio::time::sleep(std::time::Duration::from_secs_f64(took)).await;
        over.cancel();
        let alone = reading.await??;
        if turn > 0 {
            loaded.extend(beside);
            idle.extend(alone);
        }
    }
    reader.close().await;
    let (idle_p99, limit) = (p99(&idle), 2.0 * p99(&idle) + MORE_MS);
    Ok(vec![
        Measure::new("reader_p99", "ms", p99(&loaded), Target::AtMostTimes(1.0))
            .against(limit)
            .note(format!(
                "against 2 × the idle p99 of {idle_p99:.2} ms + {MORE_MS} ms; medians {:.2} and {:.2} ms; {} and {} reads",
                median(&loaded),
                median(&idle),
                loaded.len(),
                idle.len()
            )),
    ])
}

/// Reads until `over`; returns the milliseconds of each read.
async fn read(store: Store, event: EventId, over: CancellationToken) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::new();
    while times.is_empty() || !over.is_cancelled() {
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
