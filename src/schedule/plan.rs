//! Which races to ask for now: each by its own distance to the off, so one race at the post does
//! not make the whole card be fetched every ten seconds.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Cadence, next_poll};
use crate::model::EventId;

/// What the plan knows of one race.
#[derive(Clone, Debug)]
pub struct Watched {
    pub id: EventId,
    pub off: Option<DateTime<Utc>>,
    /// When an answer last spoke for it, whether or not anything had changed.
    pub checked_at: Option<DateTime<Utc>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    Nothing {
        until: DateTime<Utc>,
    },
    /// Nearest to the off first. Ask for each of them alone.
    Races(Vec<EventId>),
    /// Ask for the whole card.
    Everything,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub cadence: Cadence,
    /// With more races due than this, one whole-card call is cheaper. 0 where the provider has no
    /// call for one race.
    pub max_one_race_calls: usize,
    /// The whole card is fetched at least this often: only it shows new and missing races.
    pub whole_card_every: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        let cadence = Cadence::default();
        Self {
            whole_card_every: cadence.otherwise(),
            cadence,
            // Two seconds of a limit of five calls a second.
            max_one_race_calls: 10,
        }
    }
}

impl Plan {
    /// `whole_card_at`: when the whole card was last fetched successfully. A time in the future
    /// means that the clock was set back: what it speaks of is due now.
    pub fn due(
        &self,
        now: DateTime<Utc>,
        races: &[Watched],
        whole_card_at: Option<DateTime<Utc>>,
    ) -> Due {
        let card_due = whole_card_at
            .filter(|at| *at <= now)
            .map(|at| later(at, self.whole_card_every));
        let Some(card_due) = card_due.filter(|at| *at > now) else {
            return Due::Everything;
        };
        let mut until = card_due;
        let mut due = Vec::new();
        for race in races {
            // Races that are off, or have no time, are seen with the whole card.
            let Some(off) = race.off.filter(|off| *off > now) else {
                continue;
            };
            match self.due_at(now, off, race.checked_at) {
                Some(at) if at > now => until = until.min(at),
                _ => due.push((off, &race.id)),
            }
        }
        if due.is_empty() {
            return Due::Nothing { until };
        }
        if due.len() > self.max_one_race_calls {
            return Due::Everything;
        }
        due.sort();
        Due::Races(due.into_iter().map(|(_, id)| id.clone()).collect())
    }

    /// `None`: at once.
    fn due_at(
        &self,
        now: DateTime<Utc>,
        off: DateTime<Utc>,
        checked_at: Option<DateTime<Utc>>,
    ) -> Option<DateTime<Utc>> {
        let checked_at = checked_at.filter(|at| *at <= now)?;
        Some(later(
            checked_at,
            next_poll(checked_at, [off], &self.cadence),
        ))
    }
}

fn later(at: DateTime<Utc>, wait: Duration) -> DateTime<Utc> {
    let wait = TimeDelta::from_std(wait).unwrap_or(TimeDelta::MAX);
    at.checked_add_signed(wait)
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}
