//! The keys that are read most, and how to load them. `Reader` reloads them as soon as they are removed, so
//! that no reader has to wait for it.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::answer::Load;
use super::policy::Policy;
use oddsd_core::key::{InvalidationTargets, Key};

/// Keys that are tracked.
const TRACKED: usize = 256;
/// Reads since the last removal that justify a load without a reader.
const MIN_READS: u32 = 8;
/// Loads after one removal.
const LOADS_AT_ONCE: usize = 16;

#[derive(Default)]
pub(super) struct HotKeys(Mutex<HashMap<Key, HotKey>>);

struct HotKey {
    reads: u32,
    policy: Policy,
    load: Load,
}

impl HotKeys {
    pub fn record_reads(
        &self,
        key: &Key,
        reads: u32,
        policy: &Policy,
        load: impl FnOnce() -> Load,
    ) {
        let mut tracked = self.0.lock();
        if let Some(hot) = tracked.get_mut(key) {
            hot.reads = hot.reads.saturating_add(reads);
            return;
        }
        if tracked.len() >= TRACKED {
            tracked.retain(|_, hot| {
                hot.reads /= 2;
                hot.reads > 0
            });
            if tracked.len() >= TRACKED {
                return;
            }
        }
        let hot = HotKey {
            reads,
            policy: policy.clone(),
            load: load(),
        };
        tracked.insert(key.clone(), hot);
    }

    /// Returns the most read of the keys that were removed, and resets their counters.
    pub fn take_removed(&self, removed: &InvalidationTargets) -> Vec<(Key, Policy, Load)> {
        let mut tracked = self.0.lock();
        let by_key = removed
            .keys
            .iter()
            .chain(&removed.mark_stale)
            .filter(|key| tracked.contains_key(*key))
            .cloned();
        let by_tag = tracked.iter().filter(|(_, hot)| {
            let tags = &hot.policy.tags;
            removed.tags.iter().any(|tag| tags.contains(tag))
        });
        let mut keys: Vec<Key> = by_key.chain(by_tag.map(|(key, _)| key.clone())).collect();
        keys.sort();
        keys.dedup();
        keys.retain(|key| tracked[key].reads >= MIN_READS);
        keys.sort_by_key(|key| std::cmp::Reverse(tracked[key].reads));
        keys.truncate(LOADS_AT_ONCE);
        keys.into_iter()
            .filter_map(|key| {
                let hot = tracked.get_mut(&key)?;
                hot.reads = 0;
                Some((key, hot.policy.clone(), hot.load.clone()))
            })
            .collect()
    }
}
