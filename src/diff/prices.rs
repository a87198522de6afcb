//! The runners and prices of one event, compared with what is stored of it.
//!
//! Both sides name their prices in the same order, look after look: the next price is nearly always
//! the next one in the book. Where it is not (a bookmaker came or went), a map of this event's keys
//! is made, once, and finds the place to go on from.

use std::collections::{HashMap, HashSet};

use super::book::{MAX_MARKETS, StoredEvent, StoredPrice, take};
use super::{Differ, PriceChange, PriceChangeKind, SelectionChange, Touched, storable};
use crate::model::{
    EventId, EventSnapshot, Price, PriceKey, PriceStatus, SelectionId, SelectionStatus,
};

/// No place in a list.
const NOWHERE: u32 = u32::MAX;
/// Another spelling of the same key said something newer.
const OUTDONE: u32 = u32::MAX - 1;

/// Lists that every event needs and none keeps.
#[derive(Default)]
pub(super) struct Scratch {
    /// For each observed price its place in the stored list.
    places: Vec<u32>,
    /// For each stored price the observed one that speaks of it.
    spoken: Vec<u32>,
}

/// Row of each observed runner: a few of them, and asked for in their own order.
pub(super) struct SelectionRows<'o>(Vec<(&'o SelectionId, i64)>);

impl SelectionRows<'_> {
    fn row(&self, id: &SelectionId, guess: &mut usize) -> Option<i64> {
        let at = match self.0.get(*guess) {
            Some((known, _)) if *known == id => *guess,
            _ => self.0.iter().position(|(known, _)| *known == id)?,
        };
        *guess = at;
        Some(self.0[at].1)
    }
}

impl<'a> Differ<'a> {
    pub(super) fn selections<'o>(
        &mut self,
        stored: Option<&'a StoredEvent>,
        event_row: i64,
        event: &EventId,
        observed: &'o EventSnapshot,
    ) -> SelectionRows<'o> {
        let known_ones = stored.map_or(&[][..], |stored| &stored.selections);
        let mut by_id: Option<HashMap<&str, usize>> = None;
        let mut next = 0;
        let mut rows = Vec::with_capacity(observed.selections.len());
        let mut seen = HashSet::with_capacity(observed.selections.len());
        let mut spoken = vec![false; known_ones.len()];
        for selection in &observed.selections {
            if !seen.insert(&selection.id) {
                self.reject("duplicate_selection", 1, &selection.id);
                continue;
            }
            let guessed = known_ones.get(next).map(|known| &known.selection.id);
            let place = match guessed == Some(&selection.id) {
                true => Some(next),
                false => by_id
                    .get_or_insert_with(|| {
                        let ids = known_ones.iter().map(|known| known.selection.id.as_str());
                        ids.zip(0..).collect()
                    })
                    .get(selection.id.as_str())
                    .copied(),
            };
            if let Some(at) = place {
                next = at + 1;
                spoken[at] = true;
            }
            let known = place.map(|at| &known_ones[at]);
            if known.is_some_and(|known| known.selection == *selection) {
                rows.extend(known.map(|known| (&selection.id, known.row)));
                continue;
            }
            if let Some(reason) = storable::selection(selection) {
                self.reject(reason, 1, &selection.id);
                // Not understood is not absent.
                rows.extend(known.map(|known| (&selection.id, known.row)));
                continue;
            }
            let row = match known {
                Some(known) => known.row,
                None => take(&mut self.changes.next.selection),
            };
            rows.push((&selection.id, row));
            self.changes.selections.push(SelectionChange {
                row,
                event_row,
                event: event.clone(),
                before: known.map(|known| known.selection.clone()),
                after: selection.clone(),
            });
        }
        if let (Some(stored), true) = (stored, observed.complete) {
            let silent = known_ones
                .iter()
                .zip(&spoken)
                .filter(|(_, spoken)| !**spoken);
            let gone = silent
                .map(|(known, _)| known)
                .filter(|known| known.selection.status != SelectionStatus::Removed);
            self.absent
                .selections
                .extend(gone.map(|known| (stored, known)));
        }
        SelectionRows(rows)
    }

    pub(super) fn prices(
        &mut self,
        stored: Option<&'a StoredEvent>,
        event_row: i64,
        event: &EventId,
        selection_rows: &SelectionRows<'_>,
        observed: &EventSnapshot,
    ) {
        let mut scratch = std::mem::take(&mut self.scratch);
        self.pair(stored, observed, &mut scratch);
        let mut touched = Vec::new();
        let mut guess = 0;
        for (n, price) in observed.prices.iter().enumerate() {
            let place = scratch.places[n];
            match (place, stored) {
                (OUTDONE, _) => {}
                (0..OUTDONE, Some(stored)) => {
                    if scratch.spoken[place as usize] == n as u32
                        && self.known_price(stored, &stored.prices[place as usize], price)
                    {
                        touched.push((place, price.observed_at));
                    }
                }
                _ => {
                    let selection = &price.key.selection;
                    let row = selection_rows
                        .row(selection, &mut guess)
                        .or_else(|| Some(stored?.selection(selection)?.row));
                    self.new_price(event, event_row, row, price);
                }
            }
        }
        if !touched.is_empty() {
            self.changes.touched.push(Touched {
                event: event.clone(),
                prices: touched,
            });
        }
        if let (Some(stored), true) = (stored, observed.complete) {
            let all = stored.prices.iter().zip(&scratch.spoken);
            for (price, spoken) in all.filter(|(price, _)| price.is_open()) {
                self.absent.open_prices += 1;
                if *spoken == NOWHERE {
                    self.absent.prices.push((stored, price));
                }
            }
        }
        self.scratch = scratch;
    }

    /// Finds for each observed price the stored one. Two spellings of one key: the later feed time
    /// counts, then the first listed; the other is set aside.
    fn pair(&mut self, stored: Option<&StoredEvent>, observed: &EventSnapshot, out: &mut Scratch) {
        let known_ones = stored.map_or(&[][..], |stored| &stored.prices);
        out.places.clear();
        out.spoken.clear();
        out.spoken.resize(known_ones.len(), NOWHERE);
        let mut by_key: Option<HashMap<PriceKey, u32>> = None;
        let mut new: HashMap<&PriceKey, usize> = HashMap::new();
        let (mut next, mut nowhere) = (0, 0);
        for (n, price) in observed.prices.iter().enumerate() {
            let guessed = stored.filter(|stored| {
                let guess = known_ones.get(next);
                guess.is_some_and(|guess| stored.has(self.book, guess, &price.key))
            });
            let place = match (guessed, stored) {
                (Some(_), _) => Some(next as u32),
                (None, Some(stored)) => {
                    let by_key = by_key.get_or_insert_with(|| {
                        let keys = self.book.prices(stored).map(|(key, _)| key);
                        keys.zip(0..).collect()
                    });
                    by_key.get(&price.key).copied()
                }
                (None, None) => None,
            };
            let first = match place {
                Some(place) => {
                    next = place as usize + 1;
                    match out.spoken[place as usize] {
                        NOWHERE => None,
                        first => Some(first as usize),
                    }
                }
                None => new.get(&price.key).copied(),
            };
            let counts = first.is_none_or(|first| {
                self.reject("duplicate_price", 1, &price.key.bookmaker);
                price.observed_at > observed.prices[first].observed_at
            });
            out.places.push(place.unwrap_or(NOWHERE));
            match place {
                Some(place) if counts => out.spoken[place as usize] = n as u32,
                None if counts => drop(new.insert(&price.key, n)),
                _ => {}
            }
            nowhere += usize::from(place.is_none());
        }
        if new.len() < nowhere {
            for (n, place) in out.places.iter_mut().enumerate() {
                if *place == NOWHERE && new[&observed.prices[n].key] != n {
                    *place = OUTDONE;
                }
            }
        }
    }

    /// True when nothing changed but the feed's time.
    fn known_price(&mut self, stored: &'a StoredEvent, known: &StoredPrice, price: &Price) -> bool {
        self.met[known.bookmaker as usize] |= price.offer.is_some();
        self.changes.counts.seen += 1;
        if price.observed_at < known.observed_at {
            self.changes.counts.stale += 1;
            return false;
        }
        let status = status(price);
        let (kind, offer, status) = match price.offer {
            None => {
                self.changes.counts.no_price += 1;
                if !known.is_open() {
                    return false;
                }
                (
                    PriceChangeKind::Withdrawn,
                    known.offer,
                    PriceStatus::Withdrawn,
                )
            }
            Some(offer) if !known.is_open() => (PriceChangeKind::Reopened, offer, status),
            Some(offer) if known.offer != offer || known.status != status => {
                (PriceChangeKind::Changed, offer, status)
            }
            Some(_) => {
                self.changes.counts.unchanged += 1;
                return price.observed_at > known.observed_at;
            }
        };
        self.changes.push_price(PriceChange {
            kind,
            offer,
            status,
            observed_at: price.observed_at,
            ..self.unchanged(stored, known)
        });
        false
    }

    fn new_price(
        &mut self,
        event: &EventId,
        event_row: i64,
        selection_row: Option<i64>,
        price: &Price,
    ) {
        if let Some(reason) = storable::price(price) {
            return self.reject(reason, 1, &price.key.bookmaker);
        }
        let Some(selection_row) = selection_row else {
            return self.reject("unknown_selection", 1, &price.key.selection);
        };
        let market = &price.key.market;
        if self.book.market_place(market.as_str()).is_none() && !self.new_markets.contains(market) {
            if self.book.market_count() + self.new_markets.len() >= MAX_MARKETS {
                return self.reject("too_many_markets", 1, market);
            }
            self.new_markets.insert(market.clone());
        }
        self.changes.counts.seen += 1;
        let Some(offer) = price.offer else {
            self.changes.counts.no_price += 1;
            return;
        };
        let bookmaker_row = match self.book.bookmaker_place(&price.key.bookmaker) {
            Some(place) => {
                self.met[place] = true;
                self.book.bookmakers[place].row
            }
            None => self.new_bookmaker(&price.key.bookmaker),
        };
        let row = take(&mut self.changes.next.price);
        self.changes.push_price(PriceChange {
            row,
            event_row,
            selection_row,
            bookmaker_row,
            event: event.clone(),
            market: market.clone(),
            kind: PriceChangeKind::Inserted,
            before: None,
            offer,
            status: status(price),
            observed_at: price.observed_at,
        });
    }

    /// A stored price as a change that changes nothing yet.
    pub(super) fn unchanged(&self, stored: &StoredEvent, known: &StoredPrice) -> PriceChange {
        PriceChange {
            row: known.row,
            event_row: stored.row,
            selection_row: stored.selections[known.selection as usize].row,
            bookmaker_row: self.book.bookmakers[known.bookmaker as usize].row,
            event: stored.event.id.clone(),
            market: self.book.market_name(known.market).clone(),
            kind: PriceChangeKind::Changed,
            before: Some(known.offer.decimal),
            offer: known.offer,
            status: known.status,
            observed_at: known.observed_at,
        }
    }
}

fn status(price: &Price) -> PriceStatus {
    match price.suspended {
        true => PriceStatus::Suspended,
        false => PriceStatus::Open,
    }
}
