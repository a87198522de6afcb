//! Measures the time from another program's acknowledged commit to the cache's confirmation that the answer is gone:
//! notification, claim and removal by the production relay. It is a section of `oddsd-bench invalidation`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use chrono::Utc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::application_table::ApplicationTable;
use super::sizes::InvalidationSizes;
use crate::database::Database;
use crate::relay_harness::{RelayHarness, bench_key, long_policy, open_cache};
use crate::report::{Measure, Target, median, millis, p99};
use oddsd::live::DaemonEvent;
use oddsd_store::WatchRequest;
use oddsd_testkit::redis::RedisServer;

pub const MEASURES: [&str; 2] = ["others_commit_to_gone_p50", "others_commit_to_gone_p99"];
const EVERY: Duration = Duration::from_millis(10);
const KEYS: usize = 500;
const L1_BYTES: u64 = 16 << 20;

pub async fn measure(db: &Database, sizes: &InvalidationSizes) -> anyhow::Result<Vec<Measure>> {
    let redis = RedisServer::try_start().await?;
    let store = db.store().await?;
    let cache = open_cache(&redis.url(), L1_BYTES, &store).await?;
    let harness = RelayHarness::start(store.clone(), cache).await?;
    let stop = CancellationToken::new();
    let listening = tokio::spawn({
        let store = store.clone();
        let wakeup = Arc::clone(&harness.notifier.outbox_wakeup);
        let stop = stop.clone();
        async move { store.listen(wakeup, stop).await }
    });
    let table = ApplicationTable::create(db, "watched").await?;
    let request = WatchRequest {
        table: table.name().to_owned(),
        columns: vec!["id".into()],
        bulk: 1_000,
        quiet: false,
    };
    store.watch(&request, false).await?;
    let harness = Arc::new(harness);
    // On a worker thread of the runtime, like the daemon's tasks.
    let times = tokio::spawn(commit(Arc::clone(&harness), table, sizes.committing));
    let times = times.await??;
    stop.cancel();
    listening.await?;
    let harness = Arc::into_inner(harness).context("the harness is shared")?;
    harness.stop().await?;
    store.close().await;
    let ms = |name, value, target| Measure::new(name, "ms", value, target);
    Ok(vec![
        ms("others_commit_to_gone_p50", median(&times), Target::None).note(format!(
            "{} inserts of another session into a watched table, 100 a second; its transaction also names the key, so no \
             rule is evaluated",
            times.len()
        )),
        ms("others_commit_to_gone_p99", p99(&times), Target::AtMost(20.0)).note("the same inserts"),
    ])
}

async fn commit(
    harness: Arc<RelayHarness>,
    mut table: ApplicationTable,
    during: Duration,
) -> anyhow::Result<Vec<f64>> {
    let mut subscriber = harness.events.subscribe();
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut times = Vec::new();
    let began = Instant::now();
    while times.is_empty() || began.elapsed() < during {
        let key = bench_key("others", times.len() % KEYS);
        harness
            .read_through(&key, &long_policy(), "an answer")
            .await?;
        tick.tick().await;
        table.insert_with_key(&key).await?;
        let committed = Utc::now();
        let confirmed = loop {
            let next = subscriber.recv().await;
            let published = next.context("events were missed, or the relay has ended")?;
            match &published.event {
                DaemonEvent::Invalidated { keys, .. } if keys.contains(&key) => {
                    break published.at;
                }
                _ => {}
            }
        };
        times.push(millis((confirmed - committed).to_std().unwrap_or_default()));
    }
    Ok(times)
}
