//! `diff(stored, observed) -> changes`: the one place that decides what a change is.
//!
//! Two clocks order observations and are never mixed. `Snapshot::as_of` (ours: when we asked)
//! orders snapshots and decides about absence; `Price::observed_at` (the feed's) orders the values
//! of one price. A snapshot asked earlier than the last one says nothing new, and a price with an
//! older feed time than the stored one is an old answer, whatever brought it.

mod absent;
pub mod book;
mod changes;
mod storable;
mod take;

use std::collections::{HashMap, HashSet};

use crate::model::{
    Bookmaker, Event, EventId, EventSnapshot, Price, PriceKey, PriceStatus, SelectionStatus,
    Snapshot,
};
use absent::{Absent, open_prices};
use book::{Book, StoredEvent, StoredPrice, take};
pub use changes::{
    BookmakerChange, Changes, EventChange, Guard, HeldBack, Missing, PriceChange, PriceChangeKind,
    SelectionChange, Touch,
};
pub use take::{Collected, Take};

/// Compares what is stored with what was observed. Pure: no clock, no I/O.
pub fn diff(book: &Book, observed: &Snapshot, guard: &Guard) -> Changes {
    let mut cycle = Differ {
        book,
        observed,
        absent: Absent::default(),
        bookmaker_rows: HashMap::new(),
        changes: Changes {
            as_of: observed.as_of,
            next: book.next,
            rejects: observed.rejects.clone(),
            ..Changes::default()
        },
    };
    cycle.changes.counts.rejected = observed.rejects.total();
    cycle.changes.counts.seen = observed.rejects.total();
    cycle.bookmakers();

    let mut listed = HashSet::with_capacity(observed.events.len());
    for event in &observed.events {
        if listed.insert(&event.event.id) {
            cycle.event(event);
        } else {
            cycle.reject(
                "duplicate_event",
                event.prices.len() as u64,
                &event.event.id,
            );
        }
    }
    cycle.absent_events(&listed);
    cycle.removals(guard);
    cycle.finish()
}

struct Differ<'a> {
    book: &'a Book,
    observed: &'a Snapshot,
    absent: Absent<'a>,
    bookmaker_rows: HashMap<&'a str, i64>,
    changes: Changes,
}

impl<'a> Differ<'a> {
    fn bookmakers(&mut self) {
        for bookmaker in &self.observed.bookmakers {
            if let Some(reason) = storable::bookmaker(bookmaker) {
                self.reject(reason, 1, &bookmaker.name);
                continue;
            }
            if self.bookmaker_rows.contains_key(bookmaker.id.as_str()) {
                continue;
            }
            let row = match self.book.bookmakers.get(&bookmaker.id) {
                // A drifting spelling ("Spread Ex") is not worth a write: the first one stays.
                Some(stored) => stored.row,
                None => self.new_bookmaker(bookmaker.clone()),
            };
            self.bookmaker_rows.insert(bookmaker.id.as_str(), row);
        }
    }

    fn new_bookmaker(&mut self, bookmaker: Bookmaker) -> i64 {
        let row = take(&mut self.changes.next.bookmaker);
        self.changes
            .bookmakers
            .push(BookmakerChange { row, bookmaker });
        row
    }

    fn bookmaker_row(&mut self, key: &'a PriceKey) -> i64 {
        if let Some(row) = self.bookmaker_rows.get(key.bookmaker.as_str()) {
            return *row;
        }
        let row = match self.book.bookmakers.get(&key.bookmaker) {
            Some(stored) => stored.row,
            None => self.new_bookmaker(Bookmaker {
                id: key.bookmaker.clone(),
                name: key.bookmaker.to_string(),
            }),
        };
        self.bookmaker_rows.insert(key.bookmaker.as_str(), row);
        row
    }

    fn reject(&mut self, reason: &'static str, rows: u64, sample: impl std::fmt::Display) {
        self.changes.counts.seen += rows;
        self.changes.counts.rejected += rows;
        self.changes.rejects.add_rows(reason, rows, sample);
    }

    fn event(&mut self, observed: &'a EventSnapshot) {
        if let Some(reason) = storable::event(&observed.event) {
            let rows = observed.prices.len().max(1) as u64;
            return self.reject(reason, rows, &observed.event.id);
        }
        let stored = self.book.events.get(&observed.event.id);
        if let Some(stored) = stored {
            if stored.checked_at > self.observed.as_of {
                let rows = observed.prices.len() as u64;
                self.changes.counts.seen += rows;
                self.changes.counts.stale += rows;
                return;
            }
            if stored.event.listed {
                self.absent.listed_events += 1;
            }
            if observed.complete {
                self.absent.open_prices += open_prices(stored);
            }
        }
        self.changes.checked.push(observed.event.id.clone());
        let event_row = self.event_facts(stored, &observed.event);
        let selection_rows = self.selections(stored, event_row, observed);
        self.prices(stored, event_row, &selection_rows, observed);
    }

    /// Compares the event's own facts; returns its row.
    fn event_facts(&mut self, stored: Option<&StoredEvent>, observed: &Event) -> i64 {
        let Some(stored) = stored else {
            let row = take(&mut self.changes.next.event);
            self.changes.events.push(EventChange {
                row,
                before: None,
                after: observed.clone(),
            });
            return row;
        };
        if stored.event != *observed {
            let mut after = observed.clone();
            if observed.rank() < stored.event.rank() {
                after.status = stored.event.status;
                after.in_play = stored.event.in_play;
            }
            if stored.event != after {
                let before = Some(stored.event.clone());
                self.changes.events.push(EventChange {
                    row: stored.row,
                    before,
                    after,
                });
            }
        }
        stored.row
    }

    fn selections(
        &mut self,
        stored: Option<&'a StoredEvent>,
        event_row: i64,
        observed: &'a EventSnapshot,
    ) -> HashMap<&'a str, i64> {
        let event = &observed.event.id;
        let mut rows = HashMap::with_capacity(observed.selections.len());
        for selection in &observed.selections {
            if rows.contains_key(selection.id.as_str()) {
                self.changes
                    .rejects
                    .add("duplicate_selection", &selection.id);
                self.changes.counts.rejected += 1;
                self.changes.counts.seen += 1;
                continue;
            }
            let known = stored.and_then(|s| s.selections.get(&selection.id));
            if let Some(reason) = storable::selection(selection) {
                self.reject(reason, 1, &selection.id);
                // Not understood is not absent.
                rows.extend(known.map(|known| (selection.id.as_str(), known.row)));
                continue;
            }
            let row = match known {
                Some(known) => known.row,
                None => take(&mut self.changes.next.selection),
            };
            rows.insert(selection.id.as_str(), row);
            if known.is_none_or(|known| known.selection != *selection) {
                self.changes.selections.push(SelectionChange {
                    row,
                    event_row,
                    event: event.clone(),
                    before: known.map(|known| known.selection.clone()),
                    after: selection.clone(),
                });
            }
        }
        if let (Some(stored), true) = (stored, observed.complete) {
            for (id, known) in &stored.selections {
                if !rows.contains_key(id.as_str())
                    && known.selection.status != SelectionStatus::Removed
                {
                    self.absent.selections.push((stored, id));
                }
            }
        }
        rows
    }

    fn prices(
        &mut self,
        stored: Option<&'a StoredEvent>,
        event_row: i64,
        selection_rows: &HashMap<&'a str, i64>,
        observed: &'a EventSnapshot,
    ) {
        let mut seen: HashMap<&PriceKey, &Price> = HashMap::with_capacity(observed.prices.len());
        for price in &observed.prices {
            // Two spellings of one key: the later feed time counts, then the first listed.
            match seen.get(&price.key) {
                Some(first) if first.observed_at >= price.observed_at => {
                    self.reject("duplicate_price", 1, &price.key.bookmaker);
                }
                Some(_) => {
                    self.reject("duplicate_price", 1, &price.key.bookmaker);
                    seen.insert(&price.key, price);
                }
                None => {
                    seen.insert(&price.key, price);
                }
            }
        }
        for price in &observed.prices {
            if !std::ptr::eq(seen[&price.key], price) {
                continue;
            }
            if let Some(reason) = storable::price(price) {
                self.reject(reason, 1, &price.key.bookmaker);
                continue;
            }
            let known = stored.and_then(|s| s.prices.get(&price.key));
            let selection_row = selection_rows
                .get(price.key.selection.as_str())
                .copied()
                .or_else(|| {
                    let stored = stored?.selections.get(&price.key.selection)?;
                    Some(stored.row)
                });
            match selection_row {
                Some(row) => self.price(&observed.event.id, event_row, row, price, known),
                None => self.reject("unknown_selection", 1, &price.key.selection),
            }
        }
        if let (Some(stored), true) = (stored, observed.complete) {
            for (key, known) in &stored.prices {
                if known.is_open() && !seen.contains_key(key) {
                    self.absent.prices.push((stored, key, known));
                }
            }
        }
    }

    fn price(
        &mut self,
        event: &EventId,
        event_row: i64,
        selection_row: i64,
        price: &'a Price,
        known: Option<&StoredPrice>,
    ) {
        self.changes.counts.seen += 1;
        if known.is_some_and(|known| price.observed_at < known.observed_at) {
            self.changes.counts.stale += 1;
            return;
        }
        let status = if price.suspended {
            PriceStatus::Suspended
        } else {
            PriceStatus::Open
        };
        let (kind, offer, status) = match (&price.offer, known) {
            (None, Some(known)) if known.is_open() => {
                self.changes.counts.no_price += 1;
                (
                    PriceChangeKind::Withdrawn,
                    known.offer.clone(),
                    PriceStatus::Withdrawn,
                )
            }
            (None, _) => {
                self.changes.counts.no_price += 1;
                return;
            }
            (Some(offer), None) => (PriceChangeKind::Inserted, offer.clone(), status),
            (Some(offer), Some(known)) if !known.is_open() => {
                (PriceChangeKind::Reopened, offer.clone(), status)
            }
            (Some(offer), Some(known)) if known.offer != *offer || known.status != status => {
                (PriceChangeKind::Changed, offer.clone(), status)
            }
            (Some(_), Some(known)) => {
                self.changes.counts.unchanged += 1;
                if price.observed_at > known.observed_at {
                    self.changes.touched.push(Touch {
                        event: event.clone(),
                        key: price.key.clone(),
                        observed_at: price.observed_at,
                    });
                }
                return;
            }
        };
        let row = match known {
            Some(known) => known.row,
            None => take(&mut self.changes.next.price),
        };
        let bookmaker_row = self.bookmaker_row(&price.key);
        self.changes.push_price(PriceChange {
            row,
            event_row,
            selection_row,
            bookmaker_row,
            event: event.clone(),
            key: price.key.clone(),
            kind,
            before: known.map(|known| known.offer.clone()),
            offer,
            status,
            observed_at: price.observed_at,
        });
    }

    fn finish(mut self) -> Changes {
        // By row: the same input gives the same order, and writers never meet crosswise.
        self.changes.events.sort_by_key(|change| change.row);
        self.changes.selections.sort_by_key(|change| change.row);
        self.changes.prices.sort_by_key(|change| change.row);
        self.changes
    }
}

#[cfg(test)]
mod laws;
