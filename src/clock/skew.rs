//! Compares this machine's clock with the database's. The leader election measures after each of its steps; the log
//! says when they begin and cease to differ, and `/readyz?verbose` says by how much.

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;

/// A larger skew puts races into the wrong stage.
pub const MAX_CLOCK_SKEW: TimeDelta = TimeDelta::seconds(5);

/// The skew that was measured last.
#[derive(Debug, Default)]
pub struct ClockSkew(Mutex<SkewState>);

#[derive(Clone, Copy, Debug, Default)]
struct SkewState {
    measured: Option<TimeDelta>,
    is_large: bool,
}

impl ClockSkew {
    /// Records that the database showed `theirs`, somewhere between these two readings of this machine's clock.
    pub fn record(&self, sent: DateTime<Utc>, received: DateTime<Utc>, theirs: DateTime<Utc>) {
        // The time for which the answer was on its way is no skew.
        let skew = match () {
            () if theirs < sent => sent - theirs,
            () if theirs > received => received - theirs,
            () => TimeDelta::zero(),
        };
        let (was_large, is_large) = {
            let mut state = self.0.lock();
            state.measured = Some(skew);
            // A skew near the limit does not log a line at each measurement.
            let limit = if state.is_large {
                MAX_CLOCK_SKEW / 2
            } else {
                MAX_CLOCK_SKEW
            };
            let was_large = state.is_large;
            state.is_large = skew.abs() > limit;
            (was_large, state.is_large)
        };
        let skew_s = skew.as_seconds_f64();
        match (was_large, is_large) {
            (false, true) => tracing::warn!(
                event = "clock.skewed",
                skew_s,
                "This machine's clock and the database's differ by {skew_s:.1} s; synchronise both by NTP"
            ),
            (true, false) => tracing::info!(
                event = "clock.agrees",
                skew_s,
                "This machine's clock and the database's agree again"
            ),
            _ => {}
        }
    }

    /// How far this machine's clock is ahead of the database's, in seconds; negative if it is behind. `None`: not
    /// measured.
    pub fn seconds(&self) -> Option<f64> {
        self.0.lock().measured.map(|skew| skew.as_seconds_f64())
    }
}
