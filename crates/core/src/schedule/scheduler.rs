//! Decides when the next polling cycle begins: by a rule, but never within a second of the last cycle and never before
//! the wait that was announced after a failure. The poller asks it before each cycle.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{CronTicks, DuePoll, PollPlanner, TrackedRace};
use crate::model::FetchRequest;

/// No cycle begins sooner after the last one began, whatever the rule and the clock say.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// The rule by which a live feed is polled.
#[derive(Clone, Debug)]
pub enum PollRule {
    /// Each race by its own time to the off.
    Adaptive(PollPlanner),
    /// Everything, at the times of a cron line.
    Cron(Box<CronTicks>),
}

/// One reading of the daemon's clock.
#[derive(Clone, Copy, Debug)]
pub struct ClockReading {
    /// The wall clock. It may be set, forward or back.
    pub wall: DateTime<Utc>,
    /// Time since the poller's start. It only grows.
    pub elapsed: Duration,
}

/// The next poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextPoll {
    /// It is due.
    Now(FetchRequest),
    /// Ask again after this long, or sooner. Never zero.
    Wait(Duration),
}

/// Decides when the next cycle begins.
#[derive(Clone, Debug)]
pub struct PollScheduler {
    /// The rule in force.
    pub rule: PollRule,
    /// No cycle begins before, in elapsed time.
    earliest: Duration,
    /// The request that is repeated then, whatever the rule says.
    repeated: Option<FetchRequest>,
}

impl PollScheduler {
    /// The first poll is due as soon as the rule says.
    pub fn new(rule: PollRule) -> Self {
        Self {
            rule,
            earliest: Duration::ZERO,
            repeated: None,
        }
    }

    /// The next poll. `whole_card_at`: when everything was last fetched.
    pub fn next(
        &mut self,
        now: ClockReading,
        races: &[TrackedRace],
        whole_card_at: Option<DateTime<Utc>>,
    ) -> NextPoll {
        if let Some(wait) = positive(self.earliest.saturating_sub(now.elapsed)) {
            return NextPoll::Wait(wait);
        }
        if let Some(request) = &self.repeated {
            return NextPoll::Now(request.clone());
        }
        let (request, until) = match &mut self.rule {
            PollRule::Adaptive(plan) => match plan.due(now.wall, races, whole_card_at) {
                DuePoll::Everything => (FetchRequest::Everything, None),
                DuePoll::Races(ids) => (FetchRequest::Events(ids), None),
                DuePoll::Nothing { until } => (FetchRequest::Everything, Some(until)),
            },
            PollRule::Cron(ticks) => {
                let tick = ticks.expected(now.wall);
                let tick = tick.unwrap_or(DateTime::<Utc>::MAX_UTC);
                (FetchRequest::Everything, Some(tick))
            }
        };
        let wait = until.and_then(|until| (until - now.wall).to_std().ok());
        match wait.and_then(positive) {
            Some(wait) => NextPoll::Wait(wait),
            None => NextPoll::Now(request),
        }
    }

    /// The time within which the rule polls again, from `now` on by the wall clock. The retries after a failure are not
    /// further apart.
    pub fn interval(&self, now: DateTime<Utc>, races: &[TrackedRace]) -> Duration {
        match &self.rule {
            PollRule::Adaptive(plan) => plan.interval(now, races),
            PollRule::Cron(ticks) => ticks.until_next(now).unwrap_or(Duration::MAX),
        }
    }

    /// A cycle begins.
    pub fn begin_cycle(&mut self, now: ClockReading) {
        self.earliest = now.elapsed + MIN_INTERVAL;
        self.repeated = None;
        if let PollRule::Cron(ticks) = &mut self.rule {
            ticks.use_up(now.wall);
        }
    }

    /// The cycle has failed. Nothing is requested for `wait`; then a cron line does not wait for its next tick.
    pub fn retry_after(&mut self, wait: Duration, now: ClockReading) {
        self.earliest = self.earliest.max(now.elapsed.saturating_add(wait));
        if let PollRule::Cron(_) = self.rule {
            self.repeated = Some(FetchRequest::Everything);
        }
    }

    /// The answer needs a second look: the same request is repeated after `wait`.
    pub fn recheck_after(&mut self, wait: Duration, request: &FetchRequest, now: ClockReading) {
        self.earliest = self.earliest.max(now.elapsed.saturating_add(wait));
        self.repeated = Some(request.clone());
    }
}

fn positive(wait: Duration) -> Option<Duration> {
    (!wait.is_zero()).then_some(wait)
}
