//! Ours: the production relay and floor keeper of one daemon, and readers in three processes: the
//! daemon itself, one that has nothing of its own, one with a first level.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use chrono::Utc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Change, Loader, PROCESSES, TTL_SECONDS};
use crate::freshness::Servers;
use crate::freshness::faults::ledger::{Read, Source};
use crate::postgres::Wrote;
use oddsd::relay::{EpochMonitor, Relay, direct_channel};
use oddsd::rules_file::RulesHandle;
use oddsd::wakeups::Wakeups;
use oddsd_cache::{
    Cache, CacheLevel, CacheSettings, InvalidationTargets, LoadedValue, Policy, Reader,
};
use oddsd_core::key::Key;
use oddsd_store::{AcquireResult, ClaimedBatch, CommitNotifier, OutboxEntry, OutboxRow, Store};

const FIRST_LEVEL_BYTES: u64 = 8 * 1024 * 1024;
const LEASE_FOR: Duration = Duration::from_secs(48 * 3600);
/// An outbox that is not empty by then has lost something.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

pub struct Ours {
    readers: Vec<Reader>,
    poke: CommitNotifier,
    policy: Policy,
    loader: Arc<Loader>,
    store: Store,
    running: [JoinHandle<()>; 2],
    _lease: watch::Sender<Option<oddsd_store::WriterLease>>,
    _stop: DropGuard,
}

impl Ours {
    pub async fn start(servers: &Servers, loader: Loader) -> anyhow::Result<Self> {
        let store = Store::open(&servers.store).await?;
        let AcquireResult::Granted(lease) = store.acquire_lease("bench", LEASE_FOR).await? else {
            bail!("somebody holds the lease of a database that is ours");
        };
        let (lease_tx, lease) = watch::channel(Some(lease));
        let mut readers = Vec::new();
        for process in 0..PROCESSES {
            let settings = CacheSettings {
                redis_url: Some(servers.redis.url().into()),
                l1_bytes: if process == 2 { FIRST_LEVEL_BYTES } else { 0 },
                ..CacheSettings::default()
            };
            readers.push(Reader::new(Arc::new(Cache::open(&settings).await?)));
        }
        let (told, fast) = direct_channel();
        let poke = CommitNotifier {
            relay: Some(told),
            ..CommitNotifier::default()
        };
        let relay = Relay {
            reader: readers[0].clone(),
            wakeups: Wakeups {
                outbox: Arc::clone(&poke.outbox_wakeup),
                ..Wakeups::default()
            },
            ..Relay::without_observers(
                store.clone(),
                Arc::clone(readers[0].cache()),
                RulesHandle::builtin(),
                "bench".into(),
            )
        };
        let keeper = EpochMonitor {
            store: store.clone(),
            cache: Arc::clone(readers[0].cache()),
            wakeups: relay.wakeups.clone(),
        };
        let stop = CancellationToken::new();
        let running = [
            tokio::spawn(relay.run(fast, lease.clone(), stop.clone())),
            tokio::spawn(keeper.run(lease, stop.clone())),
        ];
        Ok(Self {
            readers,
            poke,
            policy: Policy::fresh_for(Duration::from_secs(TTL_SECONDS)),
            loader: Arc::new(loader),
            store,
            running,
            _lease: lease_tx,
            _stop: stop.drop_guard(),
        })
    }

    pub async fn read(&self, process: usize, row: usize) -> anyhow::Result<Read> {
        let loader = Arc::clone(&self.loader);
        let load = move || {
            let loader = Arc::clone(&loader);
            async move {
                let (view, version) = loader.load(row).await?;
                Ok(LoadedValue::new(version.to_string(), view))
            }
        };
        let key = key(row);
        let served = self.readers[process % PROCESSES]
            .read(&key, &self.policy, load)
            .await?;
        let version = std::str::from_utf8(served.body())?.parse()?;
        let source = match served.level {
            CacheLevel::L1 => Source::FirstLevel,
            CacheLevel::L2 => Source::Cache,
            CacheLevel::Loader => Source::Loader,
        };
        Ok(Read { version, source })
    }

    pub async fn removed(&self, change: &Change, again: bool) {
        if !again {
            return self.poke.notify_commit(change.told.clone(), Utc::now());
        }
        if let Some(told) = &change.told {
            let keys = vec![change.key.clone()];
            let targets = InvalidationTargets {
                keys,
                ..InvalidationTargets::default()
            };
            // Nobody asked for it: whether it fails is all the same.
            let _ = self.readers[0].remove(&targets, &told.snapshot).await;
        }
    }

    pub fn refused(&self) -> u64 {
        let all = self.readers.iter().map(|reader| reader.stats());
        all.map(|reads| reads.refused_late + reads.refused_lease + reads.refused_floor)
            .sum()
    }

    /// Loads that failed, in all processes.
    pub fn failed_loads(&self) -> u64 {
        self.readers.iter().map(|r| r.stats().failures).sum()
    }

    /// Waits until the outbox is empty.
    pub async fn settled(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            if let Some(task) = self.running.iter().position(JoinHandle::is_finished) {
                bail!("the {} has ended", ["relay", "floor keeper"][task]);
            }
            let left = self.store.status().await?.outbox_pending;
            if left == 0 {
                return Ok(());
            }
            if began.elapsed() > SETTLED_WITHIN {
                bail!(
                    "{left} removals still wait, {} s after the last fault",
                    SETTLED_WITHIN.as_secs()
                );
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// A view of whoever looks now, through the product's own door.
    pub async fn view(&self) -> anyhow::Result<oddsd_core::model::DbSnapshot> {
        Ok(self.store.current_snapshot().await?)
    }
}

/// The key of a row's answer.
pub fn key(row: usize) -> Key {
    Key::from_user_input(&format!("bench:{row}")).expect("a short name")
}

/// The outbox row as if it had just been claimed, as the store tells it of its own commits.
pub fn claim(key: &Key, wrote: &Wrote) -> Option<ClaimedBatch> {
    let entry = OutboxEntry {
        keys: vec![key.clone()],
        ..OutboxEntry::default()
    };
    let row = OutboxRow::new(wrote.outbox_row, wrote.transaction, Utc::now(), entry);
    Some(ClaimedBatch {
        snapshot: wrote.view.with_tx(wrote.transaction)?,
        rows: vec![row],
    })
}
