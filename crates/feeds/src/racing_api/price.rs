//! Reads the offer of one odds row: its exact decimal, fraction and each-way terms. `RaceParser` calls it for both
//! forms.

use std::num::NonZeroU32;

use rust_decimal::Decimal;

use super::fields::{JsonScalar, OddsJson};
use oddsd_core::model::{EachWay, Fraction, Offer};

const MIN_DECIMAL: Decimal = Decimal::ONE;
const MAX_DECIMAL: Decimal = Decimal::from_parts(100_000, 0, 0, false, 0);
/// Texts up to this length fit into 64 bits.
const QUICK_DIGITS: usize = 18;

/// What bookmakers show before they have a price, or instead of one. Some show the stub `EVS` beside a decimal
/// that is missing, or of 1.
const NO_PRICE: &[&str] = &["-", "sp", "n/a", "na", "evs", "evens", "evn"];

/// Returns the offer, or `None` if there is no price now: `decimal` is missing, a word of [`NO_PRICE`], or 1 or
/// less, which would pay back the stake alone. A
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
        Some(text) => match quick(&text).or_else(|| exact(&text)) {
            Some(decimal) => decimal,
            None if is_no_price(&text) => return Ok(None),
            None => return Err(text.into_owned()),
        },
    };
    if decimal <= MIN_DECIMAL {
        return Ok(None);
    }
    if decimal >= MAX_DECIMAL {
        return Err(decimal.to_string());
    }
    Ok(Some(Offer {
        decimal,
        fractional,
        point: None,
        each_way: each_way(odds),
    }))
}

fn is_no_price(text: &str) -> bool {
    let mut words = NO_PRICE.iter();
    words.any(|word| text.eq_ignore_ascii_case(word))
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

    use super::super::fields::RawField;
    use super::*;

    #[test]
    fn placeholder_is_no_price_and_other_text_is_rejected() {
        let read = |decimal: &str, fractional: &str| {
            let json = format!(r#"{{"decimal":{decimal},"fractional":{fractional}}}"#);
            let odds: OddsJson<RawField<'_>> = serde_json::from_str(&json).expect("a row");
            read_offer(&odds).map(|offer| offer.map(|offer| offer.decimal.to_string()))
        };
        for none in [
            r#""-""#,
            r#""1""#,
            r#""1.0""#,
            r#""1.00""#,
            "1",
            "1.0",
            r#""0""#,
            "0",
            "0.5",
            r#""EVS""#,
            r#""Evens""#,
            r#""SP""#,
            r#""N/A""#,
            r#""""#,
            r#"" ""#,
            "null",
        ] {
            for fractional in [r#""EVS""#, r#""-""#, "null", r#""4""#] {
                assert_eq!(read(none, fractional), Ok(None), "{none} {fractional}");
            }
        }
        // Only a missing decimal leaves the fraction to decide.
        assert_eq!(read("1", r#""1/1""#), Ok(None));
        assert_eq!(read("null", r#""1/1""#), Ok(Some("2".into())));
        assert_eq!(read("2", r#""EVS""#), Ok(Some("2".into())));
        assert_eq!(read("1.01", "null"), Ok(Some("1.01".into())));
        for bad in [
            r#""x""#,
            r#""1_000""#,
            r#""+5""#,
            r#""-3""#,
            r#""NaN""#,
            "[]",
            "{}",
            "100000",
            "true",
        ] {
            assert!(read(bad, "null").is_err(), "{bad}");
        }
    }

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
