//! The order book of one runner: the prices that are offered on either side. `ExchangeMarket` keeps
//! one a runner; sizes only matter by being zero or not.

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde::Deserialize;
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
        for (side, depth, levels, display) in [
            (&mut self.back, change.atb, change.batb, change.bdatb),
            (&mut self.lay, change.atl, change.batl, change.bdatl),
        ] {
            unreadable += apply_rows(depth, |[price, size]| side.set_price(price, size));
            for (ladder, rows) in [(Ladder::Best, levels), (Ladder::Display, display)] {
                unreadable += apply_rows(rows, |[level, price, size]| {
                    side.set_level(ladder, level, price, size)
                });
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

/// Passes each row of a ladder to `apply`, and returns the number of rows that are malformed or that it refuses.
fn apply_rows<const N: usize>(
    ladder: Option<&RawValue>,
    mut apply: impl FnMut([&RawValue; N]) -> Option<()>,
) -> u64
where
    for<'a> [&'a RawValue; N]: Deserialize<'a>,
{
    let Some(ladder) = ladder else {
        return 0;
    };
    let Ok(rows) = serde_json::from_str::<Vec<&RawValue>>(ladder.get()) else {
        return 1;
    };
    let applied = rows.iter().filter(|row| {
        let row = serde_json::from_str::<[&RawValue; N]>(row.get());
        row.ok().and_then(&mut apply).is_some()
    });
    let applied = applied.count();
    (rows.len() - applied) as u64
}

/// The kinds of ladders, from the least to the most exact. A subscription to several of them gets them from
/// calculations that may be a moment apart, so the most exact one that is known decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Ladder {
    #[default]
    Display,
    Best,
    Depth,
}

#[derive(Debug, Default)]
pub struct BookSide {
    prices: BTreeSet<Decimal>,
    best: BTreeMap<u32, Decimal>,
    display: BTreeMap<u32, Decimal>,
    /// The most exact ladder that is known.
    ladder: Ladder,
    changed: bool,
}

impl BookSide {
    pub fn highest(&self) -> Option<Decimal> {
        match self.ladder {
            Ladder::Depth => self.prices.last().copied(),
            Ladder::Best => self.best.values().max().copied(),
            Ladder::Display => self.display.values().max().copied(),
        }
    }

    pub fn lowest(&self) -> Option<Decimal> {
        match self.ladder {
            Ladder::Depth => self.prices.first().copied(),
            Ladder::Best => self.best.values().min().copied(),
            Ladder::Display => self.display.values().min().copied(),
        }
    }

    /// Makes the next delta name its best price; also that it has none, if it is not empty or if it `is_out`.
    pub fn mark_changed(&mut self, is_out: bool) {
        self.changed |= is_out || !self.is_empty();
    }

    pub fn is_empty(&self) -> bool {
        self.prices.is_empty() && self.best.is_empty() && self.display.is_empty()
    }

    /// True if a message changed this side since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn clear(&mut self) {
        self.mark_changed(false);
        self.prices.clear();
        self.best.clear();
        self.display.clear();
        self.ladder = Ladder::default();
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
        self.ladder = Ladder::Depth;
        self.changed = true;
        Some(())
    }

    fn set_level(
        &mut self,
        ladder: Ladder,
        level: &RawValue,
        price: &RawValue,
        size: &RawValue,
    ) -> Option<()> {
        let level = exact(level).filter(Decimal::is_integer)?.to_u32()?;
        let (price, size) = (exact(price)?, exact(size)?);
        let levels = match ladder {
            Ladder::Display => &mut self.display,
            Ladder::Best | Ladder::Depth => &mut self.best,
        };
        if size.is_zero() {
            levels.remove(&level);
        } else if is_offer(price, size) && levels.len() < MAX_ROWS {
            levels.insert(level, price);
        } else {
            return None;
        }
        self.ladder = self.ladder.max(ladder);
        self.changed = true;
        Some(())
    }
}

fn is_offer(price: Decimal, size: Decimal) -> bool {
    price > Decimal::ONE && price <= MAX_ODDS && size > Decimal::ZERO
}
