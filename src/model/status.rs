//! Where an event stands: what the source says of it, and else what the clock says.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Event, EventStatus};

/// At this distance from the start an event is upcoming, exactly at it too.
const UPCOMING: TimeDelta = TimeDelta::hours(2);
/// An event that nobody lists any more is over this long after its start.
const OVER: TimeDelta = TimeDelta::hours(4);

/// The field's words, without spaces, `_` and `-`.
const WORDS: &[(EventStatus, &[&str])] = &[
    (
        EventStatus::Completed,
        &[
            "completed",
            "complete",
            "final",
            "finished",
            "finish",
            "ft",
            "fulltime",
            "closed",
            "ended",
            "end",
            "result",
            "resulted",
            "settled",
            "gameend",
            "matchend",
            "aet",
            "afterextratime",
            "afterpenalties",
            "weighedin",
            "gameover",
            "postgame",
            "statusfinal",
            "statusfulltime",
        ],
    ),
    (
        EventStatus::Live,
        &[
            "live",
            "inprogress",
            "inplay",
            "inrunning",
            "running",
            "started",
            "off",
            "ongoing",
            "playing",
            "gamestart",
            "firsthalf",
            "firsthalfstart",
            "firsthalfend",
            "halftime",
            "ht",
            "break",
            "secondhalf",
            "secondhalfstart",
            "secondhalfend",
            "extratime",
            "overtime",
            "penalties",
            "intermission",
            "statusinprogress",
            "statushalftime",
            "1h",
            "2h",
        ],
    ),
    (
        EventStatus::Upcoming,
        &[
            "upcoming",
            "scheduled",
            "notstarted",
            "ns",
            "pre",
            "pregame",
            "prematch",
            "statusscheduled",
            "goingdown",
            "goingbehind",
            "parading",
            "atthepost",
            "goingtopost",
            "underorders",
            "dormant",
        ],
    ),
    (
        EventStatus::Suspended,
        &[
            "suspended",
            "delayed",
            "interrupted",
            "paused",
            "statusdelayed",
            "statussuspended",
            "raindelay",
        ],
    ),
    (
        EventStatus::Postponed,
        &["postponed", "rescheduled", "statuspostponed"],
    ),
    (
        EventStatus::Cancelled,
        &[
            "cancelled",
            "canceled",
            "cancel",
            "void",
            "voided",
            "walkover",
            "statuscanceled",
        ],
    ),
    (EventStatus::Abandoned, &["abandoned", "abandon"]),
];

/// Who moved an event from one status to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StatusSource {
    Feed,
    Clock,
    /// A person.
    Correction,
}

impl StatusSource {
    pub const ALL: [Self; 3] = [Self::Feed, Self::Clock, Self::Correction];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Feed => "feed",
            Self::Clock => "clock",
            Self::Correction => "correction",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.as_str() == text)
    }
}

impl EventStatus {
    /// The status behind a source's word, in whatever case and spelt with `_`, `-` or spaces. A word for
    /// "not yet" is `Upcoming`. `None` for words that say nothing of it (an exchange's `OPEN`), and for
    /// unknown ones: then the clock decides.
    pub fn from_source(text: &str) -> Option<Self> {
        let word: String = text
            .chars()
            .filter(|c| !matches!(c, '_' | '-') && !c.is_whitespace())
            .flat_map(char::to_lowercase)
            .collect();
        let known = WORDS.iter().find(|(_, words)| words.contains(&&*word));
        known.map(|(status, _)| *status)
    }

    /// How long an answer about an event in this status is fresh.
    pub fn ttl(self) -> Duration {
        Duration::from_secs(match self {
            Self::Live | Self::Suspended => 30,
            Self::Upcoming => 300,
            Self::Scheduled => 1_800,
            Self::Postponed | Self::Cancelled | Self::Abandoned => 3_600,
            Self::Completed => 86_400,
        })
    }

    /// What the clock alone says. Without a start it says nothing.
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

/// Where an event stands at `now`. `source`: its own word in this look, if it has one; `Scheduled` and
/// `Upcoming` alike mean "not yet". Its word wins, otherwise the clock does. What is over stays over, and what
/// has begun does not return to the card: only a person can take that back.
pub fn status_at(
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
            // It has not started, whatever the clock says.
            Some(_) => Upcoming,
            None => Scheduled,
        },
        Some(word) => word,
        // Only a new start, ahead of us, ends a postponement.
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
    /// What the clock makes of it at `now` while nobody looks: never anything earlier, and what only a source
    /// can end it leaves.
    pub fn moved_by_clock(&self, now: DateTime<Utc>) -> Option<EventStatus> {
        self.next_move().filter(|at| *at <= now)?;
        let next = match EventStatus::by_clock(self.starts_at, self.listed, now)? {
            EventStatus::Live if self.status == EventStatus::Suspended => return None,
            next => next,
        };
        (next != self.status).then_some(next)
    }

    /// When the clock moves it next; in the past when that is overdue.
    pub fn next_move(&self) -> Option<DateTime<Utc>> {
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

    /// Where it stands once a look has said `observed` of it at `now`, and who says so. `corrected`: where it
    /// stood was a person's word.
    pub fn standing(
        stored: Option<&Self>,
        corrected: bool,
        observed: &Self,
        now: DateTime<Utc>,
    ) -> (EventStatus, bool, StatusSource) {
        use EventStatus::*;
        let was = stored.map(|stored| stored.status);
        // An exchange says "in play" and not "live", and its event does not come out of play again.
        let in_play = observed.in_play || stored.is_some_and(|stored| stored.in_play);
        let new_start = stored.is_none_or(|stored| stored.starts_at != observed.starts_at);
        let word = match (observed.status, was) {
            (Scheduled, _) if in_play => Some(Live),
            // Silence takes nothing back: only a new start ends a postponement, only a word a person's.
            (Scheduled, Some(Postponed)) if !new_start => Some(Postponed),
            (Scheduled, Some(Suspended)) if corrected => Some(Suspended),
            (Scheduled, _) => None,
            (word, _) => Some(word),
        };
        let status = status_at(word, was, observed.starts_at, observed.listed, now);
        let in_play = match stored {
            Some(stored) if stored.status.is_final() && !observed.status.is_final() => {
                stored.in_play
            }
            _ if observed.status.is_final() => observed.in_play,
            _ => in_play,
        };
        let source = match word.is_some() || matches!(was, Some(Suspended | Postponed)) {
            true => StatusSource::Feed,
            false => StatusSource::Clock,
        };
        (status, in_play, source)
    }
}

#[cfg(test)]
mod laws;
