//! The ticks on which British prices move, and how a provider writes them. `card` quotes by it and
//! `market` moves along it.

use oddsd_core::model::Fraction;
use rust_decimal::{Decimal, RoundingStrategy};

/// Traditional fractions, shortest first.
const TICKS: [&str; 50] = [
    "1/10", "1/8", "1/7", "1/6", "1/5", "2/9", "1/4", "2/7", "3/10", "1/3", "4/11", "2/5", "4/9",
    "1/2", "8/15", "4/7", "8/13", "4/6", "8/11", "4/5", "5/6", "10/11", "1/1", "11/10", "6/5",
    "5/4", "11/8", "6/4", "13/8", "7/4", "15/8", "2/1", "9/4", "5/2", "11/4", "3/1", "10/3", "7/2",
    "4/1", "9/2", "5/1", "6/1", "7/1", "8/1", "10/1", "12/1", "16/1", "20/1", "33/1", "66/1",
];
pub(super) const LAST: usize = TICKS.len() - 1;

/// One price as the provider writes it.
pub(super) struct QuotedOdds {
    pub(super) fractional: String,
    pub(super) decimal: String,
}

pub(super) fn fixed(tick: usize) -> QuotedOdds {
    let fraction = fraction(tick);
    let decimal = fraction.decimal().expect("short odds have a decimal");
    let decimal = decimal.round_dp_with_strategy(2, RoundingStrategy::MidpointAwayFromZero);
    QuotedOdds {
        fractional: fraction.to_string(),
        decimal: decimal.normalize().to_string(),
    }
}

/// An exchange pays a little more, in its own steps, and repeats the decimal odds as fractional.
pub(super) fn exchange(tick: usize) -> QuotedOdds {
    let Fraction { profit, stake } = fraction(tick);
    let hundredths = 100 + profit.get() * 104 / stake;
    let step = match hundredths {
        ..200 => 1,
        200..300 => 2,
        300..400 => 5,
        400..600 => 10,
        600..1_000 => 20,
        1_000..2_000 => 50,
        2_000..3_000 => 100,
        3_000..5_000 => 200,
        5_000..10_000 => 500,
        10_000.. => 1_000,
    };
    let decimal = Decimal::new(i64::from(hundredths.next_multiple_of(step)), 2).normalize();
    QuotedOdds {
        fractional: decimal.to_string(),
        decimal: decimal.to_string(),
    }
}

/// The tick nearest to the fair price of a chance of winning.
pub(super) fn nearest_tick(chance: f64) -> usize {
    let profit = 1.0 / chance - 1.0;
    let distance = |tick: &usize| {
        let odds = fraction(*tick);
        (f64::from(odds.profit.get()) / f64::from(odds.stake.get()) / profit)
            .ln()
            .abs()
    };
    (0..=LAST)
        .min_by(|a, b| distance(a).total_cmp(&distance(b)))
        .unwrap_or(LAST)
}

fn fraction(tick: usize) -> Fraction {
    Fraction::parse(TICKS[tick.min(LAST)]).expect("a fraction")
}
