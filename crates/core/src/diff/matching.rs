//! Matches the observed prices of an event with its stored ones. The differ calls it for every event it reads.
//!
//! A feed lists its prices in the same order in every answer, so the next price is nearly always the next stored
//! one. Where it is not (a bookmaker came or went), a map of the event's keys is built once and finds the position
//! to continue from.

use std::collections::HashMap;

use super::stored_state::{StoredEvent, StoredState};
use crate::model::{Price, PriceKey};

/// The stored price that an observed one belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PriceMatch {
    /// Index in the event's stored prices.
    Stored(u32),
    /// No stored price has its key.
    New,
    /// Another observed price with the same key is used instead.
    Duplicate,
}

/// Buffers that are reused from event to event.
#[derive(Default)]
pub(super) struct MatchBuffer {
    /// One for each observed price.
    pub(super) matches: Vec<PriceMatch>,
    /// For each stored price, the index of the observed one.
    pub(super) observed: Vec<Option<u32>>,
    /// Indices of observed prices whose key occurred before.
    pub(super) repeated: Vec<usize>,
}

impl MatchBuffer {
    /// Finds the stored price of each observed one. Of several observed prices with one key, the one with the
    /// latest feed time is used, then the first; the others are duplicates.
    pub(super) fn fill(
        &mut self,
        state: &StoredState,
        stored: Option<&StoredEvent>,
        prices: &[Price],
    ) {
        let stored_prices = stored.map_or(&[][..], |stored| &stored.prices);
        self.matches.clear();
        self.repeated.clear();
        self.observed.clear();
        self.observed.resize(stored_prices.len(), None);
        let mut by_key: Option<HashMap<PriceKey, u32>> = None;
        let mut new: HashMap<&PriceKey, u32> = HashMap::new();
        let mut next = 0;
        for (n, price) in prices.iter().enumerate() {
            let is_next = |stored: &&StoredEvent| {
                let candidate = stored_prices.get(next);
                candidate.is_some_and(|known| stored.has_key(state, known, &price.key))
            };
            let index = match stored {
                Some(stored) if is_next(&stored) => Some(next as u32),
                Some(stored) => {
                    let by_key = by_key.get_or_insert_with(|| {
                        let keys = state.prices(stored).map(|(key, _)| key);
                        keys.zip(0..).collect()
                    });
                    by_key.get(&price.key).copied()
                }
                None => None,
            };
            let earlier = match index {
                Some(index) => {
                    next = index as usize + 1;
                    self.observed[index as usize]
                }
                None => new.get(&price.key).copied(),
            };
            if let Some(earlier) = earlier {
                self.repeated.push(n);
                if price.observed_at <= prices[earlier as usize].observed_at {
                    self.matches.push(PriceMatch::Duplicate);
                    continue;
                }
                self.matches[earlier as usize] = PriceMatch::Duplicate;
            }
            match index {
                Some(index) => {
                    self.matches.push(PriceMatch::Stored(index));
                    self.observed[index as usize] = Some(n as u32);
                }
                None => {
                    self.matches.push(PriceMatch::New);
                    new.insert(&price.key, n as u32);
                }
            }
        }
    }
}
