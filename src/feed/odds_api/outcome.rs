//! One outcome: what is bet on, and the odds in either way of writing them.

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde_json::value::RawValue;

use super::parse::MAX_TEXT_CHARS;
use super::rows::WireOutcome;
use crate::feed::number;
use crate::model::{Offer, plain_text};

/// Longest odds and line that are taken for real.
const MAX_ODDS: Decimal = Decimal::from_parts(1_000_000, 0, 0, false, 0);

/// How prices are written; asked for with `oddsFormat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OddsFormat {
    American,
    Decimal,
}

impl OddsFormat {
    /// The value of the request's `oddsFormat`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::American => "american",
            Self::Decimal => "decimal",
        }
    }

    fn offer(self, price: Decimal) -> Option<Offer> {
        match self {
            Self::American if price.is_integer() => Offer::american(price.to_i64()?),
            Self::American => None,
            Self::Decimal => {
                (price > Decimal::ONE && price <= MAX_ODDS).then(|| Offer::decimal(price))
            }
        }
    }
}

/// An outcome's name and offer, or the reason why it is set aside and what it looked like.
pub fn outcome(
    raw: &RawValue,
    format: OddsFormat,
) -> Result<(String, Offer), (&'static str, String)> {
    let sample = || raw.get().to_owned();
    let wire: WireOutcome =
        serde_json::from_str(raw.get()).map_err(|_| ("unreadable_outcome", sample()))?;
    let name = plain_text(wire.name.trim(), MAX_TEXT_CHARS);
    if name.is_empty() {
        return Err(("no_name", sample()));
    }
    // A player's prop: "Over" says nothing without whose.
    let name = match wire.description.as_deref().map(str::trim) {
        Some(whose) if !whose.is_empty() => {
            format!("{} / {name}", plain_text(whose, MAX_TEXT_CHARS))
        }
        _ => name,
    };
    let price = wire.price.and_then(number::exact);
    let mut offer = price
        .and_then(|price| format.offer(price))
        .ok_or_else(|| ("bad_price", sample()))?;
    if let Some(raw) = wire.point {
        let point = number::exact(raw).filter(|point| point.abs() <= MAX_ODDS);
        offer.point = Some(point.ok_or_else(|| ("unreadable_point", sample()))?);
    }
    Ok((name, offer))
}
