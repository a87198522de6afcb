//! The cache inside this process: bounded in bytes, an expiry per entry, the same lease rule as
//! the remote ones. It is what the daemon uses when no cache server is configured.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::sync::Cache as Entries;

use super::{Bytes, CacheError, LEASE_TTL, Lease, Lookup, NO_EXPIRY};
use crate::key::Key;

/// What an entry costs besides its key and body (measured roughly: node, counters, timers).
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// One value may take at most this part of the whole, so that it cannot empty the cache.
const LARGEST_SHARE: u64 = 4;

/// Below this many leases nobody looks for expired ones.
const LEASES_BEFORE_SWEEP: usize = 1024;

pub struct Memory {
    entries: Entries<Key, Entry>,
    /// Every fill and removal happens under this lock: checking a lease and storing the value is
    /// one step, as it is in the remote caches' scripts.
    leases: Mutex<Leases>,
    max_value_bytes: u64,
}

#[derive(Clone)]
struct Entry {
    body: Bytes,
    ttl: Duration,
    expires_at: Instant,
}

#[derive(Default)]
struct Leases {
    held: HashMap<Key, (Lease, Instant)>,
    sweep_at: usize,
}

/// Lets each entry bring its own time to live.
struct OwnTtl;

impl Expiry<Key, Entry> for OwnTtl {
    fn expire_after_create(&self, _: &Key, entry: &Entry, _: Instant) -> Option<Duration> {
        Some(entry.ttl)
    }

    fn expire_after_update(
        &self,
        _: &Key,
        entry: &Entry,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.ttl)
    }
}

impl Memory {
    pub fn new(max_bytes: u64) -> Self {
        let entries = Entries::builder()
            .max_capacity(max_bytes)
            .weigher(|key: &Key, entry: &Entry| {
                let bytes = key.as_str().len() + entry.body.len() + ENTRY_OVERHEAD_BYTES;
                u32::try_from(bytes).unwrap_or(u32::MAX)
            })
            .expire_after(OwnTtl)
            .build();
        Self {
            entries,
            leases: Mutex::default(),
            max_value_bytes: max_bytes / LARGEST_SHARE,
        }
    }

    pub(super) fn get(&self, key: &Key) -> Lookup {
        if let Some(hit) = self.live(key) {
            return hit;
        }
        let mut leases = self.lock();
        // A fill may have come between the look and the lock.
        if let Some(hit) = self.live(key) {
            return hit;
        }
        Lookup::Miss {
            lease: leases.take(key, Instant::now()),
        }
    }

    pub(super) fn fill(
        &self,
        key: &Key,
        lease: &Lease,
        body: &[u8],
        ttl: Duration,
    ) -> Result<bool, CacheError> {
        if body.len() as u64 > self.max_value_bytes {
            return Err(CacheError::TooLarge {
                detail: format!(
                    "the value of {key} has {} bytes, the in-process cache keeps values up to {} (a quarter of its bound): raise the bound",
                    body.len(),
                    self.max_value_bytes
                ),
            });
        }
        let mut leases = self.lock();
        let now = Instant::now();
        if !leases.end(key, lease, now) {
            return Ok(false);
        }
        let ttl = ttl.min(NO_EXPIRY);
        let entry = Entry {
            body: Bytes::copy_from_slice(body),
            ttl,
            expires_at: now + ttl,
        };
        self.entries.insert(key.clone(), entry);
        Ok(true)
    }

    pub(super) fn remove(&self, keys: &[Key]) -> u64 {
        let mut leases = self.lock();
        let mut existed = 0;
        for key in keys {
            leases.held.remove(key);
            existed += u64::from(self.entries.remove(key).is_some());
        }
        existed
    }

    pub fn max_value_bytes(&self) -> u64 {
        self.max_value_bytes
    }

    /// Bytes in use, after everything over the bound has been let go.
    pub fn bytes(&self) -> u64 {
        self.entries.run_pending_tasks();
        self.entries.weighted_size()
    }

    fn live(&self, key: &Key) -> Option<Lookup> {
        let entry = self.entries.get(key)?;
        let remaining = entry.expires_at.checked_duration_since(Instant::now())?;
        Some(Lookup::Hit {
            body: entry.body,
            remaining,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Leases> {
        // Nothing under the lock can panic half-way; a poisoned lock still holds a valid map.
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leases {
    fn take(&mut self, key: &Key, now: Instant) -> Option<Lease> {
        if self.held.get(key).is_some_and(|(_, until)| *until > now) {
            return None;
        }
        if self.held.len() >= self.sweep_at.max(LEASES_BEFORE_SWEEP) {
            self.held.retain(|_, (_, until)| *until > now);
            self.sweep_at = self.held.len() * 2;
        }
        let lease = Lease::new();
        self.held
            .insert(key.clone(), (lease.clone(), now + LEASE_TTL));
        Some(lease)
    }

    /// True if it was held by this token until now.
    fn end(&mut self, key: &Key, lease: &Lease, now: Instant) -> bool {
        let holds = self
            .held
            .get(key)
            .is_some_and(|(held, until)| held == lease && *until > now);
        if holds {
            self.held.remove(key);
        }
        holds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::from_person(name).expect("a plain name")
    }

    fn lease(lookup: Lookup) -> Option<Lease> {
        match lookup {
            Lookup::Hit { .. } => panic!("a hit where a miss was expected"),
            Lookup::Miss { lease } => lease,
        }
    }

    #[test]
    fn it_stays_within_its_bytes() {
        let memory = Memory::new(1_000_000);
        for n in 0..500 {
            let key = key(&format!("k{n}"));
            let lease = lease(memory.get(&key)).expect("a lease");
            let filled = memory.fill(&key, &lease, &[b'x'; 10_000], Duration::from_secs(60));
            assert_eq!(filled, Ok(true));
        }
        assert!(memory.bytes() <= 1_000_000, "{} bytes", memory.bytes());
        assert!(memory.bytes() > 500_000, "{} bytes", memory.bytes());
    }

    #[test]
    fn a_lease_that_ran_out_neither_fills_nor_blocks() {
        let mut leases = Leases::default();
        let (key, start) = (key("k"), Instant::now());
        let first = leases.take(&key, start).expect("a lease");
        assert_eq!(leases.take(&key, start), None);
        let later = start + LEASE_TTL;
        assert!(!leases.end(&key, &first, later));
        assert!(leases.take(&key, later).is_some());
    }

    #[test]
    fn abandoned_leases_are_swept() {
        let mut leases = Leases::default();
        let start = Instant::now();
        for n in 0..100_000u32 {
            let now = start + LEASE_TTL / 1000 * n;
            leases.take(&key(&format!("k{n}")), now);
        }
        assert!(leases.held.len() < 5_000, "{} leases", leases.held.len());
    }
}
