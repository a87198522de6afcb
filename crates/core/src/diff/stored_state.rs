//! The stored state: an in-memory mirror of the stored rows. Stores load it once; it advances only by committed
//! changes and is discarded after any database error. The differ compares snapshots with it.
//!
//! A price takes some ninety bytes in its event's list, in the order in which prices were first observed. A feed
//! lists them in the same order in every answer, so a comparison walks two lists side by side without hashing.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::changes::{Changes, EventFingerprint, PriceChange, PriceChangeKind};
pub use super::changes::{IdAllocator, StoredBookmaker};
use crate::model::{
    Bookmaker, BookmakerId, Event, EventId, MarketId, Offer, PriceKey, PriceStatus, Selection,
    SelectionId, StatusSource,
};

/// The stored rows in memory.
#[derive(Clone, Debug, Default)]
pub struct StoredState {
    /// Events with their selections and prices.
    pub events: HashMap<EventId, StoredEvent>,
    /// By row. A price refers to its bookmaker by the index in this list.
    pub bookmakers: Vec<StoredBookmaker>,
    bookmaker_indices: HashMap<BookmakerId, u32>,
    /// A price refers to its market by the index in this list.
    pub(super) markets: Vec<MarketId>,
    /// Events by the hash of the text that they are stored from.
    by_hash: HashMap<u128, EventId>,
    /// The ids to assign next.
    pub next: IdAllocator,
}

/// A stored event.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEvent {
    /// Its row id.
    pub row: i64,
    /// The event.
    pub event: Event,
    /// `as_of` of the newest snapshot that contained this event: "last checked".
    pub checked_at: DateTime<Utc>,
    /// The cycle that requested that snapshot; of a loaded event, the last cycle that was stored.
    pub(super) checked_in: i64,
    /// The origin of its status.
    pub status_by: StatusSource,
    /// By row.
    pub selections: Vec<StoredSelection>,
    /// By row.
    pub prices: Vec<StoredPrice>,
    pub(super) fingerprint: Option<EventFingerprint>,
}

/// A stored selection.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredSelection {
    /// Its row id.
    pub row: i64,
    /// The selection.
    pub selection: Selection,
}

/// A stored price.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StoredPrice {
    /// Its row id.
    pub row: i64,
    /// The last offer, kept when the price is withdrawn: it is the closing price.
    pub offer: Offer,
    /// Feed time of the newest observation, whether or not it changed anything. `None`: the feed gave none.
    pub observed_at: Option<DateTime<Utc>>,
    /// Indices in the event's selections, the state's bookmakers and the state's markets.
    pub(super) selection: u32,
    pub(super) bookmaker: u32,
    pub(super) market: u16,
    /// Its status.
    pub status: PriceStatus,
}

/// The number of different markets is limited by the width of their index.
pub(super) const MAX_MARKETS: usize = u16::MAX as usize;

impl StoredPrice {
    /// Whether it is offered, suspended or not.
    pub fn is_open(&self) -> bool {
        self.status != PriceStatus::Withdrawn
    }
}

impl StoredEvent {
    /// An event without selections and prices, whose source reports its status.
    pub fn new(row: i64, event: Event, checked_at: DateTime<Utc>) -> Self {
        Self {
            row,
            event,
            checked_at,
            checked_in: 0,
            status_by: StatusSource::Feed,
            selections: Vec::new(),
            prices: Vec::new(),
            fingerprint: None,
        }
    }

    pub(super) fn selection(&self, id: &SelectionId) -> Option<&StoredSelection> {
        self.selections.iter().find(|s| s.selection.id == *id)
    }

    pub(super) fn has_key(&self, state: &StoredState, price: &StoredPrice, key: &PriceKey) -> bool {
        self.selections[price.selection as usize].selection.id == key.selection
            && state.bookmakers[price.bookmaker as usize].bookmaker.id == key.bookmaker
            && state.markets[usize::from(price.market)] == key.market
    }
}

impl StoredState {
    pub(super) fn bookmaker_index(&self, id: &BookmakerId) -> Option<usize> {
        self.bookmaker_indices.get(id).map(|index| *index as usize)
    }

    pub(super) fn market_index(&self, name: &str) -> Option<u16> {
        let index = self.markets.iter().position(|known| known.as_str() == name);
        index.map(|index| index as u16)
    }

    pub(super) fn by_hash(&self, hash: u128) -> Option<&StoredEvent> {
        self.events.get(self.by_hash.get(&hash)?)
    }

    pub(super) fn key(&self, event: &StoredEvent, price: &StoredPrice) -> PriceKey {
        let selection = &event.selections[price.selection as usize];
        let stored = &self.bookmakers[price.bookmaker as usize];
        PriceKey {
            market: self.markets[usize::from(price.market)].clone(),
            selection: selection.selection.id.clone(),
            bookmaker: stored.bookmaker.id.clone(),
        }
    }

    /// An event's prices with their keys.
    pub fn prices<'a>(
        &'a self,
        event: &'a StoredEvent,
    ) -> impl Iterator<Item = (PriceKey, &'a StoredPrice)> {
        let prices = event.prices.iter();
        prices.map(|price| (self.key(event, price), price))
    }

    /// The stored price of an event under a key.
    pub fn price(&self, event: &str, key: &PriceKey) -> Option<&StoredPrice> {
        let event = self.events.get(event)?;
        let mut prices = event.prices.iter();
        prices.find(|price| event.has_key(self, price, key))
    }

    /// The key of a changed price; `None` if the price is not stored yet.
    pub fn key_of(&self, change: &PriceChange) -> Option<PriceKey> {
        let event = self.events.get(&change.event)?;
        let at = event.prices.binary_search_by_key(&change.row, |p| p.row);
        Some(self.key(event, &event.prices[at.ok()?]))
    }

    /// Number of prices that are not withdrawn.
    pub fn open_prices(&self) -> usize {
        let prices = self.events.values().flat_map(|stored| &stored.prices);
        prices.filter(|price| price.is_open()).count()
    }

    /// When the next status transition by the clock is due.
    pub fn next_transition_at(&self) -> Option<DateTime<Utc>> {
        let events = self.events.values();
        events
            .filter_map(|stored| stored.event.next_transition_at())
            .min()
    }

    /// Applies changes that have been committed. They were computed against this state, so the rows that they refer
    /// to are stored; a change whose rows are not is skipped.
    pub fn apply(&mut self, changes: Changes) {
        self.next = changes.next_ids;
        for change in changes.bookmakers {
            self.add_bookmaker(change);
        }
        for change in changes.confirmed {
            if let Some(stored) = self.events.get_mut(&change.after.id) {
                stored.status_by = change.status_by;
            }
        }
        for change in changes.events {
            self.clear_fingerprint(&change.after.id);
            let moved = change.logged_transition().is_some();
            match self.events.get_mut(&change.after.id) {
                Some(stored) => {
                    if moved {
                        stored.status_by = change.status_by;
                    }
                    stored.event = change.after;
                }
                None => {
                    let stored = StoredEvent {
                        status_by: change.status_by,
                        ..StoredEvent::new(change.row, change.after, changes.as_of)
                    };
                    self.events.insert(stored.event.id.clone(), stored);
                }
            }
        }
        for id in &changes.checked {
            if let Some(stored) = self.events.get_mut(id) {
                (stored.checked_at, stored.checked_in) = (changes.as_of, changes.cycle);
            }
        }
        for change in changes.selections {
            self.clear_fingerprint(&change.event);
            let Some(stored) = self.events.get_mut(&change.event) else {
                continue;
            };
            let selections = &mut stored.selections;
            let at = selections.binary_search_by_key(&change.row, |known| known.row);
            let (row, selection) = (change.row, change.after);
            match at {
                Ok(at) => selections[at].selection = selection,
                Err(at) => selections.insert(at, StoredSelection { row, selection }),
            }
        }
        // Refreshed prices are given by index, and new prices only come after the old ones: the indices stay valid.
        for prices in changes.prices.chunk_by(|a, b| a.event == b.event) {
            self.apply_prices(prices);
        }
        for touched in changes.refreshed {
            if let Some(stored) = self.events.get_mut(&touched.event) {
                for (index, observed_at) in touched.prices {
                    stored.prices[index as usize].observed_at = Some(observed_at);
                }
            }
        }
        for (id, fingerprint) in changes.fingerprints {
            self.clear_fingerprint(&id);
            if let Some(stored) = self.events.get_mut(&id) {
                stored.fingerprint = Some(fingerprint);
                self.by_hash.insert(fingerprint.text.hash, id);
            }
        }
    }

    /// Applies the price changes of one event.
    fn apply_prices(&mut self, changes: &[PriceChange]) {
        let event = &changes[0].event;
        self.clear_fingerprint(event);
        let markets = changes.iter().map(|c| self.intern_market(&c.market));
        let markets: Vec<u16> = markets.collect();
        let bookmakers = &self.bookmakers;
        let Some(stored) = self.events.get_mut(event) else {
            return;
        };
        let new = changes
            .iter()
            .filter(|c| c.kind == PriceChangeKind::Inserted);
        stored.prices.reserve_exact(new.count());
        for (change, market) in changes.iter().zip(markets) {
            let prices = &mut stored.prices;
            match prices.binary_search_by_key(&change.row, |known| known.row) {
                Ok(at) => {
                    let price = &mut prices[at];
                    price.offer = change.offer;
                    price.status = change.status;
                    price.observed_at = change.observed_at;
                }
                Err(at) => {
                    let selections = &stored.selections;
                    let selection =
                        selections.binary_search_by_key(&change.selection_row, |s| s.row);
                    let bookmaker =
                        bookmakers.binary_search_by_key(&change.bookmaker_row, |b| b.row);
                    let (Ok(selection), Ok(bookmaker)) = (selection, bookmaker) else {
                        continue;
                    };
                    let price = StoredPrice {
                        row: change.row,
                        offer: change.offer,
                        observed_at: change.observed_at,
                        selection: selection as u32,
                        bookmaker: bookmaker as u32,
                        market,
                        status: change.status,
                    };
                    prices.insert(at, price);
                }
            }
        }
    }

    fn add_bookmaker(&mut self, new: StoredBookmaker) {
        let index = self.bookmakers.len() as u32;
        let id = new.bookmaker.id.clone();
        self.bookmaker_indices.insert(id, index);
        self.bookmakers.push(new);
    }

    /// The index of a market, which is added if it is new. The differ keeps them below [`MAX_MARKETS`].
    fn intern_market(&mut self, id: &MarketId) -> u16 {
        self.market_index(id.as_str()).unwrap_or_else(|| {
            self.markets.push(id.clone());
            (self.markets.len() - 1) as u16
        })
    }

    fn clear_fingerprint(&mut self, id: &EventId) {
        let stored = self.events.get_mut(id);
        if let Some(fingerprint) = stored.and_then(|stored| stored.fingerprint.take()) {
            self.by_hash.remove(&fingerprint.text.hash);
        }
    }

    /// Removes events that retention has deleted from the store, by row id.
    pub fn remove_events(&mut self, rows: &[i64]) {
        self.events.retain(|_, stored| !rows.contains(&stored.row));
        let events = &self.events;
        self.by_hash.retain(|_, id| events.contains_key(id));
    }
}

/// Two states are equal if all rows are equal. Fingerprints and the order of names are not compared.
impl PartialEq for StoredState {
    fn eq(&self, other: &Self) -> bool {
        let same_event = |(id, event): (&EventId, &StoredEvent)| {
            other.events.get(id).is_some_and(|theirs| {
                let prices = |state: &Self, event: &StoredEvent| {
                    let all = state.prices(event);
                    all.map(|(key, p)| (key, p.row, p.offer, p.observed_at, p.status))
                        .collect::<Vec<_>>()
                };
                (event.row, &event.event, event.checked_at)
                    == (theirs.row, &theirs.event, theirs.checked_at)
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

/// Builds the state from stored rows: bookmakers, events, selections, prices, in this order, and each table in any
/// order.
#[derive(Default)]
pub struct StateBuilder {
    state: StoredState,
    /// Until the first price comes.
    bookmakers: Vec<StoredBookmaker>,
    events: Vec<StoredEvent>,
    event_indices: HashMap<i64, usize>,
    /// Row and index of the last price's event: most prices of an event are adjacent.
    last_event: Option<(i64, usize)>,
}

/// A stored price refers to a selection or bookmaker that is not stored.
#[derive(Debug, thiserror::Error)]
#[error("a stored price refers to a selection or bookmaker that is not stored")]
pub struct DanglingReference;

/// One row of the table of prices.
#[derive(Clone, Copy, Debug)]
pub struct StoredPriceRow<'a> {
    /// Its row id.
    pub row: i64,
    /// The row id of its event.
    pub event: i64,
    /// The row id of its selection.
    pub selection: i64,
    /// The row id of its bookmaker.
    pub bookmaker: i64,
    /// Its market.
    pub market: &'a str,
    /// The last offer.
    pub offer: Offer,
    /// Its status.
    pub status: PriceStatus,
    /// Feed time of the newest stored observation, if it is known.
    pub observed_at: Option<DateTime<Utc>>,
}

impl StateBuilder {
    /// Adds a bookmaker.
    pub fn add_bookmaker(&mut self, row: i64, bookmaker: Bookmaker) {
        self.bookmakers.push(StoredBookmaker { row, bookmaker });
    }

    /// Adds an event.
    pub fn add_event(
        &mut self,
        row: i64,
        event: Event,
        checked_at: DateTime<Utc>,
        status_by: StatusSource,
    ) {
        self.event_indices.insert(row, self.events.len());
        self.events.push(StoredEvent {
            status_by,
            ..StoredEvent::new(row, event, checked_at)
        });
    }

    /// Adds a selection; one whose event was not added is ignored.
    pub fn add_selection(&mut self, row: i64, event_row: i64, selection: Selection) {
        if let Some(index) = self.event_indices.get(&event_row) {
            let stored = StoredSelection { row, selection };
            self.events[*index].selections.push(stored);
        }
    }

    /// Adds a price; one whose event was not added is ignored.
    pub fn add_price(&mut self, price: &StoredPriceRow<'_>) -> Result<(), DanglingReference> {
        if self.state.bookmakers.is_empty() {
            self.sort_names();
        }
        let index = match self.last_event {
            Some((row, index)) if row == price.event => index,
            _ => match self.event_indices.get(&price.event) {
                Some(index) => *index,
                None => return Ok(()),
            },
        };
        self.last_event = Some((price.event, index));
        let market = self.state.market_index(price.market);
        let market =
            market.unwrap_or_else(|| self.state.intern_market(&MarketId::new(price.market)));
        let event = &mut self.events[index];
        let selections = &event.selections;
        let selection = selections.binary_search_by_key(&price.selection, |s| s.row);
        let bookmakers = &self.state.bookmakers;
        let bookmaker = bookmakers.binary_search_by_key(&price.bookmaker, |b| b.row);
        let stored = StoredPrice {
            row: price.row,
            offer: price.offer,
            observed_at: price.observed_at,
            selection: selection.map_err(|_| DanglingReference)? as u32,
            bookmaker: bookmaker.map_err(|_| DanglingReference)? as u32,
            market,
            status: price.status,
        };
        if event.prices.len() == event.prices.capacity() {
            // Doubling would let a million prices take the memory of two.
            let more = (event.prices.len() / 4).max(32);
            event.prices.reserve_exact(more);
        }
        event.prices.push(stored);
        Ok(())
    }

    /// Sorts selections and bookmakers by row, before the first price refers to them.
    fn sort_names(&mut self) {
        for event in &mut self.events {
            event.selections.sort_by_key(|s| s.row);
            event.selections.shrink_to_fit();
        }
        self.bookmakers.sort_by_key(|known| known.row);
        for bookmaker in std::mem::take(&mut self.bookmakers) {
            self.state.add_bookmaker(bookmaker);
        }
    }

    /// Ends loading; `next` are the ids to assign next, and `last_cycle` is the last cycle that was stored.
    pub fn build(mut self, next: IdAllocator, last_cycle: i64) -> StoredState {
        self.sort_names();
        for mut event in self.events {
            event.checked_in = last_cycle;
            event.prices.sort_unstable_by_key(|price| price.row);
            event.prices.shrink_to_fit();
            self.state.events.insert(event.event.id.clone(), event);
        }
        self.state.next = next;
        self.state
    }
}
