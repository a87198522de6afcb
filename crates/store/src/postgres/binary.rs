//! Encodes and decodes values in Postgres's binary format: for the arrays of a statement, for COPY into the
//! database and for COPY out of it. `commit` and `load` call it. The formats are those of the server's `*_send`
//! and `*_recv` functions.
//!
//! Values are written straight into the buffer: for ten thousand prices the driver's own encoding, a vector a
//! column and an allocation a decimal, takes longer than the server takes to read them.

use chrono::{DateTime, NaiveDate, Utc};
use rust_decimal::Decimal;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo};
use sqlx::{Encode, Postgres, Type};

use crate::rows::POSTGRES_EPOCH;
use oddsd_core::model::Fraction;

/// Postgres counts days from here.
const FIRST_DAY: NaiveDate = NaiveDate::from_ymd_opt(2000, 1, 1).expect("a day");
/// Decimal digits in one digit of a numeric.
const DIGITS: u32 = 4;
const BASE: u128 = 10_000;
const NEGATIVE: u16 = 0x4000;
const NULL: i32 = -1;
/// The start of a binary COPY: its name, flags and no header extension.
pub const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// One value: its length, then its bytes.
pub trait PgField {
    /// The type's number in the server's catalogue.
    const TYPE: u32;
    /// An array of it, in the driver's types.
    type Array: Type<Postgres>;

    fn write(self, to: &mut Vec<u8>);
}

macro_rules! number {
    ($($number:ty = $type:literal),+) => {$(
        impl PgField for $number {
            const TYPE: u32 = $type;
            type Array = Vec<$number>;

            fn write(self, to: &mut Vec<u8>) {
                to.extend((size_of::<$number>() as i32).to_be_bytes());
                to.extend(self.to_be_bytes());
            }
        }
    )+};
}
number!(i32 = 23, i64 = 20);

impl PgField for NaiveDate {
    const TYPE: u32 = 1082;
    type Array = Vec<NaiveDate>;

    fn write(self, to: &mut Vec<u8>) {
        let days = (self - FIRST_DAY).num_days();
        (days as i32).write(to);
    }
}

impl PgField for bool {
    const TYPE: u32 = 16;
    type Array = Vec<bool>;

    fn write(self, to: &mut Vec<u8>) {
        to.extend([0, 0, 0, 1, u8::from(self)]);
    }
}

impl PgField for &str {
    const TYPE: u32 = 25;
    type Array = Vec<String>;

    fn write(self, to: &mut Vec<u8>) {
        to.extend((self.len() as i32).to_be_bytes());
        to.extend(self.as_bytes());
    }
}

impl PgField for String {
    const TYPE: u32 = 25;
    type Array = Vec<String>;

    fn write(self, to: &mut Vec<u8>) {
        self.as_str().write(to);
    }
}

impl PgField for DateTime<Utc> {
    const TYPE: u32 = 1184;
    type Array = Vec<DateTime<Utc>>;

    fn write(self, to: &mut Vec<u8>) {
        (self.timestamp_micros() - POSTGRES_EPOCH).write(to);
    }
}

impl PgField for Fraction {
    const TYPE: u32 = 25;
    type Array = Vec<String>;

    fn write(self, to: &mut Vec<u8>) {
        use std::io::Write;
        let start = to.len();
        to.extend([0; 4]);
        write!(to, "{self}").expect("a vector takes everything");
        let length = (to.len() - start - 4) as i32;
        to[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}

impl<T: PgField> PgField for Option<T> {
    const TYPE: u32 = T::TYPE;
    type Array = T::Array;

    fn write(self, to: &mut Vec<u8>) {
        match self {
            Some(value) => value.write(to),
            None => to.extend(NULL.to_be_bytes()),
        }
    }
}

/// Digits of four, the weight of the first, the sign, and how many places to show.
impl PgField for Decimal {
    const TYPE: u32 = 1700;
    type Array = Vec<Decimal>;

    fn write(self, to: &mut Vec<u8>) {
        let scale = self.scale();
        let after_point = scale.div_ceil(DIGITS);
        // At most 2^96 times a thousand: it fits.
        let mut rest = self.mantissa().unsigned_abs() * 10u128.pow(after_point * DIGITS - scale);
        let mut digits = [0u16; 9];
        let (mut first, mut last) = (digits.len(), digits.len());
        while rest != 0 {
            first -= 1;
            digits[first] = (rest % BASE) as u16;
            rest /= BASE;
        }
        let weight = (digits.len() - first) as i32 - after_point as i32 - 1;
        while last > first && digits[last - 1] == 0 {
            last -= 1;
        }
        let digits = &digits[first..last];
        let (weight, sign, scale) = match (digits.is_empty(), self.is_sign_negative()) {
            (true, _) => (0, 0, 0),
            (false, true) => (weight as i16, NEGATIVE, scale as u16),
            (false, false) => (weight as i16, 0, scale as u16),
        };
        to.extend((8 + 2 * digits.len() as i32).to_be_bytes());
        to.extend((digits.len() as u16).to_be_bytes());
        to.extend(weight.to_be_bytes());
        to.extend(sign.to_be_bytes());
        to.extend(scale.to_be_bytes());
        for digit in digits {
            to.extend(digit.to_be_bytes());
        }
    }
}

/// One column of some rows as an array. All arrays of a table come from the same rows, so their
/// lengths agree: unequal ones would be padded with NULL by `unnest`, silently.
pub struct PgArrayParam<'a, T, F> {
    rows: &'a [T],
    value: F,
}

pub fn array<'a, T, V: PgField, F: Fn(&'a T) -> V>(
    rows: &'a [T],
    value: F,
) -> PgArrayParam<'a, T, F> {
    PgArrayParam { rows, value }
}

impl<'a, T, V: PgField, F: Fn(&'a T) -> V> Type<Postgres> for PgArrayParam<'a, T, F> {
    fn type_info() -> PgTypeInfo {
        V::Array::type_info()
    }
}

impl<'a, T, V: PgField, F: Fn(&'a T) -> V> Encode<'_, Postgres> for PgArrayParam<'a, T, F> {
    fn encode_by_ref(&self, to: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let length = i32::try_from(self.rows.len())?;
        let dimensions = i32::from(length > 0);
        to.extend(dimensions.to_be_bytes());
        // May hold NULLs.
        to.extend(1i32.to_be_bytes());
        to.extend(V::TYPE.to_be_bytes());
        if length > 0 {
            to.extend(length.to_be_bytes());
            // The first subscript.
            to.extend(1i32.to_be_bytes());
        }
        for row in self.rows {
            (self.value)(row).write(to);
        }
        Ok(IsNull::No)
    }
}

/// The rest of one row of a COPY, read field by field.
pub struct CopyRow<'a>(&'a [u8]);

/// Bytes that are not in the format of the column.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

type DecodeResult<T> = std::result::Result<T, Malformed>;

impl<'a> CopyRow<'a> {
    /// `None` for the signature before the first row and the trailer after the last.
    pub fn parse(data: &'a [u8], first: bool, columns: i16) -> Option<Self> {
        let row = if first {
            data.get(SIGNATURE.len()..)?
        } else {
            data
        };
        let (count, fields) = row.split_first_chunk()?;
        (i16::from_be_bytes(*count) == columns).then_some(Self(fields))
    }

    fn next(&mut self) -> DecodeResult<Option<&'a [u8]>> {
        const SHORT: Malformed = Malformed("a row that ends early");
        let (length, rest) = self.0.split_first_chunk().ok_or(SHORT)?;
        let length = i32::from_be_bytes(*length);
        self.0 = rest;
        if length == NULL {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| Malformed("a negative length"))?;
        let (field, rest) = rest.split_at_checked(length).ok_or(SHORT)?;
        self.0 = rest;
        Ok(Some(field))
    }

    fn fixed<const N: usize>(&mut self) -> DecodeResult<Option<[u8; N]>> {
        let Some(field) = self.next()? else {
            return Ok(None);
        };
        let bytes = field
            .try_into()
            .map_err(|_| Malformed("a value of another width"))?;
        Ok(Some(bytes))
    }

    pub fn int(&mut self) -> DecodeResult<i64> {
        let bytes = self.fixed()?.ok_or(Malformed("NULL"))?;
        Ok(i64::from_be_bytes(bytes))
    }

    pub fn maybe_small(&mut self) -> DecodeResult<Option<u16>> {
        let number = self.fixed()?.map(i32::from_be_bytes);
        let small = |n| u16::try_from(n).map_err(|_| Malformed("a number above 65535"));
        number.map(small).transpose()
    }

    pub fn time(&mut self) -> DecodeResult<DateTime<Utc>> {
        let micros = self.int()?.checked_add(POSTGRES_EPOCH);
        micros
            .and_then(DateTime::from_timestamp_micros)
            .ok_or(Malformed("a time beyond all calendars"))
    }

    pub fn maybe_text(&mut self) -> DecodeResult<Option<&'a str>> {
        let text = self.next()?.map(std::str::from_utf8).transpose();
        text.map_err(|_| Malformed("text that is not UTF-8"))
    }

    pub fn text(&mut self) -> DecodeResult<&'a str> {
        self.maybe_text()?.ok_or(Malformed("NULL"))
    }

    pub fn decimal(&mut self) -> DecodeResult<Decimal> {
        self.maybe_decimal()?.ok_or(Malformed("NULL"))
    }

    /// Without trailing zeros, as all our decimals are.
    pub fn maybe_decimal(&mut self) -> DecodeResult<Option<Decimal>> {
        self.next()?.map(decode_numeric).transpose()
    }
}

fn decode_numeric(field: &[u8]) -> DecodeResult<Decimal> {
    const OUTSIDE: Malformed = Malformed("a number that is no decimal of 28 digits");
    let (head, digits) = field.split_first_chunk::<8>().ok_or(OUTSIDE)?;
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let (count, weight, sign) = (i32::from(word(0)), i32::from(word(2) as i16), word(4));
    if sign & !NEGATIVE != 0 || digits.len() != 2 * count as usize {
        return Err(OUTSIDE);
    }
    let mut mantissa: i128 = 0;
    for digit in digits.chunks_exact(2) {
        let digit = i128::from(u16::from_be_bytes([digit[0], digit[1]]));
        mantissa = mantissa
            .checked_mul(BASE as i128)
            .and_then(|m| m.checked_add(digit))
            .ok_or(OUTSIDE)?;
    }
    if mantissa == 0 {
        return Ok(Decimal::ZERO);
    }
    // The mantissa counts in units of BASE to the power of `last`.
    let mut scale = -(weight - (count - 1)) * DIGITS as i32;
    while scale > 0 && mantissa % 10 == 0 {
        mantissa /= 10;
        scale -= 1;
    }
    while scale < 0 {
        mantissa = mantissa.checked_mul(10).ok_or(OUTSIDE)?;
        scale += 1;
    }
    let mantissa = if sign == NEGATIVE {
        -mantissa
    } else {
        mantissa
    };
    Decimal::try_from_i128_with_scale(mantissa, scale as u32).map_err(|_| OUTSIDE)
}

#[cfg(test)]
mod tests;
