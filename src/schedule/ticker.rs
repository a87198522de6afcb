//! Ticks by a cron line. The scheduler library only rings a bell; whether a tick is given is
//! decided here against the cron line itself. That matters because the library stalls for as long
//! as the clock was set back, keeps the zone offset that it had at start, and lets bodies overlap.

use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::mpsc;
use tokio_cron_scheduler::{Job, JobScheduler};
use tokio_util::sync::CancellationToken;

use super::Cron;

/// The library looks twice a second; a bell this much later is taken for lost.
const GRACE: TimeDelta = TimeDelta::seconds(2);

/// A bell may ring this much before its moment.
const EARLY: TimeDelta = TimeDelta::milliseconds(500);

/// The wall clock is compared at least this often: a step of it is noticed within this time.
const LOOK_AT_WALL: Duration = Duration::from_secs(60);

/// Gives one tick for each moment that the cron line names. Moments that pass while nobody asks
/// collapse into one tick; the first tick comes at the first moment after the start.
pub struct Ticker {
    scheduler: JobScheduler,
    bell: mpsc::Receiver<()>,
    watchdog: Watchdog,
}

impl Ticker {
    pub async fn start(cron: Cron) -> Result<Self> {
        let (ring, bell) = mpsc::channel(1);
        let started = format!("cannot start the scheduler for cron {cron}");
        let job = Job::new_async_tz(cron.as_str(), cron.zone(), move |_, _| {
            // Full means that a tick is waiting already: this one is the same.
            let _ = ring.try_send(());
            Box::pin(async {})
        })
        .with_context(|| started.clone())?;
        let scheduler = JobScheduler::new().await.with_context(|| started.clone())?;
        scheduler.add(job).await.with_context(|| started.clone())?;
        scheduler.start().await.context(started)?;
        Ok(Self {
            scheduler,
            bell,
            watchdog: Watchdog::new(cron, Utc::now()),
        })
    }

    /// When the next tick is expected.
    pub fn expected(&self) -> Option<DateTime<Utc>> {
        self.watchdog.expected
    }

    /// Waits for the next tick; `None` once stopped, after which there are no more. Safe to drop
    /// mid-wait.
    pub async fn next(&mut self, stop: &CancellationToken) -> Option<()> {
        let mut bell_works = true;
        loop {
            let wait = match self.watchdog.look(Utc::now()) {
                Look::Tick => return Some(()),
                Look::Wait(wait) => wait,
            };
            tokio::select! {
                () = stop.cancelled() => {
                    // Only marks the library's loop as ended; an error leaves nothing to do.
                    let _ = self.scheduler.shutdown().await;
                    return None;
                }
                rung = self.bell.recv(), if bell_works => {
                    bell_works = rung.is_some();
                    if bell_works && self.watchdog.rung(Utc::now()) {
                        return Some(());
                    }
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

/// Knows when the next tick should come, and gives it when the bell stays silent.
struct Watchdog {
    cron: Cron,
    expected: Option<DateTime<Utc>>,
    /// The latest reading of the wall clock, to notice that it was set back.
    seen: DateTime<Utc>,
}

#[derive(Debug, PartialEq, Eq)]
enum Look {
    Tick,
    /// Look again after this long.
    Wait(Duration),
}

impl Watchdog {
    fn new(cron: Cron, now: DateTime<Utc>) -> Self {
        Self {
            expected: cron.next_after(now),
            cron,
            seen: now,
        }
    }

    /// The bell rang: is it for a moment that has not been given yet?
    fn rung(&mut self, now: DateTime<Utc>) -> bool {
        self.notice_step_back(now);
        self.give(now + EARLY)
    }

    /// Nobody rang: is a tick overdue?
    fn look(&mut self, now: DateTime<Utc>) -> Look {
        self.notice_step_back(now);
        if self.give(now - GRACE) {
            return Look::Tick;
        }
        let overdue_in = self
            .expected
            .and_then(|at| (at + GRACE - now).to_std().ok());
        Look::Wait(overdue_in.unwrap_or(LOOK_AT_WALL).min(LOOK_AT_WALL))
    }

    /// Gives the expected tick if its moment is not after `by`, and expects the next one.
    fn give(&mut self, by: DateTime<Utc>) -> bool {
        let Some(expected) = self.expected.filter(|at| *at <= by) else {
            return false;
        };
        self.expected = self.cron.next_after(self.seen.max(expected));
        true
    }

    fn notice_step_back(&mut self, now: DateTime<Utc>) {
        if now < self.seen {
            // Moments that were given already under the old time come again under the new one:
            // a repeated look is harmless, a missing one is not.
            self.expected = self.cron.next_after(now);
        }
        self.seen = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    fn watchdog(cron: &str, now: &str) -> Watchdog {
        Watchdog::new(Cron::parse(cron, "UTC").expect("valid"), at(now))
    }

    #[test]
    fn a_bell_gives_each_moment_once() {
        let mut dog = watchdog("*/10 * * * * *", "2026-03-14T13:00:03Z");
        assert!(dog.rung(at("2026-03-14T13:00:10.2Z")));
        assert!(!dog.rung(at("2026-03-14T13:00:10.7Z")));
        assert!(dog.rung(at("2026-03-14T13:00:19.8Z")));
        assert!(!dog.rung(at("2026-03-14T13:00:20.3Z")));
        assert!(dog.rung(at("2026-03-14T13:00:30.3Z")));
    }

    #[test]
    fn missed_moments_collapse_into_one_tick() {
        let mut dog = watchdog("*/10 * * * * *", "2026-03-14T13:00:03Z");
        assert_eq!(dog.look(at("2026-03-14T13:05:04Z")), Look::Tick);
        assert!(!dog.rung(at("2026-03-14T13:05:04.1Z")));
        assert_eq!(
            dog.look(at("2026-03-14T13:05:05Z")),
            Look::Wait(Duration::from_secs(7))
        );
    }

    #[test]
    fn a_silent_bell_is_noticed() {
        let mut dog = watchdog("0 * * * * *", "2026-03-14T13:00:30Z");
        let wait = |s| Look::Wait(Duration::from_secs(s));
        assert_eq!(dog.look(at("2026-03-14T13:00:30Z")), wait(32));
        assert_eq!(dog.look(at("2026-03-14T13:01:01Z")), wait(1));
        assert_eq!(dog.look(at("2026-03-14T13:01:02Z")), Look::Tick);
    }

    #[test]
    fn a_clock_set_back_an_hour_stalls_nothing_and_ticks_nothing_early() {
        let mut dog = watchdog("0 0 6 * * *", "2026-03-14T05:59:00Z");
        assert_eq!(
            dog.look(at("2026-03-14T04:59:30Z")),
            Look::Wait(LOOK_AT_WALL)
        );
        assert_eq!(dog.expected, Some(at("2026-03-14T06:00:00Z")));

        let mut dog = watchdog("*/10 * * * * *", "2026-03-14T13:00:03Z");
        assert!(dog.rung(at("2026-03-14T13:00:10Z")));
        assert_eq!(
            dog.look(at("2026-03-14T12:00:11Z")),
            Look::Wait(Duration::from_secs(11))
        );
        assert_eq!(dog.look(at("2026-03-14T12:00:22Z")), Look::Tick);
    }

    #[test]
    fn a_clock_set_forward_an_hour_gives_one_tick() {
        let mut dog = watchdog("0 */5 * * * *", "2026-03-14T13:01:00Z");
        assert_eq!(dog.look(at("2026-03-14T14:02:00Z")), Look::Tick);
        assert_eq!(dog.expected, Some(at("2026-03-14T14:05:00Z")));
    }
}
