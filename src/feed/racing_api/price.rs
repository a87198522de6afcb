//! One row of odds: what a bookmaker offers on a runner, or that it offers nothing.

use std::str::FromStr;

use rust_decimal::Decimal;

use super::row::{Field, Odds, is_nested, name, text};
use crate::model::{EachWay, Fraction, Offer};

/// Odds of 1 would pay back the stake alone.
const MIN_DECIMAL: Decimal = Decimal::ONE;
const MAX_DECIMAL: Decimal = Decimal::from_parts(100_000, 0, 0, false, 0);

/// A decimal that is not odds: the text, for the sample.
pub(super) struct BadDecimal(pub(super) String);

/// `decimal` decides; "-", "SP", zero and nothing mean that there is no price now. Only when it is
/// missing does a `fractional` with a slash stand in: without one it repeats the decimal (exchanges)
/// or means "to one" (older answers), and nothing tells which.
pub(super) fn offer(odds: &Odds<'_>) -> Result<Option<Offer>, BadDecimal> {
    if is_nested(odds.decimal) {
        return Err(BadDecimal(
            odds.decimal
                .map_or_else(String::new, |raw| raw.get().into()),
        ));
    }
    let fractional = fraction(odds.fractional);
    let decimal = match text(odds.decimal) {
        None => match fractional.and_then(Fraction::decimal) {
            Some(decimal) => decimal,
            None => return Ok(None),
        },
        Some(text) if text == "-" || text.eq_ignore_ascii_case("sp") => return Ok(None),
        Some(text) => match exact(&text) {
            Some(decimal) if decimal.is_zero() => return Ok(None),
            Some(decimal) => decimal,
            None => return Err(BadDecimal(text.into_owned())),
        },
    };
    if decimal <= MIN_DECIMAL || decimal >= MAX_DECIMAL {
        return Err(BadDecimal(decimal.to_string()));
    }
    Ok(Some(Offer {
        fractional,
        each_way: each_way(odds),
        ..Offer::decimal(decimal)
    }))
}

/// Digits and a point, nothing else: the number type alone would also take `1_000` and `+5`.
fn exact(text: &str) -> Option<Decimal> {
    text.bytes()
        .all(|b| b.is_ascii_digit() || b == b'.')
        .then(|| Decimal::from_str_exact(text).ok())?
}

fn fraction(field: Field<'_>) -> Option<Fraction> {
    Fraction::parse(&text(field)?)
}

fn each_way(odds: &Odds<'_>) -> Option<EachWay> {
    let part = |field| u16::from_str(&name(field)).ok().filter(|n| *n > 0);
    Some(EachWay {
        places: part(odds.ew_places)?,
        denom: part(odds.ew_denom)?,
    })
}
