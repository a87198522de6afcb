//! Measures a hit in Redis with its validation, against a bare GET of the same value by the same client. It is a
//! section of `oddsd-bench freshness`.

use std::time::Instant;

use anyhow::{Context, ensure};

use super::sizes::SpeedSizes;
use crate::database::Database;
use crate::relay_harness::{RelayHarness, bench_key, load_value, long_policy, open_cache};
use crate::report::{Measure, Target, median};
use oddsd_testkit::redis::RedisServer;

const KEYS: usize = 64;
const BODY_BYTES: usize = 4096;

pub async fn measure(
    db: &Database,
    redis: &RedisServer,
    sizes: &SpeedSizes,
) -> anyhow::Result<Vec<Measure>> {
    let store = db.store().await?;
    let cache = open_cache(&redis.url(), 0, &store).await?;
    let harness = RelayHarness::start(store, cache).await?;
    let body = "x".repeat(BODY_BYTES);
    for n in 0..KEYS {
        let (store, body) = (harness.store.clone(), body.clone());
        let load = move || {
            let (store, body) = (store.clone(), body.clone());
            async move { load_value(&store, body).await }
        };
        let key = bench_key("redis_hit", n);
        harness.reader.read(&key, &long_policy(), load).await?;
    }
    let cache = harness.cache().clone();
    let reads = sizes.redis_reads as usize * sizes.turns.max(1);
    let turns = tokio::spawn(async move {
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for n in 0..reads {
            let key = bench_key("redis_hit", n % KEYS);
            let began = Instant::now();
            let lookup = cache.get(&key, &[]).await?;
            let hit = began.elapsed();
            let began = Instant::now();
            let stored = cache.stored(&key).await?;
            let get = began.elapsed();
            let entry = lookup.entry.context("an entry")?;
            let stored = stored.context("a value")?;
            ensure!(
                stored.ends_with(&entry.body) && entry.body == body,
                "another answer"
            );
            ours.push(hit.as_secs_f64() * 1e6);
            bare.push(get.as_secs_f64() * 1e6);
        }
        Ok((ours, bare))
    });
    let (ours, bare) = turns.await??;
    harness.stop().await?;
    Ok(vec![
        Measure::new("second_level_hit", "µs", median(&ours), Target::AtMostTimes(1.15))
            .against(median(&bare))
            .note(format!("{reads} answers of {BODY_BYTES} bytes, one by one in turns; against a GET of the same value by the same client")),
    ])
}
