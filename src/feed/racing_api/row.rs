//! Rows of JSON as the provider really sends them: any field may be missing, null, or a number
//! where text is documented. They are read in two ways that say the same.
//!
//! In one pass, where a race is as documented: nested lists and all, its text borrowed. Anything
//! else in it, and the pass fails.
//!
//! Row by row, where it is not: a field is then kept as its own JSON text until somebody asks for
//! it, so a number keeps every digit and one odd field cannot spoil its row.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::feed::cursor::Cursor;
use crate::model::plain_text;

/// Names are for people and for one line: longer ones are cut.
pub(super) const MAX_NAME_CHARS: usize = 200;
pub(super) const MAX_RUNNERS: usize = 100;
pub(super) const MAX_ODDS: usize = 200;
/// Runners of a race, bookmakers of a runner.
const LIKELY_ROWS: usize = 32;

/// Objects whose fields are all optional: scalars of one type, and a list of another.
macro_rules! rows {
    ($($row:ident { $($field:ident: $name:literal,)* } $list:ident: $max:ident;)*) => {$(
        #[derive(Deserialize)]
        #[serde(bound(deserialize = "F: Deserialize<'de> + Default, L: Deserialize<'de> + Default"))]
        pub(super) struct $row<F, L> {
            $(#[serde(default, rename = $name)] pub(super) $field: F,)*
            #[serde(default)]
            pub(super) $list: L,
        }

        impl<'a, T: InOnePass<'a>> InOnePass<'a> for $row<Plain<'a>, Vec<T>> {
            #[inline]
            fn read(cursor: &mut Cursor<'a>) -> Option<Self> {
                $(let mut $field = None;)*
                let mut $list = None;
                cursor.object(|cursor, name| match name {
                    $($name => once(&mut $field, Plain(cursor.scalar()?)),)*
                    stringify!($list) => once(&mut $list, list(cursor, $max)?),
                    _ => cursor.skip(),
                })?;
                Some(Self {
                    $($field: $field.unwrap_or_default(),)*
                    $list: $list.unwrap_or_default(),
                })
            }
        }
    )*};
}

rows! {
    Race {
        race_id: "race_id",
        course: "course",
        date: "date",
        off_time: "off_time",
        off_dt: "off_dt",
        race_name: "race_name",
        distance: "distance",
        region: "region",
        race_class: "race_class",
        race_type: "type",
        age_band: "age_band",
        prize: "prize",
        field_size: "field_size",
        going: "going",
        surface: "surface",
        is_abandoned: "is_abandoned",
        race_status: "race_status",
    } runners: MAX_RUNNERS;
    Runner {
        horse_id: "horse_id",
        horse: "horse",
        age: "age",
        trainer: "trainer",
        jockey: "jockey",
        number: "number",
        draw: "draw",
        lbs: "lbs",
        form: "form",
    } odds: MAX_ODDS;
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "F: Deserialize<'de> + Default"))]
pub(super) struct Odds<F> {
    #[serde(default)]
    pub(super) bookmaker: F,
    #[serde(default)]
    pub(super) fractional: F,
    #[serde(default)]
    pub(super) decimal: F,
    #[serde(default)]
    pub(super) ew_places: F,
    #[serde(default)]
    pub(super) ew_denom: F,
    #[serde(default)]
    pub(super) updated: F,
}

impl<'a> InOnePass<'a> for Odds<Plain<'a>> {
    #[inline]
    fn read(cursor: &mut Cursor<'a>) -> Option<Self> {
        let (mut bookmaker, mut fractional, mut decimal) = (None, None, None);
        let (mut ew_places, mut ew_denom, mut updated) = (None, None, None);
        cursor.object(|cursor, name| {
            let field = match name {
                "bookmaker" => &mut bookmaker,
                "fractional" => &mut fractional,
                "decimal" => &mut decimal,
                "ew_places" => &mut ew_places,
                "ew_denom" => &mut ew_denom,
                "updated" => &mut updated,
                _ => return cursor.skip(),
            };
            once(field, Plain(cursor.scalar()?))
        })?;
        Some(Self {
            bookmaker: bookmaker.unwrap_or_default(),
            fractional: fractional.unwrap_or_default(),
            decimal: decimal.unwrap_or_default(),
            ew_places: ew_places.unwrap_or_default(),
            ew_denom: ew_denom.unwrap_or_default(),
            updated: updated.unwrap_or_default(),
        })
    }
}

/// What is read in one pass.
pub(super) trait InOnePass<'a>: Sized {
    fn read(cursor: &mut Cursor<'a>) -> Option<Self>;
}

/// A whole text in one pass.
pub(super) fn in_one_pass<'a, T: InOnePass<'a>>(text: &'a str) -> Option<T> {
    let mut cursor = Cursor::new(text);
    let read = T::read(&mut cursor)?;
    cursor.end().map(|()| read)
}

/// A field that comes twice is for the long way.
#[inline(always)]
fn once<T>(field: &mut Option<T>, value: T) -> Option<()> {
    field.replace(value).is_none().then_some(())
}

fn list<'a, T: InOnePass<'a>>(cursor: &mut Cursor<'a>, max: usize) -> Option<Vec<T>> {
    let mut rows = Vec::with_capacity(LIKELY_ROWS);
    cursor.list(|cursor| {
        rows.push(T::read(cursor)?);
        (rows.len() <= max).then_some(())
    })?;
    Some(rows)
}

/// The answer to a day's call. A one-race call answers with the race itself.
#[derive(Deserialize)]
pub(super) struct Envelope<'a> {
    #[serde(borrow, default)]
    pub(super) racecards: Raw<'a>,
    #[serde(borrow, default)]
    pub(super) total: Raw<'a>,
    #[serde(borrow, default)]
    pub(super) race_id: Raw<'a>,
}

/// A field by its JSON text.
pub(super) type Raw<'a> = Option<&'a RawValue>;

/// A race in one pass.
pub(super) type WholeRace<'a> = Race<Plain<'a>, Vec<Runner<Plain<'a>, Vec<Odds<Plain<'a>>>>>>;

/// A scalar, however it is kept.
pub(super) trait Field {
    /// As trimmed text. Missing, null, empty and nested values are `None`.
    fn text(&self) -> Option<Cow<'_, str>>;

    /// The JSON text of an object or a list.
    fn nested(&self) -> Option<&str>;

    /// Text for people, safe for logs and pages; "" when there is none.
    fn name(&self) -> String {
        let Some(text) = self.text() else {
            return String::new();
        };
        // Nearly all of them: nothing to look at twice.
        if text.len() <= MAX_NAME_CHARS && text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            return text.into_owned();
        }
        plain_text(&text, MAX_NAME_CHARS)
    }

    fn number(&self) -> Option<u64> {
        self.text()?.parse().ok()
    }

    /// `true`, `"true"`, `"1"`: booleans too have been seen as text.
    fn is_true(&self) -> bool {
        self.text()
            .is_some_and(|text| text == "1" || text.eq_ignore_ascii_case("true"))
    }
}

impl Field for Raw<'_> {
    fn text(&self) -> Option<Cow<'_, str>> {
        let json = (*self)?.get();
        let text = match json.as_bytes().first()? {
            b'"' if !json.contains('\\') => Cow::Borrowed(json[1..json.len() - 1].trim()),
            b'"' => Cow::Owned(serde_json::from_str::<String>(json).ok()?.trim().to_owned()),
            b'{' | b'[' | b'n' => return None,
            _ => Cow::Borrowed(json),
        };
        (!text.is_empty()).then_some(text)
    }

    fn nested(&self) -> Option<&str> {
        let json = (*self)?.get();
        json.starts_with(['{', '[']).then_some(json)
    }
}

/// A scalar read in one pass: its text, borrowed unless it was escaped.
#[derive(Default)]
pub(super) struct Plain<'a>(Option<Cow<'a, str>>);

impl Field for Plain<'_> {
    fn text(&self) -> Option<Cow<'_, str>> {
        let text = self.0.as_deref()?;
        let is_dense = |byte: Option<&u8>| byte.is_some_and(|b| (b'!'..=b'~').contains(b));
        let bytes = text.as_bytes();
        let text = match is_dense(bytes.first()) && is_dense(bytes.last()) {
            true => text,
            false => text.trim(),
        };
        (!text.is_empty()).then_some(Cow::Borrowed(text))
    }

    fn nested(&self) -> Option<&str> {
        None
    }
}

/// An object, and not a list of its values, which the reader of a struct would also take.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct OfFields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OfFields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields)).map(Object)
            }
        }

        json.deserialize_map(OfFields(PhantomData))
    }
}

/// `None` when this is no object or repeats a field.
pub(super) fn row<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    let row: Object<T> = serde_json::from_str(raw.get()).ok()?;
    Some(row.0)
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
    pub(super) fn of(field: Raw<'a>, cap: usize) -> Option<Self> {
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
