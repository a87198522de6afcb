//! Measures a hit in this process through a whole read, against the map underneath alone with the same entries and
//! expiry. It is a section of `oddsd-bench freshness`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use moka::Expiry;
use moka::sync::Cache as Map;

use super::sizes::SpeedSizes;
use crate::database::Database;
use crate::relay_harness::{
    POLL_PAUSE, RelayHarness, WAIT_LIMIT, bench_key, load_value, long_policy, open_cache,
};
use crate::report::{Measure, Target, median};
use oddsd_cache::{Cache, CacheLevel, Entry, InProcessCache, LoadedValue, Policy, Reader};
use oddsd_core::key::Key;
use oddsd_core::model::DbSnapshot;
use oddsd_store::Store;
use oddsd_testkit::redis::RedisServer;

const KEYS: usize = 64;
const L1_BYTES: u64 = 64 << 20;
const BODY_BYTES: usize = 4096;
const TARGET: Target = Target::AtMostAnd {
    at_most: 150.0,
    times: 1.3,
};

pub async fn measure(
    db: &Database,
    redis: &RedisServer,
    sizes: &SpeedSizes,
) -> anyhow::Result<Vec<Measure>> {
    let store = db.store().await?;
    let cache = open_cache(&redis.url(), L1_BYTES, &store).await?;
    let harness = RelayHarness::start(store.clone(), cache).await?;
    let in_process = Cache::InProcess(InProcessCache::new(L1_BYTES));
    let in_process = Reader::new(Arc::new(in_process));
    let mut measures = Vec::new();
    for (name, reader, place) in [
        (
            "first_level_hit",
            harness.reader.clone(),
            "in front of Redis, which reports changes to it",
        ),
        ("memory_hit", in_process, "in the in-process cache"),
    ] {
        let keys: Vec<Key> = (0..KEYS).map(|n| bench_key(name, n)).collect();
        let map = fill(&reader, &store, &keys).await?;
        let sizes = *sizes;
        let turns = tokio::spawn(async move { run_turns(&reader, &map, &keys, &sizes).await });
        let (ours, bare) = turns.await??;
        measures.push(
            Measure::new(name, "ns", median(&ours), TARGET).against(median(&bare)).note(format!(
                "a whole Reader::read {place}; {} reads a turn, {} turns; against moka's own get of the same entries",
                sizes.l1_reads,
                ours.len()
            )),
        );
    }
    harness.stop().await?;
    Ok(measures)
}

/// Reads each key until L1 serves it; returns a map with the same entries.
async fn fill(
    reader: &Reader,
    store: &Store,
    keys: &[Key],
) -> anyhow::Result<Map<Key, Arc<Entry>>> {
    let map = Map::builder()
        .max_capacity(L1_BYTES)
        .weigher(|key: &Key, entry: &Arc<Entry>| (key.as_str().len() + entry.body.len()) as u32)
        .expire_after(OwnTtl)
        .build();
    for key in keys {
        let began = Instant::now();
        loop {
            let store = store.clone();
            let load = move || {
                let store = store.clone();
                async move { load_value(&store, vec![b'x'; BODY_BYTES]).await }
            };
            let served = reader.read(key, &long_policy(), load).await?;
            if served.level == CacheLevel::L1 {
                map.insert(key.clone(), served.entry);
                break;
            }
            ensure!(began.elapsed() < WAIT_LIMIT, "L1 stores nothing");
            tokio::time::sleep(POLL_PAUSE).await;
        }
    }
    Ok(map)
}

/// Nanoseconds of one read in each turn: ours, and the map's.
async fn run_turns(
    reader: &Reader,
    map: &Map<Key, Arc<Entry>>,
    keys: &[Key],
    sizes: &SpeedSizes,
) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    let policy = long_policy();
    let nanos = |time: Duration| time.as_nanos() as f64 / f64::from(sizes.l1_reads);
    let (started, mut warm) = (Instant::now(), sizes.turns == 0);
    while ours.len() < sizes.turns.max(1) {
        ensure!(started.elapsed() < WAIT_LIMIT, "L1 is not used");
        let began = Instant::now();
        let misses = read_all(reader, &policy, keys, sizes.l1_reads).await?;
        let time = began.elapsed();
        let began = Instant::now();
        for n in 0..sizes.l1_reads as usize {
            black_box(map.get(&keys[n % KEYS]).context("an entry")?);
        }
        // A late heartbeat on a loaded machine empties L1; such a turn does not count.
        let counts = std::mem::replace(&mut warm, true) && misses == 0;
        if counts {
            bare.push(nanos(began.elapsed()));
            ours.push(nanos(time));
        }
    }
    Ok((ours, bare))
}

/// Returns the number of reads that L1 did not answer.
async fn read_all(
    reader: &Reader,
    policy: &Policy,
    keys: &[Key],
    reads: u32,
) -> anyhow::Result<u32> {
    let mut misses = 0;
    for n in 0..reads as usize {
        let served = reader.read(&keys[n % KEYS], policy, || async {
            Ok(LoadedValue::new(
                "loaded again",
                DbSnapshot::from_commit_count(0),
            ))
        });
        let served = black_box(served.await?);
        misses += u32::from(served.level != CacheLevel::L1);
    }
    Ok(misses)
}

/// The expiry that L1 has.
struct OwnTtl;

impl Expiry<Key, Arc<Entry>> for OwnTtl {
    fn expire_after_create(&self, _: &Key, entry: &Arc<Entry>, now: Instant) -> Option<Duration> {
        Some(entry.ttl().saturating_sub(entry.age(now)))
    }
}
