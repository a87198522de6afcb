//! What is stored, in memory: loaded once, moved forward only by changes that were committed, and
//! thrown away after any database error. The diff reads it; nothing else decides what a change is.
//!
//! Row numbers are handed out here and not by the database: one leader writes (the store's lease
//! sees to that), and a cycle that knows its ids before it starts needs one statement, not two.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::Changes;
use crate::model::{
    Bookmaker, BookmakerId, Event, EventId, Offer, PriceKey, PriceStatus, Selection, SelectionId,
};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Book {
    pub events: HashMap<EventId, StoredEvent>,
    pub bookmakers: HashMap<BookmakerId, StoredBookmaker>,
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
    pub selections: HashMap<SelectionId, StoredSelection>,
    pub prices: HashMap<PriceKey, StoredPrice>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StoredSelection {
    pub row: i64,
    pub selection: Selection,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StoredPrice {
    pub row: i64,
    /// The last offer, kept when the price is withdrawn: it is the closing price.
    pub offer: Offer,
    pub status: PriceStatus,
    /// Feed time of the newest observation, whether or not it changed anything.
    pub observed_at: DateTime<Utc>,
}

impl StoredPrice {
    pub fn is_open(&self) -> bool {
        self.status != PriceStatus::Withdrawn
    }
}

impl Book {
    /// Moves forward by what has been committed.
    pub fn apply(&mut self, changes: Changes) {
        self.next = changes.next;
        for change in changes.bookmakers {
            self.bookmakers.insert(
                change.bookmaker.id.clone(),
                StoredBookmaker {
                    row: change.row,
                    bookmaker: change.bookmaker,
                },
            );
        }
        for change in changes.events {
            match self.events.get_mut(&change.after.id) {
                Some(stored) => stored.event = change.after,
                None => {
                    self.events.insert(
                        change.after.id.clone(),
                        StoredEvent {
                            row: change.row,
                            event: change.after,
                            checked_at: changes.as_of,
                            selections: HashMap::new(),
                            prices: HashMap::new(),
                        },
                    );
                }
            }
        }
        for id in &changes.checked {
            if let Some(stored) = self.events.get_mut(id) {
                stored.checked_at = stored.checked_at.max(changes.as_of);
            }
        }
        for change in changes.selections {
            let stored = self.event_mut(&change.event);
            stored.selections.insert(
                change.after.id.clone(),
                StoredSelection {
                    row: change.row,
                    selection: change.after,
                },
            );
        }
        for change in changes.prices {
            let stored = self.event_mut(&change.event);
            stored.prices.insert(
                change.key,
                StoredPrice {
                    row: change.row,
                    offer: change.offer,
                    status: change.status,
                    observed_at: change.observed_at,
                },
            );
        }
        for touch in changes.touched {
            if let Some(price) = self.event_mut(&touch.event).prices.get_mut(&touch.key) {
                price.observed_at = touch.observed_at;
            }
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
    }

    pub fn open_prices(&self) -> usize {
        self.events
            .values()
            .flat_map(|stored| stored.prices.values())
            .filter(|price| price.is_open())
            .count()
    }
}
