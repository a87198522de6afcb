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
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::model::plain_text;

/// Names are for people and for one line: longer ones are cut.
pub(super) const MAX_NAME_CHARS: usize = 200;
pub(super) const MAX_RUNNERS: usize = 100;
pub(super) const MAX_ODDS: usize = 200;

/// Objects whose fields are all optional: scalars of one type, and a list of another.
macro_rules! rows {
    ($($name:ident { $($field:ident),* $(,)? } $list:ident)*) => {$(
        #[derive(Deserialize)]
        #[serde(bound(deserialize = "F: Deserialize<'de> + Default, L: Deserialize<'de> + Default"))]
        pub(super) struct $name<F, L> {
            $(#[serde(default)] pub(super) $field: F,)*
            #[serde(default)]
            pub(super) $list: L,
        }
    )*};
}

rows! {
    Race {
        race_id, course, date, off_time, off_dt, race_name, distance, region, race_class, r#type,
        age_band, prize, field_size, going, surface, is_abandoned, race_status,
    } runners
    Runner { horse_id, horse, age, trainer, jockey, number, draw, lbs, form } odds
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
pub(super) type WholeRace<'a> = Race<Plain<'a>, List<WholeRunner<'a>, MAX_RUNNERS>>;
pub(super) type WholeRunner<'a> = Runner<Plain<'a>, List<Odds<Plain<'a>>, MAX_ODDS>>;

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

/// A scalar read in one pass: its text, borrowed unless it was escaped. A number that is not whole
/// fails, because its digits are gone by then; so does anything nested.
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

impl<'de: 'a, 'a> Deserialize<'de> for Plain<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Scalar;

        impl<'de> Visitor<'de> for Scalar {
            type Value = Plain<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Plain(Some(Cow::Borrowed(text))))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Plain(Some(Cow::Owned(text.to_owned()))))
            }

            fn visit_bool<E: Error>(self, yes: bool) -> Result<Self::Value, E> {
                let word = if yes { "true" } else { "false" };
                Ok(Plain(Some(Cow::Borrowed(word))))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Plain(Some(Cow::Owned(number.to_string()))))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Plain(Some(Cow::Owned(number.to_string()))))
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(Plain(None))
            }
        }

        json.deserialize_any(Scalar)
    }
}

/// An object, and not a list of its values, which the reader of a struct would also take.
pub(super) struct Object<T>(pub(super) T);

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

/// A list of objects read in one pass; missing and null are an empty one. Fails over `MAX`.
pub(super) struct List<T, const MAX: usize>(pub(super) Vec<Object<T>>);

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct OfObjects<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for OfObjects<T, MAX> {
            type Value = List<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX}")
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(List::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut rows = Vec::with_capacity(32);
                while let Some(row) = list.next_element()? {
                    if rows.len() == MAX {
                        return Err(A::Error::invalid_length(MAX + 1, &self));
                    }
                    rows.push(row);
                }
                Ok(List(rows))
            }
        }

        json.deserialize_any(OfObjects(PhantomData))
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
