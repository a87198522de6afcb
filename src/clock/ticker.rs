//! A stream of ticks by a cron line, for the poller.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::WALL_CHECK_INTERVAL;
use oddsd_core::schedule::Cron;

/// One tick for each time of the cron line. Times that pass while [`CronTicker::next`] is not called collapse into
/// one tick; the first tick comes at the first time after the start.
pub struct CronTicker {
    cron: Cron,
    expected: Option<DateTime<Utc>>,
    /// The latest reading of the wall clock, to notice that it was set back.
    last_reading: DateTime<Utc>,
}

#[derive(Debug, PartialEq, Eq)]
enum CronCheck {
    Tick,
    /// Check again after this long.
    Wait(Duration),
}

impl CronTicker {
    /// `now` is the wall clock's time, from which the first tick is sought.
    pub fn new(cron: Cron, now: DateTime<Utc>) -> Self {
        Self {
            expected: cron.next_after(now),
            cron,
            last_reading: now,
        }
    }

    /// When the next tick is expected.
    pub fn expected(&self) -> Option<DateTime<Utc>> {
        self.expected
    }

    /// Waits for the next tick; `None` once stopped. Safe to drop mid-wait.
    pub async fn next(&mut self, stop: &CancellationToken) -> Option<()> {
        loop {
            let wait = match self.check(Utc::now()) {
                CronCheck::Tick => return Some(()),
                CronCheck::Wait(wait) => wait,
            };
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// A tick where one is due, else the wait until the next look at the wall clock.
    fn check(&mut self, now: DateTime<Utc>) -> CronCheck {
        if now < self.last_reading {
            // Times that ticked under the old reading tick again under the new one: a repeated poll is harmless, a
            // missing one is not.
            self.expected = self.cron.next_after(now);
        }
        self.last_reading = now;
        let Some(expected) = self.expected else {
            return CronCheck::Wait(WALL_CHECK_INTERVAL);
        };
        match (expected - now).to_std() {
            Ok(wait) if !wait.is_zero() => CronCheck::Wait(wait.min(WALL_CHECK_INTERVAL)),
            _ => {
                self.expected = self.cron.next_after(now);
                CronCheck::Tick
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> DateTime<Utc> {
        format!("2026-03-14T{time}Z").parse().expect("a time")
    }

    fn wait(seconds: u64) -> CronCheck {
        CronCheck::Wait(Duration::from_secs(seconds))
    }

    fn ticker(cron: &str, now: &str) -> CronTicker {
        let now = at(now);
        CronTicker::new(Cron::parse(cron, "UTC", now).expect("valid"), now)
    }

    #[test]
    fn each_time_gives_one_tick() {
        let mut ticker = ticker("*/10 * * * * *", "13:00:03");
        assert_eq!(ticker.check(at("13:00:03")), wait(7));
        assert_eq!(ticker.check(at("13:00:10")), CronCheck::Tick);
        assert_eq!(ticker.check(at("13:00:10")), wait(10));
        assert_eq!(ticker.check(at("13:00:20")), CronCheck::Tick);
        assert_eq!(ticker.expected(), Some(at("13:00:30")));
    }

    #[test]
    fn missed_times_collapse_into_one_tick() {
        let mut ticker = ticker("*/10 * * * * *", "13:00:03");
        assert_eq!(ticker.check(at("13:05:04")), CronCheck::Tick);
        assert_eq!(ticker.check(at("13:05:04")), wait(6));
    }

    #[test]
    fn a_long_wait_reads_the_wall_clock_each_minute() {
        let mut ticker = ticker("0 0 6 * * *", "04:00:00");
        assert_eq!(ticker.check(at("04:00:00")), wait(60));
    }

    #[test]
    fn a_clock_set_back_an_hour_stalls_nothing_and_ticks_nothing_early() {
        let mut ticker = ticker("0 0 6 * * *", "05:59:00");
        assert_eq!(ticker.check(at("04:59:30")), wait(60));
        assert_eq!(ticker.expected(), Some(at("06:00:00")));

        let mut ticker = self::ticker("*/10 * * * * *", "13:00:03");
        assert_eq!(ticker.check(at("13:00:10")), CronCheck::Tick);
        assert_eq!(ticker.check(at("12:00:11")), wait(9));
        assert_eq!(ticker.check(at("12:00:20")), CronCheck::Tick);
    }

    #[test]
    fn a_clock_set_forward_an_hour_gives_one_tick() {
        let mut ticker = ticker("0 */5 * * * *", "13:01:00");
        assert_eq!(ticker.check(at("14:02:00")), CronCheck::Tick);
        assert_eq!(ticker.expected(), Some(at("14:05:00")));
    }
}
