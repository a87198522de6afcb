//! A stream of ticks by a cron line, for the poller. The scheduler library only sends a signal; this module decides
//! by the cron line itself whether it becomes a tick.
//!
//! That matters because the library stalls for as long as the clock was set back, keeps the zone offset that it
//! had at start, and lets bodies overlap.

use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::mpsc;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use tokio_util::sync::CancellationToken;

use super::WALL_CHECK_INTERVAL;
use oddsd_core::schedule::Cron;

/// The library checks twice a second; a signal this much later counts as lost.
const GRACE: TimeDelta = TimeDelta::seconds(2);

/// The most that a signal may come before its time.
const EARLY: TimeDelta = TimeDelta::milliseconds(500);

/// One tick for each time of the cron line. Times that pass while [`CronTicker::next`] is not called collapse into
/// one tick; the first tick comes at the first time after the start.
pub struct CronTicker {
    scheduler: JobScheduler,
    signals: mpsc::Receiver<()>,
    state: CronState,
}

impl CronTicker {
    pub async fn start(cron: Cron) -> Result<Self> {
        let (signal, signals) = mpsc::channel(1);
        let starting = async {
            let scheduler = JobScheduler::new().await?;
            let job = Job::new_async_tz(cron.as_str(), cron.zone(), move |_, _| {
                // A full channel holds the same signal already.
                let _ = signal.try_send(());
                Box::pin(async {})
            })?;
            scheduler.add(job).await?;
            scheduler.start().await?;
            Ok::<_, JobSchedulerError>(scheduler)
        };
        let context = format!("cannot start the scheduler for cron {cron}");
        Ok(Self {
            scheduler: starting.await.context(context)?,
            signals,
            state: CronState::new(cron, Utc::now()),
        })
    }

    /// When the next tick is expected.
    pub fn expected(&self) -> Option<DateTime<Utc>> {
        self.state.expected
    }

    /// Waits for the next tick; `None` once stopped, after which there are no more. Safe to drop
    /// mid-wait.
    pub async fn next(&mut self, stop: &CancellationToken) -> Option<()> {
        let mut is_open = true;
        loop {
            let wait = match self.state.check_overdue(Utc::now()) {
                CronCheck::Tick => return Some(()),
                CronCheck::Wait(wait) => wait,
            };
            tokio::select! {
                () = stop.cancelled() => {
                    // Only marks the library's loop as ended; an error leaves nothing to do.
                    let _ = self.scheduler.shutdown().await;
                    return None;
                }
                signal = self.signals.recv(), if is_open => {
                    is_open = signal.is_some();
                    if is_open && self.state.accept_signal(Utc::now()) {
                        return Some(());
                    }
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

/// When the next tick is due, with or without a signal of the library.
struct CronState {
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

impl CronState {
    fn new(cron: Cron, now: DateTime<Utc>) -> Self {
        Self {
            expected: cron.next_after(now),
            cron,
            last_reading: now,
        }
    }

    /// True when the signal is for a time that has not ticked yet.
    fn accept_signal(&mut self, now: DateTime<Utc>) -> bool {
        self.notice_step_back(now);
        self.tick_if_due(now + EARLY)
    }

    /// Without a signal: a tick where one is overdue, else the wait until it would be.
    fn check_overdue(&mut self, now: DateTime<Utc>) -> CronCheck {
        self.notice_step_back(now);
        if self.tick_if_due(now - GRACE) {
            return CronCheck::Tick;
        }
        let overdue_in = self.expected.map(|at| (at + GRACE - now).to_std());
        let overdue_in = overdue_in
            .and_then(Result::ok)
            .unwrap_or(WALL_CHECK_INTERVAL);
        CronCheck::Wait(overdue_in.min(WALL_CHECK_INTERVAL))
    }

    /// True when the expected time is not after `by`; then the next one is expected.
    fn tick_if_due(&mut self, by: DateTime<Utc>) -> bool {
        let Some(expected) = self.expected.filter(|at| *at <= by) else {
            return false;
        };
        self.expected = self.cron.next_after(self.last_reading.max(expected));
        true
    }

    fn notice_step_back(&mut self, now: DateTime<Utc>) {
        if now < self.last_reading {
            // Times that ticked under the old reading tick again under the new one: a repeated poll is harmless, a
            // missing one is not.
            self.expected = self.cron.next_after(now);
        }
        self.last_reading = now;
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

    fn state(cron: &str, now: &str) -> CronState {
        let now = at(now);
        CronState::new(Cron::parse(cron, "UTC", now).expect("valid"), now)
    }

    #[test]
    fn a_signal_gives_one_tick_for_each_time() {
        let mut state = state("*/10 * * * * *", "13:00:03");
        assert!(state.accept_signal(at("13:00:10.2")));
        assert!(!state.accept_signal(at("13:00:10.7")));
        assert!(state.accept_signal(at("13:00:19.8")));
        assert!(!state.accept_signal(at("13:00:20.3")));
        assert!(state.accept_signal(at("13:00:30.3")));
    }

    #[test]
    fn missed_times_collapse_into_one_tick() {
        let mut state = state("*/10 * * * * *", "13:00:03");
        assert_eq!(state.check_overdue(at("13:05:04")), CronCheck::Tick);
        assert!(!state.accept_signal(at("13:05:04.1")));
        assert_eq!(state.check_overdue(at("13:05:05")), wait(7));
    }

    #[test]
    fn a_lost_signal_is_noticed() {
        let mut state = state("0 * * * * *", "13:00:30");
        assert_eq!(state.check_overdue(at("13:00:30")), wait(32));
        assert_eq!(state.check_overdue(at("13:01:01")), wait(1));
        assert_eq!(state.check_overdue(at("13:01:02")), CronCheck::Tick);
    }

    #[test]
    fn a_clock_set_back_an_hour_stalls_nothing_and_ticks_nothing_early() {
        let mut state = state("0 0 6 * * *", "05:59:00");
        assert_eq!(state.check_overdue(at("04:59:30")), wait(60));
        assert_eq!(state.expected, Some(at("06:00:00")));

        let mut state = self::state("*/10 * * * * *", "13:00:03");
        assert!(state.accept_signal(at("13:00:10")));
        assert_eq!(state.check_overdue(at("12:00:11")), wait(11));
        assert_eq!(state.check_overdue(at("12:00:22")), CronCheck::Tick);
    }

    #[test]
    fn a_clock_set_forward_an_hour_gives_one_tick() {
        let mut state = state("0 */5 * * * *", "13:01:00");
        assert_eq!(state.check_overdue(at("14:02:00")), CronCheck::Tick);
        assert_eq!(state.expected, Some(at("14:05:00")));
    }
}
