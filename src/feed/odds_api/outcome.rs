//! One outcome: what is bet on, and the odds in either way of writing them.

use std::borrow::Cow;

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

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

/// An outcome's name and offer, or the reason why it is set aside.
pub fn outcome<'a>(
    wire: &'a WireOutcome<'_>,
    format: OddsFormat,
) -> Result<(Cow<'a, str>, Offer), &'static str> {
    let name = plain(wire.name.trim());
    if name.is_empty() {
        return Err("no_name");
    }
    // A player's prop: "Over" says nothing without whose.
    let name = match wire.description.as_deref().map(str::trim) {
        Some(whose) if !whose.is_empty() => Cow::Owned(format!("{} / {name}", plain(whose))),
        _ => name,
    };
    let price = wire.price.and_then(number::exact_text);
    let offer = price.and_then(|price| format.offer(price));
    let mut offer = offer.ok_or("bad_price")?;
    if let Some(text) = wire.point {
        let point = number::exact_text(text).filter(|point| point.abs() <= MAX_ODDS);
        offer.point = Some(point.ok_or("unreadable_point")?);
    }
    Ok((name, offer))
}

/// [`plain_text`], which nearly all text is.
fn plain(text: &str) -> Cow<'_, str> {
    let is_plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    match is_plain && text.len() <= MAX_TEXT_CHARS {
        true => Cow::Borrowed(text),
        false => Cow::Owned(plain_text(text, MAX_TEXT_CHARS)),
    }
}
