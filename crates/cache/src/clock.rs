//! The cache server's clock, estimated from its replies. `RemoteCache` computes all ages by it, so that a machine
//! whose own clock is wrong reads and writes the same ages as all others.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// No reply had a time yet.
const UNKNOWN: i64 = i64::MIN;

pub(super) struct ServerClock(AtomicI64);

impl Default for ServerClock {
    fn default() -> Self {
        Self(AtomicI64::new(UNKNOWN))
    }
}

impl ServerClock {
    /// Records that the server's clock was at `ms` at the time `now`.
    pub fn record(&self, ms: u64, now: Instant) {
        self.0.store(ms as i64 - local_ms(now), Ordering::Relaxed);
    }

    /// The time since the server's clock was at `ms`; zero before its time is known.
    pub fn age(&self, ms: u64, now: Instant) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            UNKNOWN => Duration::ZERO,
            ahead => Duration::from_millis((local_ms(now) + ahead - ms as i64).max(0) as u64),
        }
    }
}

/// This process's monotonic milliseconds.
fn local_ms(now: Instant) -> i64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    now.saturating_duration_since(start).as_millis() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_follow_the_clock_of_the_server() {
        let (clock, now) = (ServerClock::default(), Instant::now());
        assert_eq!(clock.age(5, now), Duration::ZERO);
        clock.record(1_000_000, now);
        let later = now + Duration::from_secs(2);
        let age = clock.age(999_000, later);
        assert!((age.as_secs_f64() - 3.0).abs() < 0.01, "{age:?}");
        assert_eq!(clock.age(2_000_000, later), Duration::ZERO);
    }
}
