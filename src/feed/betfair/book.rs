//! What is offered on one runner: the prices at which money waits, on either side. Sizes matter
//! here only by being zero or not.

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde_json::value::RawValue;

use super::wire::RunnerChange;
use crate::feed::number::exact;

/// Betfair's own scale has 350 prices.
const MAX_ROWS: usize = 5_000;
const MAX_ODDS: Decimal = Decimal::from_parts(1_000_000, 0, 0, false, 0);

#[derive(Debug, Default)]
pub struct Book {
    /// What a backer can take: the best is the highest.
    pub back: Side,
    /// What a layer can take: the best is the lowest.
    pub lay: Side,
}

impl Book {
    /// Applies one runner change; gives the number of rows that make no sense.
    pub fn apply(&mut self, change: &RunnerChange) -> u64 {
        let mut nonsense = 0;
        for (side, depth, levels) in [
            (&mut self.back, &change.atb, &change.batb),
            (&mut self.lay, &change.atl, &change.batl),
        ] {
            for [price, size] in depth {
                nonsense += u64::from(side.at_price(price, size).is_none());
            }
            for [level, price, size] in levels {
                nonsense += u64::from(side.at_level(level, price, size).is_none());
            }
        }
        nonsense
    }

    /// An image follows: whatever was there is gone unless the image lists it.
    pub fn clear(&mut self) {
        self.back.clear();
        self.lay.clear();
    }
}

#[derive(Debug, Default)]
pub struct Side {
    prices: BTreeSet<Decimal>,
    levels: BTreeMap<u32, Decimal>,
    /// Whoever subscribes to the full depth and to the best levels gets both, from two
    /// calculations that may be a moment apart: the full depth decides as soon as it is known.
    has_depth: bool,
    touched: bool,
}

impl Side {
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

    /// Whether a message touched this side since the last call.
    pub fn take_touched(&mut self) -> bool {
        std::mem::take(&mut self.touched)
    }

    pub fn touch(&mut self) {
        self.touched = true;
    }

    fn clear(&mut self) {
        self.touched |= !(self.prices.is_empty() && self.levels.is_empty());
        self.prices.clear();
        self.levels.clear();
        self.has_depth = false;
    }

    fn at_price(&mut self, price: &RawValue, size: &RawValue) -> Option<()> {
        let (price, size) = (exact(price)?, exact(size)?);
        if size.is_zero() {
            self.prices.remove(&price);
        } else if is_offer(price, size) && self.prices.len() < MAX_ROWS {
            self.prices.insert(price);
        } else {
            return None;
        }
        self.has_depth = true;
        self.touched = true;
        Some(())
    }

    fn at_level(&mut self, level: &RawValue, price: &RawValue, size: &RawValue) -> Option<()> {
        let (level, price, size) = (exact(level)?.to_u32()?, exact(price)?, exact(size)?);
        if size.is_zero() {
            self.levels.remove(&level);
        } else if is_offer(price, size) && self.levels.len() < MAX_ROWS {
            self.levels.insert(level, price);
        } else {
            return None;
        }
        self.touched = true;
        Some(())
    }
}

fn is_offer(price: Decimal, size: Decimal) -> bool {
    price > Decimal::ONE && price <= MAX_ODDS && size > Decimal::ZERO
}
