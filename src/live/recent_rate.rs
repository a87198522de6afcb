//! The current rate of something that is counted, over the last minutes. The leader's report uses it for the commands
//! of a billed cache.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The first load of a day is not typical.
const START: Duration = Duration::from_secs(120);
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(600);

pub struct RecentRate {
    from: Instant,
    /// The count at times of the last `LONGEST`, oldest first.
    counts: Mutex<VecDeque<(Instant, u64)>>,
}

impl Default for RecentRate {
    fn default() -> Self {
        Self {
            from: Instant::now() + START,
            counts: Mutex::default(),
        }
    }
}

impl RecentRate {
    /// Adds the count of now, and returns the rate of the last minutes; `None` in the first three.
    pub fn per_minute(&self, count: u64, now: Instant) -> Option<f64> {
        if now < self.from {
            return None;
        }
        let mut counts = self.counts.lock();
        while counts.get(1).is_some_and(|(at, _)| now - *at >= LONGEST) {
            counts.pop_front();
        }
        counts.push_back((now, count));
        let (at, before) = counts.front().copied()?;
        let minutes = (now - at).as_secs_f64() / 60.0;
        (now - at >= SHORTEST).then(|| (count - before) as f64 / minutes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_that_of_the_last_ten_minutes_without_the_start() {
        let rate = RecentRate::default();
        let start = rate.from - START;
        let at = |minute: u64, count: u64| {
            rate.per_minute(count, start + Duration::from_secs(60 * minute))
        };
        assert_eq!((at(0, 0), at(1, 500)), (None, None));
        assert_eq!((at(2, 500), at(3, 514)), (None, Some(14.0)));
        for minute in 4..=13 {
            assert_eq!(at(minute, 500 + 14 * (minute - 2)), Some(14.0));
        }
        assert_eq!(at(23, 654), Some(0.0), "none in the last ten");
    }
}
