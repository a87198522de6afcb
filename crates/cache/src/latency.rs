//! The usual duration of a lookup, and whether one took unusually long. The guard of the reader asks it after
//! each lookup.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A shorter lookup is never an outlier.
const NEVER_OUTLIER: Duration = Duration::from_millis(3);
/// A lookup that takes so many times the usual duration is an outlier.
const TIMES: u32 = 4;
/// A new lookup counts for one part in so many of the mean.
const MEAN_OF: u64 = 16;

#[derive(Default)]
pub(super) struct LatencyTracker(AtomicU64);

impl LatencyTracker {
    /// Records a duration; returns whether it was unusually long.
    pub fn is_outlier(&self, took: Duration) -> bool {
        let micros = took.as_micros() as u64;
        let usual = self.0.load(Relaxed);
        let known = if usual == 0 { micros } else { usual };
        // A rough mean is enough: concurrent updates may overwrite each other.
        self.0
            .store((known * (MEAN_OF - 1) + micros) / MEAN_OF, Relaxed);
        took > NEVER_OUTLIER.max(Duration::from_micros(usual) * TIMES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_times_the_usual_duration_is_an_outlier_until_it_becomes_usual() {
        let (latency, ms) = (LatencyTracker::default(), Duration::from_millis);
        assert!(!latency.is_outlier(ms(1)));
        assert!(!latency.is_outlier(ms(3)));
        assert!(latency.is_outlier(ms(20)));
        // A distant cache: its latency becomes the usual one.
        let outliers = (0..100).filter(|_| latency.is_outlier(ms(20))).count();
        assert!((1..40).contains(&outliers), "{outliers}");
        assert!(!latency.is_outlier(ms(70)) && latency.is_outlier(ms(300)));
    }
}
