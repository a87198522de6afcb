//! A hit in this process, through the whole read; against the map underneath alone, with the same
//! entries and the same expiry.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use moka::Expiry;
use moka::sync::Cache as Map;

use super::relaying::{LOOK_AGAIN, PATIENCE, Relaying, key, loaded, open, policy};
use super::{Servers, Sizes};
use crate::postgres::Database;
use crate::report::{Bar, Measure, median};
use oddsd_cache::{Cache, CacheLevel, Entry, InProcessCache, LoadedValue, Policy, Reader};
use oddsd_core::key::Key;
use oddsd_core::model::DbSnapshot;
use oddsd_store::Store;

const KEYS: usize = 64;
const BYTES: u64 = 64 << 20;
const BODY: usize = 4096;
const BAR: Bar = Bar::AtMostAnd {
    at_most: 150.0,
    times: 1.3,
};

pub async fn measure(
    db: &Database,
    servers: &Servers,
    sizes: &Sizes,
) -> anyhow::Result<Vec<Measure>> {
    let store = db.store().await?;
    let relaying = Relaying::start(store.clone(), open(&servers.redis.url(), BYTES).await?).await?;
    let memory = Reader::new(Arc::new(Cache::InProcess(InProcessCache::new(BYTES))));
    let mut measures = Vec::new();
    for (name, reader, where_) in [
        (
            "first_level_hit",
            relaying.reader.clone(),
            "in front of Redis, which tells it what changes",
        ),
        ("memory_hit", memory, "in the in-process cache"),
    ] {
        let keys: Vec<Key> = (0..KEYS).map(|n| key(name, n)).collect();
        let map = filled(&reader, &store, &keys).await?;
        let sizes = *sizes;
        let turns = tokio::spawn(async move { turns(&reader, &map, &keys, &sizes).await });
        let (ours, bare) = turns.await??;
        measures.push(
            Measure::new(name, "ns", median(&ours), BAR).against(median(&bare)).note(format!(
                "a whole Reader::read {where_}; {} reads a turn, {} turns; against moka's own get of the same entries",
                sizes.first_reads,
                ours.len()
            )),
        );
    }
    relaying.end().await?;
    Ok(measures)
}

/// Each key read until it is served from the first level; the same entries in a map of their own.
async fn filled(
    reader: &Reader,
    store: &Store,
    keys: &[Key],
) -> anyhow::Result<Map<Key, Arc<Entry>>> {
    let map = Map::builder()
        .max_capacity(BYTES)
        .weigher(|key: &Key, entry: &Arc<Entry>| (key.as_str().len() + entry.body.len()) as u32)
        .expire_after(OwnTtl)
        .build();
    for key in keys {
        let began = Instant::now();
        loop {
            let store = store.clone();
            let load = move || {
                let store = store.clone();
                async move { loaded(&store, vec![b'x'; BODY]).await }
            };
            let served = reader.read(key, &policy(), load).await?;
            if served.level == CacheLevel::L1 {
                map.insert(key.clone(), served.entry);
                break;
            }
            ensure!(began.elapsed() < PATIENCE, "the first level keeps nothing");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
    Ok(map)
}

/// Nanoseconds of one read in each turn: ours, and the map's.
async fn turns(
    reader: &Reader,
    map: &Map<Key, Arc<Entry>>,
    keys: &[Key],
    sizes: &Sizes,
) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    let policy = policy();
    let each = |took: Duration| took.as_nanos() as f64 / f64::from(sizes.first_reads);
    let (started, mut warm) = (Instant::now(), sizes.turns == 0);
    while ours.len() < sizes.turns.max(1) {
        ensure!(started.elapsed() < PATIENCE, "the first level is not used");
        let began = Instant::now();
        let elsewhere = read(reader, &policy, keys, sizes.first_reads).await?;
        let took = began.elapsed();
        let began = Instant::now();
        for n in 0..sizes.first_reads as usize {
            black_box(map.get(&keys[n % KEYS]).context("an entry")?);
        }
        // Beats that came late, on a machine that is busy, empty the first level: not a turn of it.
        let counts = std::mem::replace(&mut warm, true) && elsewhere == 0;
        if counts {
            bare.push(each(began.elapsed()));
            ours.push(each(took));
        }
    }
    Ok((ours, bare))
}

/// Tells how many reads were not answered by the first level.
async fn read(reader: &Reader, policy: &Policy, keys: &[Key], reads: u32) -> anyhow::Result<u32> {
    let mut elsewhere = 0;
    for n in 0..reads as usize {
        let served = reader.read(&keys[n % KEYS], policy, || async {
            Ok(LoadedValue::new(
                "not from here",
                DbSnapshot::from_commit_count(0),
            ))
        });
        let served = black_box(served.await?);
        elsewhere += u32::from(served.level != CacheLevel::L1);
    }
    Ok(elsewhere)
}

/// As the first level's own.
struct OwnTtl;

impl Expiry<Key, Arc<Entry>> for OwnTtl {
    fn expire_after_create(&self, _: &Key, entry: &Arc<Entry>, now: Instant) -> Option<Duration> {
        Some(entry.ttl().saturating_sub(entry.age(now)))
    }
}
