//! Exact decimals from the text of JSON numbers. The parsers of The Odds API and of exchange streams call it,
//! because a binary float would change the price that was offered.

use rust_decimal::Decimal;
use serde_json::value::RawValue;

/// Longest number that is read; no price, line or size has more digits.
const MAX_DIGITS: usize = 40;
/// Largest exponent that a decimal of 28 digits can have.
const MAX_EXPONENT: i32 = 28;

/// Returns a JSON number exactly. `None` for everything else: strings ("NaN", "Infinity"), null, and numbers that
/// a decimal cannot hold.
pub fn exact(raw: &RawValue) -> Option<Decimal> {
    exact_text(raw.get())
}

fn exact_text(text: &str) -> Option<Decimal> {
    if text.len() > MAX_DIGITS {
        return None;
    }
    let number = match text.find(['e', 'E']) {
        None => Decimal::from_str_exact(text).ok()?,
        Some(at) => {
            let exponent: i32 = text[at + 1..].parse().ok()?;
            if exponent.abs() > MAX_EXPONENT {
                return None;
            }
            Decimal::from_scientific(text).ok()?
        }
    };
    Some(number.normalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_digits_and_words_are_not_numbers() {
        let read = |text| exact_text(text).map(|n| n.to_string());
        assert_eq!(
            read("1.2610804758204543").as_deref(),
            Some("1.2610804758204543")
        );
        assert_eq!(read("11.0").as_deref(), Some("11"));
        assert_eq!(read("1.5e2").as_deref(), Some("150"));
        assert_eq!(read("-110").as_deref(), Some("-110"));
        for none in [
            "\"NaN\"",
            "\"2.5\"",
            "null",
            "true",
            "[]",
            "1e999999999",
            "1e-300",
            "",
        ] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
