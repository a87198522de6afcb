//! Event statuses: the words of sources, and the transitions by source, clock and manual correction.
//! Called by feed parsers (words), `diff` (transitions) and the daemon's status timer.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use strum::{EnumString, IntoStaticStr, VariantArray};

use super::{Event, EventStatus, text_forms};

/// An event is upcoming from this long before its start, inclusive.
const UPCOMING: TimeDelta = TimeDelta::hours(2);
/// An event that has left the feed is completed this long after its start.
const OVER: TimeDelta = TimeDelta::hours(4);

/// The words of sources for each status, in lower case without spaces, `_` and `-`.
const WORDS: &[(EventStatus, &str)] = &[
    (
        EventStatus::Completed,
        "completed complete final finished finish ft fulltime closed ended end result \
         resulted settled gameend matchend aet afterextratime afterpenalties weighedin \
         gameover postgame statusfinal statusfulltime",
    ),
    (
        EventStatus::Live,
        "live inprogress inplay inrunning running started off ongoing playing gamestart \
         firsthalf firsthalfstart firsthalfend halftime ht break secondhalf secondhalfstart \
         secondhalfend extratime overtime penalties intermission statusinprogress \
         statushalftime 1h 2h",
    ),
    (
        EventStatus::Upcoming,
        "upcoming scheduled notstarted ns pre pregame prematch statusscheduled goingdown \
         goingbehind parading atthepost goingtopost underorders dormant",
    ),
    (
        EventStatus::Suspended,
        "suspended delayed interrupted paused statusdelayed statussuspended raindelay",
    ),
    (
        EventStatus::Postponed,
        "postponed rescheduled statuspostponed",
    ),
    (
        EventStatus::Cancelled,
        "cancelled canceled cancel void voided walkover statuscanceled",
    ),
    (EventStatus::Abandoned, "abandoned abandon"),
];

/// The origin of a status transition.
#[derive(EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StatusSource {
    /// The source reported it.
    Feed,
    /// A point in time was reached.
    Clock,
    /// An operator set it.
    Correction,
}

text_forms!(StatusSource);

impl EventStatus {
    /// Reads a source's word, ignoring case, `_`, `-` and spaces. A word for "not yet" is `Upcoming`. `None` for
    /// words without a status (an exchange's `OPEN`) and for unknown ones: then the clock decides.
    pub fn from_source_word(text: &str) -> Option<Self> {
        let word: String = text
            .chars()
            .filter(|c| !matches!(c, '_' | '-') && !c.is_whitespace())
            .flat_map(char::to_lowercase)
            .collect();
        let mut known = WORDS.iter();
        let known = known.find(|(_, words)| words.split(' ').any(|known| known == word));
        known.map(|(status, _)| *status)
    }

    /// How long a cached answer about an event in this status is fresh.
    pub fn ttl(self) -> Duration {
        Duration::from_secs(match self {
            Self::Live | Self::Suspended => 30,
            Self::Upcoming => 300,
            Self::Scheduled => 1_800,
            Self::Postponed | Self::Cancelled | Self::Abandoned => 3_600,
            Self::Completed => 86_400,
        })
    }

    /// The status by the clock alone; `None` without a start.
    fn by_clock(
        starts_at: Option<DateTime<Utc>>,
        listed: bool,
        now: DateTime<Utc>,
    ) -> Option<Self> {
        let since = now - starts_at?;
        Some(if since < -UPCOMING {
            Self::Scheduled
        } else if since < TimeDelta::zero() {
            Self::Upcoming
        } else if since >= OVER && !listed {
            Self::Completed
        } else {
            Self::Live
        })
    }

    fn has_begun(self) -> bool {
        self == Self::Live || self.is_final()
    }
}

/// Computes the status of an event at `now`. `source` is the status that the source reports, if it reports one;
/// `Scheduled` and `Upcoming` both mean "not yet". The source's status wins over the clock's. A final status stays,
/// and a live event does not become upcoming again, except by a manual correction.
pub fn compute_status(
    source: Option<EventStatus>,
    stored: Option<EventStatus>,
    starts_at: Option<DateTime<Utc>>,
    listed: bool,
    now: DateTime<Utc>,
) -> EventStatus {
    use EventStatus::*;
    if let Some(over) = stored.filter(|stored| stored.is_final()) {
        return over;
    }
    let clock = EventStatus::by_clock(starts_at, listed, now);
    let next = match source {
        Some(Scheduled | Upcoming) => match clock {
            Some(Scheduled) => Scheduled,
            // The source knows that it has not started; the clock does not.
            Some(_) => Upcoming,
            None => Scheduled,
        },
        Some(reported) => reported,
        // Only a new start time in the future ends a postponement.
        None if stored == Some(Postponed) && clock.is_none_or(EventStatus::has_begun) => Postponed,
        None => clock
            .or(stored.filter(|stored| *stored != Suspended))
            .unwrap_or(Scheduled),
    };
    match (stored, next) {
        (Some(Live), Scheduled | Upcoming) => Live,
        _ => next,
    }
}

impl Event {
    /// The transition by the clock that is due at `now` without a new snapshot. It never goes back, and it leaves
    /// statuses that only a source can end.
    pub fn due_clock_transition(&self, now: DateTime<Utc>) -> Option<EventStatus> {
        self.next_transition_at().filter(|at| *at <= now)?;
        let next = match EventStatus::by_clock(self.starts_at, self.listed, now)? {
            EventStatus::Live if self.status == EventStatus::Suspended => return None,
            next => next,
        };
        (next != self.status).then_some(next)
    }

    /// When its next transition by the clock is due; in the past if it is overdue.
    pub fn next_transition_at(&self) -> Option<DateTime<Utc>> {
        let start = self.starts_at?;
        match self.status {
            EventStatus::Scheduled => start.checked_sub_signed(UPCOMING),
            EventStatus::Upcoming => Some(start),
            EventStatus::Live | EventStatus::Suspended if !self.listed => {
                start.checked_add_signed(OVER)
            }
            _ => None,
        }
    }

    /// Resolves the status of a snapshot's `observed` at `now`. `stored` is the stored event with the origin of its
    /// status.
    ///
    /// What only the clock has said, the source takes back: a live event whose start is put back into the future, and a
    /// completed one that is listed again.
    pub fn resolve_status(
        stored: Option<(&Self, StatusSource)>,
        observed: &Self,
        now: DateTime<Utc>,
    ) -> ResolvedStatus {
        use EventStatus::*;
        let (stored, stored_by) = stored.unzip();
        let was = stored.map(|stored| stored.status);
        // An exchange reports "in play" instead of "live", and its events never leave play.
        let in_play = observed.in_play || stored.is_some_and(|stored| stored.in_play);
        let new_start = stored.is_none_or(|stored| stored.starts_at != observed.starts_at);
        let reported = match (observed.status, was) {
            (Scheduled, _) if in_play => Some(Live),
            // Without a reported status, Postponed stays until the start time changes, and a manual Suspended
            // stays until the feed reports a status.
            (Scheduled, Some(Postponed)) if !new_start => Some(Postponed),
            (Scheduled, Some(Suspended)) if stored_by == Some(StatusSource::Correction) => {
                Some(Suspended)
            }
            (Scheduled, _) => None,
            (status, _) => Some(status),
        };
        let by_clock = stored_by == Some(StatusSource::Clock);
        let taken_back = match was {
            Some(Live) => by_clock && observed.starts_at.is_some_and(|start| start > now),
            Some(Completed) => by_clock && observed.listed,
            _ => false,
        };
        let standing = was.filter(|_| !taken_back);
        let status = compute_status(reported, standing, observed.starts_at, observed.listed, now);
        let in_play = match stored {
            Some(stored) if stored.status.is_final() && !observed.status.is_final() => {
                stored.in_play
            }
            _ if observed.status.is_final() => observed.in_play,
            _ => in_play,
        };
        let by = match reported.is_some() || matches!(was, Some(Suspended | Postponed)) {
            true => StatusSource::Feed,
            false => StatusSource::Clock,
        };
        let confirmed = by_clock && was == Some(status) && reported == Some(status);
        ResolvedStatus {
            status,
            in_play,
            by,
            confirmed: confirmed && status.has_begun(),
        }
    }
}

/// The result of [`Event::resolve_status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolvedStatus {
    /// The status.
    pub status: EventStatus,
    /// Bets are taken during play.
    pub in_play: bool,
    /// The origin of the status, if it changed.
    pub by: StatusSource,
    /// The source reports what only the clock had said until now: that the event has begun, or is over.
    pub confirmed: bool,
}

#[cfg(test)]
mod tests;
