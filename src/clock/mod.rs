//! The daemon's clock: the wall clock, or a faster one for a simulated day. The poller, the API and the commands
//! read it and sleep by it.
//!
//! Waits are monotonic, so that setting the wall clock back does not prolong one. The wall clock is read at least
//! once a minute, so that a step forward (or a wake-up from suspend) ends a wait in time.

mod skew;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use skew::{ClockSkew, MAX_CLOCK_SKEW};

/// The longest time between two readings of the wall clock. A step of it is noticed within this time.
pub const WALL_CHECK_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub enum Clock {
    Real,
    /// The wall clock, wrong by this many milliseconds: tests set it while the daemon runs.
    Wrong(Arc<AtomicI64>),
    /// Runs `speed` times as fast, from `from` on, since `started`.
    Scaled {
        from: DateTime<Utc>,
        started: Instant,
        speed: f64,
    },
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SleepResult {
    Elapsed,
    Stopped,
}

impl Clock {
    /// A clock that starts at `from`. A speed that is not above zero counts as 1.
    pub fn scaled(from: DateTime<Utc>, speed: f64) -> Self {
        Self::Scaled {
            from,
            started: Instant::now(),
            speed: if speed.is_finite() && speed > 0.0 {
                speed
            } else {
                1.0
            },
        }
    }

    /// Whether it is that of a simulated day, which no other clock agrees with.
    pub fn is_simulated(&self) -> bool {
        matches!(self, Self::Scaled { .. })
    }

    pub fn now(&self) -> DateTime<Utc> {
        match self {
            Self::Real => Utc::now(),
            Self::Wrong(by) => Utc::now() + TimeDelta::milliseconds(by.load(Ordering::Relaxed)),
            Self::Scaled { from, started, .. } => TimeDelta::from_std(self.elapsed_since(*started))
                .ok()
                .and_then(|elapsed| from.checked_add_signed(elapsed))
                .unwrap_or(DateTime::<Utc>::MAX_UTC),
        }
    }

    /// `duration` of this clock in real time.
    pub fn real_duration(&self, duration: Duration) -> Duration {
        match self {
            Self::Real | Self::Wrong(_) => duration,
            Self::Scaled { speed, .. } => {
                Duration::try_from_secs_f64(duration.as_secs_f64() / speed).unwrap_or(Duration::MAX)
            }
        }
    }

    /// This clock's time since `started`, whatever the wall clock shows.
    pub fn elapsed_since(&self, started: Instant) -> Duration {
        let elapsed = started.elapsed();
        match self {
            Self::Real | Self::Wrong(_) => elapsed,
            Self::Scaled { speed, .. } => {
                Duration::try_from_secs_f64(elapsed.as_secs_f64() * speed).unwrap_or(Duration::MAX)
            }
        }
    }

    /// Waits `duration` of this clock, or until `stop`. A step of the wall clock may end it early.
    pub async fn sleep(&self, duration: Duration, stop: &CancellationToken) -> SleepResult {
        sleep_until_either(self.real_duration(duration), || self.now(), duration, stop).await
    }
}

/// Ends when `real` has passed on the monotonic clock or `shown` on the wall clock, whichever is first.
async fn sleep_until_either(
    real: Duration,
    wall: impl Fn() -> DateTime<Utc>,
    shown: Duration,
    stop: &CancellationToken,
) -> SleepResult {
    let (started, wall_started) = (Instant::now(), wall());
    loop {
        let left = real.saturating_sub(started.elapsed());
        let shown_so_far = (wall() - wall_started).to_std().unwrap_or_default();
        if left.is_zero() || shown_so_far >= shown {
            return SleepResult::Elapsed;
        }
        tokio::select! {
            () = tokio::time::sleep(left.min(WALL_CHECK_INTERVAL)) => {}
            () = stop.cancelled() => return SleepResult::Stopped,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Waits ten minutes while the wall clock is stepped by `step` hours, and returns the real time. Time is
    /// virtual: nothing sleeps.
    async fn stepped(step: i64) -> Duration {
        let started = Instant::now();
        let readings = AtomicI64::new(0);
        let wall = || {
            let stepped = match readings.fetch_add(1, Relaxed) {
                0..3 => TimeDelta::zero(),
                _ => TimeDelta::hours(step),
            };
            DateTime::UNIX_EPOCH + TimeDelta::from_std(started.elapsed()).expect("small") + stepped
        };
        let ten_minutes = HOUR / 6;
        let end =
            sleep_until_either(ten_minutes, wall, ten_minutes, &CancellationToken::new()).await;
        assert_eq!(end, SleepResult::Elapsed);
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_set_back_prolongs_nothing() {
        assert_eq!(stepped(-1).await.as_secs(), 600);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_set_forward_is_noticed_within_a_minute() {
        assert!(stepped(1).await <= Duration::from_secs(3 * 60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_once_when_stopped() {
        let stop = CancellationToken::new();
        stop.cancel();
        let started = Instant::now();
        assert_eq!(Clock::Real.sleep(HOUR, &stop).await, SleepResult::Stopped);
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_scaled_hour_takes_two_minutes() {
        let clock = Clock::scaled(DateTime::UNIX_EPOCH, 30.0);
        let started = Instant::now();
        assert_eq!(
            clock.sleep(HOUR, &CancellationToken::new()).await,
            SleepResult::Elapsed
        );
        assert_eq!(started.elapsed().as_secs(), 120);
        assert_eq!(clock.now().timestamp(), 3600);
    }
}
