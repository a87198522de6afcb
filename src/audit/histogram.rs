//! Durations in fixed buckets, whose bounds `/metrics` publishes: since start for the metrics, and of the last minutes
//! for the report. The freshness tracker records them.

use std::time::{Duration, Instant};

/// Upper bounds in seconds; one more bucket counts the rest.
pub const BOUNDS: [f64; 18] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0, 60.0, 300.0,
];
/// A recent histogram covers between this and twice this time.
const WINDOW: Duration = Duration::from_secs(5 * 60);

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    counts: [u64; BOUNDS.len() + 1],
    sum: f64,
    max: f64,
}

impl Histogram {
    pub fn record(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = BOUNDS.partition_point(|bound| *bound < seconds);
        self.counts[at] += 1;
        self.sum += seconds;
        self.max = self.max.max(seconds);
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The total in seconds.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Each bound in seconds, with the count of durations up to it.
    pub fn cumulative_counts(&self) -> impl Iterator<Item = (f64, u64)> {
        let counts = BOUNDS.into_iter().zip(self.counts);
        counts.scan(0, |so_far, (bound, n)| {
            *so_far += n;
            Some((bound, *so_far))
        })
    }

    /// The quantile in seconds, interpolated linearly inside its bucket, which ends at the longest duration. One
    /// beyond the last bound counts as that bound. `None` of an empty histogram.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = self.count() as f64 * share.clamp(0.0, 1.0);
        let (mut below, mut lower) = (0.0, 0.0);
        for (bound, n) in BOUNDS.iter().zip(self.counts) {
            let n = n as f64;
            if n > 0.0 && below + n >= wanted {
                let upper = bound.min(self.max);
                return Some(lower + (upper - lower) * ((wanted - below) / n));
            }
            (below, lower) = (below + n, *bound);
        }
        (self.count() > 0).then_some(lower)
    }

    fn merge(mut self, other: &Self) -> Self {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum += other.sum;
        self.max = self.max.max(other.max);
        self
    }
}

/// One histogram since start, and one of the last two windows.
#[derive(Clone, Debug, Default)]
pub struct WindowedHistogram {
    pub all: Histogram,
    window_began: Option<Instant>,
    this_window: Histogram,
    last_window: Histogram,
}

impl WindowedHistogram {
    pub fn record(&mut self, took: Duration, now: Instant) {
        self.rotate(now);
        self.all.record(took);
        self.this_window.record(took);
    }

    pub fn recent(&self, now: Instant) -> Histogram {
        let mut times = self.clone();
        times.rotate(now);
        times.this_window.merge(&times.last_window)
    }

    fn rotate(&mut self, now: Instant) {
        let began = *self.window_began.get_or_insert(now);
        let since = now.saturating_duration_since(began);
        if since < WINDOW {
            return;
        }
        let last = std::mem::take(&mut self.this_window);
        self.last_window = match since < WINDOW * 2 {
            true => last,
            false => Histogram::default(),
        };
        self.window_began = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A quantile lies in the bucket of the exact value.
        #[test]
        fn a_quantile_is_as_good_as_its_bucket(mut took in prop::collection::vec(1u64..400_000_000, 1..80), percent in 1usize..=100) {
            let mut histogram = Histogram::default();
            took.iter().for_each(|us| histogram.record(Duration::from_micros(*us)));
            took.sort_unstable();
            let at = (took.len() * percent).div_ceil(100) - 1;
            let exact = took[at] as f64 / 1e6;
            let bucket = BOUNDS.partition_point(|bound| *bound < exact);
            let upper = BOUNDS.get(bucket).copied().unwrap_or(300.0);
            let lower = if bucket == 0 { 0.0 } else { BOUNDS[bucket - 1] };
            let quantile = histogram.quantile(percent as f64 / 100.0).expect("not empty");
            prop_assert!((lower..=upper + 1e-9).contains(&quantile), "{quantile} is not in {lower}..{upper}");
            let longest = *took.last().expect("not empty") as f64 / 1e6;
            prop_assert!(quantile <= longest + 1e-9, "{quantile} is longer than any, {longest}");
            prop_assert_eq!(histogram.count(), took.len() as u64);
            let within: Vec<u64> = histogram.cumulative_counts().map(|(_, n)| n).collect();
            prop_assert!(within.is_sorted() && within.iter().all(|n| *n <= histogram.count()));
        }
    }

    #[test]
    fn an_old_duration_is_not_recent() {
        let (mut times, start) = (WindowedHistogram::default(), Instant::now());
        assert_eq!(times.recent(start).quantile(0.5), None);
        times.record(Duration::from_secs(60), start);
        times.record(Duration::from_millis(1), start + WINDOW);
        assert_eq!(times.recent(start + WINDOW).count(), 2);
        assert_eq!(times.recent(start + WINDOW * 2).count(), 1);
        assert_eq!(times.recent(start + WINDOW * 5).count(), 0);
        assert_eq!(times.all.count(), 2);
    }
}
