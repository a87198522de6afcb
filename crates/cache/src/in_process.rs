//! The fenced cache inside this process: bounded in bytes, with the same leases and fences as the remote
//! one. `Cache` uses it when no cache server is configured.
//!
//! It needs no epoch, because its memory ends with the process that would verify it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Instant;

use super::entry::Entry;
use super::error::CacheError;
use super::lease::{
    FENCE_TTL, FillLease, LEASE_TTL, LeaseOutcome, LeaseState, LocalLease, PutOutcome,
};
use super::local::LocalCache;
use super::protocol::{passes_fence, raise_fence};
use super::removal::Removed;
use super::sync::Mutex;
use oddsd_core::key::{InvalidationTargets, Key, Tag};
use oddsd_core::model::DbSnapshot;

/// Expired items are swept when a map holds more than this many.
const BEFORE_SWEEP: usize = 1024;

/// A cache in this process's memory.
pub struct InProcessCache {
    pub(super) local: LocalCache,
    /// Every fill and removal holds this lock: check and store are one step, as they are in the scripts of
    /// the remote cache.
    fences: Mutex<FenceTable>,
}

struct FenceTable {
    /// The join of the database snapshots of all removals: a missing fence begins with it.
    watermark: DbSnapshot,
    leases: TtlMap<Key, u128>,
    keys: TtlMap<Key, DbSnapshot>,
    tags: TtlMap<Tag, DbSnapshot>,
}

/// A map whose items expire.
struct TtlMap<K, V> {
    items: HashMap<K, (V, Instant)>,
    sweep_at: usize,
}

impl InProcessCache {
    /// `max_bytes` bounds keys and bodies together.
    pub fn new(max_bytes: u64) -> Self {
        Self {
            local: LocalCache::new(max_bytes),
            fences: Mutex::new(FenceTable {
                watermark: DbSnapshot::from_commit_count(0),
                leases: TtlMap::default(),
                keys: TtlMap::default(),
                tags: TtlMap::default(),
            }),
        }
    }

    /// `seen` is the version of the entry that the lookup returned.
    pub(super) fn acquire_lease(
        &self,
        key: &Key,
        tags: &[Tag],
        seen: Option<u128>,
        now: Instant,
    ) -> LeaseOutcome {
        let mut fences = self.fences.lock();
        if self.local.get(key).map(|entry| entry.version) != seen {
            return LeaseOutcome::Superseded;
        }
        if fences.leases.get(key, now).is_some() {
            return LeaseOutcome::Held;
        }
        let token = fastrand::u128(..);
        fences.leases.put(key, token, now + LEASE_TTL, now);
        // Missing fences begin at this watermark, so that removals from now on raise them above it.
        let watermark = fences.watermark.clone();
        fences.keys.begin(key, &watermark, now);
        for tag in tags {
            fences.tags.begin(tag, &watermark, now);
        }
        let generations = self.local.generations(key, tags);
        let lease = LocalLease { token, generations };
        LeaseOutcome::Acquired(FillLease(LeaseState::InProcess(lease)))
    }

    pub(super) fn put_if_valid(
        &self,
        key: &Key,
        lease: LocalLease,
        entry: Arc<Entry>,
        now: Instant,
    ) -> Result<PutOutcome, CacheError> {
        let mut fences = self.fences.lock();
        if fences.leases.get(key, now) != Some(&lease.token) {
            return Ok(PutOutcome::LeaseEnded);
        }
        fences.leases.items.remove(key);
        let includes = |fence| passes_fence(&entry.snapshot, fence);
        let tags_included = entry
            .tags
            .iter()
            .all(|tag| includes(fences.tags.get(tag, now)));
        if !tags_included || !includes(fences.keys.get(key, now)) {
            return Ok(PutOutcome::TooEarly);
        }
        let bytes = entry.body.len();
        match self.local.put(key, entry, lease.generations) {
            true => Ok(PutOutcome::Stored),
            false => Err(CacheError::TooLarge(format!(
                "the value of {key} has {bytes} bytes, the in-process cache keeps values up to {} (a quarter of its bound): raise the bound",
                self.local.max_value_bytes()
            ))),
        }
    }

    pub(super) fn release(&self, key: &Key, lease: &LocalLease) {
        let mut fences = self.fences.lock();
        if fences.leases.get(key, Instant::now()) == Some(&lease.token) {
            fences.leases.items.remove(key);
        }
    }

    pub(super) fn remove(
        &self,
        targets: &InvalidationTargets,
        snapshot: &DbSnapshot,
        now: Instant,
    ) -> Removed {
        let mut fences = self.fences.lock();
        let fences = &mut *fences;
        fences.watermark = fences.watermark.merge(snapshot);
        let watermark = &fences.watermark;
        let mut removed = Removed::nothing(targets);
        for (key, existed) in targets.keys.iter().zip(&mut removed.keys) {
            fences.leases.items.remove(key);
            fences.keys.raise(key, snapshot, watermark, now);
            *existed = Ok(u64::from(self.local.remove(key)));
        }
        for (key, existed) in targets.mark_stale.iter().zip(&mut removed.stale) {
            fences.leases.items.remove(key);
            fences.keys.raise(key, snapshot, watermark, now);
            let entry = self.local.get(key);
            self.local.remove(key);
            *existed = Ok(u64::from(entry.is_some()));
            if let Some(entry) = entry {
                let marked = Entry::clone(&entry).marked_stale(entry.age(now));
                let generations = self.local.generations(key, &marked.tags);
                self.local.put(key, Arc::new(marked), generations);
            }
        }
        for tag in &targets.tags {
            fences.tags.raise(tag, snapshot, watermark, now);
            self.local.remove_tag(tag);
        }
        removed
    }

    /// As if the fence had expired.
    #[cfg(test)]
    pub(super) fn forget_fence(&self, keys: &[Key], tags: &[Tag]) {
        let mut fences = self.fences.lock();
        keys.iter()
            .for_each(|key| drop(fences.keys.items.remove(key)));
        tags.iter()
            .for_each(|tag| drop(fences.tags.items.remove(tag)));
    }
}

impl<K, V> Default for TtlMap<K, V> {
    fn default() -> Self {
        Self {
            items: HashMap::new(),
            sweep_at: BEFORE_SWEEP,
        }
    }
}

impl<K: Hash + Eq + Clone, V> TtlMap<K, V> {
    fn get(&self, key: &K, now: Instant) -> Option<&V> {
        let (value, until) = self.items.get(key)?;
        (*until > now).then_some(value)
    }

    fn put(&mut self, key: &K, value: V, until: Instant, now: Instant) {
        if self.items.len() >= self.sweep_at {
            self.items.retain(|_, (_, until)| *until > now);
            self.sweep_at = BEFORE_SWEEP.max(self.items.len() * 2);
        }
        self.items.insert(key.clone(), (value, until));
    }
}

impl<K: Hash + Eq + Clone> TtlMap<K, DbSnapshot> {
    fn begin(&mut self, key: &K, watermark: &DbSnapshot, now: Instant) {
        if self.get(key, now).is_none() {
            self.put(key, watermark.clone(), now + FENCE_TTL, now);
        }
    }

    fn raise(&mut self, key: &K, removal: &DbSnapshot, watermark: &DbSnapshot, now: Instant) {
        let raised = raise_fence(self.get(key, now), removal, watermark);
        self.put(key, raised, now + FENCE_TTL, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::from_user_input(name).expect("a plain name")
    }

    fn entry(bytes: usize) -> Arc<Entry> {
        Arc::new(Entry::sample(vec![b'x'; bytes]))
    }

    fn leased(memory: &InProcessCache, key: &Key, now: Instant) -> Option<LocalLease> {
        match memory.acquire_lease(key, &[], None, now) {
            LeaseOutcome::Acquired(FillLease(LeaseState::InProcess(lease))) => Some(lease),
            _ => None,
        }
    }

    #[test]
    fn memory_stays_within_its_bound() {
        let (memory, now) = (InProcessCache::new(1_000_000), Instant::now());
        for n in 0..500 {
            let key = key(&format!("k{n}"));
            let lease = leased(&memory, &key, now).expect("a lease");
            let filled = memory.put_if_valid(&key, lease, entry(10_000), now);
            assert_eq!(filled, Ok(PutOutcome::Stored));
        }
        let bytes = memory.local.bytes();
        assert!((500_000..=1_000_000).contains(&bytes), "{bytes} bytes");
    }

    #[test]
    fn an_expired_lease_neither_fills_nor_blocks() {
        let (memory, start) = (InProcessCache::new(1_000_000), Instant::now());
        let first = leased(&memory, &key("k"), start).expect("a lease");
        assert!(leased(&memory, &key("k"), start).is_none());
        let later = start + LEASE_TTL;
        let filled = memory.put_if_valid(&key("k"), first, entry(1), later);
        assert_eq!(filled, Ok(PutOutcome::LeaseEnded));
        assert!(leased(&memory, &key("k"), later).is_some());
    }

    #[test]
    fn expired_items_are_swept() {
        let (memory, start) = (InProcessCache::new(1_000_000), Instant::now());
        for n in 0..100_000u32 {
            let now = start + FENCE_TTL / 1000 * n;
            leased(&memory, &key(&format!("k{n}")), now);
        }
        let fences = memory.fences.lock();
        let held = fences.keys.items.len() + fences.leases.items.len();
        assert!(held < 8_000, "{held} held");
    }
}
