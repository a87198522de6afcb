//! Totals since start, present from the start. What happens once a cycle shares a lock, so a
//! snapshot of it is consistent; reads, which may be many thousand a second, are plain atomics.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use super::{Activity, ReadState, lock};
use crate::model::Counts;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    pub cycles: u64,
    /// Cycles that wrote nothing.
    pub quiet_cycles: u64,
    pub fetch_failures: u64,
    pub store_failures: u64,
    /// Prices by outcome.
    #[serde(flatten)]
    pub prices: Counts,
    /// Rows of events and selections written.
    pub facts: u64,
    /// Confirmed removals: activities and keys.
    pub removals: u64,
    pub removed_keys: u64,
    pub removal_failures: u64,
    pub refused_removals: u64,
    pub hits: u64,
    pub stale: u64,
    pub misses: u64,
    pub bypasses: u64,
}

#[derive(Default)]
pub(super) struct Tally {
    /// Its read counts stay zero: those are below.
    rare: Mutex<Counters>,
    hits: AtomicU64,
    stale: AtomicU64,
    misses: AtomicU64,
    bypasses: AtomicU64,
}

impl Tally {
    pub(super) fn count(&self, activity: &Activity) {
        match activity {
            Activity::Read { state, .. } => {
                let reads = match state {
                    ReadState::Hit => &self.hits,
                    ReadState::Stale => &self.stale,
                    ReadState::Miss => &self.misses,
                    ReadState::Bypass => &self.bypasses,
                };
                reads.fetch_add(1, Relaxed);
            }
            Activity::CycleComplete { counts, facts, .. } => {
                let mut rare = lock(&self.rare);
                rare.cycles += 1;
                rare.quiet_cycles += u64::from(counts.written() + facts == 0);
                rare.prices.add(counts);
                rare.facts += facts;
            }
            Activity::FetchFailed { .. } => lock(&self.rare).fetch_failures += 1,
            Activity::StoreFailed { .. } => lock(&self.rare).store_failures += 1,
            Activity::RefusedRemovals { .. } => lock(&self.rare).refused_removals += 1,
            Activity::Invalidated { keys, .. } => {
                let mut rare = lock(&self.rare);
                rare.removals += 1;
                rare.removed_keys += keys.len() as u64;
            }
            Activity::InvalidateFailed { .. } => lock(&self.rare).removal_failures += 1,
            Activity::Started { .. }
            | Activity::Stopped { .. }
            | Activity::PriceMoved { .. }
            | Activity::StatusChanged { .. }
            | Activity::Leading { .. }
            | Activity::StandingBy { .. } => {}
        }
    }

    pub(super) fn snapshot(&self) -> Counters {
        Counters {
            hits: self.hits.load(Relaxed),
            stale: self.stale.load(Relaxed),
            misses: self.misses.load(Relaxed),
            bypasses: self.bypasses.load(Relaxed),
            ..*lock(&self.rare)
        }
    }
}
