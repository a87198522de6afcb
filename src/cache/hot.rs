//! The answers that are read most, and how to load them: those are loaded again as soon as they were
//! removed, so that no reader has to wait for it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::fill::Load;
use super::{Policy, Targets};
use crate::key::Key;

/// Answers that are watched.
const WATCHED: usize = 256;
/// Reads since the last removal that make one worth a load that nobody asked for.
const READS: u32 = 8;
/// Loads after one removal.
const AT_ONCE: usize = 16;

#[derive(Default)]
pub(super) struct Hot(Mutex<HashMap<Key, Heat>>);

struct Heat {
    reads: u32,
    policy: Policy,
    load: Load,
}

impl Hot {
    pub fn note(&self, key: &Key, reads: u32, policy: &Policy, load: impl FnOnce() -> Load) {
        let mut watched = self.lock();
        if let Some(heat) = watched.get_mut(key) {
            heat.reads = heat.reads.saturating_add(reads);
            return;
        }
        if watched.len() >= WATCHED {
            watched.retain(|_, heat| {
                heat.reads /= 2;
                heat.reads > 0
            });
            if watched.len() >= WATCHED {
                return;
            }
        }
        let heat = Heat {
            reads,
            policy: policy.clone(),
            load: load(),
        };
        watched.insert(key.clone(), heat);
    }

    /// The most read of those that were just removed.
    pub fn cooled(&self, removed: &Targets) -> Vec<(Key, Policy, Load)> {
        let mut watched = self.lock();
        let by_key = removed
            .keys
            .iter()
            .chain(&removed.stale)
            .filter(|key| watched.contains_key(*key))
            .cloned();
        let by_tag = watched.iter().filter(|(_, heat)| {
            removed
                .tags
                .iter()
                .any(|tag| heat.policy.tags.contains(tag))
        });
        let mut keys: Vec<Key> = by_key.chain(by_tag.map(|(key, _)| key.clone())).collect();
        keys.sort();
        keys.dedup();
        keys.retain(|key| watched[key].reads >= READS);
        keys.sort_by_key(|key| std::cmp::Reverse(watched[key].reads));
        keys.truncate(AT_ONCE);
        keys.into_iter()
            .filter_map(|key| {
                let heat = watched.get_mut(&key)?;
                heat.reads = 0;
                Some((key, heat.policy.clone(), heat.load.clone()))
            })
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Heat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
