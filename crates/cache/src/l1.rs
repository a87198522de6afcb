//! The L1: an in-process cache in front of a server that tells which keys change. `RemoteCache` reads
//! and fills it; the transport's subscription feeds it with the changed names.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::entry::Entry;
use super::local::LocalCache;
use super::sync::{AtomicI64, Ordering};
use oddsd_core::key::{InvalidationTargets, Key, Namespace, Tag, TrackedKey};

/// Heartbeats arrive every 25 ms (`redis::ONE_SERVER`); after this long without one nothing of the L1 is served. With
/// the 150 ms until a removal arrives, an old answer is then no older than a quarter of a second.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_millis(70);
/// No heartbeat arrived on this connection yet.
const NEVER: i64 = i64::MIN;

/// The L1 serves only while the epoch's heartbeats arrive over the connection that reports changes. During a pause its
/// entries stay and are not served; a lost message, a new connection or a new epoch removes them all.
pub(super) struct L1Cache {
    /// A caller takes its `generations` before a lookup and stores what it found with them, so that an entry that was
    /// removed meanwhile is never served. Reads go through [`L1Cache::get`], which checks the heartbeats.
    pub local: LocalCache,
    pub namespace: Namespace,
    /// When the last heartbeat arrived, in ms since `start`.
    last_heartbeat: AtomicI64,
    /// When the last heartbeat arrived that came soon after another: after a pause, the changes of the
    /// meantime arrive together with the first heartbeat, in no order.
    trusted_at: AtomicI64,
    start: Instant,
}

impl L1Cache {
    pub fn new(max_bytes: u64, namespace: Namespace) -> Self {
        Self {
            local: LocalCache::new(max_bytes),
            namespace,
            last_heartbeat: AtomicI64::new(NEVER),
            trusted_at: AtomicI64::new(NEVER),
            start: Instant::now(),
        }
    }

    /// The entry, which may be past its time to live; `None` while heartbeats are missing.
    pub fn get(&self, key: &Key, now: Instant) -> Option<Arc<Entry>> {
        let trusted_at = match self.trusted_at.load(Ordering::Acquire) {
            NEVER => return None,
            ms => Duration::from_millis(ms as u64),
        };
        let pause = now
            .saturating_duration_since(self.start)
            .saturating_sub(trusted_at);
        (pause < HEARTBEAT_TIMEOUT)
            .then(|| self.local.get_fast(key))
            .flatten()
    }

    /// Removes the targets at once. What is only to be marked stale is removed too: the next read takes the marked entry
    /// from the server.
    pub fn remove(&self, targets: &InvalidationTargets) {
        for key in targets.keys.iter().chain(&targets.mark_stale) {
            self.local.remove(key);
        }
        for tag in &targets.tags {
            self.local.remove_tag(tag);
        }
    }

    /// Applies the change of one stored name.
    pub fn apply_change(&self, name: &[u8]) {
        let name = std::str::from_utf8(name).ok();
        match name.and_then(|name| TrackedKey::parse(name, &self.namespace)) {
            Some(TrackedKey::Fence(key)) => {
                // A stored key is a valid key.
                if let Some(key) = Key::from_user_input(key) {
                    self.local.remove(&key);
                }
            }
            Some(TrackedKey::TagFence(tag)) => self.local.remove_tag(&Tag::from_stored(tag)),
            Some(TrackedKey::Epoch) => self.local.remove_all(),
            Some(TrackedKey::Heartbeat) => {
                let ms = self.start.elapsed().as_millis() as i64;
                let before = self.last_heartbeat.swap(ms, Ordering::AcqRel);
                if ms.saturating_sub(before) < HEARTBEAT_TIMEOUT.as_millis() as i64 {
                    self.trusted_at.store(ms, Ordering::Release);
                }
            }
            None => {}
        }
    }

    /// Drops everything after a lost connection or message: no entry is proved valid any more.
    pub fn reset(&self) {
        self.last_heartbeat.store(NEVER, Ordering::Release);
        self.trusted_at.store(NEVER, Ordering::Release);
        self.local.remove_all();
    }
}
