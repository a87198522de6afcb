//! How long things took, in fixed buckets: since the start for whoever collects, and of late for
//! whoever looks.

use std::time::{Duration, Instant};

/// Upper bounds in seconds; one more bucket takes the rest.
pub const BOUNDS: [f64; 18] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0, 60.0, 300.0,
];
/// What is looked at as "of late" is between this and twice as much.
const TURN: Duration = Duration::from_secs(5 * 60);

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    counts: [u64; BOUNDS.len() + 1],
    sum: f64,
}

impl Histogram {
    pub fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = BOUNDS.partition_point(|bound| *bound < seconds);
        self.counts[at] += 1;
        self.sum += seconds;
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Seconds in all.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Each bound in seconds, with how many took no longer.
    pub fn within(&self) -> impl Iterator<Item = (f64, u64)> {
        BOUNDS
            .iter()
            .zip(&self.counts)
            .scan(0, |so_far, (bound, n)| {
                *so_far += n;
                Some((*bound, *so_far))
            })
    }

    /// Seconds that this share of all took at most, by straight lines inside the buckets. What lies
    /// beyond the last bound counts as that. `None` of nothing.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = self.count() as f64 * share.clamp(0.0, 1.0);
        let (mut below, mut lower) = (0.0, 0.0);
        for (bound, n) in BOUNDS.iter().zip(self.counts) {
            let n = n as f64;
            if n > 0.0 && below + n >= wanted {
                return Some(lower + (bound - lower) * ((wanted - below) / n));
            }
            (below, lower) = (below + n, *bound);
        }
        (self.count() > 0).then_some(lower)
    }

    fn and(&self, other: &Self) -> Self {
        let mut both = self.clone();
        for (count, more) in both.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        both.sum += other.sum;
        both
    }
}

/// Since the start, and of late.
#[derive(Clone, Debug, Default)]
pub struct Times {
    pub all: Histogram,
    turned: Option<Instant>,
    this: Histogram,
    last: Histogram,
}

impl Times {
    pub fn add(&mut self, took: Duration, now: Instant) {
        self.turn(now);
        self.all.add(took);
        self.this.add(took);
    }

    pub fn of_late(&self, now: Instant) -> Histogram {
        let mut seen = self.clone();
        seen.turn(now);
        seen.this.and(&seen.last)
    }

    fn turn(&mut self, now: Instant) {
        let turned = *self.turned.get_or_insert(now);
        let since = now.saturating_duration_since(turned);
        if since < TURN {
            return;
        }
        let last = std::mem::take(&mut self.this);
        self.last = match since < TURN * 2 {
            true => last,
            false => Histogram::default(),
        };
        self.turned = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A quantile lies in the bucket of the value that it stands for.
        #[test]
        fn a_quantile_is_as_good_as_its_bucket(mut took in prop::collection::vec(1u64..400_000_000, 1..80), percent in 1usize..=100) {
            let mut histogram = Histogram::default();
            took.iter().for_each(|us| histogram.add(Duration::from_micros(*us)));
            took.sort_unstable();
            let at = (took.len() * percent).div_ceil(100) - 1;
            let exact = took[at] as f64 / 1e6;
            let bucket = BOUNDS.partition_point(|bound| *bound < exact);
            let upper = BOUNDS.get(bucket).copied().unwrap_or(300.0);
            let lower = if bucket == 0 { 0.0 } else { BOUNDS[bucket - 1] };
            let told = histogram.quantile(percent as f64 / 100.0).expect("not empty");
            prop_assert!((lower..=upper + 1e-9).contains(&told), "{told} is not in {lower}..{upper}");
            prop_assert_eq!(histogram.count(), took.len() as u64);
            let within: Vec<u64> = histogram.within().map(|(_, n)| n).collect();
            prop_assert!(within.is_sorted() && within.iter().all(|n| *n <= histogram.count()));
        }
    }

    #[test]
    fn what_is_long_ago_is_not_of_late() {
        let (mut times, start) = (Times::default(), Instant::now());
        assert_eq!(times.of_late(start).quantile(0.5), None);
        times.add(Duration::from_secs(60), start);
        times.add(Duration::from_millis(1), start + TURN);
        assert_eq!(times.of_late(start + TURN).count(), 2);
        assert_eq!(times.of_late(start + TURN * 2).count(), 1);
        assert_eq!(times.of_late(start + TURN * 5).count(), 0);
        assert_eq!(times.all.count(), 2);
    }
}
