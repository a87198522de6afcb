//! Removals that the cache has not confirmed: what they name is not read from the cache. `Reader` notes them when the cache
//! refuses a removal or leaves it without an answer, and asks before each lookup.
//!
//! A cache may answer lookups and refuse removals (a server that became a replica, a user without rights), and after an
//! outage it answers lookups before the removals of the meantime are repeated.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use oddsd_core::key::{InvalidationTarget, Key, Tag};
use oddsd_core::model::DbSnapshot;

/// The targets of unconfirmed removals. There are as many as different targets changed during the outage, at about 50 bytes
/// each.
#[derive(Default)]
pub(super) struct OwedRemovals {
    /// The snapshot that a removal of the target has to include to be the one that is owed, by the target's hash: two
    /// targets with the same hash are loaded a little longer than needed.
    by_target: Mutex<HashMap<u64, Arc<DbSnapshot>>>,
    /// So that readers do not lock while nothing is owed.
    count: AtomicUsize,
}

impl OwedRemovals {
    /// Notes removals that were refused, or are not confirmed.
    pub fn add<'a>(
        &self,
        targets: impl Iterator<Item = InvalidationTarget<'a>>,
        snapshot: &DbSnapshot,
    ) {
        let mut targets = targets.peekable();
        if targets.peek().is_none() {
            return;
        }
        let snapshot = Arc::new(snapshot.clone());
        let mut owed = self.by_target.lock();
        for target in targets {
            match owed.entry(hash(target)) {
                Entry::Vacant(new) => drop(new.insert(Arc::clone(&snapshot))),
                Entry::Occupied(mut known) if !known.get().includes(&snapshot) => {
                    let both = known.get().merge(&snapshot);
                    known.insert(Arc::new(both));
                }
                Entry::Occupied(_) => {}
            }
        }
        self.count.store(owed.len(), Ordering::Release);
    }

    /// Takes note of confirmed removals. One that is older than what is owed proves nothing.
    pub fn confirm<'a>(
        &self,
        targets: impl Iterator<Item = InvalidationTarget<'a>>,
        snapshot: &DbSnapshot,
    ) {
        if self.is_empty() {
            return;
        }
        let mut owed = self.by_target.lock();
        for target in targets {
            if let Entry::Occupied(known) = owed.entry(hash(target))
                && snapshot.includes(known.get())
            {
                known.remove();
            }
        }
        self.count.store(owed.len(), Ordering::Release);
        if owed.is_empty() {
            owed.shrink_to_fit();
        }
    }

    /// Whether an answer with this key and these tags may be wrong in the cache.
    pub fn covers(&self, key: &Key, tags: &[Tag]) -> bool {
        if self.is_empty() {
            return false;
        }
        let owed = self.by_target.lock();
        let tags = tags.iter().map(InvalidationTarget::Tag);
        let mut named = std::iter::once(InvalidationTarget::Key(key)).chain(tags);
        named.any(|target| owed.contains_key(&hash(target)))
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }
}

/// A key to remove and one to mark stale are the same: both are loaded until that is done.
fn hash(target: InvalidationTarget<'_>) -> u64 {
    let hash = xxh3_64(target.as_str().as_bytes());
    match target {
        InvalidationTarget::Tag(_) => !hash,
        _ => hash,
    }
}
