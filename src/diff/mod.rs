//! `diff(stored, observed) -> changes`: the one place that decides what a change is.
//!
//! Two clocks order observations and are never mixed. `Snapshot::as_of` (ours: when we asked)
//! orders snapshots and decides about absence; `Price::observed_at` (the feed's) orders the values
//! of one price. A snapshot asked earlier than the last one says nothing new, and a price with an
//! older feed time than the stored one is an old answer, whatever brought it.

pub mod book;
mod storable;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};

use crate::model::{
    Bookmaker, ChangeKind, Counts, Event, EventId, EventSnapshot, Offer, Price, PriceKey,
    PriceStatus, Rejects, Scope, Selection, SelectionId, SelectionStatus, Snapshot,
};
use book::{Book, NextRows, StoredEvent, StoredPrice, take};

/// Everything one cycle has to write, in an order that is the same for the same input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    pub as_of: DateTime<Utc>,
    pub bookmakers: Vec<BookmakerChange>,
    pub events: Vec<EventChange>,
    pub selections: Vec<SelectionChange>,
    pub prices: Vec<PriceChange>,
    /// Unchanged prices whose feed time moved on: remembered, never written.
    pub touched: Vec<Touch>,
    /// Events that this snapshot spoke of.
    pub checked: Vec<EventId>,
    pub counts: Counts,
    pub rejects: Rejects,
    /// Set when the answer was suspiciously short and removals wait for a second look.
    pub held_back: Option<HeldBack>,
    pub next: NextRows,
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
    pub key: PriceKey,
    pub kind: PriceChangeKind,
    pub before: Option<Offer>,
    pub offer: Offer,
    pub status: PriceStatus,
    pub observed_at: DateTime<Utc>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Touch {
    pub event: EventId,
    pub key: PriceKey,
    pub observed_at: DateTime<Utc>,
}

/// Rows that an answer left out, by row number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    pub events: HashSet<i64>,
    pub selections: HashSet<i64>,
    pub prices: HashSet<i64>,
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

    fn trips(&self, missing: usize, of: usize) -> bool {
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
    }

    /// What each event's readers have to be told, one entry an event: the outbox of this cycle.
    pub fn by_event(&self) -> BTreeMap<EventId, BTreeSet<ChangeKind>> {
        let mut kinds: BTreeMap<EventId, BTreeSet<ChangeKind>> = BTreeMap::new();
        let mut add = |event: &EventId, kind| {
            if !kinds.get(event).is_some_and(|known| known.contains(&kind)) {
                kinds.entry(event.clone()).or_default().insert(kind);
            }
        };
        for change in &self.events {
            let kind = match &change.before {
                None => ChangeKind::EventAdded,
                Some(before) if before.listed && !change.after.listed => ChangeKind::EventRemoved,
                Some(before)
                    if (before.status, before.in_play)
                        != (change.after.status, change.after.in_play) =>
                {
                    ChangeKind::StatusChanged
                }
                Some(_) => ChangeKind::EventChanged,
            };
            add(&change.after.id, kind);
        }
        for change in &self.selections {
            add(&change.event, ChangeKind::SelectionChanged);
        }
        for change in &self.prices {
            add(
                &change.event,
                match change.kind {
                    PriceChangeKind::Withdrawn => ChangeKind::PriceWithdrawn,
                    _ => ChangeKind::PriceChanged,
                },
            );
        }
        kinds
    }
}

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

/// What the answer left out inside its scope.
#[derive(Default)]
struct Absent<'a> {
    events: Vec<&'a StoredEvent>,
    selections: Vec<(&'a StoredEvent, &'a SelectionId)>,
    prices: Vec<(&'a StoredEvent, &'a PriceKey, &'a StoredPrice)>,
    open_prices: usize,
    listed_events: usize,
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

    fn absent_events(&mut self, listed: &HashSet<&EventId>) {
        if self.observed.scope == Scope::Listed {
            return;
        }
        for (id, stored) in &self.book.events {
            let in_scope = stored.event.listed
                && stored.event.source == self.observed.source
                && stored.checked_at <= self.observed.as_of
                && !listed.contains(id)
                && self.observed.scope.covers(&stored.event);
            if in_scope {
                self.absent.listed_events += 1;
                self.absent.open_prices += open_prices(stored);
                self.absent.events.push(stored);
                let open = stored.prices.iter().filter(|(_, price)| price.is_open());
                self.absent
                    .prices
                    .extend(open.map(|(key, price)| (stored, key, price)));
            }
        }
    }

    /// Turns absence into changes, unless so much is absent that the answer itself is in doubt.
    fn removals(&mut self, guard: &Guard) {
        let absent = std::mem::take(&mut self.absent);
        let in_doubt = guard.trips(absent.prices.len(), absent.open_prices)
            || guard.trips(absent.events.len(), absent.listed_events);
        let missing = Missing {
            events: absent.events.iter().map(|stored| stored.row).collect(),
            selections: absent
                .selections
                .iter()
                .map(|(e, id)| e.selections[*id].row)
                .collect(),
            prices: absent
                .prices
                .iter()
                .map(|(_, _, price)| price.row)
                .collect(),
        };
        let nothing = Missing::default();
        let agreed = match (in_doubt, guard.first_look) {
            (false, _) => &missing,
            (true, Some(first_look)) => first_look,
            (true, None) => &nothing,
        };
        for stored in absent
            .events
            .iter()
            .filter(|stored| agreed.events.contains(&stored.row))
        {
            let mut after = stored.event.clone();
            after.listed = false;
            let before = Some(stored.event.clone());
            self.changes.checked.push(after.id.clone());
            self.changes.events.push(EventChange {
                row: stored.row,
                before,
                after,
            });
        }
        for (stored, id) in &absent.selections {
            let known = &stored.selections[*id];
            if agreed.selections.contains(&known.row) {
                let mut after = known.selection.clone();
                after.status = SelectionStatus::Removed;
                self.changes.selections.push(SelectionChange {
                    row: known.row,
                    event_row: stored.row,
                    event: stored.event.id.clone(),
                    before: Some(known.selection.clone()),
                    after,
                });
            }
        }
        for (stored, key, price) in &absent.prices {
            if agreed.prices.contains(&price.row) {
                self.withdraw(stored, key, price);
            }
        }
        let held =
            |missing: &HashSet<i64>, agreed: &HashSet<i64>| missing.difference(agreed).count();
        let (prices, events) = (
            held(&missing.prices, &agreed.prices),
            held(&missing.events, &agreed.events),
        );
        if prices + events > 0 {
            self.changes.held_back = Some(HeldBack {
                prices,
                open_prices: absent.open_prices,
                events,
                listed_events: absent.listed_events,
                missing,
            });
        }
    }

    fn withdraw(&mut self, stored: &StoredEvent, key: &PriceKey, price: &StoredPrice) {
        self.changes.push_price(PriceChange {
            row: price.row,
            event_row: stored.row,
            selection_row: stored.selections[&key.selection].row,
            bookmaker_row: self.book.bookmakers[&key.bookmaker].row,
            event: stored.event.id.clone(),
            key: key.clone(),
            kind: PriceChangeKind::Withdrawn,
            before: Some(price.offer.clone()),
            offer: price.offer.clone(),
            status: PriceStatus::Withdrawn,
            // The feed's clock stands still: when the price comes back with the feed time it had,
            // that is news. `checked_at` keeps older snapshots out.
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

impl Changes {
    fn push_price(&mut self, change: PriceChange) {
        let counts = &mut self.counts;
        *match change.kind {
            PriceChangeKind::Inserted => &mut counts.inserted,
            PriceChangeKind::Reopened => &mut counts.reopened,
            PriceChangeKind::Changed => &mut counts.changed,
            PriceChangeKind::Withdrawn => &mut counts.withdrawn,
        } += 1;
        self.prices.push(change);
    }
}

fn open_prices(stored: &StoredEvent) -> usize {
    stored
        .prices
        .values()
        .filter(|price| price.is_open())
        .count()
}

#[cfg(test)]
mod laws;
