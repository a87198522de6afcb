//! What is stored, in memory: loaded once, moved forward only by changes that were committed, and
//! thrown away after any database error. The diff reads it; nothing else decides what a change is.
//!
//! It is small and lies in order: a price is one fixed piece of some ninety bytes in its event's
//! list, in the order in which prices were first seen. A feed names them in the same order look
//! after look, so comparing is walking two lists side by side, with no hashing.
//!
//! Row numbers are handed out here and not by the database: one leader writes (the store's lease
//! sees to that), and a cycle that knows its ids before it starts needs one statement, not two.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::{Changes, PriceChange, PriceChangeKind};
use crate::model::{
    Bookmaker, BookmakerId, Event, EventId, MarketId, Offer, PriceKey, PriceStatus, Selection,
    SelectionId, Slice, StatusSource,
};

#[derive(Clone, Debug, Default)]
pub struct Book {
    pub events: HashMap<EventId, StoredEvent>,
    /// By row. A price names its bookmaker by the place in this list.
    pub bookmakers: Vec<StoredBookmaker>,
    bookmaker_places: HashMap<BookmakerId, u32>,
    /// A price names its market by the place in this list.
    markets: Vec<MarketId>,
    /// Texts whose event is stored as they say.
    pub(super) texts: HashMap<u128, EventId>,
    pub next: NextRows,
}

/// The next free row number of each table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextRows {
    pub event: i64,
    pub selection: i64,
    pub bookmaker: i64,
    pub price: i64,
}

impl Default for NextRows {
    fn default() -> Self {
        Self {
            event: 1,
            selection: 1,
            bookmaker: 1,
            price: 1,
        }
    }
}

/// Hands out one number after another.
pub(super) fn take(next: &mut i64) -> i64 {
    *next += 1;
    *next - 1
}

#[derive(Clone, Debug, PartialEq)]
pub struct StoredBookmaker {
    pub row: i64,
    pub bookmaker: Bookmaker,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StoredEvent {
    pub row: i64,
    pub event: Event,
    /// `as_of` of the newest snapshot that spoke of this event: "last checked".
    pub checked_at: DateTime<Utc>,
    /// A person said where it stands, and nobody anything else since.
    pub corrected: bool,
    /// By row.
    pub selections: Vec<StoredSelection>,
    /// By row.
    pub prices: Vec<StoredPrice>,
    pub(super) text: Option<Text>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StoredSelection {
    pub row: i64,
    pub selection: Selection,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StoredPrice {
    pub row: i64,
    /// The last offer, kept when the price is withdrawn: it is the closing price.
    pub offer: Offer,
    /// Feed time of the newest observation, whether or not it changed anything.
    pub observed_at: DateTime<Utc>,
    /// Places in the event's selections, the book's bookmakers and the book's markets.
    pub(super) selection: u32,
    pub(super) bookmaker: u32,
    pub(super) market: u16,
    pub status: PriceStatus,
}

/// The text that an event was last read from, as long as the event is stored exactly as it says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Text {
    pub(super) slice: Slice,
    /// What it lists: runners, and rows that say there is no price.
    pub(super) selections: u32,
    pub(super) no_price: u32,
}

/// A book names at most this many markets.
pub(super) const MAX_MARKETS: usize = u16::MAX as usize;

impl StoredPrice {
    pub fn is_open(&self) -> bool {
        self.status != PriceStatus::Withdrawn
    }
}

impl StoredEvent {
    pub fn new(row: i64, event: Event, checked_at: DateTime<Utc>) -> Self {
        Self {
            row,
            event,
            checked_at,
            corrected: false,
            selections: Vec::new(),
            prices: Vec::new(),
            text: None,
        }
    }

    pub fn selection(&self, id: &SelectionId) -> Option<&StoredSelection> {
        self.selections.iter().find(|s| s.selection.id == *id)
    }

    pub fn open_prices(&self) -> usize {
        self.prices.iter().filter(|price| price.is_open()).count()
    }

    pub(super) fn has(&self, book: &Book, price: &StoredPrice, key: &PriceKey) -> bool {
        self.selections[price.selection as usize].selection.id == key.selection
            && book.bookmakers[price.bookmaker as usize].bookmaker.id == key.bookmaker
            && book.markets[usize::from(price.market)] == key.market
    }
}

impl Book {
    pub fn bookmaker(&self, id: &BookmakerId) -> Option<&StoredBookmaker> {
        Some(&self.bookmakers[self.bookmaker_place(id)?])
    }

    pub(super) fn bookmaker_place(&self, id: &BookmakerId) -> Option<usize> {
        self.bookmaker_places.get(id).map(|place| *place as usize)
    }

    pub(super) fn market_place(&self, name: &str) -> Option<u16> {
        let place = self.markets.iter().position(|known| known.as_str() == name);
        place.map(|place| place as u16)
    }

    pub(super) fn market_name(&self, place: u16) -> &MarketId {
        &self.markets[usize::from(place)]
    }

    pub(super) fn market_count(&self) -> usize {
        self.markets.len()
    }

    /// What a stored price is a price of.
    pub fn key(&self, event: &StoredEvent, price: &StoredPrice) -> PriceKey {
        PriceKey {
            market: self.markets[usize::from(price.market)].clone(),
            selection: event.selections[price.selection as usize]
                .selection
                .id
                .clone(),
            bookmaker: self.bookmakers[price.bookmaker as usize]
                .bookmaker
                .id
                .clone(),
        }
    }

    /// An event's prices by what they are prices of.
    pub fn prices<'a>(
        &'a self,
        event: &'a StoredEvent,
    ) -> impl Iterator<Item = (PriceKey, &'a StoredPrice)> {
        let prices = event.prices.iter();
        prices.map(|price| (self.key(event, price), price))
    }

    pub fn price(&self, event: &str, key: &PriceKey) -> Option<&StoredPrice> {
        let event = self.events.get(event)?;
        let mut prices = event.prices.iter();
        prices.find(|price| event.has(self, price, key))
    }

    /// What a changed price was a price of; `None` when the change is its first.
    pub fn key_of(&self, change: &PriceChange) -> Option<PriceKey> {
        let event = self.events.get(&change.event)?;
        let at = event.prices.binary_search_by_key(&change.row, |p| p.row);
        Some(self.key(event, &event.prices[at.ok()?]))
    }

    /// Moves forward by what has been committed.
    pub fn apply(&mut self, changes: Changes) {
        self.next = changes.next;
        for change in changes.bookmakers {
            self.add_bookmaker(change.row, change.bookmaker);
        }
        for change in changes.events {
            self.forget_text(&change.after.id);
            let moved = change.transition().is_some();
            match self.events.get_mut(&change.after.id) {
                Some(stored) => {
                    if moved {
                        stored.corrected = change.status_by == StatusSource::Correction;
                    }
                    stored.event = change.after;
                }
                None => {
                    let stored = StoredEvent::new(change.row, change.after, changes.as_of);
                    self.events.insert(stored.event.id.clone(), stored);
                }
            }
        }
        for id in &changes.checked {
            if let Some(stored) = self.events.get_mut(id) {
                stored.checked_at = stored.checked_at.max(changes.as_of);
            }
        }
        for change in changes.selections {
            self.forget_text(&change.event);
            let selections = &mut self.event_mut(&change.event).selections;
            match selections.binary_search_by_key(&change.row, |known| known.row) {
                Ok(at) => selections[at].selection = change.after,
                Err(at) => selections.insert(
                    at,
                    StoredSelection {
                        row: change.row,
                        selection: change.after,
                    },
                ),
            }
        }
        self.apply_prices(changes.prices);
        for touched in changes.touched {
            let prices = &mut self.event_mut(&touched.event).prices;
            for (at, observed_at) in touched.prices {
                prices[at as usize].observed_at = observed_at;
            }
        }
        for (id, text) in changes.texts {
            self.forget_text(&id);
            self.texts.insert(text.slice.hash, id.clone());
            self.event_mut(&id).text = Some(text);
        }
    }

    /// Touches name prices by place, and new prices only come behind the old ones: the places hold.
    fn apply_prices(&mut self, changes: Vec<PriceChange>) {
        let mut rest = changes.as_slice();
        while let Some(first) = rest.first() {
            let run = rest.iter().take_while(|c| c.event == first.event).count();
            let (these, others) = rest.split_at(run);
            rest = others;
            self.forget_text(&first.event);
            let markets: Vec<u16> = these.iter().map(|c| self.market(&c.market)).collect();
            let bookmakers = &self.bookmakers;
            let stored = self.events.get_mut(&first.event);
            let stored = stored.expect("a change names an event that the book holds");
            let new = these.iter().filter(|c| c.kind == PriceChangeKind::Inserted);
            stored.prices.reserve_exact(new.count());
            for (change, market) in these.iter().zip(markets) {
                match stored
                    .prices
                    .binary_search_by_key(&change.row, |known| known.row)
                {
                    Ok(at) => {
                        let price = &mut stored.prices[at];
                        price.offer = change.offer;
                        price.status = change.status;
                        price.observed_at = change.observed_at;
                    }
                    Err(at) => {
                        let place = |found: Result<usize, usize>| {
                            found.expect("a price names rows that the book holds") as u32
                        };
                        let price = StoredPrice {
                            row: change.row,
                            offer: change.offer,
                            observed_at: change.observed_at,
                            selection: place(
                                stored
                                    .selections
                                    .binary_search_by_key(&change.selection_row, |s| s.row),
                            ),
                            bookmaker: place(
                                bookmakers.binary_search_by_key(&change.bookmaker_row, |b| b.row),
                            ),
                            market,
                            status: change.status,
                        };
                        stored.prices.insert(at, price);
                    }
                }
            }
        }
    }

    pub(super) fn add_bookmaker(&mut self, row: i64, bookmaker: Bookmaker) {
        let place = self.bookmakers.len() as u32;
        self.bookmaker_places.insert(bookmaker.id.clone(), place);
        self.bookmakers.push(StoredBookmaker { row, bookmaker });
    }

    /// The place of a market in the list. The diff sees to it that they do not become too many.
    pub(super) fn market(&mut self, id: &MarketId) -> u16 {
        self.market_place(id.as_str()).unwrap_or_else(|| {
            self.markets.push(id.clone());
            (self.markets.len() - 1) as u16
        })
    }

    fn forget_text(&mut self, id: &EventId) {
        let stored = self.events.get_mut(id);
        if let Some(text) = stored.and_then(|stored| stored.text.take()) {
            self.texts.remove(&text.slice.hash);
        }
    }

    fn event_mut(&mut self, id: &EventId) -> &mut StoredEvent {
        self.events
            .get_mut(id)
            .expect("a change names an event that the book holds")
    }

    /// Takes events out of memory that retention took out of the store.
    pub fn forget(&mut self, rows: &[i64]) {
        self.events.retain(|_, stored| !rows.contains(&stored.row));
        let events = &self.events;
        self.texts.retain(|_, id| events.contains_key(id));
    }

    pub fn open_prices(&self) -> usize {
        self.events.values().map(StoredEvent::open_prices).sum()
    }
}

/// Two books are the same when they say the same of every row; which texts it was read from, and
/// in which place a name stands, is their own business.
impl PartialEq for Book {
    fn eq(&self, other: &Self) -> bool {
        let same_event = |(id, event): (&EventId, &StoredEvent)| {
            other.events.get(id).is_some_and(|theirs| {
                let facts = |e: &StoredEvent| (e.row, e.event.clone(), e.checked_at);
                let prices = |book: &Self, event: &StoredEvent| {
                    let all = book.prices(event);
                    all.map(|(key, p)| (key, p.row, p.offer, p.observed_at, p.status))
                        .collect::<Vec<_>>()
                };
                facts(event) == facts(theirs)
                    && event.selections == theirs.selections
                    && prices(self, event) == prices(other, theirs)
            })
        };
        self.next == other.next
            && self.bookmakers == other.bookmakers
            && self.events.len() == other.events.len()
            && self.events.iter().all(same_event)
    }
}
