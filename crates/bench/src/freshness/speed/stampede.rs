//! Measures the loads of a cache stampede: a thousand readers in four processes want one missing answer that is slow
//! to load. It is a section of `oddsd-bench freshness`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures_util::future::try_join_all;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::sizes::SpeedSizes;
use crate::database::{Database, open_store};
use crate::relay_harness::{RelayHarness, bench_key, load_value, long_policy, open_cache};
use crate::report::{Measure, Target, median, millis};
use crate::worker::{Worker, WorkerKind, answer, read_task};
use oddsd_cache::Reader;
use oddsd_testkit::redis::RedisServer;

const PROCESSES: usize = 4;
const LOAD_TIME: Duration = Duration::from_millis(50);
const BODY: &str = "a wanted answer";
const L1_BYTES: u64 = 16 << 20;
const MAX_CONNECTIONS: u32 = 2;
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct StampedeTask {
    database: String,
    redis: String,
    readers: usize,
}

/// The result of the readers of one process.
#[derive(Debug, Serialize, Deserialize)]
struct StampedeResult {
    loads: u64,
    slowest_ms: f64,
}

pub async fn measure(
    db: &Database,
    redis: &RedisServer,
    sizes: &SpeedSizes,
) -> anyhow::Result<Vec<Measure>> {
    let store = db.store().await?;
    let cache = open_cache(&redis.url(), 0, &store).await?;
    let harness = RelayHarness::start(store, cache).await?;
    let mut workers = Vec::new();
    for n in 0..PROCESSES {
        let task = StampedeTask {
            database: db.settings().url.expose_secret().into(),
            redis: redis.url(),
            readers: sizes.readers / PROCESSES,
        };
        let mut worker = Worker::start(WorkerKind::Readers, &task)?;
        // A key of its own: after its answer the process is connected.
        let key = (usize::MAX - n).to_string();
        worker.request::<StampedeResult>(&key).await?;
        workers.push(worker);
    }
    let (mut loads, mut slowest) = (Vec::new(), Vec::new());
    for turn in 0..=sizes.turns {
        let key = turn.to_string();
        let requests = workers
            .iter_mut()
            .map(|worker| worker.request::<StampedeResult>(&key));
        let results = try_join_all(requests).await?;
        loads.push(results.iter().map(|result| result.loads).sum::<u64>() as f64);
        slowest.push(
            results
                .iter()
                .map(|result| result.slowest_ms)
                .fold(0.0, f64::max),
        );
    }
    harness.stop().await?;
    let most = loads.iter().copied().fold(0.0, f64::max);
    Ok(vec![
        Measure::new("cold_readers_loads", "loads", most, Target::AtMost(1.0))
            .against(sizes.readers as f64)
            .note(format!(
                "the most of {} turns: {} cold readers at once in {PROCESSES} processes, one key, a load takes {} ms; \
                 the last reader has its answer after {:.0} ms; against one load for each reader",
                loads.len(),
                sizes.readers,
                LOAD_TIME.as_millis(),
                median(&slowest)
            )),
    ])
}

/// The process's side: each line is the key that all of its readers want.
pub async fn run_worker() -> anyhow::Result<()> {
    let (task, lines) = read_task::<StampedeTask>()?;
    let store = open_store(task.database, MAX_CONNECTIONS, STATEMENT_TIMEOUT).await?;
    let reader = Reader::new(Arc::new(open_cache(&task.redis, L1_BYTES, &store).await?));
    reader.cache().connected().await;
    for line in lines {
        let key = bench_key("stampede", line?.parse()?);
        let loads = Arc::new(AtomicU64::new(0));
        let reads: Vec<_> = (0..task.readers)
            .map(|_| {
                let (reader, key) = (reader.clone(), key.clone());
                let (store, loads) = (store.clone(), Arc::clone(&loads));
                let load = move || {
                    loads.fetch_add(1, SeqCst);
                    let store = store.clone();
                    async move {
                        let loaded = load_value(&store, BODY).await;
                        tokio::time::sleep(LOAD_TIME).await;
                        loaded
                    }
                };
                tokio::spawn(async move {
                    let began = Instant::now();
                    let served = reader.read(&key, &long_policy(), load).await?;
                    ensure!(**served.body() == *BODY.as_bytes(), "another answer");
                    anyhow::Ok(began.elapsed())
                })
            })
            .collect();
        let mut slowest = Duration::ZERO;
        for read in reads {
            slowest = slowest.max(read.await??);
        }
        answer(&StampedeResult {
            loads: loads.load(SeqCst),
            slowest_ms: millis(slowest),
        })?;
    }
    store.close().await;
    Ok(())
}
