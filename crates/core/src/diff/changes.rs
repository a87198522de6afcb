//! The changes of one cycle: what a store has to write, and the outbox entries derived from it.
//! Built by the differ and the status transitions; written by stores, which may also exclude rows.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde_json::json;

use super::OutboxEntry;
use crate::model::{
    Bookmaker, BookmakerId, ChangeKind, CycleCounts, Event, EventId, EventStatus, Fingerprint,
    MarketId, Offer, PriceStatus, RejectedRows, Selection, StatusSource,
};

/// Everything that one cycle has to write. Equal input gives an equal order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// When the snapshot was requested, by the daemon's clock.
    pub as_of: DateTime<Utc>,
    /// The cycle that requested it. Orders snapshots.
    pub cycle: i64,
    /// New bookmakers.
    pub bookmakers: Vec<StoredBookmaker>,
    /// By row.
    pub events: Vec<EventChange>,
    /// Events of which nothing changed, but the source reports the status that only the clock had said. Only the log of
    /// transitions gets a row: no answer is wrong.
    pub confirmed: Vec<EventChange>,
    /// By row.
    pub selections: Vec<SelectionChange>,
    /// By row.
    pub prices: Vec<PriceChange>,
    /// Unchanged prices with a newer feed time: kept in memory, never written.
    pub refreshed: Vec<RefreshedPrices>,
    /// Events that the snapshot contained or removed.
    pub checked: Vec<EventId>,
    /// Fingerprints of texts that may be skipped once these changes are stored.
    pub(super) fingerprints: Vec<(EventId, EventFingerprint)>,
    /// The size of the snapshot.
    pub stats: SnapshotStats,
    /// Counts of its prices.
    pub counts: CycleCounts,
    /// Its rejected rows.
    pub rejected: RejectedRows,
    /// Set if the snapshot was suspiciously short and removals wait for a second one.
    pub pending_removals: Option<PendingRemovals>,
    /// How many of the events were unlisted because they lie outside of what the feed is asked for.
    pub unlisted_outside: usize,
    /// The ids to continue from.
    pub next_ids: IdAllocator,
    /// No snapshot was fetched: the clock or an operator changed statuses, and nothing was checked.
    pub clock_driven: bool,
    /// Ids of the manual corrections that these changes carry out.
    pub corrections: Vec<i64>,
}

/// The next free row id of each table. The daemon assigns them, not the database: there is one writer (the lease
/// ensures it), and a cycle that knows its ids beforehand needs one statement instead of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdAllocator {
    /// Of the table of events.
    pub event: i64,
    /// Of the table of selections.
    pub selection: i64,
    /// Of the table of bookmakers.
    pub bookmaker: i64,
    /// Of the table of prices.
    pub price: i64,
}

impl Default for IdAllocator {
    fn default() -> Self {
        Self {
            event: 1,
            selection: 1,
            bookmaker: 1,
            price: 1,
        }
    }
}

/// Assigns one id.
pub(super) fn next_id(next: &mut i64) -> i64 {
    *next += 1;
    *next - 1
}

/// A bookmaker and its row.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredBookmaker {
    /// Its row id.
    pub row: i64,
    /// The bookmaker.
    pub bookmaker: Bookmaker,
}

/// A new or changed event.
#[derive(Clone, Debug, PartialEq)]
pub struct EventChange {
    /// Its row id.
    pub row: i64,
    /// The stored event; `None` if it is new.
    pub before: Option<Event>,
    /// The event to store.
    pub after: Event,
    /// The origin of its status.
    pub status_by: StatusSource,
    /// The status is the same, but now the source reports it, where only the clock had.
    pub confirmed: bool,
}

/// A new or changed selection.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectionChange {
    /// Its row id.
    pub row: i64,
    /// The row id of its event.
    pub event_row: i64,
    /// The id of its event.
    pub event: EventId,
    /// The stored selection; `None` if it is new.
    pub before: Option<Selection>,
    /// The selection to store.
    pub after: Selection,
}

/// The kind of a price change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriceChangeKind {
    /// It was never stored before.
    Inserted,
    /// It was withdrawn and is offered again.
    Reopened,
    /// Its offer or status changed.
    Changed,
    /// It is not offered any more.
    Withdrawn,
}

/// A new or changed price.
#[derive(Clone, Debug, PartialEq)]
pub struct PriceChange {
    /// Its row id.
    pub row: i64,
    /// The row id of its event.
    pub event_row: i64,
    /// The row id of its selection.
    pub selection_row: i64,
    /// The row id of its bookmaker.
    pub bookmaker_row: i64,
    /// The id of its event.
    pub event: EventId,
    /// Its market.
    pub market: MarketId,
    /// See [`PriceChangeKind`].
    pub kind: PriceChangeKind,
    /// The stored decimal odds; `None` for a first price.
    pub before: Option<Decimal>,
    /// The offer to store; of a withdrawn price the last one.
    pub offer: Offer,
    /// The status to store.
    pub status: PriceStatus,
    /// The feed time, if the feed gave one.
    pub observed_at: Option<DateTime<Utc>>,
}

/// Prices of one event that were observed unchanged with a newer feed time.
#[derive(Clone, Debug, PartialEq)]
pub struct RefreshedPrices {
    /// The event.
    pub event: EventId,
    /// Index in the event's stored prices, and the new feed time.
    pub prices: Vec<(u32, DateTime<Utc>)>,
}

/// The fingerprint of the text that an event was stored from, as long as it is stored exactly as the text says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct EventFingerprint {
    pub(super) text: Fingerprint,
    /// Selections in the text.
    pub(super) selections: u32,
    /// Rows in the text that report no price.
    pub(super) no_price: u32,
}

/// The size of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotStats {
    /// Number of events.
    pub events: usize,
    /// Number of selections.
    pub selections: usize,
    /// Bookmakers that offer a price, sorted.
    pub bookmakers: Vec<BookmakerId>,
}

/// Row ids that a snapshot lacked inside its scope. There may be a million of them until the next snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MissingRows {
    /// Of events.
    pub events: BTreeSet<i64>,
    /// Of selections.
    pub selections: BTreeSet<i64>,
    /// Of prices.
    pub prices: BTreeSet<i64>,
}

impl MissingRows {
    /// The rows that `other` lacks too.
    pub fn intersection(&self, other: &Self) -> Self {
        let both =
            |one: &BTreeSet<i64>, other: &BTreeSet<i64>| one.intersection(other).copied().collect();
        Self {
            events: both(&self.events, &other.events),
            selections: both(&self.selections, &other.selections),
            prices: both(&self.prices, &other.prices),
        }
    }

    /// Whether no row is missing.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.selections.is_empty() && self.prices.is_empty()
    }
}

/// Removals that wait until a second snapshot confirms them.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingRemovals {
    /// Missing open prices.
    pub prices: usize,
    /// Open prices inside the scope.
    pub open_prices: usize,
    /// Missing events.
    pub events: usize,
    /// Listed events inside the scope.
    pub listed_events: usize,
    /// The rows to compare with the next snapshot.
    pub missing: MissingRows,
}

/// Protects against short answers: if more than this share of the scope is missing, rows are removed only if an earlier
/// snapshot lacked them too.
#[derive(Clone, Copy, Debug)]
pub struct ShrinkGuard<'a> {
    /// 0 to 1; 1 switches the guard off.
    pub max_removed_fraction: f64,
    /// The rows that an earlier snapshot held back, if it is old enough to be confirmed.
    pub previous_missing: Option<&'a MissingRows>,
}

impl ShrinkGuard<'_> {
    /// Accepts every absence.
    pub const OFF: ShrinkGuard<'static> = ShrinkGuard {
        max_removed_fraction: 1.0,
        previous_missing: None,
    };

    pub(super) fn is_exceeded(&self, missing: usize, of: usize) -> bool {
        missing as f64 > self.max_removed_fraction * of as f64
    }
}

/// Row ids to exclude from a cycle because the database refuses them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExcludedRows {
    /// Whole events with their selections and prices.
    pub events: HashSet<i64>,
    /// Single prices.
    pub prices: HashSet<i64>,
}

impl EventChange {
    /// The status before (`None` for a new event) and after, if they differ.
    pub fn status_transition(&self) -> Option<(Option<EventStatus>, EventStatus)> {
        let before = self.before.as_ref().map(|before| before.status);
        (before != Some(self.after.status)).then_some((before, self.after.status))
    }

    /// The statuses before and after for the log of transitions: of a new status, and of one that the source confirms.
    pub fn logged_transition(&self) -> Option<(Option<EventStatus>, EventStatus)> {
        let confirmed = self
            .confirmed
            .then_some((Some(self.after.status), self.after.status));
        self.status_transition().or(confirmed)
    }

    fn add_to(&self, entry: &mut OutboxEntry) {
        let after = &self.after;
        let Some(before) = &self.before else {
            entry.kinds.insert(ChangeKind::EventAdded);
            return;
        };
        if before.listed && !after.listed {
            entry.kinds.insert(ChangeKind::EventRemoved);
        } else if !before.equals_except_status(after) {
            entry.kinds.insert(ChangeKind::EventChanged);
        }
        if (before.status, before.in_play) != (after.status, after.in_play) {
            entry.kinds.insert(ChangeKind::StatusChanged);
        }
        if before.status != after.status {
            entry.before = Some(before.status.as_str().into());
            entry.after = Some(after.status.as_str().into());
        }
        let place = |event: &Event| [&event.sport, &event.league, &event.venue].map(String::clone);
        if place(before) != place(after) {
            let was = json!({ "sport_id": before.sport, "league_id": before.league, "venue": before.venue });
            entry.detail = Some(json!({ "was": was }).to_string());
        }
    }
}

impl PriceChange {
    /// The time to store: the feed's, or `as_of` of the snapshot where the feed gives none.
    pub fn stored_time(&self, as_of: DateTime<Utc>) -> DateTime<Utc> {
        self.observed_at.unwrap_or(as_of)
    }
}

impl Changes {
    /// Whether nothing has to be written.
    pub fn is_empty(&self) -> bool {
        self.bookmakers.is_empty()
            && self.events.is_empty()
            && self.confirmed.is_empty()
            && self.selections.is_empty()
            && self.prices.is_empty()
            && self.corrections.is_empty()
    }

    pub(super) fn push_price(&mut self, change: PriceChange) {
        *count_of(&mut self.counts, change.kind) += 1;
        self.prices.push(change);
    }

    /// The outbox entries of this cycle, one for each event.
    pub fn outbox_entries(&self, cycle: i64) -> Vec<OutboxEntry> {
        let mut entries: BTreeMap<&EventId, OutboxEntry> = BTreeMap::new();
        for change in &self.events {
            change.add_to(entries.entry(&change.after.id).or_default());
        }
        for change in &self.selections {
            let entry = entries.entry(&change.event).or_default();
            entry.kinds.insert(ChangeKind::SelectionChanged);
        }
        // The prices of one event are adjacent, so thousands of them need one look-up.
        for prices in self.prices.chunk_by(|a, b| a.event == b.event) {
            let entry = entries.entry(&prices[0].event).or_default();
            let mut changed = None;
            for change in prices {
                entry.kinds.insert(match change.kind {
                    PriceChangeKind::Withdrawn => ChangeKind::PriceWithdrawn,
                    _ => ChangeKind::PriceChanged,
                });
                changed = changed.or((change.kind == PriceChangeKind::Changed).then_some(change));
            }
            if entry.before.is_none() && entry.after.is_none() {
                let price = changed.unwrap_or(&prices[0]);
                entry.before = price.before.map(|odds| odds.normalize().to_string());
                entry.after = (price.kind != PriceChangeKind::Withdrawn)
                    .then(|| price.offer.decimal.normalize().to_string());
            }
        }
        let entries = entries.into_iter();
        entries
            .map(|(event, entry)| OutboxEntry {
                cycle: Some(cycle),
                event: Some(event.clone()),
                ..entry
            })
            .collect()
    }

    /// A subset for a trial commit: the events that pass, with the prices that pass.
    pub fn subset(
        &self,
        event: impl Fn(i64) -> bool,
        price: impl Fn(&PriceChange) -> bool,
    ) -> Self {
        let events = self.events.iter().filter(|change| event(change.row));
        let selections = self.selections.iter();
        let selections = selections.filter(|change| event(change.event_row));
        let mut part = Self {
            as_of: self.as_of,
            cycle: self.cycle,
            next_ids: self.next_ids,
            bookmakers: self.bookmakers.clone(),
            events: events.cloned().collect(),
            selections: selections.cloned().collect(),
            ..Self::default()
        };
        for change in &self.prices {
            if event(change.event_row) && price(change) {
                part.push_price(change.clone());
            }
        }
        part
    }

    /// Removes rows as if the snapshot had not contained them, and counts them as rejected.
    pub fn exclude(&mut self, rows: &ExcludedRows, reason: &'static str, why: &str) {
        let (counts, rejects) = (&mut self.counts, &mut self.rejected);
        let mut affected: HashSet<EventId> = HashSet::new();
        let mut keep = |excluded: bool, event: &EventId, sample: &str| {
            if excluded {
                affected.insert(event.clone());
                rejects.add(reason, format!("{event} {sample}: {why}"));
            }
            !excluded
        };
        self.prices.retain(|change| {
            let excluded =
                rows.events.contains(&change.event_row) || rows.prices.contains(&change.row);
            if excluded {
                *count_of(counts, change.kind) -= 1;
                counts.rejected += 1;
            }
            keep(excluded, &change.event, change.market.as_str())
        });
        self.selections.retain(|change| {
            let excluded = rows.events.contains(&change.event_row);
            keep(excluded, &change.event, change.after.id.as_str())
        });
        self.events.retain(|change| {
            let excluded = rows.events.contains(&change.row);
            keep(excluded, &change.after.id, &change.after.name)
        });
        self.confirmed
            .retain(|change| !rows.events.contains(&change.row));
        // An event that is not stored as its text says must be parsed again.
        self.fingerprints
            .retain(|(event, _)| !affected.contains(event));
    }
}

fn count_of(counts: &mut CycleCounts, kind: PriceChangeKind) -> &mut u64 {
    match kind {
        PriceChangeKind::Inserted => &mut counts.inserted,
        PriceChangeKind::Reopened => &mut counts.reopened,
        PriceChangeKind::Changed => &mut counts.changed,
        PriceChangeKind::Withdrawn => &mut counts.withdrawn,
    }
}
