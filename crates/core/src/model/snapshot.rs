//! A feed's answer at one moment: its events, the scope it covers, and its rejected rows.
//! Feeds build it; `diff` compares it with the stored state.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

use super::{
    Attributes, Bookmaker, BookmakerId, Event, EventId, MarketId, Price, Selection, SelectionId,
    SelectionStatus, sanitize_text,
};

/// Everything that a feed reported about one event.
#[derive(Clone, Debug, PartialEq)]
pub struct EventSnapshot {
    /// The event itself.
    pub event: Event,
    /// Its selections, in the feed's order.
    pub selections: Vec<Selection>,
    /// Its prices, in the feed's order.
    pub prices: Vec<Price>,
    /// True: a stored selection or price missing here is removed. False: this is a delta, and
    /// only what it names has changed.
    pub complete: bool,
    /// Rejected rows of this event: a missing row that one of them may have been is not removed.
    pub in_doubt: Vec<RowInDoubt>,
}

impl EventSnapshot {
    /// Makes the point a part of the key of each price in the markets that `has_lines` names. A selection that only
    /// such prices named is replaced by its lines.
    pub fn split_lines(&mut self, has_lines: impl Fn(&MarketId) -> bool) {
        let mut replaced: HashSet<SelectionId> = HashSet::new();
        for price in &mut self.prices {
            let point = price.offer.and_then(|offer| offer.point);
            if let Some(point) = point.filter(|_| has_lines(&price.key.market))
                && !price.key.selection.is_line(point)
            {
                let line = SelectionId::line(price.key.selection.as_str(), point);
                replaced.insert(std::mem::replace(&mut price.key.selection, line));
            }
        }
        for row in &mut self.in_doubt {
            if let RowInDoubt::Price {
                market: Some(market),
                selection,
                ..
            } = row
                && has_lines(market)
            {
                // It may have been any line.
                *selection = None;
            }
        }
        if replaced.is_empty() {
            return;
        }
        let named: HashSet<&SelectionId> = self.prices.iter().map(|p| &p.key.selection).collect();
        self.selections
            .retain(|known| named.contains(&known.id) || !replaced.contains(&known.id));
        let mut listed: HashSet<SelectionId> = self
            .selections
            .iter()
            .map(|known| known.id.clone())
            .collect();
        for price in &self.prices {
            if has_lines(&price.key.market) && listed.insert(price.key.selection.clone()) {
                self.selections.push(Selection {
                    id: price.key.selection.clone(),
                    name: price.key.selection.to_string(),
                    status: SelectionStatus::Active,
                    attributes: Attributes::new(),
                });
            }
        }
    }
}

/// A rejected row of an event, as far as its key could be read. The stored rows that it may have been keep their
/// values; every other missing row is removed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RowInDoubt {
    /// A price, and the selection that it names. A part of the key that is `None` may have been any.
    Price {
        /// The kind of bet.
        market: Option<MarketId>,
        /// The runner, team or outcome.
        selection: Option<SelectionId>,
        /// The bookmaker.
        bookmaker: Option<BookmakerId>,
    },
    /// A selection without an id, with its prices: it may have been any that the snapshot does not list.
    Selection,
}

/// Rejected events of an answer, as far as their ids could be read. None that is missing and may have been one of
/// them is removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventsInDoubt {
    /// Those whose id could be read.
    pub ids: BTreeSet<EventId>,
    /// There is one without an id, which may have been any missing event.
    pub unidentified: bool,
}

impl EventsInDoubt {
    /// Adds a rejected event; `None`: its id could not be read.
    pub fn add(&mut self, id: Option<EventId>) {
        match id {
            Some(id) => {
                self.ids.insert(id);
            }
            None => self.unidentified = true,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty() && !self.unidentified
    }
}

/// The events that a fetch asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchRequest {
    /// The feed's whole scope: every polled day, or the whole league.
    Everything,
    /// Only these events, where the provider has a call for one event.
    Events(Vec<EventId>),
}

/// The set of events that an answer covers. A stored event missing inside the scope has been removed;
/// outside it, absence means nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All events of these card dates, in these regions (none named: in all of them).
    Days {
        /// Card dates.
        days: Vec<NaiveDate>,
        /// Compared with the event's league, ignoring case.
        regions: Vec<String>,
    },
    /// All open events of one league.
    League(String),
    /// All open events of several leagues.
    Leagues(Vec<String>),
    /// Exactly these events, requested by id.
    Events(Vec<EventId>),
    /// Only the events in the answer.
    Listed,
}

impl Scope {
    /// Whether the event lies inside the scope.
    pub fn covers(&self, event: &Event) -> bool {
        match self {
            Self::Days { days, regions } => {
                event.day.is_some_and(|day| days.contains(&day))
                    && (regions.is_empty()
                        || regions
                            .iter()
                            .any(|r| r.eq_ignore_ascii_case(&event.league)))
            }
            Self::League(league) => *league == event.league,
            Self::Leagues(leagues) => leagues.contains(&event.league),
            Self::Events(ids) => ids.contains(&event.id),
            Self::Listed => false,
        }
    }

    /// Whether it describes a whole list, not single events.
    pub fn is_a_whole_list(&self) -> bool {
        match self {
            Self::Days { days, .. } => !days.is_empty(),
            Self::League(_) | Self::Leagues(_) => true,
            Self::Events(_) | Self::Listed => false,
        }
    }
}

/// A complete answer of a feed.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The feed's name.
    pub source: Arc<str>,
    /// When the request was sent, by the daemon's clock. Statuses are resolved with it; it orders no snapshots, except
    /// recorded ones.
    pub as_of: DateTime<Utc>,
    /// The events that the answer covers.
    pub scope: Scope,
    /// In the feed's order.
    pub events: Vec<EventSnapshot>,
    /// Events that could not be read.
    pub in_doubt: EventsInDoubt,
    /// The bookmakers that occur, with the feed's names.
    pub bookmakers: Vec<Bookmaker>,
    /// Rows that could not be used.
    pub rejected: RejectedRows,
}

/// A [`Snapshot`] without its events: what is known once they have been delivered one by one.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotMeta {
    /// See [`Snapshot::source`].
    pub source: Arc<str>,
    /// See [`Snapshot::as_of`].
    pub as_of: DateTime<Utc>,
    /// See [`Snapshot::scope`].
    pub scope: Scope,
    /// See [`Snapshot::in_doubt`].
    pub in_doubt: EventsInDoubt,
    /// See [`Snapshot::bookmakers`].
    pub bookmakers: Vec<Bookmaker>,
    /// See [`Snapshot::rejected`].
    pub rejected: RejectedRows,
}

/// The fingerprint of the raw text of one event (XXH3, 128 bits). An equal text need not be parsed again; two
/// texts with one fingerprint would have to be made on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// XXH3 of the text.
    pub hash: u128,
    /// Length of the text in bytes.
    pub len: usize,
}

impl Fingerprint {
    /// Computes the fingerprint.
    pub fn compute(text: &[u8]) -> Self {
        Self {
            hash: xxhash_rust::xxh3::xxh3_128(text),
            len: text.len(),
        }
    }
}

/// Rejected rows: their number and one sample for each reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RejectedRows {
    /// By the name of the reason.
    pub by_reason: BTreeMap<&'static str, RejectedGroup>,
}

/// Rows rejected for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RejectedGroup {
    /// Number of rows.
    pub rows: u64,
    /// The first of them, shortened for logs.
    pub sample: String,
}

/// Samples go to logs: keep them short.
const SAMPLE_CHARS: usize = 120;

impl RejectedRows {
    /// Counts one row.
    pub fn add(&mut self, reason: &'static str, sample: impl fmt::Display) {
        self.add_rows(reason, 1, sample);
    }

    /// Counts several rows that were rejected together.
    pub fn add_rows(&mut self, reason: &'static str, rows: u64, sample: impl fmt::Display) {
        let entry = self.by_reason.entry(reason).or_default();
        if entry.rows == 0 {
            entry.sample = sanitize_text(&sample.to_string(), SAMPLE_CHARS);
        }
        entry.rows += rows;
    }

    /// Adds the rows of another part of the answer.
    pub fn merge(&mut self, other: Self) {
        for (reason, reject) in other.by_reason {
            self.add_rows(reason, reject.rows, reject.sample);
        }
    }

    /// Number of rejected rows.
    pub fn total(&self) -> u64 {
        self.by_reason.values().map(|r| r.rows).sum()
    }

    /// Whether nothing was rejected.
    pub fn is_empty(&self) -> bool {
        self.by_reason.is_empty()
    }
}

impl fmt::Display for RejectedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (reason, reject)) in self.by_reason.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(
                f,
                "{comma}{}× {reason} (e.g. {})",
                reject.rows, reject.sample
            )?;
        }
        Ok(())
    }
}
