//! From the acknowledged commit to the moment at which the cache has confirmed that the answer is
//! gone, through the production relay; against a bare round trip of the same client.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, Utc};
use tokio::time::MissedTickBehavior;

use super::relaying::{LOOK_AGAIN, PATIENCE, Relaying, key, loaded, open, policy};
use super::{Servers, Sizes};
use crate::postgres::{Changes, Database};
use crate::report::{Bar, Measure, median, p99};
use oddsd::live::{DaemonEvent, Delivery, Subscriber};
use oddsd_core::key::Key;

const ROWS: usize = 2_000;
const CALM_EVERY: Duration = Duration::from_millis(10);
/// Changes a second of the busy minute, in this many commits of so many changes each.
const BUSY: u32 = 2_000;
const PER_COMMIT: usize = 10;
const WRITERS: usize = 8;
/// One in so many commits has an answer in the cache to remove, and is looked at.
const LOOKED_AT: usize = 16;
const FIRST_LEVEL: u64 = 16 << 20;

pub async fn measure(
    db: &Database,
    servers: &Servers,
    sizes: &Sizes,
) -> anyhow::Result<Vec<Measure>> {
    let cache = open(&servers.redis.url(), FIRST_LEVEL).await?;
    let relaying = Relaying::start(db.store().await?, cache).await?;
    let relaying = Arc::new(relaying);
    // A task of the runtime's workers, as the daemon's are.
    let calm = tokio::spawn(calm(
        Arc::clone(&relaying),
        Changes::of(db, ROWS as i64).await?,
        sizes.changing,
    ));
    let calm = calm.await??;
    let busy = busy(&relaying, db, sizes.changing).await?;
    let relaying = Arc::into_inner(relaying).context("nobody else relays")?;
    relaying.end().await?;
    let ms = |name, value, bar| Measure::new(name, "ms", value, bar);
    let pings = (median(&calm.pings), p99(&calm.pings));
    Ok(vec![
        ms("commit_to_gone_p50", median(&calm.gone), Bar::AtMostTimes(1.5))
            .against(pings.0)
            .note(format!(
                "{} changes, 100 a second, each alone in its commit, each with an answer in Redis that was there and is gone; \
                 against a PING of the same client, right after a commit too",
                calm.gone.len()
            )),
        ms("commit_to_gone_p99", p99(&calm.gone), Bar::AtMost(5.0))
            .against(pings.1)
            .note("the same changes; against the p99 of the PINGs"),
        ms("commit_to_gone_busy_p99", p99(&busy.gone), Bar::AtMost(50.0)).note(format!(
            "{} changes, {:.0} a second in commits of {PER_COMMIT}; median {:.2} ms; {} answers looked at afterwards",
            busy.gone.len(),
            busy.rate,
            median(&busy.gone),
            busy.looked_at
        )),
    ])
}

struct Calm {
    gone: Vec<f64>,
    pings: Vec<f64>,
}

async fn calm(
    relaying: Arc<Relaying>,
    mut changes: Changes,
    during: Duration,
) -> anyhow::Result<Calm> {
    let mut watcher = relaying.live.subscribe();
    let mut tick = tokio::time::interval(CALM_EVERY / 2);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut gone, mut pings) = (Vec::new(), Vec::new());
    let began = Instant::now();
    let mut n = 0;
    while gone.is_empty() || began.elapsed() < during {
        let row = n % ROWS;
        let key = key("change", row);
        fill(&relaying, &key).await?;
        // Each right after a commit of its own: what the machine's caches hold is alike for both.
        tick.tick().await;
        changes.commit_alone(row as i64).await?;
        let asked = Instant::now();
        relaying.cache().ping().await?;
        pings.push(millis(asked.elapsed()));
        tick.tick().await;
        let claim = changes.commit(&[row as i64], &[&key]).await?;
        let committed = Utc::now();
        let transaction = claim.rows[0].transaction;
        relaying.poke.notify_commit(Some(claim), committed);
        let confirmed = loop {
            let removed = removed(&mut watcher).await?;
            if removed.keys.contains(&key) {
                break removed.at;
            }
        };
        gone.push(millis((confirmed - committed).to_std().unwrap_or_default()));
        is_gone(&relaying, &key, transaction).await?;
        n += 1;
    }
    Ok(Calm { gone, pings })
}

struct Busy {
    gone: Vec<f64>,
    rate: f64,
    looked_at: usize,
}

/// When each key that is not gone yet was committed, and how long the others took.
#[derive(Default)]
struct Waiting {
    committed: HashMap<Key, DateTime<Utc>>,
    gone: Vec<f64>,
}

type Shared = Arc<Mutex<Waiting>>;

async fn busy(relaying: &Arc<Relaying>, db: &Database, during: Duration) -> anyhow::Result<Busy> {
    let waiting = Shared::default();
    let listening = tokio::spawn(listen(relaying.live.subscribe(), Arc::clone(&waiting)));
    let mut writers = Vec::new();
    for n in 0..WRITERS {
        let changes = Changes::of(db, ROWS as i64).await?;
        let writer = write(
            Arc::clone(relaying),
            changes,
            Arc::clone(&waiting),
            n,
            during,
        );
        writers.push(writer);
    }
    let began = Instant::now();
    let writers: Vec<_> = writers.into_iter().map(tokio::spawn).collect();
    let (mut written, mut looked_at) = (0, 0);
    for writer in writers {
        let (rows, looks) = writer.await??;
        written += rows;
        looked_at += looks;
    }
    let rate = written as f64 / began.elapsed().as_secs_f64();
    let began = Instant::now();
    while !lock(&waiting).committed.is_empty() {
        ensure!(!listening.is_finished(), "the stream of removals has ended");
        ensure!(began.elapsed() < PATIENCE, "changes are not gone");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    listening.abort();
    let gone = std::mem::take(&mut lock(&waiting).gone);
    ensure!(!gone.is_empty(), "nothing was changed");
    Ok(Busy {
        gone,
        rate,
        looked_at,
    })
}

/// Every so many ms a commit, whatever becomes of the one before. Tells how many rows it changed, and
/// after how many commits it looked.
async fn write(
    relaying: Arc<Relaying>,
    mut changes: Changes,
    waiting: Shared,
    n: usize,
    during: Duration,
) -> anyhow::Result<(usize, usize)> {
    let own = ROWS / WRITERS;
    let all: Vec<Key> = (0..own).map(|row| key("change", n * own + row)).collect();
    let mut tick =
        tokio::time::interval(Duration::from_secs(1) * (WRITERS * PER_COMMIT) as u32 / BUSY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut written, mut looks) = (0, 0);
    let began = Instant::now();
    for commit in 0.. {
        tick.tick().await;
        if commit > 0 && began.elapsed() >= during {
            break;
        }
        let rows: Vec<usize> = (0..PER_COMMIT)
            .map(|at| (commit * PER_COMMIT + at) % own)
            .collect();
        let keys: Vec<&Key> = rows.iter().map(|row| &all[*row]).collect();
        let ids: Vec<i64> = rows.iter().map(|row| (n * own + row) as i64).collect();
        let looked_at = commit % LOOKED_AT == 0;
        if looked_at {
            fill(&relaying, keys[0]).await?;
        }
        let claim = changes.commit(&ids, &keys).await?;
        let committed = Utc::now();
        let transaction = claim.rows[0].transaction;
        {
            let mut waiting = lock(&waiting);
            for key in &keys {
                waiting.committed.entry((*key).clone()).or_insert(committed);
            }
        }
        relaying.poke.notify_commit(Some(claim), committed);
        written += rows.len();
        if looked_at {
            while lock(&waiting).committed.contains_key(keys[0]) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            is_gone(&relaying, keys[0], transaction).await?;
            looks += 1;
        }
    }
    Ok((written, looks))
}

async fn listen(mut watcher: Subscriber, waiting: Shared) -> anyhow::Result<()> {
    loop {
        let Confirmed { keys, at } = removed(&mut watcher).await?;
        let mut waiting = lock(&waiting);
        for key in keys {
            if let Some(committed) = waiting.committed.remove(&key) {
                waiting
                    .gone
                    .push(millis((at - committed).to_std().unwrap_or_default()));
            }
        }
    }
}

/// A removal, and when the relay said that the cache had confirmed it.
struct Confirmed {
    keys: Vec<Key>,
    at: DateTime<Utc>,
}

async fn removed(watcher: &mut Subscriber) -> anyhow::Result<Confirmed> {
    loop {
        match watcher.next().await {
            Some(Delivery::Event(said)) => {
                if let DaemonEvent::Invalidated { keys, .. } = &said.event {
                    let (keys, at) = (keys.clone(), said.at);
                    return Ok(Confirmed { keys, at });
                }
            }
            Some(Delivery::Missed(n)) => bail!("{n} activities were missed"),
            None => bail!("the relay has ended"),
        }
    }
}

/// Puts an answer into Redis, as a reader does.
async fn fill(relaying: &Relaying, key: &Key) -> anyhow::Result<()> {
    let store = relaying.store.clone();
    let load = move || {
        let store = store.clone();
        async move { loaded(&store, "an answer").await }
    };
    relaying.reader.read(key, &policy(), load).await?;
    Ok(())
}

/// What stands in Redis, if anything does, has seen the change.
async fn is_gone(relaying: &Relaying, key: &Key, transaction: u64) -> anyhow::Result<()> {
    let stands = relaying.cache().get(key, &[]).await?;
    ensure!(
        stands
            .entry
            .is_none_or(|entry| entry.snapshot.is_visible(transaction)),
        "{key} was told to be gone and is served"
    );
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn lock(waiting: &Shared) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
