//! A hit in Redis with all that proves it right; against a bare GET of the same value by the same
//! client.

use std::time::Instant;

use anyhow::{Context, ensure};

use super::relaying::{Relaying, key, loaded, open, policy};
use super::{Servers, Sizes};
use crate::postgres::Database;
use crate::report::{Bar, Measure, median};

const KEYS: usize = 64;
const BODY: usize = 4096;

pub async fn measure(
    db: &Database,
    servers: &Servers,
    sizes: &Sizes,
) -> anyhow::Result<Vec<Measure>> {
    let relaying = Relaying::start(db.store().await?, open(&servers.redis.url(), 0).await?).await?;
    let body = "x".repeat(BODY);
    for n in 0..KEYS {
        let (store, body) = (relaying.store.clone(), body.clone());
        let load = move || {
            let (store, body) = (store.clone(), body.clone());
            async move { loaded(&store, body).await }
        };
        relaying
            .reader
            .read(&key("second", n), &policy(), load)
            .await?;
    }
    let (cache, reads) = (
        relaying.cache().clone(),
        sizes.second_reads as usize * sizes.turns.max(1),
    );
    let turns = tokio::spawn(async move {
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for n in 0..reads {
            let key = key("second", n % KEYS);
            let asked = Instant::now();
            let entry = cache.get(&key, &[]).await?;
            let looked = asked.elapsed();
            let asked = Instant::now();
            let stored = cache.stored(&key).await?;
            let got = asked.elapsed();
            let (entry, stored) = (entry.entry.context("an entry")?, stored.context("a value")?);
            ensure!(
                stored.ends_with(&entry.body) && entry.body == body,
                "another answer"
            );
            ours.push(looked.as_secs_f64() * 1e6);
            bare.push(got.as_secs_f64() * 1e6);
        }
        Ok((ours, bare))
    });
    let (ours, bare) = turns.await??;
    relaying.end().await?;
    Ok(vec![
        Measure::new("second_level_hit", "µs", median(&ours), Bar::AtMostTimes(1.15))
            .against(median(&bare))
            .note(format!("{reads} answers of {BODY} bytes, one by one in turns; against a GET of the same value by the same client")),
    ])
}
