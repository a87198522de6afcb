//! The relay and the epoch monitor as the daemon runs them, on given servers, and small helpers for cached answers.
//! `freshness` and `invalidation` measure through it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::database::{acquire_lease, lease_holder};
use oddsd::live::EventBus;
use oddsd::relay::{EpochMonitor, Relay, direct_channel};
use oddsd::rules_file::RulesHandle;
use oddsd::wakeups::Wakeups;
use oddsd_cache::{Bytes, Cache, CacheSettings, LeaseOutcome, LoadedValue, Policy, Reader};
use oddsd_core::key::Key;
use oddsd_store::{CommitNotifier, Store, WriterLease};

/// The default of `CACHE_REMOVE_AGAIN_MS`.
pub const SECOND_REMOVAL_AFTER: Duration = Duration::from_millis(1500);
/// The longest wait for a condition, also on a loaded machine.
pub const WAIT_LIMIT: Duration = Duration::from_secs(60);
/// The pause between two checks of a condition.
pub const POLL_PAUSE: Duration = Duration::from_millis(2);

pub struct RelayHarness {
    pub store: Store,
    pub reader: Reader,
    pub events: EventBus,
    pub notifier: CommitNotifier,
    pub lease: WriterLease,
    /// The relay and the epoch monitor.
    tasks: [JoinHandle<()>; 2],
    /// Stops both tasks when dropped.
    stop: DropGuard,
    /// The tasks read the lease from it.
    _lease_sender: watch::Sender<Option<WriterLease>>,
}

impl RelayHarness {
    /// Acquires the writer lease and waits until the cache has an epoch, without which it accepts no fill.
    pub async fn start(store: Store, cache: Cache) -> anyhow::Result<Self> {
        let reader = Reader::new(Arc::new(cache));
        let harness = Self::start_with(store, reader, SECOND_REMOVAL_AFTER).await?;
        wait_for_epoch(harness.cache()).await?;
        Ok(harness)
    }

    /// As `start`, without a wait for the epoch. Removals go through `reader`.
    pub async fn start_with(
        store: Store,
        reader: Reader,
        second_removal_after: Duration,
    ) -> anyhow::Result<Self> {
        let lease = acquire_lease(&store).await?;
        let (sender, direct_path) = direct_channel();
        let notifier = CommitNotifier {
            relay: Some(sender),
            ..CommitNotifier::default()
        };
        let (cache, rules) = (Arc::clone(reader.cache()), RulesHandle::builtin());
        let relay = Relay {
            reader,
            wakeups: Wakeups {
                outbox: Arc::clone(&notifier.outbox_wakeup),
                ..Wakeups::default()
            },
            second_removal_after,
            ..Relay::without_observers(store.clone(), Arc::clone(&cache), rules, lease_holder())
        };
        let monitor = EpochMonitor {
            store: store.clone(),
            cache,
            wakeups: relay.wakeups.clone(),
        };
        let stop = CancellationToken::new();
        let (reader, events) = (relay.reader.clone(), relay.live.clone());
        let held = watch::Sender::new(Some(lease.clone()));
        let tasks = [
            tokio::spawn(relay.run(direct_path, held.subscribe(), stop.clone())),
            tokio::spawn(monitor.run(held.subscribe(), stop.clone())),
        ];
        Ok(Self {
            store,
            reader,
            events,
            notifier,
            lease,
            tasks,
            stop: stop.drop_guard(),
            _lease_sender: held,
        })
    }

    pub fn cache(&self) -> &Arc<Cache> {
        self.reader.cache()
    }

    /// Fails if the relay or the epoch monitor has ended.
    pub fn ensure_running(&self) -> anyhow::Result<()> {
        let ended = self.tasks.iter().position(JoinHandle::is_finished);
        match ended {
            Some(task) => anyhow::bail!("the {} has ended", ["relay", "epoch monitor"][task]),
            None => Ok(()),
        }
    }

    /// Reads the key; on a miss this answer is loaded and stored.
    pub async fn read_through(
        &self,
        key: &Key,
        policy: &Policy,
        body: &'static str,
    ) -> anyhow::Result<()> {
        let store = self.store.clone();
        let load = move || {
            let store = store.clone();
            async move { load_value(&store, body).await }
        };
        self.reader.read(key, policy, load).await?;
        Ok(())
    }

    /// Stops the relay and the monitor and releases the lease.
    pub async fn stop(self) -> anyhow::Result<()> {
        drop(self.stop);
        for task in self.tasks {
            task.await?;
        }
        self.reader.cache().close().await;
        Ok(self.store.release_lease(&self.lease).await?)
    }
}

/// Waits until the cache accepts a fill.
async fn wait_for_epoch(cache: &Cache) -> anyhow::Result<()> {
    let probe = bench_key("epoch", 0);
    let began = Instant::now();
    while !has_epoch(cache, &probe).await {
        ensure!(began.elapsed() < WAIT_LIMIT, "the cache got no epoch");
        tokio::time::sleep(POLL_PAUSE).await;
    }
    Ok(())
}

/// Tries to acquire a fill lease, which a cache without an epoch refuses; the lease is left to expire.
async fn has_epoch(cache: &Cache, probe: &Key) -> bool {
    let Ok(lookup) = cache.get(probe, &[]).await else {
        return false;
    };
    let outcome = cache.acquire_lease(probe, &[], &lookup).await;
    matches!(outcome, Ok(LeaseOutcome::Acquired(_) | LeaseOutcome::Held))
}

/// A cache on this Redis, for answers from this database; all settings but `l1_bytes` are the defaults.
pub async fn open_cache(url: &str, l1_bytes: u64, store: &Store) -> anyhow::Result<Cache> {
    let cache = Cache::open(&CacheSettings {
        redis_url: Some(SecretString::from(url.to_owned())),
        l1_bytes,
        ..CacheSettings::default()
    })
    .await?;
    cache.set_database(&store.identity().await?);
    Ok(cache)
}

pub fn bench_key(name: &str, n: usize) -> Key {
    Key::from_user_input(&format!("bench:{name}:{n}")).expect("a short key")
}

/// One hour: no answer expires while it is measured.
pub fn long_policy() -> Policy {
    Policy::fresh_for(Duration::from_secs(3600))
}

/// An answer with the store's current snapshot.
pub async fn load_value(store: &Store, body: impl Into<Bytes>) -> anyhow::Result<LoadedValue> {
    Ok(LoadedValue::new(body, store.current_snapshot().await?))
}
