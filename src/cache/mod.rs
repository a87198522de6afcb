//! The door to caches: one set of verbs over Redis, Upstash and this process's own memory.
//!
//! A reader that misses *takes* a lease, loads with the view that its load had, and *fills*. The fill is
//! refused unless the lease still stands (a removal, a flush and an eviction end it) and the view
//! covers the key's *fence*, all that its removals had seen. `docs/freshness.md` has the argument.

mod breaker;
mod call;
mod clock;
mod entry;
mod error;
mod fill;
mod flight;
mod front;
mod hot;
mod link;
mod memory;
mod pace;
mod plain;
mod policy;
mod reads;
mod redis;
mod removal;
mod reply;
mod script;
mod shelf;
mod sight;
mod upstash;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use axum::body::Bytes;
use secrecy::{ExposeSecret, SecretString};

use crate::key::{Key, Tag};
use crate::model::View;
use call::Server;

pub use crate::key::{Target, Targets};
pub use entry::Entry;
pub use error::CacheError;
pub use fill::{Level, Loaded, READ_BUDGET, ReadError, ReadState, Reader, Reads, Served};
pub use memory::Memory;
pub use plain::Scanned;
pub use policy::Policy;
pub use redis::Redis;
pub use removal::Removed;
pub use sight::Looked;
pub use upstash::Upstash;

/// A lease outlives any load that we wait for; a reader that died holding one delays the next
/// fill by no more than this.
const LEASE_TTL: Duration = Duration::from_secs(10);

/// Fences may go at any time, also earlier: the next lease begins them again, at the horizon.
const FENCE_TTL: Duration = Duration::from_secs(3600);

/// An entry whose tag has no fence any more counts as removed.
const TAG_FENCE_TTL: Duration = Duration::from_secs(48 * 3600);

/// Deadline of a single look or fill outside a request; inside one, [`READ_BUDGET`] rules.
const GET_TIMEOUT: Duration = Duration::from_secs(2);

/// No entry lives longer.
const LONGEST_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// Where cached answers live.
pub enum Cache {
    /// `CACHE_ENABLED=false`: nothing is contacted, nothing is kept.
    Off,
    Memory(Memory),
    Redis(Redis),
    Upstash(Upstash),
}

pub struct CacheSettings {
    /// `redis://`, `rediss://`, `redis-cluster://`, `rediss-cluster://`, `redis-sentinel://`, `rediss-sentinel://`.
    pub redis_url: Option<SecretString>,
    pub upstash_url: Option<String>,
    pub upstash_token: Option<SecretString>,
    pub enabled: bool,
    /// How long one removal may take before it counts as failed. Reads have [`READ_BUDGET`].
    pub command_timeout: Duration,
    /// Bound of the in-process cache, keys and bodies together.
    pub memory_bytes: u64,
    /// Bound of the first level in front of Redis; 0 is none.
    pub first_level_bytes: u64,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            redis_url: None,
            upstash_url: None,
            upstash_token: None,
            enabled: true,
            command_timeout: Duration::from_secs(2),
            memory_bytes: 64 * 1024 * 1024,
            first_level_bytes: 0,
        }
    }
}

/// What a reader that misses is told.
#[derive(Debug)]
pub enum Taken {
    /// Load, and fill with this.
    Mine(Lease),
    /// Somebody else is loading it.
    Held,
    /// Somebody else has filled it since the look: look again.
    Overtaken,
    /// Nobody vouches for this memory yet: load, and do not fill.
    NoFloor,
}

/// The right to fill one key, until a removal, a flush or [`LEASE_TTL`] ends it.
#[derive(Debug)]
pub struct Lease(Claim);

impl Lease {
    /// For the entry that this lease fills.
    pub fn stamp(&self) -> u128 {
        match &self.0 {
            Claim::Memory(claim) => claim.token,
            Claim::Remote(lease) => lease.token,
        }
    }
}

enum Claim {
    Memory(memory::Claim),
    Remote(Remote),
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a claim")
    }
}

/// A lease in another process.
struct Remote {
    /// Nobody else holds it: uniqueness is all that is asked of it.
    token: u128,
    floor: String,
    /// The cache's clock when it was given, and ours.
    server_ms: u64,
    at: Instant,
}

impl Remote {
    /// As the scripts know it.
    fn token(&self) -> String {
        format!("{:032x}", self.token)
    }

    /// The cache's clock now.
    fn server_ms(&self) -> u64 {
        self.server_ms + self.at.elapsed().as_millis() as u64
    }

    /// The life that the floor is of.
    fn life(&self) -> &str {
        self.floor.split(' ').next().unwrap_or_default()
    }
}

/// What became of a fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    Stored,
    /// The lease was voided by a removal or a flush, or has run out.
    NoLease,
    /// The load had not seen all that the removals of this key had seen.
    TooEarly,
    /// The cache's memory is not the one that gave the lease.
    NoFloor,
}

/// One life of a cache's memory, as the one who vouches for it knows it.
#[derive(Clone, Debug)]
pub struct Life {
    floor: String,
    beat: u64,
}

impl Cache {
    /// Redis when a Redis URL is set, Upstash when its URL and token are, else this process's memory.
    ///
    /// Never fails because a cache is down: connecting goes on in the background, for ever. Fails on
    /// settings that can never work, and names the setting.
    pub async fn open(settings: &CacheSettings) -> anyhow::Result<Self> {
        if !settings.enabled {
            return Ok(Self::Off);
        }
        let redis = present(settings.redis_url.as_ref());
        let url = settings.upstash_url.as_deref();
        let url = url.filter(|url| !url.trim().is_empty());
        let token = present(settings.upstash_token.as_ref());
        match (redis, url, token) {
            (None, None, None) => Ok(Self::Memory(Memory::new(settings.memory_bytes))),
            (Some(redis), None, None) => Ok(Self::Redis(
                Redis::open(redis, settings.command_timeout, settings.first_level_bytes).await?,
            )),
            (None, Some(url), Some(token)) => Ok(Self::Upstash(Upstash::open(
                url,
                token,
                settings.command_timeout,
            )?)),
            (Some(_), ..) => anyhow::bail!(
                "REDIS_URL and UPSTASH_REDIS_REST_URL/_TOKEN are both set: empty the one that readers do not use"
            ),
            (None, Some(_), None) => anyhow::bail!(
                "UPSTASH_REDIS_REST_URL is set but UPSTASH_REDIS_REST_TOKEN is empty: set both, or neither"
            ),
            (None, None, Some(_)) => anyhow::bail!(
                "UPSTASH_REDIS_REST_TOKEN is set but UPSTASH_REDIS_REST_URL is empty: set both, or neither"
            ),
        }
    }

    /// What is there, and still right.
    pub async fn look(&self, key: &Key, tags: &[Tag]) -> Result<Looked, CacheError> {
        self.look_within(key, tags, GET_TIMEOUT).await
    }

    async fn look_within(
        &self,
        key: &Key,
        tags: &[Tag],
        deadline: Duration,
    ) -> Result<Looked, CacheError> {
        match self {
            Self::Off => Ok(Looked::nothing()),
            Self::Memory(memory) => Ok(Looked::here(memory.get(key))),
            Self::Redis(redis) => redis.look(key, tags, deadline).await,
            Self::Upstash(upstash) => upstash.look(key, tags, deadline).await,
        }
    }

    /// The right to fill, for a reader that looked and was not content: to be asked for before the
    /// load begins.
    pub async fn take(
        &self,
        key: &Key,
        tags: &[Tag],
        looked: &Looked,
    ) -> Result<Taken, CacheError> {
        let seen = &looked.seen;
        match self {
            Self::Off => Ok(Taken::NoFloor),
            Self::Memory(memory) => {
                Ok(match memory.take(key, tags, seen.stamp(), Instant::now()) {
                    Ok(Some(claim)) => Taken::Mine(Lease(Claim::Memory(claim))),
                    Ok(None) => Taken::Held,
                    Err(_) => Taken::Overtaken,
                })
            }
            Self::Redis(redis) => redis.take(key, tags, seen, GET_TIMEOUT).await,
            Self::Upstash(upstash) => upstash.take(key, tags, seen, GET_TIMEOUT).await,
        }
    }

    /// Stores `entry`, if it is certain that no removal so far makes it wrong.
    pub async fn fill(
        &self,
        key: &Key,
        lease: Lease,
        entry: Arc<Entry>,
        compress_from: usize,
    ) -> Result<Filled, CacheError> {
        self.fill_within(key, lease, entry, compress_from, GET_TIMEOUT)
            .await
    }

    async fn fill_within(
        &self,
        key: &Key,
        lease: Lease,
        entry: Arc<Entry>,
        compress_from: usize,
        deadline: Duration,
    ) -> Result<Filled, CacheError> {
        match (self, lease.0) {
            (Self::Memory(memory), Claim::Memory(claim)) => {
                memory.fill(key, claim, entry, Instant::now())
            }
            (Self::Redis(redis), Claim::Remote(lease)) => {
                redis
                    .fill(key, &lease, &entry, compress_from, deadline)
                    .await
            }
            (Self::Upstash(upstash), Claim::Remote(lease)) => {
                upstash
                    .fill(key, &lease, &entry, compress_from, deadline)
                    .await
            }
            _ => Ok(Filled::NoLease),
        }
    }

    /// Gives back a lease whose load failed, so that the next reader need not wait for its end.
    async fn release(&self, key: &Key, lease: Lease) {
        match (self, lease.0) {
            (Self::Memory(memory), Claim::Memory(claim)) => memory.release(key, &claim),
            (Self::Redis(redis), Claim::Remote(lease)) => redis.release(key, &lease).await,
            (Self::Upstash(upstash), Claim::Remote(lease)) => upstash.release(key, &lease).await,
            _ => {}
        }
    }

    /// Removes answers, or marks them stale, and voids the fills that are under way. `view` has to see every
    /// change that this removal is for. Each target has a result of its own: what is `Ok` is
    /// confirmed. `Err` when the cache confirmed none.
    pub async fn remove(&self, targets: &Targets, view: &View) -> Result<Removed, CacheError> {
        match (self, self.server()) {
            (Self::Memory(memory), _) => Ok(memory.remove(targets, view, Instant::now())),
            (_, Some(server)) => removal::remove(server, targets, view).await,
            (_, None) => Ok(Removed::nothing(targets)),
        }
    }

    /// The server behind it, where there is one.
    fn server(&self) -> Option<Server<'_>> {
        match self {
            Self::Off | Self::Memory(_) => None,
            Self::Redis(redis) => Some(Server::Redis(redis)),
            Self::Upstash(upstash) => Some(Server::Upstash(upstash)),
        }
    }

    /// Ends whatever life the cache's memory has: nothing is filled, nothing is served, until `found`.
    pub async fn void(&self) -> Result<(), CacheError> {
        match self {
            Self::Off | Self::Memory(_) => Ok(()),
            Self::Redis(redis) => redis.void().await,
            Self::Upstash(upstash) => upstash.void().await,
        }
    }

    /// Begins a life. `view` was taken from the primary database after `void` had succeeded.
    pub async fn found(&self, view: &View) -> Result<Life, CacheError> {
        let life = |run: &str| Life {
            floor: format!("{:016x} {run}", fastrand::u64(..)),
            beat: 0,
        };
        match self {
            Self::Off | Self::Memory(_) => Ok(life("here")),
            Self::Redis(redis) => {
                let life = life(&redis.run()?);
                redis.found(&life, view).await.map(|()| life)
            }
            Self::Upstash(upstash) => {
                let life = life(upstash::RUN);
                upstash.found(&life, view).await.map(|()| life)
            }
        }
    }

    /// Whether the cache's memory is still the one that was founded and beaten last.
    pub async fn beat(&self, life: &mut Life) -> Result<bool, CacheError> {
        let lives = match self {
            Self::Off | Self::Memory(_) => true,
            Self::Redis(redis) => redis.beat(life).await?,
            Self::Upstash(upstash) => upstash.beat(life).await?,
        };
        life.beat += 1;
        Ok(lives)
    }

    /// How often to beat: what is between two beats may be served from a memory that is not the one
    /// it was. Upstash bills each.
    pub fn beat_every(&self) -> Option<Duration> {
        match self {
            Self::Off | Self::Memory(_) => None,
            Self::Redis(_) => Some(Duration::from_millis(25)),
            Self::Upstash(_) => Some(Duration::from_secs(10)),
        }
    }

    /// In front of the remote cache, in this process: still right, though its time may be over.
    fn first(&self, key: &Key, now: Instant) -> Option<Arc<Entry>> {
        match self {
            Self::Memory(memory) => memory.hot(key),
            Self::Redis(redis) => redis.first(key, now),
            Self::Off | Self::Upstash(_) => None,
        }
    }

    pub async fn ping(&self) -> Result<(), CacheError> {
        match self {
            Self::Off | Self::Memory(_) => Ok(()),
            Self::Redis(redis) => redis.ping().await,
            Self::Upstash(upstash) => upstash.ping().await,
        }
    }

    /// Each command is paid for.
    pub fn is_billed(&self) -> bool {
        matches!(self, Self::Upstash(_))
    }

    /// False: what is in it is seen by this process alone.
    pub fn is_shared(&self) -> bool {
        !matches!(self, Self::Memory(_))
    }

    /// For logs and metrics: `redis`, `upstash`, `memory` or `off`.
    pub fn backend(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Memory(_) => "memory",
            Self::Redis(_) => "redis",
            Self::Upstash(_) => "upstash",
        }
    }

    /// Host and port, never credentials.
    pub fn host(&self) -> String {
        match self {
            Self::Off => "none".into(),
            Self::Memory(_) => "in-process".into(),
            Self::Redis(redis) => redis.host().into(),
            Self::Upstash(upstash) => upstash.host().into(),
        }
    }

    /// Waits until there is a connection, for as long as that takes. Where there is none to keep
    /// (in process, REST) it returns at once.
    pub async fn connected(&self) {
        if let Self::Redis(redis) = self {
            redis.connected().await;
        }
    }

    pub async fn close(&self) {
        if let Self::Redis(redis) = self {
            redis.close().await;
        }
    }
}

/// An empty setting counts as absent: that is how hosting panels spell "not set".
fn present(setting: Option<&SecretString>) -> Option<&SecretString> {
    setting.filter(|value| !value.expose_secret().trim().is_empty())
}
