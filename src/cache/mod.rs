//! The door to caches: one set of verbs over Redis, Upstash and this process's own memory.
//!
//! A reader that misses takes a *lease*; it may fill only while it still holds it, and a removal
//! takes value and lease away together. So whoever loaded the old row before a commit cannot put it
//! back after the removal. A flush, an eviction or a restart of the cache voids leases just the same.

mod breaker;
mod fill;
mod flight;
mod link;
mod memory;
mod redis;
mod reply;
mod script;
mod upstash;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use axum::body::Bytes;
use secrecy::{ExposeSecret, SecretString};

use crate::key::Key;

pub use fill::{READ_BUDGET, ReadState, Reader, Served};
pub use memory::Memory;
pub use redis::Redis;
pub use upstash::Upstash;

/// A lease outlives any load that we wait for; a reader that died holding one delays the next
/// fill by no more than this.
const LEASE_TTL: Duration = Duration::from_secs(10);

/// Deadline of a single get or fill outside a request; inside one, [`READ_BUDGET`] rules.
const GET_TIMEOUT: Duration = Duration::from_secs(2);

/// What `remaining` says about a value that another program stored without expiry.
pub const NO_EXPIRY: Duration = Duration::from_secs(365 * 24 * 3600);

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
        }
    }
}

/// What a reader found.
#[derive(Clone, Debug)]
pub enum Lookup {
    Hit {
        body: Bytes,
        remaining: Duration,
    },
    /// Nothing there. Without a lease another reader is loading it: answer, but do not fill.
    Miss {
        lease: Option<Lease>,
    },
}

/// The right to fill one key, until a removal, a flush or [`LEASE_TTL`] ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease(Arc<str>);

impl Lease {
    /// A token that nobody else holds: uniqueness is all that is asked of it.
    fn new() -> Self {
        Self(format!("{:032x}", fastrand::u128(..)).into())
    }

    fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why the cache did not do it. One variant for each way in which somebody reacts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheError {
    /// Not reachable, still loading, or failing over.
    Down { detail: String },
    /// No answer in time: whether it happened is unknown.
    Timeout { detail: String },
    /// It answered no (password, rights, read-only, out of memory): a person must act.
    Refused { detail: String },
    /// This value or key is over the backend's limit.
    TooLarge { detail: String },
    /// An answer that is not what the backend documents.
    Protocol { detail: String },
}

impl CacheError {
    /// False: repeating it soon changes nothing, somebody has to act first.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Down { .. } | Self::Timeout { .. } | Self::Protocol { .. } => true,
            Self::Refused { .. } | Self::TooLarge { .. } => false,
        }
    }

    pub fn detail(&self) -> &str {
        match self {
            Self::Down { detail }
            | Self::Timeout { detail }
            | Self::Refused { detail }
            | Self::TooLarge { detail }
            | Self::Protocol { detail } => detail,
        }
    }
}

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail())
    }
}

impl std::error::Error for CacheError {}

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
                Redis::open(redis, settings.command_timeout).await?,
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

    /// The value, or the right to fill it, in one round trip.
    pub async fn get(&self, key: &Key) -> Result<Lookup, CacheError> {
        self.get_within(key, GET_TIMEOUT).await
    }

    /// As `get`, with the caller's deadline.
    async fn get_within(&self, key: &Key, deadline: Duration) -> Result<Lookup, CacheError> {
        match self {
            Self::Off => Ok(Lookup::Miss { lease: None }),
            Self::Memory(memory) => Ok(memory.get(key)),
            Self::Redis(redis) => redis.get(key, deadline).await,
            Self::Upstash(upstash) => upstash.get(key, deadline).await,
        }
    }

    /// Stores `body` if `lease` still holds. False: it was removed or flushed meanwhile, and
    /// nothing is stored.
    pub async fn fill(
        &self,
        key: &Key,
        lease: &Lease,
        body: &[u8],
        ttl: Duration,
    ) -> Result<bool, CacheError> {
        self.fill_within(key, lease, body, ttl, GET_TIMEOUT).await
    }

    /// As `fill`, with the caller's deadline.
    async fn fill_within(
        &self,
        key: &Key,
        lease: &Lease,
        body: &[u8],
        ttl: Duration,
        deadline: Duration,
    ) -> Result<bool, CacheError> {
        match self {
            Self::Off => Ok(false),
            Self::Memory(memory) => memory.fill(key, lease, body, ttl),
            Self::Redis(redis) => redis.fill(key, lease, body, ttl, deadline).await,
            Self::Upstash(upstash) => upstash.fill(key, lease, body, ttl, deadline).await,
        }
    }

    /// Removes values and leases. `Ok` only when every key is confirmed gone, with how many were
    /// there (on Upstash, where a command is billed, a lease that was out counts as one).
    pub async fn remove(&self, keys: &[Key]) -> Result<u64, CacheError> {
        match self {
            Self::Off => Ok(0),
            Self::Memory(memory) => Ok(memory.remove(keys)),
            Self::Redis(redis) => redis.remove(keys).await,
            Self::Upstash(upstash) => upstash.remove(keys).await,
        }
    }

    pub async fn ping(&self) -> Result<(), CacheError> {
        match self {
            Self::Off | Self::Memory(_) => Ok(()),
            Self::Redis(redis) => redis.ping().await,
            Self::Upstash(upstash) => upstash.ping().await,
        }
    }

    /// Whether this backend can keep `body` at all: its size, and on Upstash that it is text.
    pub fn can_keep(&self, body: &[u8]) -> bool {
        match self {
            Self::Off => false,
            Self::Memory(memory) => body.len() as u64 <= memory.max_value_bytes(),
            Self::Redis(_) => body.len() <= redis::MAX_VALUE_BYTES,
            Self::Upstash(_) => upstash::text(body).is_some(),
        }
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
