//! Races and games, and who takes part in them.

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

use super::{EventId, Facts, SelectionId};

/// Where an event stands (`super::status` says how it moves). In what a feed hands over, `Scheduled` means that
/// the source has no word for it: the clock decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventStatus {
    Scheduled,
    /// Starts within two hours.
    Upcoming,
    Live,
    Suspended,
    Postponed,
    Completed,
    Cancelled,
    Abandoned,
}

impl EventStatus {
    pub const ALL: [Self; 8] = [
        Self::Scheduled,
        Self::Upcoming,
        Self::Live,
        Self::Suspended,
        Self::Postponed,
        Self::Completed,
        Self::Cancelled,
        Self::Abandoned,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Upcoming => "upcoming",
            Self::Live => "live",
            Self::Suspended => "suspended",
            Self::Postponed => "postponed",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Abandoned => "abandoned",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// Over, one way or another: nothing more is offered on it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Abandoned)
    }
}

/// A race or a game.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub id: EventId,
    /// Which feed speaks for it: `racing_api`, `odds_api`, `betfair`.
    pub source: Arc<str>,
    /// `horse_racing`, `greyhounds`, or the provider's sport.
    pub sport: String,
    /// League, region or competition: `GB`, `baseball_mlb`.
    pub league: String,
    pub venue: String,
    pub name: String,
    pub starts_at: Option<DateTime<Utc>>,
    /// The card's own (local) date, where the feed is asked by date.
    pub day: Option<NaiveDate>,
    pub status: EventStatus,
    pub in_play: bool,
    /// False once the event has left an answer whose scope covers it.
    pub listed: bool,
    pub facts: Facts,
}

impl Event {
    /// Whether it says the same of everything but its status.
    pub fn same_facts(&self, other: &Self) -> bool {
        let Self {
            id,
            source,
            sport,
            league,
            venue,
            name,
            starts_at,
            day,
            status: _,
            in_play: _,
            listed,
            facts,
        } = self;
        (id, source, sport, league) == (&other.id, &other.source, &other.sport, &other.league)
            && (venue, name, starts_at) == (&other.venue, &other.name, &other.starts_at)
            && (day, listed, facts) == (&other.day, &other.listed, &other.facts)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SelectionStatus {
    Active,
    /// Declared, then taken out of the race.
    NonRunner,
    /// Runs only if another is withdrawn.
    Reserve,
    /// Removed from the market by the exchange, or gone from the card.
    Removed,
    Winner,
    Placed,
    Loser,
}

impl SelectionStatus {
    pub const ALL: [Self; 7] = [
        Self::Active,
        Self::NonRunner,
        Self::Reserve,
        Self::Removed,
        Self::Winner,
        Self::Placed,
        Self::Loser,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::NonRunner => "non_runner",
            Self::Reserve => "reserve",
            Self::Removed => "removed",
            Self::Winner => "winner",
            Self::Placed => "placed",
            Self::Loser => "loser",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    pub fn is_out(self) -> bool {
        matches!(self, Self::NonRunner | Self::Removed)
    }
}

/// A runner, team or outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    pub id: SelectionId,
    pub name: String,
    pub status: SelectionStatus,
    pub facts: Facts,
}
