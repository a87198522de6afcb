//! Measures the time from an acknowledged commit to the cache's confirmation that the answer is gone, through the
//! production relay, against a bare round trip of the same client. It is a section of `oddsd-bench freshness`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::sync::broadcast::Receiver;
use tokio::time::MissedTickBehavior;

use super::change_table::ChangeTable;
use super::sizes::SpeedSizes;
use crate::database::Database;
use crate::relay_harness::{
    POLL_PAUSE, RelayHarness, WAIT_LIMIT, bench_key, long_policy, open_cache,
};
use crate::report::{Measure, Target, median, millis, p99};
use oddsd::live::{DaemonEvent, PublishedEvent};
use oddsd_core::key::Key;
use oddsd_testkit::redis::RedisServer;

const ROWS: usize = 2_000;
const IDLE_EVERY: Duration = Duration::from_millis(10);
/// Changes a second of the loaded run, in commits of so many changes each.
const LOADED_RATE: u32 = 2_000;
const PER_COMMIT: usize = 10;
const WRITERS: usize = 8;
/// One of so many commits has an answer in the cache to remove, and is verified.
const VERIFY_ONE_IN: usize = 16;
const L1_BYTES: u64 = 16 << 20;

pub async fn measure(
    db: &Database,
    redis: &RedisServer,
    sizes: &SpeedSizes,
) -> anyhow::Result<Vec<Measure>> {
    let store = db.store().await?;
    let cache = open_cache(&redis.url(), L1_BYTES, &store).await?;
    let harness = Arc::new(RelayHarness::start(store, cache).await?);
    // On a worker thread of the runtime, like the daemon's tasks.
    let idle = tokio::spawn(run_idle(
        Arc::clone(&harness),
        ChangeTable::create(db, ROWS as i64).await?,
        sizes.changing,
    ));
    let idle = idle.await??;
    let loaded = run_loaded(&harness, db, sizes.changing).await?;
    let harness = Arc::into_inner(harness).context("the harness is shared")?;
    harness.stop().await?;
    let ms = |name, value, target| Measure::new(name, "ms", value, target);
    let pings = (median(&idle.pings), p99(&idle.pings));
    Ok(vec![
        ms("commit_to_gone_p50", median(&idle.removals), Target::AtMostTimes(1.5))
            .against(pings.0)
            .note(format!(
                "{} changes, 100 a second, each alone in its commit, each with an answer in Redis that was there and is gone; \
                 against a PING of the same client, right after a commit too",
                idle.removals.len()
            )),
        ms("commit_to_gone_p99", p99(&idle.removals), Target::AtMost(5.0))
            .against(pings.1)
            .note("the same changes; against the p99 of the PINGs"),
        ms("commit_to_gone_busy_p99", p99(&loaded.removals), Target::AtMost(50.0)).note(format!(
            "{} changes, {:.0} a second in commits of {PER_COMMIT}; median {:.2} ms; {} answers verified afterwards",
            loaded.removals.len(),
            loaded.rate,
            median(&loaded.removals),
            loaded.verified
        )),
    ])
}

/// Milliseconds of removals and of PINGs with one change at a time.
struct IdleRun {
    removals: Vec<f64>,
    pings: Vec<f64>,
}

async fn run_idle(
    harness: Arc<RelayHarness>,
    mut changes: ChangeTable,
    during: Duration,
) -> anyhow::Result<IdleRun> {
    let mut subscriber = harness.events.subscribe();
    let mut tick = tokio::time::interval(IDLE_EVERY / 2);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut removals, mut pings) = (Vec::new(), Vec::new());
    let began = Instant::now();
    let mut n = 0;
    while removals.is_empty() || began.elapsed() < during {
        let row = n % ROWS;
        let key = bench_key("change", row);
        harness
            .read_through(&key, &long_policy(), "an answer")
            .await?;
        // Both follow a commit directly, so that the CPU caches are in the same state.
        tick.tick().await;
        changes.commit_unreported(row as i64).await?;
        let asked = Instant::now();
        harness.cache().ping().await?;
        pings.push(millis(asked.elapsed()));
        tick.tick().await;
        let batch = changes.commit(&[row as i64], &[&key]).await?;
        let committed = Utc::now();
        let transaction = batch.rows[0].transaction;
        harness.notifier.notify_commit(Some(batch), committed);
        let confirmed = loop {
            let removal = next_removal(&mut subscriber).await?;
            if removal.keys.contains(&key) {
                break removal.at;
            }
        };
        removals.push(millis((confirmed - committed).to_std().unwrap_or_default()));
        verify_removed(&harness, &key, transaction).await?;
        n += 1;
    }
    Ok(IdleRun { removals, pings })
}

/// Milliseconds of removals with many changes at once.
struct LoadedRun {
    removals: Vec<f64>,
    rate: f64,
    verified: usize,
}

/// The commit times of keys that are not removed yet, and the milliseconds of the other removals.
#[derive(Default)]
struct PendingKeys {
    committed: HashMap<Key, DateTime<Utc>>,
    removals: Vec<f64>,
}

type SharedPending = Arc<Mutex<PendingKeys>>;

async fn run_loaded(
    harness: &Arc<RelayHarness>,
    db: &Database,
    during: Duration,
) -> anyhow::Result<LoadedRun> {
    let pending = SharedPending::default();
    let recorder = tokio::spawn(record_removals(
        harness.events.subscribe(),
        Arc::clone(&pending),
    ));
    let mut writers = Vec::new();
    for n in 0..WRITERS {
        let changes = ChangeTable::create(db, ROWS as i64).await?;
        let (harness, pending) = (Arc::clone(harness), Arc::clone(&pending));
        writers.push(write(harness, changes, pending, n, during));
    }
    let began = Instant::now();
    let writers: Vec<_> = writers.into_iter().map(tokio::spawn).collect();
    let (mut written, mut verified) = (0, 0);
    for writer in writers {
        let counts = writer.await??;
        written += counts.0;
        verified += counts.1;
    }
    let rate = written as f64 / began.elapsed().as_secs_f64();
    let began = Instant::now();
    while !pending.lock().committed.is_empty() {
        ensure!(!recorder.is_finished(), "the stream of removals has ended");
        ensure!(began.elapsed() < WAIT_LIMIT, "changes are not removed");
        tokio::time::sleep(POLL_PAUSE).await;
    }
    recorder.abort();
    let removals = std::mem::take(&mut pending.lock().removals);
    ensure!(!removals.is_empty(), "nothing was changed");
    Ok(LoadedRun {
        removals,
        rate,
        verified,
    })
}

/// Commits at a fixed rate, without a wait for the removal before. Returns the changed rows and the verified removals.
async fn write(
    harness: Arc<RelayHarness>,
    mut changes: ChangeTable,
    pending: SharedPending,
    n: usize,
    during: Duration,
) -> anyhow::Result<(usize, usize)> {
    let own = ROWS / WRITERS;
    let all: Vec<Key> = (0..own)
        .map(|row| bench_key("change", n * own + row))
        .collect();
    let mut tick =
        tokio::time::interval(Duration::from_secs(1) * (WRITERS * PER_COMMIT) as u32 / LOADED_RATE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut written, mut verified) = (0, 0);
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
        let verifies = commit % VERIFY_ONE_IN == 0;
        if verifies {
            harness
                .read_through(keys[0], &long_policy(), "an answer")
                .await?;
        }
        let batch = changes.commit(&ids, &keys).await?;
        let committed = Utc::now();
        let transaction = batch.rows[0].transaction;
        {
            let mut pending = pending.lock();
            for key in &keys {
                pending.committed.entry((*key).clone()).or_insert(committed);
            }
        }
        harness.notifier.notify_commit(Some(batch), committed);
        written += rows.len();
        if verifies {
            while pending.lock().committed.contains_key(keys[0]) {
                tokio::time::sleep(POLL_PAUSE).await;
            }
            verify_removed(&harness, keys[0], transaction).await?;
            verified += 1;
        }
    }
    Ok((written, verified))
}

async fn record_removals(
    mut subscriber: Receiver<Arc<PublishedEvent>>,
    pending: SharedPending,
) -> anyhow::Result<()> {
    loop {
        let ConfirmedRemoval { keys, at } = next_removal(&mut subscriber).await?;
        let mut pending = pending.lock();
        for key in keys {
            if let Some(committed) = pending.committed.remove(&key) {
                let time = (at - committed).to_std().unwrap_or_default();
                pending.removals.push(millis(time));
            }
        }
    }
}

/// Keys, and the time of the relay's event that the cache has confirmed their removal.
struct ConfirmedRemoval {
    keys: Vec<Key>,
    at: DateTime<Utc>,
}

async fn next_removal(
    subscriber: &mut Receiver<Arc<PublishedEvent>>,
) -> anyhow::Result<ConfirmedRemoval> {
    loop {
        let next = subscriber.recv().await;
        let published = next.context("events were missed, or the relay has ended")?;
        if let DaemonEvent::Invalidated { keys, .. } = &published.event {
            let (keys, at) = (keys.clone(), published.at);
            return Ok(ConfirmedRemoval { keys, at });
        }
    }
}

/// Fails if Redis serves an answer that was loaded before the change.
async fn verify_removed(harness: &RelayHarness, key: &Key, transaction: u64) -> anyhow::Result<()> {
    let lookup = harness.cache().get(key, &[]).await?;
    ensure!(
        lookup
            .entry
            .is_none_or(|entry| entry.snapshot.is_visible(transaction)),
        "{key} was reported as removed and is served"
    );
    Ok(())
}
