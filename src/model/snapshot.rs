//! What a feed said at one moment, what it speaks for, and what of it could not be used.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

use super::{Bookmaker, Event, EventId, Price, Selection, plain_text};

/// Everything a feed said about one event.
#[derive(Clone, Debug, PartialEq)]
pub struct EventSnapshot {
    pub event: Event,
    pub selections: Vec<Selection>,
    pub prices: Vec<Price>,
    /// True: a stored selection or price missing here is gone. False: this is a delta, and
    /// only what it names has changed.
    pub complete: bool,
}

/// What an answer speaks for. A stored event missing inside the scope has been removed;
/// outside it, absence means nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All events of these card dates, in these regions (none named: in all of them).
    Days {
        days: Vec<NaiveDate>,
        regions: Vec<String>,
    },
    /// All open events of one league.
    League(String),
    /// Exactly these events, asked for by name.
    Events(Vec<EventId>),
    /// Only what is listed.
    Listed,
}

impl Scope {
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
            Self::Events(ids) => ids.contains(&event.id),
            Self::Listed => false,
        }
    }
}

/// What a feed said at one moment, and the scope it speaks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub source: Arc<str>,
    /// When we asked. Orders snapshots: one asked earlier never overrides one asked later.
    pub as_of: DateTime<Utc>,
    pub scope: Scope,
    pub events: Vec<EventSnapshot>,
    /// Names of the bookmakers that occur, as the feed spells them.
    pub bookmakers: Vec<Bookmaker>,
    pub rejects: Rejects,
}

/// What an answer says as a whole, once its events have been handed over one by one.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    pub source: Arc<str>,
    /// See [`Snapshot::as_of`].
    pub as_of: DateTime<Utc>,
    pub scope: Scope,
    pub bookmakers: Vec<Bookmaker>,
    pub rejects: Rejects,
}

/// The text of one event in an answer, by its fingerprint (XXH3, 128 bits): the same text says the
/// same, and need not be read again. Two texts that share one would have to be made on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slice {
    pub hash: u128,
    /// In bytes.
    pub len: usize,
}

impl Slice {
    pub fn of(text: &[u8]) -> Self {
        Self {
            hash: xxhash_rust::xxh3::xxh3_128(text),
            len: text.len(),
        }
    }
}

/// Rows that were set aside: how many for each reason, and a sample to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rejects {
    pub by_reason: BTreeMap<&'static str, Reject>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reject {
    pub rows: u64,
    pub sample: String,
}

/// Samples go to logs: keep them short.
const SAMPLE_CHARS: usize = 120;

impl Rejects {
    pub fn add(&mut self, reason: &'static str, sample: impl fmt::Display) {
        self.add_rows(reason, 1, sample);
    }

    pub fn add_rows(&mut self, reason: &'static str, rows: u64, sample: impl fmt::Display) {
        let entry = self.by_reason.entry(reason).or_default();
        if entry.rows == 0 {
            entry.sample = plain_text(&sample.to_string(), SAMPLE_CHARS);
        }
        entry.rows += rows;
    }

    pub fn merge(&mut self, other: Self) {
        for (reason, reject) in other.by_reason {
            self.add_rows(reason, reject.rows, reject.sample);
        }
    }

    pub fn total(&self) -> u64 {
        self.by_reason.values().map(|r| r.rows).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.by_reason.is_empty()
    }
}

impl fmt::Display for Rejects {
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
