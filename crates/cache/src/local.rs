//! A map of entries inside this process, bounded in bytes. The in-process cache and the L1 are built on it.
//!
//! A removal raises a generation counter and touches no entries: its cost does not depend on how many it
//! invalidates, and an entry that was being stored at the time of the removal is never served.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::sync::Cache as MokaCache;

use super::entry::Entry;
use super::sync::{AtomicU64, Mutex, Ordering, RwLock};
use oddsd_core::key::{Key, Tag};

/// Memory of an entry besides its key and body (measured roughly: node, counters, timers).
const ENTRY_OVERHEAD_BYTES: usize = 384;
/// One value may take at most a quarter of the bound, so that it cannot evict everything else.
const LARGEST_SHARE: u64 = 4;
/// Keys share this many generation counters; a removal costs the other keys of its counter one more lookup.
const KEY_GENERATIONS: usize = 4096;
/// Tags without entries are swept when there are more than this many.
const TAGS_BEFORE_SWEEP: usize = 1024;

/// The hot slots, which are asked before the map.
const HOT_SLOTS: usize = 1024;
/// One in so many reads goes past the hot slots: the map has to see reads to keep what is read.
const MAP_READ_SHARE: u8 = 32;

pub(super) struct LocalCache {
    entries: MokaCache<Key, LocalEntry>,
    hot_slots: Arc<HotSlots<LocalEntry>>,
    /// Removals by key, and removals of everything.
    keys: Box<[AtomicU64]>,
    all: AtomicU64,
    tags: Mutex<TagGenerations>,
    max_value_bytes: u64,
}

#[derive(Default)]
struct TagGenerations {
    generations: HashMap<Tag, Arc<AtomicU64>>,
    sweep_at: usize,
}

#[derive(Clone)]
struct LocalEntry {
    entry: Arc<Entry>,
    generations: Generations,
}

/// The generation counters at the time when a reader began to look up. An entry is current while none
/// of them has changed.
#[derive(Clone, Debug)]
pub(super) struct Generations {
    all: u64,
    key: (usize, u64),
    tags: Option<Arc<[TagGeneration]>>,
}

type TagGeneration = (Arc<AtomicU64>, u64);

/// Expires each entry by its own time to live.
struct EntryTtl;

impl Expiry<Key, LocalEntry> for EntryTtl {
    fn expire_after_create(&self, _: &Key, local: &LocalEntry, now: Instant) -> Option<Duration> {
        Some(local.entry.ttl().saturating_sub(local.entry.age(now)))
    }

    fn expire_after_update(
        &self,
        key: &Key,
        local: &LocalEntry,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(key, local, now)
    }
}

impl LocalCache {
    pub fn new(max_bytes: u64) -> Self {
        let hot_slots = Arc::new(HotSlots::new());
        let evicted_from = Arc::clone(&hot_slots);
        let entries = MokaCache::builder()
            .max_capacity(max_bytes)
            .weigher(|key: &Key, local: &LocalEntry| {
                let bytes = key.as_str().len() + local.entry.body.len() + ENTRY_OVERHEAD_BYTES;
                u32::try_from(bytes).unwrap_or(u32::MAX)
            })
            .expire_after(EntryTtl)
            .eviction_listener(move |key: Arc<Key>, _, _| evicted_from.remove(&key))
            .build();
        Self {
            entries,
            hot_slots,
            keys: (0..KEY_GENERATIONS).map(|_| AtomicU64::new(0)).collect(),
            all: AtomicU64::new(0),
            tags: Mutex::default(),
            max_value_bytes: max_bytes / LARGEST_SHARE,
        }
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        let local = self.entries.get(key)?;
        self.is_current(&local.generations).then_some(local.entry)
    }

    /// As `get`, and faster for keys that are read often; may return an entry past its time to live.
    pub fn get_fast(&self, key: &Key) -> Option<Arc<Entry>> {
        if let Some(local) = self.hot_slots.get(key) {
            return self.is_current(&local.generations).then_some(local.entry);
        }
        let local = self.entries.get(key)?;
        if !self.is_current(&local.generations) {
            return None;
        }
        self.hot_slots.put(key, local.clone());
        Some(local.entry)
    }

    /// The current generations; to be taken before the lookup whose entry shall be put.
    pub fn generations(&self, key: &Key, tags: &[Tag]) -> Generations {
        let at = key_position(key, KEY_GENERATIONS);
        let tags = match tags {
            [] => None,
            tags => {
                let mut known = self.tags.lock();
                let generations = tags.iter().map(|tag| {
                    let counter = known.counter(tag);
                    let now = counter.load(Ordering::Acquire);
                    (counter, now)
                });
                Some(generations.collect())
            }
        };
        Generations {
            all: self.all.load(Ordering::Acquire),
            key: (at, self.keys[at].load(Ordering::Acquire)),
            tags,
        }
    }

    /// Whether nothing was removed since.
    fn is_current(&self, generations: &Generations) -> bool {
        let (at, then) = generations.key;
        self.keys[at].load(Ordering::Acquire) == then
            && self.all.load(Ordering::Acquire) == generations.all
            && generations
                .tags
                .iter()
                .flat_map(|tags| tags.iter())
                .all(|(counter, then)| counter.load(Ordering::Acquire) == *then)
    }

    /// Returns false if the entry is too large to be stored.
    pub fn put(&self, key: &Key, entry: Arc<Entry>, generations: Generations) -> bool {
        if entry.body.len() as u64 > self.max_value_bytes {
            return false;
        }
        let local = LocalEntry { entry, generations };
        self.entries.insert(key.clone(), local);
        true
    }

    /// Returns whether an entry existed.
    pub fn remove(&self, key: &Key) -> bool {
        self.keys[key_position(key, KEY_GENERATIONS)].fetch_add(1, Ordering::AcqRel);
        self.entries.remove(key).is_some()
    }

    pub fn remove_tag(&self, tag: &Tag) {
        // A tag without a counter never had an entry.
        if let Some(counter) = self.tags.lock().generations.get(tag) {
            counter.fetch_add(1, Ordering::AcqRel);
        }
    }

    pub fn remove_all(&self) {
        self.all.fetch_add(1, Ordering::AcqRel);
        self.entries.invalidate_all();
    }

    pub fn max_value_bytes(&self) -> u64 {
        self.max_value_bytes
    }

    /// Bytes in use, after pending evictions.
    #[cfg(test)]
    pub fn bytes(&self) -> u64 {
        self.entries.run_pending_tasks();
        self.entries.weighted_size()
    }
}

fn key_position(key: &Key, of: usize) -> usize {
    xxhash_rust::xxh3::xxh3_64(key.as_str().as_bytes()) as usize % of
}

impl TagGenerations {
    fn counter(&mut self, tag: &Tag) -> Arc<AtomicU64> {
        if let Some(counter) = self.generations.get(tag) {
            return Arc::clone(counter);
        }
        if self.generations.len() >= self.sweep_at.max(TAGS_BEFORE_SWEEP) {
            // A counter with one owner has no entry, and no reader that is about to put one.
            self.generations
                .retain(|_, counter| Arc::strong_count(counter) > 1);
            self.sweep_at = self.generations.len() * 2;
        }
        let counter = Arc::<AtomicU64>::default();
        self.generations.insert(tag.clone(), Arc::clone(&counter));
        counter
    }
}

/// The entries that are read most, in a direct-mapped table in front of the map: a read here takes a fifth
/// of the time that the map's own bookkeeping takes. Entries that the map evicts leave it, too.
struct HotSlots<V>(Box<[Slot<V>]>);

type Slot<V> = RwLock<Option<(Key, V)>>;

impl<V: Clone> HotSlots<V> {
    fn new() -> Self {
        Self((0..HOT_SLOTS).map(|_| RwLock::new(None)).collect())
    }

    /// Returns the entry; randomly misses 1 in 32 so that the map still sees reads.
    fn get(&self, key: &Key) -> Option<V> {
        if fastrand::u8(..MAP_READ_SHARE) == 0 {
            return None;
        }
        // A reader that would have to wait for the slot is faster with the map.
        let slot = self.slot(key).try_read()?;
        let (slot_key, value) = slot.as_ref()?;
        (slot_key == key).then(|| value.clone())
    }

    fn put(&self, key: &Key, value: V) {
        if let Some(mut slot) = self.slot(key).try_write() {
            *slot = Some((key.clone(), value));
        }
    }

    fn remove(&self, key: &Key) {
        let mut slot = self.slot(key).write();
        if slot.as_ref().is_some_and(|(slot_key, _)| slot_key == key) {
            *slot = None;
        }
    }

    fn slot(&self, key: &Key) -> &Slot<V> {
        &self.0[key_position(key, HOT_SLOTS)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough reads for some to hit the hot slots and some to go past them.
    const OFTEN: usize = 200;

    #[test]
    fn an_entry_that_is_read_often_is_served_until_it_is_removed() {
        let (local, key) = (LocalCache::new(1 << 20), Key::races_by_stage());
        let tag = Tag::from_text("t").expect("a tag");
        let removals: [&dyn Fn(); 3] = [
            &|| assert!(local.remove(&key)),
            &|| local.remove_tag(&tag),
            &|| local.remove_all(),
        ];
        for remove in removals {
            let generations = local.generations(&key, std::slice::from_ref(&tag));
            assert!(local.put(&key, Arc::new(Entry::sample("body")), generations));
            assert!((0..OFTEN).all(|_| local.get_fast(&key).is_some()));
            remove();
            assert!((0..OFTEN).all(|_| local.get_fast(&key).is_none()));
        }
    }

    #[test]
    fn an_entry_that_the_map_evicts_leaves_the_hot_slots() {
        let (local, key) = (LocalCache::new(1 << 20), Key::races_by_stage());
        let generations = local.generations(&key, &[]);
        assert!(local.put(&key, Arc::new(Entry::sample("body")), generations));
        assert!((0..OFTEN).all(|_| local.get_fast(&key).is_some()));
        assert!((0..OFTEN).any(|_| local.hot_slots.get(&key).is_some()));
        local.entries.invalidate(&key);
        assert!((0..OFTEN).all(|_| local.hot_slots.get(&key).is_none()));
    }
}
