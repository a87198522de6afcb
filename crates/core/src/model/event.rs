//! Events (races and games) and their selections (runners, teams, outcomes).
//! Built by feed parsers and stores; compared by `diff`.

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr, VariantArray};

use super::{Attributes, EventId, SelectionId, text_forms};

/// The status of an event; `model::status` defines its transitions. In a feed's snapshot, `Scheduled` means that
/// the source reported no status: the clock decides.
#[derive(EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventStatus {
    /// Starts in more than two hours, or at an unknown time.
    Scheduled,
    /// Starts within two hours.
    Upcoming,
    /// Started.
    Live,
    /// Betting or play is interrupted.
    Suspended,
    /// Waits for a new start time.
    Postponed,
    /// Ended as planned.
    Completed,
    /// Will not take place.
    Cancelled,
    /// Ended before its result.
    Abandoned,
}

text_forms!(EventStatus);

impl EventStatus {
    /// Whether the event is over: no further prices are expected.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Abandoned)
    }
}

/// A race or a game.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The provider's id.
    pub id: EventId,
    /// The feed that reports it: `racing_api`, `odds_api`, `betfair`.
    pub source: Arc<str>,
    /// `horse_racing`, `greyhounds`, or the provider's sport.
    pub sport: String,
    /// League, region or competition: `GB`, `baseball_mlb`.
    pub league: String,
    /// Course or ground.
    pub venue: String,
    /// Title of the race, or both teams.
    pub name: String,
    /// Start time (racing: the off).
    pub starts_at: Option<DateTime<Utc>>,
    /// The card's own (local) date, where the feed is asked by date.
    pub day: Option<NaiveDate>,
    /// See [`EventStatus`].
    pub status: EventStatus,
    /// Bets are taken during play.
    pub in_play: bool,
    /// False once the event has left an answer whose scope covers it.
    pub listed: bool,
    /// Further attributes by name.
    pub attributes: Attributes,
}

impl Event {
    /// Whether all fields but status and in-play are equal.
    pub fn equals_except_status(&self, other: &Self) -> bool {
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
            attributes,
        } = self;
        (id, source, sport, league) == (&other.id, &other.source, &other.sport, &other.league)
            && (venue, name, starts_at) == (&other.venue, &other.name, &other.starts_at)
            && (day, listed, attributes) == (&other.day, &other.listed, &other.attributes)
    }
}

/// The status of a selection.
#[derive(EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SelectionStatus {
    /// Takes part.
    Active,
    /// Declared, then taken out of the race.
    NonRunner,
    /// Runs only if another is withdrawn.
    Reserve,
    /// Removed from the market by the exchange, or gone from the card.
    Removed,
    /// Won.
    Winner,
    /// Finished in a paid place.
    Placed,
    /// Did not win or place.
    Loser,
}

text_forms!(SelectionStatus);

impl SelectionStatus {
    /// Whether it has left the market.
    pub fn is_withdrawn(self) -> bool {
        matches!(self, Self::NonRunner | Self::Removed)
    }
}

/// A runner, team or outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Unique within its event.
    pub id: SelectionId,
    /// Display name.
    pub name: String,
    /// See [`SelectionStatus`].
    pub status: SelectionStatus,
    /// Further attributes by name.
    pub attributes: Attributes,
}
