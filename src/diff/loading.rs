//! A book from stored rows: bookmakers, events, selections, prices, in this order and each table in
//! any order.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::book::{Book, NextRows, StoredEvent, StoredPrice, StoredSelection};
use crate::model::{Bookmaker, Event, MarketId, Offer, PriceStatus, Selection};

#[derive(Default)]
pub struct Loading {
    book: Book,
    bookmakers: Vec<(i64, Bookmaker)>,
    /// Row of a bookmaker to its place; filled when the first price comes.
    bookmaker_places: HashMap<i64, u32>,
    events: Vec<StoredEvent>,
    event_places: HashMap<i64, usize>,
    /// The event that the last price belonged to: prices mostly lie together.
    last_event: Option<(i64, usize)>,
}

/// A row that names another which is not there.
#[derive(Debug)]
pub struct Orphan;

/// One row of the table of prices.
#[derive(Clone, Copy, Debug)]
pub struct PriceRow<'a> {
    pub row: i64,
    pub event: i64,
    pub selection: i64,
    pub bookmaker: i64,
    pub market: &'a str,
    pub offer: Offer,
    pub status: PriceStatus,
    pub observed_at: DateTime<Utc>,
}

impl Loading {
    pub fn bookmaker(&mut self, row: i64, bookmaker: Bookmaker) {
        self.bookmakers.push((row, bookmaker));
    }

    pub fn event(&mut self, row: i64, event: Event, checked_at: DateTime<Utc>, corrected: bool) {
        self.event_places.insert(row, self.events.len());
        self.events.push(StoredEvent {
            corrected,
            ..StoredEvent::new(row, event, checked_at)
        });
    }

    /// A selection of an event that is not there is left out.
    pub fn selection(&mut self, row: i64, event_row: i64, selection: Selection) {
        if let Some(at) = self.event_places.get(&event_row) {
            let stored = StoredSelection { row, selection };
            self.events[*at].selections.push(stored);
        }
    }

    /// A price of an event that is not there is left out; one whose runner or bookmaker is missing
    /// is an error.
    pub fn price(&mut self, price: &PriceRow<'_>) -> Result<(), Orphan> {
        if self.book.bookmakers.is_empty() {
            self.names_are_complete();
        }
        let at = match self.last_event {
            Some((row, at)) if row == price.event => at,
            _ => match self.event_places.get(&price.event) {
                Some(at) => *at,
                None => return Ok(()),
            },
        };
        self.last_event = Some((price.event, at));
        let market = self.market(price.market);
        let event = &mut self.events[at];
        let selections = &event.selections;
        let selection = selections.binary_search_by_key(&price.selection, |s| s.row);
        let stored = StoredPrice {
            row: price.row,
            offer: price.offer,
            observed_at: price.observed_at,
            selection: selection.map_err(|_| Orphan)? as u32,
            bookmaker: *self.bookmaker_places.get(&price.bookmaker).ok_or(Orphan)?,
            market,
            status: price.status,
        };
        if event.prices.len() == event.prices.capacity() {
            // By a quarter, not by doubling: a million prices should not cost two.
            let more = (event.prices.len() / 4).max(32);
            event.prices.reserve_exact(more);
        }
        event.prices.push(stored);
        Ok(())
    }

    /// Before the first price: selections and bookmakers by row.
    fn names_are_complete(&mut self) {
        for event in &mut self.events {
            event.selections.sort_by_key(|s| s.row);
            event.selections.shrink_to_fit();
        }
        self.bookmakers.sort_by_key(|(row, _)| *row);
        for (row, bookmaker) in std::mem::take(&mut self.bookmakers) {
            let place = self.book.bookmakers.len() as u32;
            self.bookmaker_places.insert(row, place);
            self.book.add_bookmaker(row, bookmaker);
        }
    }

    fn market(&mut self, name: &str) -> u16 {
        match self.book.market_place(name) {
            Some(place) => place,
            None => self.book.market(&MarketId::new(name)),
        }
    }

    pub fn finish(mut self, next: NextRows) -> Book {
        self.names_are_complete();
        for mut event in self.events {
            event.prices.sort_unstable_by_key(|price| price.row);
            event.prices.shrink_to_fit();
            self.book.events.insert(event.event.id.clone(), event);
        }
        self.book.next = next;
        self.book
    }
}
