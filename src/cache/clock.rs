//! The cache server's clock, as seen from here. Ages are told by it alone, so that a machine whose own
//! clock is wrong reads and writes the same ages as all others.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// Nothing was heard yet.
const UNKNOWN: i64 = i64::MIN;

pub(super) struct ServerClock(AtomicI64);

impl Default for ServerClock {
    fn default() -> Self {
        Self(AtomicI64::new(UNKNOWN))
    }
}

impl ServerClock {
    /// The server said `ms` just now.
    pub fn heard(&self, ms: u64, now: Instant) {
        self.0.store(ms as i64 - ours(now), Ordering::Relaxed);
    }

    /// How long ago the server's `ms` was; nothing, before it was ever heard.
    pub fn age(&self, ms: u64, now: Instant) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            UNKNOWN => Duration::ZERO,
            ahead => Duration::from_millis((ours(now) + ahead - ms as i64).max(0) as u64),
        }
    }
}

/// Milliseconds of our own, which never step.
fn ours(now: Instant) -> i64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    now.saturating_duration_since(start).as_millis() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_the_servers() {
        let (clock, now) = (ServerClock::default(), Instant::now());
        assert_eq!(clock.age(5, now), Duration::ZERO);
        clock.heard(1_000_000, now);
        let later = now + Duration::from_secs(2);
        let age = clock.age(999_000, later);
        assert!((age.as_secs_f64() - 3.0).abs() < 0.01, "{age:?}");
        assert_eq!(clock.age(2_000_000, later), Duration::ZERO);
    }
}
