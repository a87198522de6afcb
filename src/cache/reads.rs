//! How reads went, counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use super::{Filled, ReadState};

#[derive(Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn told(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[derive(Default)]
pub(super) struct Tally {
    pub first_hits: Count,
    second_hits: Count,
    stale: Count,
    misses: Count,
    bypasses: Count,
    pub loads: Count,
    pub failures: Count,
    pub early: Count,
    pub renewed: Count,
    refused_late: Count,
    refused_lease: Count,
    refused_floor: Count,
}

/// Totals since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reads {
    pub first_hits: u64,
    pub second_hits: u64,
    pub stale: u64,
    pub misses: u64,
    pub bypasses: u64,
    pub loads: u64,
    /// Loads that failed, panicked or took too long.
    pub failures: u64,
    /// Renewed before their end.
    pub early: u64,
    /// Loaded again after a removal, before anybody asked.
    pub renewed: u64,
    /// Fills refused: loaded before a removal that they had not seen.
    pub refused_late: u64,
    /// Fills refused: their lease was voided by a removal or a flush, or had run out.
    pub refused_lease: u64,
    /// Fills refused: the cache's memory was another by then.
    pub refused_floor: u64,
}

impl Tally {
    pub fn count(&self, state: ReadState) {
        match state {
            ReadState::Hit => self.second_hits.add(),
            ReadState::Stale => self.stale.add(),
            ReadState::Miss => self.misses.add(),
            ReadState::Bypass => self.bypasses.add(),
        }
    }

    pub fn refused(&self, why: Filled) {
        match why {
            Filled::Stored => {}
            Filled::NoLease => self.refused_lease.add(),
            Filled::TooEarly => self.refused_late.add(),
            Filled::NoFloor => self.refused_floor.add(),
        }
    }

    pub fn told(&self) -> Reads {
        Reads {
            first_hits: self.first_hits.told(),
            second_hits: self.second_hits.told(),
            stale: self.stale.told(),
            misses: self.misses.told(),
            bypasses: self.bypasses.told(),
            loads: self.loads.told(),
            failures: self.failures.told(),
            early: self.early.told(),
            renewed: self.renewed.told(),
            refused_late: self.refused_late.told(),
            refused_lease: self.refused_lease.told(),
            refused_floor: self.refused_floor.told(),
        }
    }
}
