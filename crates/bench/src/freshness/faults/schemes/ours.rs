//! Our scheme: the production relay and epoch monitor of one daemon, and readers in three processes: the daemon
//! itself, one without L1, one with L1. The run under faults compares it with the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use chrono::Utc;

use super::common::{CommittedChange, PROCESSES, SlowLoader, TTL_SECONDS, answer_key};
use crate::freshness::faults::commit_log::{ReadSource, VersionRead};
use crate::relay_harness::{RelayHarness, WAIT_LIMIT, open_cache};
use oddsd_cache::{CacheLevel, InvalidationTargets, LoadedValue, Policy, Reader};
use oddsd_core::model::DbSnapshot;
use oddsd_store::Store;

const L1_BYTES: u64 = 8 * 1024 * 1024;
const POLL_PAUSE: Duration = Duration::from_millis(10);

pub struct Ours {
    harness: RelayHarness,
    readers: Vec<Reader>,
    policy: Policy,
    loader: Arc<SlowLoader>,
}

impl Ours {
    pub async fn start(store: Store, redis_url: &str, loader: SlowLoader) -> anyhow::Result<Self> {
        let mut readers = Vec::new();
        for process in 0..PROCESSES {
            let l1_bytes = if process == 2 { L1_BYTES } else { 0 };
            let cache = open_cache(redis_url, l1_bytes, &store).await?;
            readers.push(Reader::new(Arc::new(cache)));
        }
        let daemon = readers[0].clone();
        Ok(Self {
            harness: RelayHarness::start_with(store, daemon, Duration::ZERO).await?,
            readers,
            policy: Policy::fresh_for(Duration::from_secs(TTL_SECONDS)),
            loader: Arc::new(loader),
        })
    }

    pub async fn read(&self, process: usize, row: usize) -> anyhow::Result<VersionRead> {
        let loader = Arc::clone(&self.loader);
        let load = move || {
            let loader = Arc::clone(&loader);
            async move {
                let (snapshot, version) = loader.load(row).await?;
                Ok(LoadedValue::new(version.to_string(), snapshot))
            }
        };
        let key = answer_key(row);
        let served = self.readers[process % PROCESSES]
            .read(&key, &self.policy, load)
            .await?;
        let version = std::str::from_utf8(served.body())?.parse()?;
        let source = match served.level {
            CacheLevel::L1 => ReadSource::L1,
            CacheLevel::L2 => ReadSource::Cache,
            CacheLevel::Loader => ReadSource::Loader,
        };
        Ok(VersionRead { version, source })
    }

    pub async fn remove(&self, change: &CommittedChange, again: bool) {
        if !again {
            let notifier = &self.harness.notifier;
            return notifier.notify_commit(change.batch.clone(), Utc::now());
        }
        if let Some(batch) = &change.batch {
            let targets = InvalidationTargets {
                keys: vec![change.key.clone()],
                ..InvalidationTargets::default()
            };
            // The first delivery is the one that has to succeed.
            let _ = self.readers[0].remove(&targets, &batch.snapshot).await;
        }
    }

    pub fn refused_fills(&self) -> u64 {
        let all = self.readers.iter().map(|reader| reader.stats());
        all.map(|stats| stats.refused_late + stats.refused_lease + stats.refused_floor)
            .sum()
    }

    /// Loads that failed, in all processes.
    pub fn failed_loads(&self) -> u64 {
        self.readers.iter().map(|r| r.stats().failures).sum()
    }

    /// Waits until the outbox is empty; fails if it is not in time, because then a removal is lost.
    pub async fn wait_until_removed(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            self.harness.ensure_running()?;
            let pending = self.harness.store.status().await?.outbox_pending;
            if pending == 0 {
                return Ok(());
            }
            ensure!(
                began.elapsed() < WAIT_LIMIT,
                "{pending} removals still wait, {} s after the last fault",
                WAIT_LIMIT.as_secs()
            );
            tokio::time::sleep(POLL_PAUSE).await;
        }
    }

    /// The snapshot of a reader that starts now.
    pub async fn current_snapshot(&self) -> anyhow::Result<DbSnapshot> {
        Ok(self.harness.store.current_snapshot().await?)
    }
}
