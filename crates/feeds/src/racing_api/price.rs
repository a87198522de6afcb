//! Reads the offer of one odds row: its exact decimal, fraction and each-way terms. `RaceParser` calls it for both
//! forms.

use std::num::NonZeroU32;

use rust_decimal::Decimal;

use super::fields::{JsonScalar, OddsJson};
use oddsd_core::model::{EachWay, Fraction, Offer};

/// Odds of 1 would pay back the stake alone.
const MIN_DECIMAL: Decimal = Decimal::ONE;
const MAX_DECIMAL: Decimal = Decimal::from_parts(100_000, 0, 0, false, 0);
/// Texts up to this length fit into 64 bits.
const QUICK_DIGITS: usize = 18;

/// Returns the offer, or `None` if `decimal` is "-", "SP", zero or missing: there is no price now. A
/// `fractional` with a slash replaces a missing decimal. Without a slash it is ambiguous: it repeats the decimal
/// (exchanges) or means "to one" (older answers). Fails with the text of a decimal that is not odds.
pub(super) fn read_offer<F: JsonScalar>(odds: &OddsJson<F>) -> Result<Option<Offer>, String> {
    if let Some(nested) = odds.decimal.nested() {
        return Err(nested.into());
    }
    let fractional = odds.fractional.text().and_then(|text| fraction(&text));
    let decimal = match odds.decimal.text() {
        None => match fractional.and_then(Fraction::decimal) {
            Some(decimal) => decimal,
            None => return Ok(None),
        },
        Some(text) if text == "-" || text.eq_ignore_ascii_case("sp") => return Ok(None),
        Some(text) => match quick(&text).or_else(|| exact(&text)) {
            Some(decimal) if decimal.is_zero() => return Ok(None),
            Some(decimal) => decimal,
            None => return Err(text.into_owned()),
        },
    };
    if decimal <= MIN_DECIMAL || decimal >= MAX_DECIMAL {
        return Err(decimal.to_string());
    }
    Ok(Some(Offer {
        decimal,
        fractional,
        point: None,
        each_way: each_way(odds),
    }))
}

/// Accepts digits and a point only: the number type would also accept `1_000` and `+5`.
fn exact(text: &str) -> Option<Decimal> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let decimal = plain.then(|| Decimal::from_str_exact(text).ok())??;
    Some(decimal.normalize())
}

/// Returns the same as [`exact`] for up to 18 digits, in a fraction of its time: nearly all odds are such.
fn quick(text: &str) -> Option<Decimal> {
    let bytes = text.as_bytes();
    if bytes.len() > QUICK_DIGITS || !bytes.last()?.is_ascii_digit() || bytes[0] == b'.' {
        return None;
    }
    let (mut digits, mut point) = (0u64, None);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'0'..=b'9' => digits = digits * 10 + u64::from(byte - b'0'),
            b'.' if point.is_none() => point = Some(at),
            _ => return None,
        }
    }
    let mut scale = point.map_or(0, |at| bytes.len() - 1 - at) as u32;
    while scale > 0 && digits.is_multiple_of(10) {
        digits /= 10;
        scale -= 1;
    }
    let (low, middle) = (digits as u32, (digits >> 32) as u32);
    Some(Decimal::from_parts(low, middle, 0, false, scale))
}

/// Reads `22/1` without spaces; the type's own parser reads all other forms.
fn fraction(text: &str) -> Option<Fraction> {
    let mut parts = [0u32; 2];
    let mut at = 0;
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' if parts[at] < u32::MAX / 10 => {
                parts[at] = parts[at] * 10 + u32::from(byte - b'0');
            }
            b'/' if at == 0 => at = 1,
            _ => return Fraction::parse(text),
        }
    }
    // Zero and a number alone are not fractions.
    Some(Fraction {
        profit: NonZeroU32::new(parts[0])?,
        stake: NonZeroU32::new(parts[1])?,
    })
}

fn each_way<F: JsonScalar>(odds: &OddsJson<F>) -> Option<EachWay> {
    let part = |field: &F| field.text()?.parse().ok().filter(|n: &u16| *n > 0);
    Some(EachWay {
        places: part(&odds.ew_places)?,
        denom: part(&odds.ew_denom)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn quick_and_exact_decimals_are_equal(
            text in prop_oneof!["[0-9]{0,6}(\\.[0-9]{0,6})?", "[0-9.+_e-]{0,20}", "[0-9]{1,30}"],
        ) {
            if let Some(quick) = quick(&text) {
                let exact = exact(&text);
                // The texts are compared, because the scale must be equal too.
                let text_of = |decimal: Option<Decimal>| decimal.map(|d| d.to_string());
                prop_assert_eq!(text_of(Some(quick)), text_of(exact), "{}", text);
            }
        }

        #[test]
        fn quick_and_parsed_fractions_are_equal(text in "[0-9]{0,11}[/ +]{0,2}[0-9]{0,11}(/1)?") {
            prop_assert_eq!(fraction(&text), Fraction::parse(&text));
        }
    }
}
