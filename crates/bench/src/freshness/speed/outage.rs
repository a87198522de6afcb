//! Measures how fast, and in how much memory, the relay delivers the removals that waited in the outbox during an outage
//! of the cache. It is a section of `oddsd-bench freshness`; the relay runs in a process of its own.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::change_table::ChangeTable;
use super::sizes::SpeedSizes;
use crate::database::{Database, open_store};
use crate::machine::memory_of;
use crate::relay_harness::{POLL_PAUSE, RelayHarness, WAIT_LIMIT, open_cache};
use crate::report::{Measure, Target};
use crate::worker::{Worker, WorkerKind, answer, read_task};
use oddsd_testkit::redis::RedisServer;

const EVENTS: i64 = 2_000;
/// Removed before the outage, so that the process has its usual size.
const WARMUP_REMOVALS: i64 = 1_000;
const L1_BYTES: u64 = 16 << 20;
const MEGABYTE: f64 = 1024.0 * 1024.0;
const MAX_CONNECTIONS: u32 = 4;
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct RelayTask {
    database: String,
    redis: String,
}

/// The worker's answer once its relay runs.
#[derive(Serialize, Deserialize)]
struct RelayReady;

/// Stops Redis, fills the outbox, starts Redis again, and times the relay until the outbox is empty.
pub async fn measure(
    db: &Database,
    redis: &RedisServer,
    sizes: &SpeedSizes,
) -> anyhow::Result<Vec<Measure>> {
    let task = RelayTask {
        database: db.settings().url.expose_secret().into(),
        redis: redis.url(),
    };
    let mut worker = Worker::start(WorkerKind::Relay, &task)?;
    worker.request::<RelayReady>("").await?;
    let mut outbox = ChangeTable::create(db, 1).await?;
    outbox.fill_outbox(WARMUP_REMOVALS, WARMUP_REMOVALS).await?;
    wait_until_empty(&mut outbox).await?;
    let memory = || memory_of(worker.id()).context("the memory of a process");
    let (before, _) = memory()?;

    let outage_began = Instant::now();
    redis.kill().await;
    outbox.fill_outbox(sizes.pending, EVENTS).await?;
    ensure!(
        outbox.has_changes().await?,
        "the relay removed without a cache"
    );
    let without_cache = outage_began.elapsed();
    redis.restart().await;
    let restarted_at = Instant::now();
    wait_until_empty(&mut outbox).await?;
    let drained = restarted_at.elapsed();
    let (_, peak) = memory()?;

    let note = format!(
        "{} removals of {EVENTS} events waited after {:.0} s without a cache",
        sizes.pending,
        without_cache.as_secs_f64()
    );
    Ok(vec![
        Measure::new(
            "outage_drained",
            "s",
            drained.as_secs_f64(),
            Target::AtMost(5.0),
        )
        .note(format!(
            "{note}; from the first answer of Redis to an outbox in which no change waits"
        )),
        Measure::new(
            "outage_memory",
            "MB",
            peak.saturating_sub(before) as f64 / MEGABYTE,
            Target::AtMost(64.0),
        )
        .note(format!(
            "{note}; the peak of the relay's own process over its size of {:.1} MB before",
            before as f64 / MEGABYTE
        )),
    ])
}

async fn wait_until_empty(outbox: &mut ChangeTable) -> anyhow::Result<()> {
    let began = Instant::now();
    while outbox.has_changes().await? {
        ensure!(
            began.elapsed() < WAIT_LIMIT,
            "changes wait although the cache answers"
        );
        tokio::time::sleep(POLL_PAUSE * 5).await;
    }
    Ok(())
}

/// Runs the relay in the worker process, until its input ends.
pub async fn run_worker() -> anyhow::Result<()> {
    let (task, lines) = read_task::<RelayTask>()?;
    let store = open_store(task.database, MAX_CONNECTIONS, STATEMENT_TIMEOUT).await?;
    let cache = open_cache(&task.redis, L1_BYTES, &store).await?;
    let harness = RelayHarness::start(store.clone(), cache).await?;
    for line in lines {
        line?;
        answer(&RelayReady)?;
    }
    harness.stop().await?;
    store.close().await;
    Ok(())
}
