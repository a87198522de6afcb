//! How long a look takes as a rule, so that one that took longer is noticed.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Shorter than this nobody was made to wait.
const NEVER_ODD: Duration = Duration::from_millis(3);
/// So many times the usual is odd.
const TIMES: u32 = 4;
/// A new look counts for one part in so many.
const MEMORY: u64 = 16;

#[derive(Default)]
pub(super) struct Pace(AtomicU64);

impl Pace {
    /// Whether this look took longer than looks do; it counts for the next ones.
    pub fn is_odd(&self, took: Duration) -> bool {
        let micros = took.as_micros() as u64;
        let usual = self.0.load(Relaxed);
        let known = if usual == 0 { micros } else { usual };
        // A rough mean is enough: two at once may overwrite each other.
        self.0
            .store((known * (MEMORY - 1) + micros) / MEMORY, Relaxed);
        took > NEVER_ODD.max(Duration::from_micros(usual) * TIMES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_four_times_the_usual_is_odd_and_what_always_does_is_usual() {
        let (pace, ms) = (Pace::default(), Duration::from_millis);
        assert!(!pace.is_odd(ms(1)));
        assert!(!pace.is_odd(ms(3)));
        assert!(pace.is_odd(ms(20)));
        // A far cache: its pace becomes the usual one.
        let odd = (0..100).filter(|_| pace.is_odd(ms(20))).count();
        assert!((1..40).contains(&odd), "{odd}");
        assert!(!pace.is_odd(ms(70)) && pace.is_odd(ms(300)));
    }
}
