//! The order book of one runner: the prices that are offered on either side. `ExchangeMarket` keeps
//! one a runner; sizes only matter by being zero or not.

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde_json::value::RawValue;

use super::wire::RunnerChange;
use crate::number::exact;

/// Betfair's own scale has 350 prices.
const MAX_ROWS: usize = 5_000;
const MAX_ODDS: Decimal = Decimal::from_parts(1_000_000, 0, 0, false, 0);

#[derive(Debug, Default)]
pub struct OrderBook {
    /// Prices that a backer can take: the best is the highest.
    pub back: BookSide,
    /// Prices that a layer can take: the best is the lowest.
    pub lay: BookSide,
}

impl OrderBook {
    /// Applies one runner change and returns the number of rows that could not be read.
    pub fn apply(&mut self, change: &RunnerChange) -> u64 {
        let mut unreadable = 0;
        for (side, depth, levels) in [
            (&mut self.back, &change.atb, &change.batb),
            (&mut self.lay, &change.atl, &change.batl),
        ] {
            for [price, size] in depth {
                unreadable += u64::from(side.set_price(price, size).is_none());
            }
            for [level, price, size] in levels {
                unreadable += u64::from(side.set_level(level, price, size).is_none());
            }
        }
        unreadable
    }

    /// Empties the book before an image, which lists all that is offered.
    pub fn clear(&mut self) {
        self.back.clear();
        self.lay.clear();
    }
}

#[derive(Debug, Default)]
pub struct BookSide {
    prices: BTreeSet<Decimal>,
    levels: BTreeMap<u32, Decimal>,
    /// A subscription to both the full depth and the best levels gets them from two calculations
    /// that may be a moment apart, so the full depth decides as soon as it is known.
    has_depth: bool,
    changed: bool,
}

impl BookSide {
    pub fn highest(&self) -> Option<Decimal> {
        match self.has_depth {
            true => self.prices.last().copied(),
            false => self.levels.values().max().copied(),
        }
    }

    pub fn lowest(&self) -> Option<Decimal> {
        match self.has_depth {
            true => self.prices.first().copied(),
            false => self.levels.values().min().copied(),
        }
    }

    /// True if a message changed this side since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn clear(&mut self) {
        self.changed |= !(self.prices.is_empty() && self.levels.is_empty());
        self.prices.clear();
        self.levels.clear();
        self.has_depth = false;
    }

    fn set_price(&mut self, price: &RawValue, size: &RawValue) -> Option<()> {
        let (price, size) = (exact(price)?, exact(size)?);
        if size.is_zero() {
            self.prices.remove(&price);
        } else if is_offer(price, size) && self.prices.len() < MAX_ROWS {
            self.prices.insert(price);
        } else {
            return None;
        }
        self.has_depth = true;
        self.changed = true;
        Some(())
    }

    fn set_level(&mut self, level: &RawValue, price: &RawValue, size: &RawValue) -> Option<()> {
        let (level, price, size) = (exact(level)?.to_u32()?, exact(price)?, exact(size)?);
        if size.is_zero() {
            self.levels.remove(&level);
        } else if is_offer(price, size) && self.levels.len() < MAX_ROWS {
            self.levels.insert(level, price);
        } else {
            return None;
        }
        self.changed = true;
        Some(())
    }
}

fn is_offer(price: Decimal, size: Decimal) -> bool {
    price > Decimal::ONE && price <= MAX_ODDS && size > Decimal::ZERO
}
