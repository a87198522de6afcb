//! Rows of JSON as the provider really sends them: any field may be missing, null, or a number
//! where text is documented. A field is kept as its own JSON text until somebody asks for it, so a
//! number keeps every digit and one odd field cannot spoil its row.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::model::plain_text;

/// Names are for people and for one line: longer ones are cut.
const MAX_NAME_CHARS: usize = 200;

pub(super) type Field<'a> = Option<&'a RawValue>;

/// An object whose fields are all optional, all of any type, and borrowed.
macro_rules! row {
    ($(#[$doc:meta])* $name:ident { $($field:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Deserialize)]
        pub(super) struct $name<'a> {
            $(#[serde(borrow, default)] pub(super) $field: Field<'a>,)*
        }
    };
}

row!(
    /// The answer to a day's call. A one-race call answers with the race itself.
    Envelope { racecards, total, race_id }
);
row!(Race {
    race_id,
    course,
    date,
    off_time,
    off_dt,
    race_name,
    distance,
    region,
    race_class,
    r#type,
    age_band,
    prize,
    field_size,
    going,
    surface,
    is_abandoned,
    race_status,
    runners,
});
row!(Runner {
    horse_id,
    horse,
    age,
    trainer,
    jockey,
    number,
    draw,
    lbs,
    form,
    odds,
});
row!(Odds {
    bookmaker,
    fractional,
    decimal,
    ew_places,
    ew_denom,
    updated,
});

/// `None` when this is no object (a struct would also read an array, by position) or repeats a field.
pub(super) fn row<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    let json = raw.get();
    json.starts_with('{')
        .then(|| serde_json::from_str(json).ok())?
}

/// A scalar as trimmed text. Missing, null, empty and nested values are `None`.
pub(super) fn text(field: Field<'_>) -> Option<Cow<'_, str>> {
    let json = field?.get();
    let text = match json.as_bytes().first()? {
        b'"' if !json.contains('\\') => Cow::Borrowed(json[1..json.len() - 1].trim()),
        b'"' => Cow::Owned(serde_json::from_str::<String>(json).ok()?.trim().to_owned()),
        b'{' | b'[' | b'n' => return None,
        _ => Cow::Borrowed(json),
    };
    (!text.is_empty()).then_some(text)
}

/// Text for people, safe for logs and pages; "" when there is none.
pub(super) fn name(field: Field<'_>) -> String {
    text(field).map_or_else(String::new, |text| plain_text(&text, MAX_NAME_CHARS))
}

pub(super) fn number(field: Field<'_>) -> Option<u64> {
    text(field)?.parse().ok()
}

pub(super) fn is_nested(field: Field<'_>) -> bool {
    field.is_some_and(|raw| raw.get().starts_with(['{', '[']))
}

/// `true`, `"true"`, `"1"`: booleans too have been seen as text.
pub(super) fn is_true(field: Field<'_>) -> bool {
    text(field).is_some_and(|text| text == "1" || text.eq_ignore_ascii_case("true"))
}

/// The elements of a list up to a cap. Those over it are only counted: a hostile answer cannot
/// make us hold millions of pointers.
#[derive(Default)]
pub(super) struct Rows<'a> {
    pub(super) kept: Vec<&'a RawValue>,
    pub(super) over: u64,
}

impl<'a> Rows<'a> {
    /// Missing and null are an empty list; `None` is something that is no list.
    pub(super) fn of(field: Field<'a>, cap: usize) -> Option<Self> {
        let Some(raw) = field else {
            return Some(Self::default());
        };
        UpTo(cap)
            .deserialize(&mut serde_json::Deserializer::from_str(raw.get()))
            .ok()
    }
}

struct UpTo(usize);

impl<'de> DeserializeSeed<'de> for UpTo {
    type Value = Rows<'de>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for UpTo {
    type Value = Rows<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut rows = Rows::default();
        while rows.kept.len() < self.0 {
            match list.next_element::<&'de RawValue>()? {
                Some(raw) => rows.kept.push(raw),
                None => return Ok(rows),
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {
            rows.over += 1;
        }
        Ok(rows)
    }
}
