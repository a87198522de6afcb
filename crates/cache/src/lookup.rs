//! The result of a cache lookup, and the check whether a stored entry may be served. `remote` and
//! `in_process` create lookups; readers hand them back when they ask for the lease.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::clock::ServerClock;
use super::entry::{Entry, VERSION_PREFIX};
use oddsd_core::key::Tag;
use oddsd_core::model::DbSnapshot;

/// The result of a lookup.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// The stored entry, if it is valid.
    pub entry: Option<Arc<Entry>>,
    /// The first bytes of the value that was on a server, valid or not: a lease is only given while they are
    /// the same. In process the version of the entry serves for this.
    pub(super) seen_prefix: Bytes,
}

impl Lookup {
    pub(super) fn in_process(entry: Option<Arc<Entry>>) -> Self {
        let seen_prefix = Bytes::new();
        Self { entry, seen_prefix }
    }
}

/// The values that one lookup read from a server, before any check.
pub(super) struct RawLookup {
    pub value: Option<Bytes>,
    pub epoch: Option<String>,
    /// Fences of the requested tags, in their order.
    pub tag_fences: Vec<Option<String>>,
}

impl RawLookup {
    /// Returns the entry if it belongs to the current epoch, which has to be one of this database on this run of the
    /// server, and its database snapshot includes the fences of all its tags. A missing fence proves nothing, so it
    /// fails the check.
    pub fn validate(
        self,
        tags: &[Tag],
        (run, database): (&str, &str),
        clock: &ServerClock,
        now: Instant,
    ) -> Lookup {
        let value = self.value.as_deref().unwrap_or_default();
        let seen_prefix = Bytes::copy_from_slice(&value[..value.len().min(VERSION_PREFIX)]);
        let entry = self.valid_entry(tags, (run, database), clock, now);
        let entry = entry.map(Arc::new);
        Lookup { entry, seen_prefix }
    }

    fn valid_entry(
        self,
        tags: &[Tag],
        (run, database): (&str, &str),
        clock: &ServerClock,
        now: Instant,
    ) -> Option<Entry> {
        let (value, epoch) = (self.value?, self.epoch?);
        let (epoch_id, epoch_run) = epoch.split_once(' ')?;
        if epoch_run != run || !epoch_id.starts_with(database) {
            return None;
        }
        let (entry_epoch, entry) = Entry::decode(&value, now, |ms| clock.age(ms, now))?;
        let includes_fence = |tag: &Tag| {
            let at = tags.iter().position(|asked| asked == tag)?;
            let (fence_epoch, fence) = self.tag_fences.get(at)?.as_deref()?.split_once(' ')?;
            let fence = (fence_epoch == epoch_id).then(|| DbSnapshot::parse(fence));
            Some(entry.snapshot.includes(&fence.flatten()?))
        };
        let is_valid = entry_epoch == epoch_id
            && entry
                .tags
                .iter()
                .all(|tag| includes_fence(tag) == Some(true));
        is_valid.then_some(entry)
    }
}
