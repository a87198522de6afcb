//! What one cycle has to write, and when an answer is too short to be believed.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use super::aside::by_kind;
use super::book::{NextRows, Text};
use crate::model::{
    Bookmaker, BookmakerId, Counts, Event, EventId, MarketId, Offer, PriceStatus, Rejects,
    Selection, StatusSource,
};

/// Everything one cycle has to write, in an order that is the same for the same input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    pub as_of: DateTime<Utc>,
    pub bookmakers: Vec<BookmakerChange>,
    pub events: Vec<EventChange>,
    pub selections: Vec<SelectionChange>,
    pub prices: Vec<PriceChange>,
    /// Unchanged prices whose feed time moved on: remembered, never written.
    pub touched: Vec<Touched>,
    /// Events that this snapshot spoke of.
    pub checked: Vec<EventId>,
    /// Texts to be skipped from now on, once these changes are stored.
    pub(super) texts: Vec<(EventId, Text)>,
    pub extent: Extent,
    pub counts: Counts,
    pub rejects: Rejects,
    /// Set when the answer was suspiciously short and removals wait for a second look.
    pub held_back: Option<HeldBack>,
    pub next: NextRows,
    /// The clock or a person moved events, and nobody looked: nothing was checked.
    pub unlooked: bool,
    /// Corrections that these changes carry out.
    pub corrections: Vec<i64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct BookmakerChange {
    pub row: i64,
    pub bookmaker: Bookmaker,
}

#[derive(Clone, Debug, PartialEq)]
pub struct EventChange {
    pub row: i64,
    pub before: Option<Event>,
    pub after: Event,
    /// Who says where it stands now.
    pub status_by: StatusSource,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SelectionChange {
    pub row: i64,
    pub event_row: i64,
    pub event: EventId,
    pub before: Option<Selection>,
    pub after: Selection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriceChangeKind {
    Inserted,
    /// Was withdrawn, is offered again.
    Reopened,
    Changed,
    Withdrawn,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PriceChange {
    pub row: i64,
    pub event_row: i64,
    pub selection_row: i64,
    pub bookmaker_row: i64,
    pub event: EventId,
    pub market: MarketId,
    pub kind: PriceChangeKind,
    /// The decimal odds that were stored; `None` for a first price.
    pub before: Option<Decimal>,
    pub offer: Offer,
    pub status: PriceStatus,
    pub observed_at: DateTime<Utc>,
}

/// Prices of one event, by their place in its list.
#[derive(Clone, Debug, PartialEq)]
pub struct Touched {
    pub event: EventId,
    pub prices: Vec<(u32, DateTime<Utc>)>,
}

/// How much a snapshot spoke of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    pub events: usize,
    pub selections: usize,
    /// Sorted.
    pub bookmakers: Vec<BookmakerId>,
}

/// Rows that an answer left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    pub events: Rows,
    pub selections: Rows,
    pub prices: Rows,
}

/// Row numbers, sorted: there may be a million of them, kept until the next look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows(Vec<i64>);

impl Rows {
    pub fn contains(&self, row: i64) -> bool {
        self.0.binary_search(&row).is_ok()
    }
}

impl FromIterator<i64> for Rows {
    fn from_iter<I: IntoIterator<Item = i64>>(rows: I) -> Self {
        let mut rows: Vec<i64> = rows.into_iter().collect();
        rows.sort_unstable();
        Self(rows)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct HeldBack {
    /// Open prices and listed events that the answer left out, and how many its scope holds.
    pub prices: usize,
    pub open_prices: usize,
    pub events: usize,
    pub listed_events: usize,
    /// What to compare the second look with.
    pub missing: Missing,
}

/// Protects against short answers: more than this share of the scope missing is believed only
/// when the look before missed it too.
#[derive(Clone, Copy, Debug)]
pub struct Guard<'a> {
    /// 0 to 1; 1 switches the guard off.
    pub max_removed_fraction: f64,
    /// What the look before held back.
    pub first_look: Option<&'a Missing>,
}

impl Guard<'_> {
    pub const OFF: Guard<'static> = Guard {
        max_removed_fraction: 1.0,
        first_look: None,
    };

    pub(super) fn trips(&self, missing: usize, of: usize) -> bool {
        missing as f64 > self.max_removed_fraction * of as f64
    }
}

impl Changes {
    /// True when nothing has to be written.
    pub fn is_quiet(&self) -> bool {
        self.bookmakers.is_empty()
            && self.events.is_empty()
            && self.selections.is_empty()
            && self.prices.is_empty()
            && self.corrections.is_empty()
    }
}

impl Changes {
    pub(super) fn push_price(&mut self, change: PriceChange) {
        *by_kind(&mut self.counts, change.kind) += 1;
        self.prices.push(change);
    }
}
