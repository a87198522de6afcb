//! Totals of the published events since the daemon started. [`super::EventBus`] updates them; `/metrics`,
//! the lease row, `oddsd status`, `demo` and `replay` show them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use serde::Serialize;

use super::DaemonEvent;
use oddsd_cache::CacheReadState;
use oddsd_core::model::CycleCounts;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    pub cycles: u64,
    /// Cycles that wrote nothing.
    pub quiet_cycles: u64,
    pub fetch_failures: u64,
    pub store_failures: u64,
    /// Prices of all cycles by outcome.
    #[serde(flatten)]
    pub prices: CycleCounts,
    /// Rows of events and selections that were written.
    pub facts: u64,
    /// Confirmed removals from the cache, as the removal log counts them: one for each change and reason.
    pub removals: u64,
    /// The cached answers that they deleted.
    pub removed_keys: u64,
    pub removal_failures: u64,
    /// Cycles that kept open prices although the answer left them out.
    pub refused_removals: u64,
    /// Reads by outcome.
    pub hits: u64,
    pub stale: u64,
    pub misses: u64,
    pub bypasses: u64,
}

/// Rare events (cycles, failures, removals) are counted under one lock, so that a snapshot of them is consistent.
/// Reads, of which there may be many thousand a second, are counted in atomics.
#[derive(Default)]
pub(super) struct EventCounters {
    /// Its read counts stay zero; the atomics below hold them.
    rare: Mutex<Counters>,
    hits: AtomicU64,
    stale: AtomicU64,
    misses: AtomicU64,
    bypasses: AtomicU64,
}

impl EventCounters {
    pub(super) fn count(&self, event: &DaemonEvent) {
        match event {
            DaemonEvent::Read { state, .. } => {
                let reads = match state {
                    CacheReadState::Hit => &self.hits,
                    CacheReadState::Stale => &self.stale,
                    CacheReadState::Miss => &self.misses,
                    CacheReadState::Bypass => &self.bypasses,
                };
                reads.fetch_add(1, Relaxed);
            }
            DaemonEvent::CycleComplete { counts, facts, .. } => {
                let mut totals = self.rare.lock();
                totals.cycles += 1;
                totals.quiet_cycles += u64::from(counts.written() + facts == 0);
                totals.prices.add(counts);
                totals.facts += facts;
            }
            DaemonEvent::FetchFailed { .. } => self.rare.lock().fetch_failures += 1,
            DaemonEvent::StoreFailed { .. } => self.rare.lock().store_failures += 1,
            DaemonEvent::RefusedRemovals { .. } => self.rare.lock().refused_removals += 1,
            DaemonEvent::Invalidated {
                removals, deleted, ..
            } => {
                let mut totals = self.rare.lock();
                totals.removals += removals;
                totals.removed_keys += deleted;
            }
            DaemonEvent::InvalidateFailed { .. } => self.rare.lock().removal_failures += 1,
            DaemonEvent::RequestFailed { .. }
            | DaemonEvent::AcceptFailed { .. }
            | DaemonEvent::TargetFailed { .. }
            | DaemonEvent::Started { .. }
            | DaemonEvent::Stopped { .. }
            | DaemonEvent::PriceMoved { .. }
            | DaemonEvent::StatusChanged { .. }
            | DaemonEvent::Leading { .. }
            | DaemonEvent::Standby { .. } => {}
        }
    }

    pub(super) fn snapshot(&self) -> Counters {
        Counters {
            hits: self.hits.load(Relaxed),
            stale: self.stale.load(Relaxed),
            misses: self.misses.load(Relaxed),
            bypasses: self.bypasses.load(Relaxed),
            ..*self.rare.lock()
        }
    }
}
