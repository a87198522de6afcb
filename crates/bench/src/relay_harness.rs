//! The relay and the keeper of the floor as the daemon runs them, on servers of our own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use secrecy::SecretString;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use oddsd::live::EventBus;
use oddsd::relay::{EpochMonitor, Relay, direct_channel};
use oddsd::rules_file::RulesHandle;
use oddsd::wakeups::Wakeups;
use oddsd_cache::{Cache, CacheSettings, LeaseOutcome, LoadedValue, Policy, Reader};
use oddsd_core::key::Key;
use oddsd_store::{AcquireResult, CommitNotifier, Store, WriterLease};

/// The setting's default.
const AGAIN_AFTER: Duration = Duration::from_millis(1500);
const LEASE_FOR: Duration = Duration::from_secs(3600);
/// Whatever is waited for comes within this, also on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const LOOK_AGAIN: Duration = Duration::from_millis(2);

pub struct Relaying {
    pub store: Store,
    pub reader: Reader,
    pub live: EventBus,
    pub poke: CommitNotifier,
    pub lease: WriterLease,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Relaying {
    /// Takes the lease and waits until the cache has a floor.
    pub async fn start(store: Store, cache: Cache) -> anyhow::Result<Self> {
        let relaying = Self::begin(store, cache).await?;
        relaying.floor().await?;
        Ok(relaying)
    }

    /// As `start`, with a cache that may be away.
    pub async fn begin(store: Store, cache: Cache) -> anyhow::Result<Self> {
        let who = format!("bench-{}", std::process::id());
        let lease = match store.acquire_lease(&who, LEASE_FOR).await? {
            AcquireResult::Granted(lease) => lease,
            AcquireResult::HeldBy { holder, .. } => bail!("{holder} holds the lease"),
        };
        let (told, fast) = direct_channel();
        let poke = CommitNotifier {
            relay: Some(told),
            ..CommitNotifier::default()
        };
        let relay = Relay {
            wakeups: Wakeups {
                outbox: Arc::clone(&poke.outbox_wakeup),
                ..Wakeups::default()
            },
            second_removal_after: AGAIN_AFTER,
            ..Relay::without_observers(store.clone(), Arc::new(cache), RulesHandle::builtin(), who)
        };
        let keeper = EpochMonitor {
            store: store.clone(),
            cache: Arc::clone(relay.reader.cache()),
            wakeups: relay.wakeups.clone(),
        };
        let stop = CancellationToken::new();
        let (reader, live) = (relay.reader.clone(), relay.live.clone());
        let held = watch::Sender::new(Some(lease.clone()));
        let tasks = vec![
            tokio::spawn(relay.run(fast, held.subscribe(), stop.clone())),
            tokio::spawn(keeper.run(held.subscribe(), stop.clone())),
        ];
        Ok(Self {
            store,
            reader,
            live,
            poke,
            lease,
            stop,
            tasks,
        })
    }

    pub fn cache(&self) -> &Arc<Cache> {
        self.reader.cache()
    }

    /// Waits until fills are taken.
    pub async fn floor(&self) -> anyhow::Result<()> {
        floor(self.cache()).await
    }

    /// After this nobody relays; the lease is free.
    pub async fn end(self) -> anyhow::Result<()> {
        self.stop.cancel();
        for task in self.tasks {
            task.await?;
        }
        self.reader.cache().close().await;
        Ok(self.store.release_lease(&self.lease).await?)
    }
}

/// Waits until somebody vouches for the cache's memory.
pub async fn floor(cache: &Cache) -> anyhow::Result<()> {
    let probe = key("floor", 0);
    let began = Instant::now();
    while !has_floor(cache, &probe).await {
        ensure!(began.elapsed() < PATIENCE, "the cache got no floor");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

async fn has_floor(cache: &Cache, probe: &Key) -> bool {
    let Ok(looked) = cache.get(probe, &[]).await else {
        return false;
    };
    let taken = cache.acquire_lease(probe, &[], &looked).await;
    matches!(taken, Ok(LeaseOutcome::Acquired(_) | LeaseOutcome::Held))
}

/// A door to this Redis with the settings' defaults; `first_level` in bytes.
pub async fn open(url: &str, first_level: u64) -> anyhow::Result<Cache> {
    Cache::open(&CacheSettings {
        redis_url: Some(SecretString::from(url.to_owned())),
        l1_bytes: first_level,
        ..CacheSettings::default()
    })
    .await
}

/// One of the bench's own keys.
pub fn key(what: &str, n: usize) -> Key {
    Key::from_user_input(&format!("bench:{what}:{n}")).expect("a short key")
}

/// Answers live long enough that none ends or is renewed while it is measured.
pub fn policy() -> Policy {
    Policy::fresh_for(Duration::from_secs(3600))
}

/// An answer with what its reader saw.
pub async fn loaded(
    store: &Store,
    body: impl Into<oddsd_cache::Bytes>,
) -> anyhow::Result<LoadedValue> {
    Ok(LoadedValue::new(body, store.current_snapshot().await?))
}
