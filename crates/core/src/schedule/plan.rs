//! Which races are due for a poll: each by its own time to the off, so that one race about to start does not make
//! the whole card be fetched every ten seconds. The poller asks it after each cycle.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Cadence, next_poll};
use crate::model::EventId;

/// A race with its start and its last poll.
#[derive(Clone, Debug)]
pub struct TrackedRace {
    /// The race.
    pub id: EventId,
    /// Its scheduled start, if it is known.
    pub off: Option<DateTime<Utc>>,
    /// When an answer last covered it, changed or not, or it was last requested alone.
    pub checked_at: Option<DateTime<Utc>>,
}

/// The next poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DuePoll {
    /// Wait.
    Nothing {
        /// The next time to ask.
        until: DateTime<Utc>,
    },
    /// Fetch each of these alone; the nearest to the off is first.
    Races(Vec<EventId>),
    /// Fetch the whole card.
    Everything,
}

/// Decides by the cadence which races are due.
#[derive(Clone, Debug)]
pub struct PollPlanner {
    /// The intervals by time to the off.
    pub cadence: Cadence,
    /// With more races due than this, one whole-card call is cheaper. 0 where the provider has no call for one
    /// race.
    pub max_one_race_calls: usize,
    /// The whole card is fetched at least this often: only it shows new and missing races.
    pub whole_card_every: Duration,
}

impl Default for PollPlanner {
    fn default() -> Self {
        let cadence = Cadence::default();
        Self {
            whole_card_every: cadence.default_interval(),
            cadence,
            // Two seconds of a limit of five calls a second.
            max_one_race_calls: 10,
        }
    }
}

impl PollPlanner {
    /// The time within which something is polled, from `now` on.
    pub fn interval(&self, now: DateTime<Utc>, races: &[TrackedRace]) -> Duration {
        let offs = races.iter().filter_map(|race| race.off);
        next_poll(now, offs, &self.cadence).min(self.whole_card_every)
    }

    /// `whole_card_at`: when the whole card was last fetched. A time in the future means that the clock was set
    /// back: the poll is due now. A race that the last whole card did not cover waits for the next one: it may be
    /// outside what the feed is asked for.
    pub fn due(
        &self,
        now: DateTime<Utc>,
        races: &[TrackedRace],
        whole_card_at: Option<DateTime<Utc>>,
    ) -> DuePoll {
        let Some(card_at) = whole_card_at.filter(|at| *at <= now) else {
            return DuePoll::Everything;
        };
        let card_due = add(card_at, self.whole_card_every);
        if card_due <= now {
            return DuePoll::Everything;
        }
        let mut until = card_due;
        let mut due = Vec::new();
        for race in races {
            // A race that has started, or has no time, is fetched with the whole card.
            let Some(off) = race.off.filter(|off| *off > now) else {
                continue;
            };
            let checked_at = race.checked_at.filter(|at| (card_at..=now).contains(at));
            let Some(checked_at) = checked_at else {
                continue;
            };
            match add(checked_at, next_poll(checked_at, [off], &self.cadence)) {
                at if at > now => until = until.min(at),
                _ => due.push((off, &race.id)),
            }
        }
        if due.is_empty() {
            return DuePoll::Nothing { until };
        }
        if due.len() > self.max_one_race_calls {
            return DuePoll::Everything;
        }
        due.sort();
        DuePoll::Races(due.into_iter().map(|(_, id)| id.clone()).collect())
    }
}

fn add(at: DateTime<Utc>, wait: Duration) -> DateTime<Utc> {
    let wait = TimeDelta::from_std(wait).unwrap_or(TimeDelta::MAX);
    at.checked_add_signed(wait)
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}
