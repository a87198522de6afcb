//! Counters of reads, loads and refused fills. `Reader` counts; the metrics page reads the totals.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use super::answer::CacheReadState;
use super::lease::PutOutcome;

#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// Declares the counters and their totals, a field each.
macro_rules! read_stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Default)]
        pub(super) struct ReadMetrics {
            $(pub $name: Counter,)*
        }

        /// Totals since the start of the process.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Reads {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl ReadMetrics {
            pub fn snapshot(&self) -> Reads {
                Reads {
                    $($name: self.$name.0.load(Relaxed),)*
                }
            }
        }
    };
}

read_stats! {
    /// Served by this process's memory.
    first_hits,
    /// Served by the cache server.
    second_hits,
    /// Served past their fresh time.
    stale,
    /// Loaded: the cache had nothing.
    misses,
    /// Loaded: the cache could not be used.
    bypasses,
    /// Loads begun.
    loads,
    /// Loads that failed, panicked or took too long.
    failures,
    /// Renewed before the end of their fresh time.
    early,
    /// Reloaded after a removal, before a reader asked.
    renewed,
    /// Fills refused: loaded before a removal that the load did not see.
    refused_late,
    /// Fills refused: a removal or a flush ended their lease, or it had expired.
    refused_lease,
    /// Fills refused: the epoch had ended.
    refused_floor,
}

impl ReadMetrics {
    pub fn count(&self, state: CacheReadState) {
        match state {
            CacheReadState::Hit => self.second_hits.add(),
            CacheReadState::Stale => self.stale.add(),
            CacheReadState::Miss => self.misses.add(),
            CacheReadState::Bypass => self.bypasses.add(),
        }
    }

    pub fn count_refused(&self, why: PutOutcome) {
        match why {
            PutOutcome::Stored => {}
            PutOutcome::LeaseEnded => self.refused_lease.add(),
            PutOutcome::TooEarly => self.refused_late.add(),
            PutOutcome::EpochEnded => self.refused_floor.add(),
        }
    }
}
