//! `diff(book, snapshot, guard) -> Changes`: the one place that decides what a change is.
//!
//! Two clocks order observations and are never mixed. `Snapshot::as_of` (ours: when we asked)
//! orders snapshots and decides about absence; `Price::observed_at` (the feed's) orders the values
//! of one price. A snapshot asked earlier than the last one says nothing new, and a price with an
//! older feed time than the stored one is an old answer, whatever brought it.
//!
//! Events come one by one ([`Differ`] is what a feed hands them to), so that memory follows what
//! changed and not the answer. An event whose text is the one it was stored from is not even read:
//! [`Take::knows`]. That shortcut is forgotten by any change that came from elsewhere.

mod absent;
mod aside;
pub mod book;
mod changes;
mod loading;
mod prices;
mod standing;
mod storable;
mod take;
mod told;

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};

use crate::model::{Bookmaker, BookmakerId, Event, EventId, EventSnapshot, Look, Slice, Snapshot};
use absent::Absent;
pub use aside::Aside;
use book::{Book, StoredEvent, Text, take};
pub use changes::{
    BookmakerChange, Changes, EventChange, Extent, Guard, HeldBack, Missing, PriceChange,
    PriceChangeKind, Rows, SelectionChange, Touched,
};
pub use loading::{Loading, Orphan, PriceRow};
use prices::Scratch;
pub use standing::{Word, moves};
pub use take::{Collected, Take};
pub use told::Told;

/// Compares what is stored with what was observed. Pure: no clock, no I/O.
pub fn diff(book: &Book, observed: &Snapshot, guard: &Guard) -> Changes {
    let mut differ = Differ::new(book);
    differ.begin(observed.as_of);
    for event in &observed.events {
        differ.event(event, None);
    }
    let look = Look {
        source: observed.source.clone(),
        as_of: observed.as_of,
        scope: observed.scope.clone(),
        bookmakers: observed.bookmakers.clone(),
        rejects: observed.rejects.clone(),
    };
    differ.finish(look, guard)
}

/// One snapshot being compared, event by event.
pub struct Differ<'a> {
    book: &'a Book,
    as_of: DateTime<Utc>,
    /// Texts that are known may be skipped.
    skips: bool,
    listed: HashSet<EventId>,
    absent: Absent<'a>,
    /// Which of the book's bookmakers offered something, by place.
    met: Vec<bool>,
    new_bookmakers: HashMap<BookmakerId, i64>,
    new_markets: HashSet<crate::model::MarketId>,
    scratch: Scratch,
    changes: Changes,
}

impl<'a> Differ<'a> {
    pub fn new(book: &'a Book) -> Self {
        Self {
            book,
            as_of: DateTime::UNIX_EPOCH,
            skips: true,
            listed: HashSet::new(),
            absent: Absent::default(),
            met: vec![false; book.bookmakers.len()],
            new_bookmakers: HashMap::new(),
            new_markets: HashSet::new(),
            scratch: Scratch::default(),
            changes: Changes {
                next: book.next,
                ..Changes::default()
            },
        }
    }

    /// A full comparison: every event is read, also those whose text is known.
    pub fn reading_everything(mut self) -> Self {
        self.skips = false;
        self
    }

    /// Once all events have been handed over: what the answer says as a whole.
    pub fn finish(mut self, look: Look, guard: &Guard) -> Changes {
        self.bookmakers(&look);
        self.absent_events(&look);
        self.removals(guard);
        self.changes.counts.rejected += look.rejects.total();
        self.changes.counts.seen += look.rejects.total();
        self.changes.rejects.merge(look.rejects);
        // By row: the same input gives the same order, and writers never meet crosswise.
        self.changes.events.sort_by_key(|change| change.row);
        self.changes.selections.sort_by_key(|change| change.row);
        self.changes.prices.sort_by_key(|change| change.row);
        self.changes
    }

    /// New bookmakers get the names that the answer gives them.
    fn bookmakers(&mut self, look: &Look) {
        let mut met: HashSet<BookmakerId> = HashSet::new();
        for bookmaker in &look.bookmakers {
            if let Some(reason) = storable::bookmaker(bookmaker) {
                self.reject(reason, 1, &bookmaker.name);
                continue;
            }
            if !met.insert(bookmaker.id.clone()) || self.book.bookmaker(&bookmaker.id).is_some() {
                // A drifting spelling ("Spread Ex") is not worth a write: the first one stays.
                continue;
            }
            let row = self.new_bookmaker(&bookmaker.id);
            let mut new = self.changes.bookmakers.iter_mut();
            if let Some(change) = new.find(|change| change.row == row) {
                change.bookmaker.name = bookmaker.name.clone();
            }
        }
        let known = self.book.bookmakers.iter().zip(&self.met);
        let known = known.filter(|(_, met)| **met);
        met.extend(known.map(|(stored, _)| stored.bookmaker.id.clone()));
        met.extend(self.new_bookmakers.keys().cloned());
        self.changes.extent.bookmakers = met.into_iter().collect();
        self.changes.extent.bookmakers.sort();
    }

    /// The row of a bookmaker that is not stored yet; by its id until a name is known.
    fn new_bookmaker(&mut self, id: &BookmakerId) -> i64 {
        if let Some(row) = self.new_bookmakers.get(id) {
            return *row;
        }
        let row = take(&mut self.changes.next.bookmaker);
        self.new_bookmakers.insert(id.clone(), row);
        self.changes.bookmakers.push(BookmakerChange {
            row,
            bookmaker: Bookmaker {
                id: id.clone(),
                name: id.to_string(),
            },
        });
        row
    }

    fn reject(&mut self, reason: &'static str, rows: u64, sample: impl std::fmt::Display) {
        self.changes.counts.seen += rows;
        self.changes.counts.rejected += rows;
        self.changes.rejects.add_rows(reason, rows, sample);
    }

    fn event(&mut self, observed: &EventSnapshot, slice: Option<Slice>) {
        let rows = observed.prices.len() as u64;
        let id = &observed.event.id;
        if self.listed.contains(id) {
            return self.reject("duplicate_event", rows, id);
        }
        let stored = self.book.events.get(id);
        // What is stored can be stored.
        if stored.is_none_or(|stored| !stored.event.same_facts(&observed.event))
            && let Some(reason) = storable::event(&observed.event)
        {
            self.listed.insert(id.clone());
            return self.reject(reason, rows.max(1), id);
        }
        // One allocation for all who name this event.
        let id = stored.map_or(id, |stored| &stored.event.id).clone();
        self.listed.insert(id.clone());
        self.changes.extent.events += 1;
        self.changes.extent.selections += observed.selections.len();
        if let Some(stored) = stored {
            if stored.checked_at > self.as_of {
                self.changes.counts.seen += rows;
                self.changes.counts.stale += rows;
                return;
            }
            self.absent.listed_events += usize::from(stored.event.listed);
        }
        self.changes.checked.push(id.clone());
        let before = self.changes.counts;
        let absent = (self.absent.selections.len(), self.absent.prices.len());
        let event_row = self.event_facts(stored, &observed.event);
        let selection_rows = self.selections(stored, event_row, &id, observed);
        self.prices(stored, event_row, &id, &selection_rows, observed);

        // A text may be skipped when it comes again if that could not change anything.
        let after = &self.changes.counts;
        let settled = (before.rejected, before.stale) == (after.rejected, after.stale)
            && absent == (self.absent.selections.len(), self.absent.prices.len());
        if let (Some(slice), true, true) = (slice, settled, observed.complete) {
            let text = Text {
                slice,
                selections: observed.selections.len() as u32,
                no_price: (after.no_price - before.no_price) as u32,
            };
            self.changes.texts.push((id, text));
        }
    }

    /// Compares the event's own facts and where it stands; returns its row.
    fn event_facts(&mut self, stored: Option<&StoredEvent>, observed: &Event) -> i64 {
        let before = stored.map(|stored| &stored.event);
        let corrected = stored.is_some_and(|stored| stored.corrected);
        let (status, in_play, status_by) = Event::standing(before, corrected, observed, self.as_of);
        if let Some(before) = before
            && (before.status, before.in_play) == (status, in_play)
            && before.same_facts(observed)
        {
            return stored.map_or(0, |stored| stored.row);
        }
        let row = match stored {
            Some(stored) => stored.row,
            None => take(&mut self.changes.next.event),
        };
        self.changes.events.push(EventChange {
            row,
            before: before.cloned(),
            after: Event {
                status,
                in_play,
                ..observed.clone()
            },
            status_by,
        });
        row
    }
}

impl Take for Differ<'_> {
    fn begin(&mut self, as_of: DateTime<Utc>) {
        let skips = self.skips;
        *self = Self::new(self.book);
        self.skips = skips;
        self.as_of = as_of;
        self.changes.as_of = as_of;
    }

    fn knows(&self, slice: &Slice) -> Option<EventId> {
        let id = self.book.texts.get(&slice.hash).filter(|_| self.skips)?;
        let stored = self.book.events.get(id)?;
        let text = stored.text?;
        // What the clock has moved meanwhile is read, and so moved by this look.
        let stands = stored.event.moved_by_clock(self.as_of).is_none();
        (text.slice == *slice && stands).then(|| id.clone())
    }

    fn same(&mut self, slice: &Slice) {
        let id = self.book.texts.get(&slice.hash);
        let Some(stored) = id.and_then(|id| self.book.events.get(id)) else {
            return;
        };
        let text = stored.text.expect("a known text is its event's");
        let mut open = 0;
        for price in stored.prices.iter().filter(|price| price.is_open()) {
            self.met[price.bookmaker as usize] = true;
            open += 1;
        }
        let rows = open as u64 + u64::from(text.no_price);
        if !self.listed.insert(stored.event.id.clone()) {
            return self.reject("duplicate_event", rows, &stored.event.id);
        }
        self.changes.extent.events += 1;
        self.changes.extent.selections += text.selections as usize;
        self.changes.counts.seen += rows;
        if stored.checked_at > self.as_of {
            self.changes.counts.stale += rows;
            return;
        }
        self.changes.checked.push(stored.event.id.clone());
        self.changes.counts.unchanged += open as u64;
        self.changes.counts.no_price += u64::from(text.no_price);
        self.absent.listed_events += usize::from(stored.event.listed);
        self.absent.open_prices += open;
    }

    fn take(&mut self, event: EventSnapshot, slice: Option<Slice>) {
        self.event(&event, slice);
    }
}

#[cfg(test)]
mod laws;
