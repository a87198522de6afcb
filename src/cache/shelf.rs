//! Entries inside this process, bounded in bytes. A removal changes a mark and not the entries, so
//! that it costs the same whatever hangs on it, and an entry that was on its way in when it came is
//! never served.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::sync::Cache as Entries;

use super::entry::Entry;
use super::front::Front;
use crate::key::{Key, Tag};

/// What an entry costs besides its key and body (measured roughly: node, counters, timers).
const ENTRY_OVERHEAD_BYTES: usize = 384;
/// One value may take at most this part of the whole, so that it cannot empty the shelf.
const LARGEST_SHARE: u64 = 4;
/// Keys share this many marks; a removal costs the others of its mark one more look.
const MARKS: usize = 4096;
/// Below this many tags nobody looks for those without entries.
const TAGS_BEFORE_SWEEP: usize = 1024;

pub(super) struct Shelf {
    entries: Entries<Key, Kept>,
    front: Arc<Front<Kept>>,
    /// Removals by key, and in front of them those of everything.
    keys: Box<[AtomicU64]>,
    all: AtomicU64,
    tags: Mutex<Tags>,
    max_value_bytes: u64,
}

#[derive(Default)]
struct Tags {
    marks: HashMap<Tag, Arc<AtomicU64>>,
    sweep_at: usize,
}

#[derive(Clone)]
struct Kept {
    entry: Arc<Entry>,
    marks: Marks,
}

/// What had been removed when a reader began to look. Only what nothing was removed from since may
/// be kept.
#[derive(Clone)]
pub(super) struct Marks {
    all: u64,
    key: (usize, u64),
    tags: Option<Arc<[TagMark]>>,
}

type TagMark = (Arc<AtomicU64>, u64);

/// Lets each entry bring its own time to live.
struct OwnTtl;

impl Expiry<Key, Kept> for OwnTtl {
    fn expire_after_create(&self, _: &Key, kept: &Kept, now: Instant) -> Option<Duration> {
        Some(kept.entry.ttl().saturating_sub(kept.entry.age(now)))
    }

    fn expire_after_update(
        &self,
        key: &Key,
        kept: &Kept,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(key, kept, now)
    }
}

impl Shelf {
    pub fn new(max_bytes: u64) -> Self {
        let front = Arc::new(Front::new());
        let behind = Arc::clone(&front);
        let entries = Entries::builder()
            .max_capacity(max_bytes)
            .weigher(|key: &Key, kept: &Kept| {
                let bytes = key.as_str().len() + kept.entry.body.len() + ENTRY_OVERHEAD_BYTES;
                u32::try_from(bytes).unwrap_or(u32::MAX)
            })
            .expire_after(OwnTtl)
            .eviction_listener(move |key: Arc<Key>, _, _| behind.forget(&key))
            .build();
        Self {
            entries,
            front,
            keys: (0..MARKS).map(|_| AtomicU64::new(0)).collect(),
            all: AtomicU64::new(0),
            tags: Mutex::default(),
            max_value_bytes: max_bytes / LARGEST_SHARE,
        }
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        let kept = self.entries.get(key)?;
        self.stands(&kept.marks).then_some(kept.entry)
    }

    /// As `get`, and quicker for what is read often; its time may be over.
    pub fn hot(&self, key: &Key) -> Option<Arc<Entry>> {
        if let Some(kept) = self.front.get(key) {
            return self.stands(&kept.marks).then_some(kept.entry);
        }
        let kept = self.entries.get(key)?;
        if !self.stands(&kept.marks) {
            return None;
        }
        self.front.put(key, kept.clone());
        Some(kept.entry)
    }

    /// To be taken before the look whose answer shall be kept.
    pub fn marks(&self, key: &Key, tags: &[Tag]) -> Marks {
        let at = xxhash_rust::xxh3::xxh3_64(key.as_str().as_bytes()) as usize % MARKS;
        let tags = match tags {
            [] => None,
            tags => {
                let mut known = self.tags();
                let marks = tags.iter().map(|tag| known.mark(tag)).map(|mark| {
                    let now = mark.load(Ordering::Acquire);
                    (mark, now)
                });
                Some(marks.collect())
            }
        };
        Marks {
            all: self.all.load(Ordering::Acquire),
            key: (at, self.keys[at].load(Ordering::Acquire)),
            tags,
        }
    }

    /// Whether nothing was removed since.
    pub fn stands(&self, marks: &Marks) -> bool {
        let (at, then) = marks.key;
        self.keys[at].load(Ordering::Acquire) == then
            && self.all.load(Ordering::Acquire) == marks.all
            && marks
                .tags
                .iter()
                .flat_map(|tags| tags.iter())
                .all(|(mark, then)| mark.load(Ordering::Acquire) == *then)
    }

    /// False: too large to be kept.
    pub fn keep(&self, key: &Key, entry: Arc<Entry>, marks: Marks) -> bool {
        if entry.body.len() as u64 > self.max_value_bytes {
            return false;
        }
        self.entries.insert(key.clone(), Kept { entry, marks });
        true
    }

    /// Whether there was one.
    pub fn remove(&self, key: &Key) -> bool {
        let at = xxhash_rust::xxh3::xxh3_64(key.as_str().as_bytes()) as usize % MARKS;
        self.keys[at].fetch_add(1, Ordering::AcqRel);
        self.entries.remove(key).is_some()
    }

    pub fn remove_tag(&self, tag: &Tag) {
        // Without a mark nothing was ever kept under it.
        if let Some(mark) = self.tags().marks.get(tag) {
            mark.fetch_add(1, Ordering::AcqRel);
        }
    }

    pub fn remove_all(&self) {
        self.all.fetch_add(1, Ordering::AcqRel);
        self.entries.invalidate_all();
    }

    pub fn max_value_bytes(&self) -> u64 {
        self.max_value_bytes
    }

    /// Bytes in use, after everything over the bound has been let go.
    pub fn bytes(&self) -> u64 {
        self.entries.run_pending_tasks();
        self.entries.weighted_size()
    }

    fn tags(&self) -> MutexGuard<'_, Tags> {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tags {
    fn mark(&mut self, tag: &Tag) -> Arc<AtomicU64> {
        if let Some(mark) = self.marks.get(tag) {
            return Arc::clone(mark);
        }
        if self.marks.len() >= self.sweep_at.max(TAGS_BEFORE_SWEEP) {
            // Nobody else holds it: no entry hangs on it, and no reader is about to keep one.
            self.marks.retain(|_, mark| Arc::strong_count(mark) > 1);
            self.sweep_at = self.marks.len() * 2;
        }
        let mark = Arc::<AtomicU64>::default();
        self.marks.insert(tag.clone(), Arc::clone(&mark));
        mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Bytes;
    use crate::model::View;

    /// One in so many looks goes past the front on purpose.
    const OFTEN: usize = 200;

    fn entry() -> Arc<Entry> {
        Arc::new(Entry {
            body: Bytes::from_static(b"body"),
            stamp: 1,
            absent: false,
            view: View::after(1),
            tags: Vec::new(),
            stored_at: Instant::now(),
            fresh: Duration::from_secs(3600),
            while_revalidating: Duration::ZERO,
            on_error: Duration::ZERO,
            load: Duration::ZERO,
        })
    }

    #[test]
    fn what_is_read_often_is_there_until_it_is_removed() {
        let (shelf, key) = (Shelf::new(1 << 20), Key::races_by_stage());
        let tag = Tag::new("t").expect("a tag");
        let removals: [&dyn Fn(); 3] = [
            &|| assert!(shelf.remove(&key)),
            &|| shelf.remove_tag(&tag),
            &|| shelf.remove_all(),
        ];
        for remove in removals {
            let marks = shelf.marks(&key, std::slice::from_ref(&tag));
            assert!(shelf.keep(&key, entry(), marks));
            assert!((0..OFTEN).all(|_| shelf.hot(&key).is_some()));
            remove();
            assert!((0..OFTEN).all(|_| shelf.hot(&key).is_none()));
        }
    }

    #[test]
    fn what_the_map_lets_go_leaves_the_front() {
        let (shelf, key) = (Shelf::new(1 << 20), Key::races_by_stage());
        let marks = shelf.marks(&key, &[]);
        assert!(shelf.keep(&key, entry(), marks));
        assert!((0..OFTEN).all(|_| shelf.hot(&key).is_some()));
        assert!((0..OFTEN).any(|_| shelf.front.get(&key).is_some()));
        shelf.entries.invalidate(&key);
        assert!((0..OFTEN).all(|_| shelf.front.get(&key).is_none()));
    }
}
