//! Property tests: encoded values decode to themselves and equal the driver's own encoding.

use chrono::DateTime;
use proptest::prelude::*;
use rust_decimal::Decimal;
use sqlx::Encode;
use sqlx::postgres::PgArgumentBuffer;

use super::{CopyRow, PgField, array};
use oddsd_core::model::Fraction;

fn decimals() -> impl Strategy<Value = Decimal> {
    (any::<bool>(), any::<u128>(), 0u32..96, 0u32..=28).prop_map(|(negative, bits, keep, scale)| {
        let mantissa = (bits & ((1 << keep) - 1)) as i128;
        let mantissa = if negative { -mantissa } else { mantissa };
        Decimal::from_i128_with_scale(mantissa, scale)
    })
}

fn one_row(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut row = 1i16.to_be_bytes().to_vec();
    write(&mut row);
    row
}

proptest! {
    #[test]
    fn decimals_come_back(decimal in decimals()) {
        let row = one_row(|to| decimal.write(to));
        let read = CopyRow::parse(&row, false, 1).expect("a row").decimal();
        prop_assert_eq!(read.as_ref().map(Decimal::to_string), Ok(decimal.normalize().to_string()));
    }

    #[test]
    fn arrays_are_what_the_driver_would_send(decimals in proptest::collection::vec(decimals(), 1..20)) {
        let (mut ours, mut theirs) = (PgArgumentBuffer::default(), PgArgumentBuffer::default());
        let nullable = |d: &Decimal| (!d.scale().is_multiple_of(3)).then_some(*d);
        let _ = array(&decimals, nullable).encode_by_ref(&mut ours).expect("encoded");
        let values: Vec<Option<Decimal>> = decimals.iter().map(nullable).collect();
        let _ = values.encode_by_ref(&mut theirs).expect("encoded");
        // The flag that says there may be NULLs is ours to set.
        prop_assert_eq!(&ours[8..], &theirs[8..]);
    }

    #[test]
    fn bytes_that_are_no_row_are_errors(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        if let Some(mut fields) = CopyRow::parse(&bytes, false, 1) {
            drop((fields.decimal(), fields.time(), fields.text(), fields.maybe_small(), fields.int()));
        }
    }
}

#[test]
fn other_values_come_back() {
    let at = DateTime::from_timestamp_micros(1_800_000_000_123_456).expect("in range");
    let row = one_row(|to| {
        42i64.write(to);
        at.write(to);
        Fraction::parse("100/30").write(to);
        None::<i32>.write(to);
        Some(5i32).write(to);
        "naïve".write(to);
    });
    let mut fields = CopyRow::parse(&row, false, 1).expect("a row");
    assert_eq!(fields.int(), Ok(42));
    assert_eq!(fields.time(), Ok(at));
    assert_eq!(fields.maybe_text(), Ok(Some("100/30")));
    assert_eq!(fields.maybe_small(), Ok(None));
    assert_eq!(fields.maybe_small(), Ok(Some(5)));
    assert_eq!(fields.text(), Ok("naïve"));
    assert!(fields.int().is_err());
}
