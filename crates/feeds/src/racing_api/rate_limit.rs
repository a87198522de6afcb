//! Limits the rate of requests by their distance, so that no burst follows a pause. `RacingApi` waits here
//! before each request.

use std::time::Duration;

use tokio::time::Instant;

/// Computes when the next request may be sent; the caller passes the time.
#[derive(Clone, Debug)]
pub struct RateLimiter {
    gap: Duration,
    next: Option<Instant>,
}

impl RateLimiter {
    /// Returns `None` unless the rate is a positive number of requests a second, at least one an hour.
    pub fn per_second(rate: f64) -> Option<Self> {
        (rate.is_finite() && rate >= 1.0 / 3600.0).then(|| Self {
            gap: Duration::from_secs_f64(1.0 / rate),
            next: None,
        })
    }

    /// Reserves the next free moment and returns it.
    pub fn reserve(&mut self, now: Instant) -> Instant {
        let at = self.next.map_or(now, |next| next.max(now));
        self.next = Some(at + self.gap);
        at
    }

    pub(super) async fn wait(&mut self) {
        tokio::time::sleep_until(self.reserve(Instant::now())).await;
    }
}
