//! `Cache`: one set of operations over a cache server, this process's own memory, or nothing. The reader, the
//! relay and the epoch monitor call it; it hands each operation to its backend.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use xxhash_rust::xxh3::xxh3_64;

use super::entry::Entry;
use super::error::CacheError;
use super::in_process::InProcessCache;
use super::lease::{Epoch, FillLease, LeaseOutcome, LeaseState, PutOutcome};
use super::lookup::Lookup;
use super::redis::{self, RedisTransport};
use super::remote::RemoteCache;
use super::removal::{self, Removed};
use super::transport::Transport;
use super::unmanaged::{self, ScanResult};
use super::upstash::UpstashTransport;
use oddsd_core::key::{InvalidationTargets, Key, Namespace, Tag};
use oddsd_core::model::DbSnapshot;

/// The deadline of a single lookup, lease or fill outside a request; inside one, the reader's budget rules.
const GET_TIMEOUT: Duration = Duration::from_secs(2);

/// Where cached answers are stored.
pub enum Cache {
    /// Caching is switched off: no server is contacted, nothing is stored.
    Off,
    /// In this process alone.
    InProcess(InProcessCache),
    /// On a Redis or Upstash server.
    Remote(RemoteCache),
}

/// Which backend to use, and its limits. The default is the in-process cache.
pub struct CacheSettings {
    /// `redis://`, `rediss://`, `redis-cluster://`, `rediss-cluster://`, `redis-sentinel://`, `rediss-sentinel://`.
    pub redis_url: Option<SecretString>,
    /// `https://name.upstash.io`.
    pub upstash_url: Option<String>,
    /// The REST token of the Upstash database.
    pub upstash_token: Option<SecretString>,
    /// False: the cache is off, whatever else is set.
    pub enabled: bool,
    /// Of the names of managed entries and control records. Unmanaged keys have none.
    pub namespace: Namespace,
    /// How long one removal may take before it counts as failed. Reads have a budget of their own.
    pub command_timeout: Duration,
    /// Bound of the in-process cache in bytes, keys and bodies together.
    pub memory_bytes: u64,
    /// Bound of the L1 in front of Redis in bytes; 0: no L1.
    pub l1_bytes: u64,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            redis_url: None,
            upstash_url: None,
            upstash_token: None,
            enabled: true,
            namespace: Namespace::default(),
            command_timeout: Duration::from_secs(2),
            memory_bytes: 64 * 1024 * 1024,
            l1_bytes: 0,
        }
    }
}

/// The backend that the settings name.
enum BackendSettings<'s> {
    Off,
    InProcess,
    Redis(&'s SecretString),
    Upstash {
        url: &'s str,
        token: &'s SecretString,
    },
}

impl CacheSettings {
    fn backend(&self) -> anyhow::Result<BackendSettings<'_>> {
        if !self.enabled {
            return Ok(BackendSettings::Off);
        }
        let redis = present(self.redis_url.as_ref());
        let url = self.upstash_url.as_deref();
        let url = url.filter(|url| !url.trim().is_empty());
        let token = present(self.upstash_token.as_ref());
        match (redis, url, token) {
            // A URL that was emptied beside its token is how people switch Upstash off.
            (None, None, _) => Ok(BackendSettings::InProcess),
            (Some(redis), None, _) => Ok(BackendSettings::Redis(redis)),
            (None, Some(url), Some(token)) => Ok(BackendSettings::Upstash { url, token }),
            (Some(_), Some(_), _) => anyhow::bail!(
                "REDIS_URL and UPSTASH_REDIS_REST_URL/_TOKEN are both set: empty the one that readers do not use"
            ),
            (None, Some(_), None) => anyhow::bail!(
                "UPSTASH_REDIS_REST_URL is set but UPSTASH_REDIS_REST_TOKEN is empty: set both, or neither"
            ),
        }
    }

    /// Checks the settings without a connection. Returns the cache as text, never with a credential.
    pub fn describe(&self) -> anyhow::Result<String> {
        Ok(match self.backend()? {
            BackendSettings::Off => "off".into(),
            BackendSettings::InProcess => "in the daemon's process".into(),
            BackendSettings::Redis(url) => format!("redis at {}", redis::host_in(url)?),
            BackendSettings::Upstash { url, token } => {
                let upstash =
                    UpstashTransport::open(url, token, &self.namespace, self.command_timeout)?;
                format!("upstash at {}", upstash.server().host)
            }
        })
    }
}

impl Cache {
    /// Opens Redis when a Redis URL is set, Upstash when its URL and token are, else this process's memory.
    ///
    /// Never fails because a cache is down: connecting goes on in the background, for ever. Fails on
    /// settings that can never work, and names the setting. A cache server is used only once [`Cache::set_database`] was called.
    pub async fn open(settings: &CacheSettings) -> anyhow::Result<Self> {
        let (namespace, timeout) = (&settings.namespace, settings.command_timeout);
        match settings.backend()? {
            BackendSettings::Off => Ok(Self::Off),
            BackendSettings::InProcess => {
                Ok(Self::InProcess(InProcessCache::new(settings.memory_bytes)))
            }
            BackendSettings::Redis(url) => {
                let redis = RedisTransport::open(url, namespace, timeout, settings.l1_bytes);
                Ok(Self::Remote(redis.await?.into()))
            }
            BackendSettings::Upstash { url, token } => {
                let upstash = UpstashTransport::open(url, token, namespace, timeout)?;
                Ok(Self::Remote(upstash.into()))
            }
        }
    }

    /// Sets the database that the answers come from: `identity` is a text that no other database has, no copy of this one,
    /// and no other start of its server (`Store::identity`). A new identity ends what was cached with the one before.
    pub fn set_database(&self, identity: &str) {
        if let Self::Remote(remote) = self {
            remote.set_database(&format!("{:08x}", xxh3_64(identity.as_bytes()) as u32));
        }
    }

    /// The records of an epoch that another database has begun in this cache, or is about to begin. While that one is
    /// used, they change with each heartbeat. `None`: there is none, or it is of a database that was set here.
    pub async fn foreign_epoch(&self) -> Result<Option<String>, CacheError> {
        match self {
            Self::Off | Self::InProcess(_) => Ok(None),
            Self::Remote(remote) => remote.foreign_epoch().await,
        }
    }

    /// Looks up the entry of a key that has these tags. Returns it only if it is valid.
    pub async fn get(&self, key: &Key, tags: &[Tag]) -> Result<Lookup, CacheError> {
        self.get_within(key, tags, GET_TIMEOUT).await
    }

    pub(super) async fn get_within(
        &self,
        key: &Key,
        tags: &[Tag],
        deadline: Duration,
    ) -> Result<Lookup, CacheError> {
        match self {
            Self::Off => Ok(Lookup::in_process(None)),
            Self::InProcess(memory) => Ok(Lookup::in_process(memory.local.get(key))),
            Self::Remote(remote) => remote.get(key, tags, deadline).await,
        }
    }

    /// Asks for the right to fill a key, after a lookup that found nothing usable and before the load begins.
    pub async fn acquire_lease(
        &self,
        key: &Key,
        tags: &[Tag],
        lookup: &Lookup,
    ) -> Result<LeaseOutcome, CacheError> {
        match self {
            Self::Off => Ok(LeaseOutcome::NoEpoch),
            Self::InProcess(memory) => {
                let seen = lookup.entry.as_ref().map(|entry| entry.version);
                Ok(memory.acquire_lease(key, tags, seen, Instant::now()))
            }
            Self::Remote(remote) => {
                let seen = &lookup.seen_prefix;
                remote.acquire_lease(key, tags, seen, GET_TIMEOUT).await
            }
        }
    }

    /// Stores `entry` if it is certain that no removal so far makes it wrong. Bodies from `compress_from` bytes on
    /// are compressed.
    pub async fn put_if_valid(
        &self,
        key: &Key,
        lease: FillLease,
        entry: Arc<Entry>,
        compress_from: usize,
    ) -> Result<PutOutcome, CacheError> {
        self.put_within(key, lease, entry, compress_from, GET_TIMEOUT)
            .await
    }

    pub(super) async fn put_within(
        &self,
        key: &Key,
        lease: FillLease,
        entry: Arc<Entry>,
        compress_from: usize,
        deadline: Duration,
    ) -> Result<PutOutcome, CacheError> {
        match (self, lease.0) {
            (Self::InProcess(memory), LeaseState::InProcess(lease)) => {
                memory.put_if_valid(key, lease, entry, Instant::now())
            }
            (Self::Remote(remote), LeaseState::Remote(lease)) => {
                remote
                    .put_if_valid(key, &lease, &entry, compress_from, deadline)
                    .await
            }
            _ => Ok(PutOutcome::LeaseEnded),
        }
    }

    /// Releases a lease whose load failed, so that the next reader need not wait until it expires.
    pub(super) async fn release(&self, key: &Key, lease: FillLease) {
        match (self, lease.0) {
            (Self::InProcess(memory), LeaseState::InProcess(lease)) => memory.release(key, &lease),
            (Self::Remote(remote), LeaseState::Remote(lease)) => remote.release(key, &lease).await,
            _ => {}
        }
    }

    /// Removes entries, or marks them stale, and ends the leases of fills that are under way. `snapshot` has to include
    /// every change that this removal is for. Each target has a result of its own: `Ok` is confirmed. `Err` when
    /// the cache confirmed no target.
    pub async fn remove(
        &self,
        targets: &InvalidationTargets,
        snapshot: &DbSnapshot,
    ) -> Result<Removed, CacheError> {
        match self {
            Self::Off => Ok(Removed::nothing(targets)),
            Self::InProcess(memory) => Ok(memory.remove(targets, snapshot, Instant::now())),
            Self::Remote(remote) => remote.remove(targets, snapshot).await,
        }
    }

    fn transport(&self) -> Option<&Transport> {
        match self {
            Self::Off | Self::InProcess(_) => None,
            Self::Remote(remote) => Some(&remote.transport),
        }
    }

    /// Removes unmanaged keys, those that other programs write under their plain names. Returns the number that
    /// existed; after an error, the keys that could be removed are.
    pub async fn remove_unmanaged(&self, keys: &[Key]) -> Result<u64, CacheError> {
        match self.transport() {
            Some(transport) => unmanaged::remove(transport, keys).await,
            None => Ok(0),
        }
    }

    /// Removes the unmanaged keys that were put under these tags, and no managed entry. Returns the number that
    /// existed.
    pub async fn remove_tag_members(&self, tags: &[Tag]) -> Result<u64, CacheError> {
        match self.transport() {
            Some(transport) => removal::remove_members(transport, tags).await,
            None => Ok(0),
        }
    }

    /// Puts an unmanaged key for `ttl` (1 ms to a week), so that removing one of its tags removes it. Does
    /// nothing in process, where no other program could read it. `deploy/put.lua` does the same for other programs.
    pub async fn put_unmanaged(
        &self,
        key: &Key,
        body: &Bytes,
        ttl: Duration,
        tags: &[Tag],
    ) -> Result<(), CacheError> {
        match self.transport() {
            Some(transport) => unmanaged::put(transport, key, body, ttl, tags).await,
            None => Ok(()),
        }
    }

    /// Lists unmanaged keys that begin with `prefix`, up to `max`, in order. For an operator only: the server looks
    /// at every name it has.
    pub async fn scan_unmanaged(&self, prefix: &str, max: usize) -> Result<ScanResult, CacheError> {
        match self.transport() {
            Some(transport) => unmanaged::scan(transport, prefix, max).await,
            None => Ok(ScanResult::default()),
        }
    }

    /// Ends the epoch of the cache's memory: nothing is filled and nothing is served until the returned one begins.
    pub async fn end_epoch(&self) -> Result<Epoch, CacheError> {
        match self {
            Self::Off | Self::InProcess(_) => Ok(Epoch::new("here", "here")),
            Self::Remote(remote) => remote.end_epoch().await,
        }
    }

    /// Begins the epoch that `end_epoch` returned. `snapshot` has to be taken from the primary database in between.
    /// Returns false if the cache has lost its memory since, or another daemon ended the epoch again.
    pub async fn begin_epoch(
        &self,
        epoch: &Epoch,
        snapshot: &DbSnapshot,
    ) -> Result<bool, CacheError> {
        match self {
            Self::Off | Self::InProcess(_) => Ok(true),
            Self::Remote(remote) => remote.begin_epoch(epoch, snapshot).await,
        }
    }

    /// Sends the next heartbeat. Returns whether the cache's memory is still the one of this epoch and of
    /// its last heartbeat.
    pub async fn heartbeat(&self, epoch: &mut Epoch) -> Result<bool, CacheError> {
        let is_same = match self {
            Self::Off | Self::InProcess(_) => true,
            Self::Remote(remote) => remote.heartbeat(epoch).await?,
        };
        epoch.heartbeat += 1;
        Ok(is_same)
    }

    /// The interval between heartbeats: for this long a memory that was replaced may still be served. Upstash bills
    /// each. `None`: no heartbeats are needed.
    pub fn heartbeat_interval(&self) -> Option<Duration> {
        let transport = self.transport()?;
        Some(transport.limits().heartbeat_interval)
    }

    /// Returns the entry that this process holds without asking a server: valid, but maybe past its time to live.
    pub(super) fn get_l1(&self, key: &Key, now: Instant) -> Option<Arc<Entry>> {
        match self {
            Self::InProcess(memory) => memory.local.get_fast(key),
            Self::Remote(remote) => remote.get_l1(key, now),
            Self::Off => None,
        }
    }

    /// Returns the stored bytes of a key, unchecked, from Redis only: for inspection, never for a reader.
    pub async fn stored(&self, key: &Key) -> Result<Option<Bytes>, CacheError> {
        match self {
            Self::Remote(remote) if !self.is_billed() => remote.stored(key).await,
            _ => Ok(None),
        }
    }

    /// Sends a PING.
    pub async fn ping(&self) -> Result<(), CacheError> {
        match self {
            Self::Off | Self::InProcess(_) => Ok(()),
            Self::Remote(remote) => remote.ping().await,
        }
    }

    /// What the server cannot do, and what is lost without it, as sentences for an operator. Waits at most as long as
    /// a command may take.
    pub async fn limitations(&self) -> Vec<String> {
        match self.transport() {
            Some(transport) => transport.limitations().await,
            None => Vec::new(),
        }
    }

    /// Commands that the server answered since the start, which is what Upstash bills. `None` without a server.
    pub fn commands(&self) -> Option<u64> {
        Some(self.transport()?.server().answered())
    }

    /// Whether each command is paid for.
    pub fn is_billed(&self) -> bool {
        self.transport().is_some_and(|it| it.limits().is_billed)
    }

    /// Whether other processes may see its entries.
    pub fn is_shared(&self) -> bool {
        !matches!(self, Self::InProcess(_))
    }

    /// For logs and metrics: `redis`, `upstash`, `memory` or `off`.
    pub fn backend(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::InProcess(_) => "memory",
            Self::Remote(remote) => remote.transport.limits().backend,
        }
    }

    /// Host and port, never credentials.
    pub fn host(&self) -> String {
        match self {
            Self::Off => "none".into(),
            Self::InProcess(_) => "in-process".into(),
            Self::Remote(remote) => remote.transport.server().host.clone(),
        }
    }

    /// Waits until there is a connection, for as long as that takes. Returns at once where there is none to
    /// keep (in process, REST).
    pub async fn connected(&self) {
        if let Some(Transport::Redis(redis)) = self.transport() {
            redis.connected().await;
        }
    }

    /// Closes the connection.
    pub async fn close(&self) {
        if let Some(Transport::Redis(redis)) = self.transport() {
            redis.close().await;
        }
    }
}

/// An empty setting counts as absent: hosting panels write it for "not set".
fn present(setting: Option<&SecretString>) -> Option<&SecretString> {
    setting.filter(|value| !value.expose_secret().trim().is_empty())
}
