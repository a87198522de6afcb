//! How long to wait after a failure. The poller, the relay and `oddsd record` call it with the number of failures
//! in a row and a random number.

use std::time::Duration;

/// Failures by the wait that they need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Unreachable, 5xx, an unreadable answer, a database that did not confirm.
    Temporary,
    /// 429, with the server's own delay where it gave one.
    RateLimited {
        /// The server's delay.
        retry_after: Option<Duration>,
    },
    /// Wrong credentials or missing rights. Only an operator can correct them, and fast retries get an account
    /// blocked.
    Refused,
}

/// A delay that doubles from `first` up to `longest` with each failure in a row.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The delay after one failure.
    pub first: Duration,
    /// The upper limit of the doubled delay.
    pub longest: Duration,
    /// The delay after [`FailureKind::Refused`], whatever the number of attempts.
    pub refused: Duration,
    /// The share of a delay that the jitter may take off, so that many daemons do not return at once.
    spread: f64,
}

impl Backoff {
    /// For a feed and for the database.
    pub const FEED: Self = Self {
        first: Duration::from_secs(2),
        longest: Duration::from_secs(60),
        refused: Duration::from_secs(300),
        spread: 0.5,
    };
    /// For a removal: short enough that readers see fresh prices soon after the cache is back.
    pub const REMOVAL: Self = Self {
        first: Duration::from_millis(250),
        longest: Duration::from_secs(2),
        refused: Duration::from_secs(3),
        spread: 0.25,
    };

    /// The delay after `attempt` failures in a row (1, 2, …), never zero and never less than the server asked for.
    /// `jitter` is in 0..1.
    pub fn delay(&self, failure: FailureKind, attempt: u32, jitter: f64) -> Duration {
        let jitter = match jitter.is_finite() {
            true => jitter.clamp(0.0, 1.0),
            false => 0.0,
        };
        let doublings = attempt.saturating_sub(1).min(16);
        let delay = (self.first * (1 << doublings)).min(self.longest);
        let delay = delay.mul_f64(1.0 - self.spread * (1.0 - jitter));
        match failure {
            FailureKind::Refused => self.refused.mul_f64(1.0 + jitter / 10.0),
            // On top of the server's delay, so that all who were refused do not return at once.
            FailureKind::RateLimited {
                retry_after: Some(asked),
            } => delay.max(asked.saturating_add(self.first.mul_f64(jitter))),
            FailureKind::RateLimited { retry_after: None } | FailureKind::Temporary => delay,
        }
    }

    /// The delay where `interval` is the time within which the next success would matter: a temporary failure waits no
    /// longer, or `first` if that is longer. A provider that limits the rate or refuses decides alone.
    pub fn delay_within(
        &self,
        interval: Duration,
        failure: FailureKind,
        attempt: u32,
        jitter: f64,
    ) -> Duration {
        let delay = self.delay(failure, attempt, jitter);
        match failure {
            FailureKind::Temporary => delay.min(interval.max(self.first)),
            FailureKind::RateLimited { .. } | FailureKind::Refused => delay,
        }
    }
}
