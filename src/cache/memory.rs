//! The cache inside this process: bounded in bytes, an expiry per entry, the same leases and fences
//! as the remote ones. It is what the daemon uses when no cache server is configured. It needs no
//! floor: its memory and the process that would remember end together.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::entry::Entry;
use super::shelf::{Marks, Shelf};
use super::{CacheError, FENCE_TTL, Filled, LEASE_TTL, Removed, Targets};
use crate::key::{Key, Tag};
use crate::model::View;

/// Below this many of a kind nobody looks for those that have run out.
const BEFORE_SWEEP: usize = 1024;

pub struct Memory {
    shelf: Shelf,
    /// Every fill and removal happens under this lock: checking and storing is one step, as it is in
    /// the remote caches' scripts.
    fences: Mutex<Fences>,
}

struct Fences {
    /// All that removals have seen: what a fence that is missing begins with.
    horizon: View,
    leases: Aging<Key, u128>,
    keys: Aging<Key, View>,
    tags: Aging<Tag, View>,
}

/// A map whose entries run out.
struct Aging<K, V> {
    held: HashMap<K, (V, Instant)>,
    sweep_at: usize,
}

/// The right to fill one key, with what had been removed when it was given.
pub(super) struct Claim {
    pub token: u128,
    marks: Marks,
}

/// There is another entry than the one that was seen.
#[derive(Debug)]
pub(super) struct Overtaken;

impl Memory {
    pub fn new(max_bytes: u64) -> Self {
        Self {
            shelf: Shelf::new(max_bytes),
            fences: Mutex::new(Fences {
                horizon: View::after(0),
                leases: Aging::default(),
                keys: Aging::default(),
                tags: Aging::default(),
            }),
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.shelf.get(key)
    }

    /// As `get`; its time may be over.
    pub(super) fn hot(&self, key: &Key) -> Option<Arc<Entry>> {
        self.shelf.hot(key)
    }

    /// `None`: somebody holds the lease.
    pub(super) fn take(
        &self,
        key: &Key,
        tags: &[Tag],
        seen: Option<u128>,
        now: Instant,
    ) -> Result<Option<Claim>, Overtaken> {
        let mut fences = self.lock();
        if self.shelf.get(key).map(|entry| entry.stamp) != seen {
            return Err(Overtaken);
        }
        if fences.leases.get(key, now).is_some() {
            return Ok(None);
        }
        let token = fastrand::u128(..);
        fences.leases.put(key, token, now + LEASE_TTL, now);
        // The fences that are missing begin here, whatever is removed from now on.
        let horizon = fences.horizon.clone();
        if fences.keys.get(key, now).is_none() {
            fences.keys.put(key, horizon.clone(), now + FENCE_TTL, now);
        }
        for tag in tags {
            if fences.tags.get(tag, now).is_none() {
                fences.tags.put(tag, horizon.clone(), now + FENCE_TTL, now);
            }
        }
        let marks = self.shelf.marks(key, tags);
        Ok(Some(Claim { token, marks }))
    }

    pub(super) fn fill(
        &self,
        key: &Key,
        claim: Claim,
        entry: Arc<Entry>,
        now: Instant,
    ) -> Result<Filled, CacheError> {
        let mut fences = self.lock();
        if fences.leases.get(key, now) != Some(&claim.token) {
            return Ok(Filled::NoLease);
        }
        fences.leases.held.remove(key);
        let seen = |fence: Option<&View>| fence.is_some_and(|fence| entry.view.covers(fence));
        let tags_seen = entry.tags.iter().all(|tag| seen(fences.tags.get(tag, now)));
        if !tags_seen || !seen(fences.keys.get(key, now)) {
            return Ok(Filled::TooEarly);
        }
        let bytes = entry.body.len();
        match self.shelf.keep(key, entry, claim.marks) {
            true => Ok(Filled::Stored),
            false => Err(CacheError::TooLarge {
                detail: format!(
                    "the value of {key} has {bytes} bytes, the in-process cache keeps values up to {} (a quarter of its bound): raise the bound",
                    self.shelf.max_value_bytes()
                ),
            }),
        }
    }

    pub(super) fn release(&self, key: &Key, claim: &Claim) {
        let mut fences = self.lock();
        if fences.leases.get(key, Instant::now()) == Some(&claim.token) {
            fences.leases.held.remove(key);
        }
    }

    pub(super) fn remove(&self, targets: &Targets, view: &View, now: Instant) -> Removed {
        let mut fences = self.lock();
        fences.horizon = fences.horizon.join(view);
        let mut removed = Removed::nothing(targets);
        for (key, existed) in targets.keys.iter().zip(&mut removed.keys) {
            fences.leases.held.remove(key);
            fences.keys.raise(key, view, now);
            *existed = Ok(u64::from(self.shelf.remove(key)));
        }
        for (key, existed) in targets.stale.iter().zip(&mut removed.stale) {
            fences.leases.held.remove(key);
            fences.keys.raise(key, view, now);
            let entry = self.shelf.get(key);
            self.shelf.remove(key);
            *existed = Ok(u64::from(entry.is_some()));
            if let Some(entry) = entry {
                let marked = Entry::clone(&entry).marked_stale(entry.age(now));
                let marks = self.shelf.marks(key, &marked.tags);
                self.shelf.keep(key, Arc::new(marked), marks);
            }
        }
        for tag in &targets.tags {
            fences.tags.raise(tag, view, now);
            self.shelf.remove_tag(tag);
        }
        removed
    }

    pub fn max_value_bytes(&self) -> u64 {
        self.shelf.max_value_bytes()
    }

    /// Bytes in use, after everything over the bound has been let go.
    pub fn bytes(&self) -> u64 {
        self.shelf.bytes()
    }

    fn lock(&self) -> MutexGuard<'_, Fences> {
        // Nothing under the lock can panic half-way; a poisoned lock still holds valid maps.
        self.fences.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> Default for Aging<K, V> {
    fn default() -> Self {
        Self {
            held: HashMap::new(),
            sweep_at: BEFORE_SWEEP,
        }
    }
}

impl<K: Hash + Eq + Clone, V> Aging<K, V> {
    fn get(&self, key: &K, now: Instant) -> Option<&V> {
        let (value, until) = self.held.get(key)?;
        (*until > now).then_some(value)
    }

    fn put(&mut self, key: &K, value: V, until: Instant, now: Instant) {
        if self.held.len() >= self.sweep_at {
            self.held.retain(|_, (_, until)| *until > now);
            self.sweep_at = BEFORE_SWEEP.max(self.held.len() * 2);
        }
        self.held.insert(key.clone(), (value, until));
    }
}

impl<K: Hash + Eq + Clone> Aging<K, View> {
    fn raise(&mut self, key: &K, view: &View, now: Instant) {
        let raised = match self.get(key, now) {
            Some(old) => old.join(view),
            None => view.clone(),
        };
        self.put(key, raised, now + FENCE_TTL, now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cache::Bytes;

    fn key(name: &str) -> Key {
        Key::from_person(name).expect("a plain name")
    }

    fn entry(bytes: usize, view: View) -> Arc<Entry> {
        Arc::new(Entry {
            body: Bytes::from(vec![b'x'; bytes]),
            stamp: 0,
            absent: false,
            view,
            tags: Vec::new(),
            stored_at: Instant::now(),
            fresh: Duration::from_secs(60),
            while_revalidating: Duration::ZERO,
            on_error: Duration::ZERO,
            load: Duration::ZERO,
        })
    }

    fn leased(memory: &Memory, key: &Key, now: Instant) -> Option<Claim> {
        memory.take(key, &[], None, now).expect("nothing there")
    }

    #[test]
    fn it_stays_within_its_bytes() {
        let (memory, now) = (Memory::new(1_000_000), Instant::now());
        for n in 0..500 {
            let key = key(&format!("k{n}"));
            let claim = leased(&memory, &key, now).expect("a lease");
            let filled = memory.fill(&key, claim, entry(10_000, View::after(1)), now);
            assert_eq!(filled, Ok(Filled::Stored));
        }
        assert!(memory.bytes() <= 1_000_000, "{} bytes", memory.bytes());
        assert!(memory.bytes() > 500_000, "{} bytes", memory.bytes());
    }

    #[test]
    fn a_lease_that_ran_out_neither_fills_nor_blocks() {
        let (memory, start) = (Memory::new(1_000_000), Instant::now());
        let first = leased(&memory, &key("k"), start).expect("a lease");
        assert!(leased(&memory, &key("k"), start).is_none());
        let later = start + LEASE_TTL;
        let filled = memory.fill(&key("k"), first, entry(1, View::after(1)), later);
        assert_eq!(filled, Ok(Filled::NoLease));
        assert!(leased(&memory, &key("k"), later).is_some());
    }

    #[test]
    fn what_ran_out_is_swept() {
        let (memory, start) = (Memory::new(1_000_000), Instant::now());
        for n in 0..100_000u32 {
            let now = start + FENCE_TTL / 1000 * n;
            leased(&memory, &key(&format!("k{n}")), now);
        }
        let fences = memory.lock();
        let held = fences.keys.held.len() + fences.leases.held.len();
        assert!(held < 8_000, "{held} held");
    }
}
