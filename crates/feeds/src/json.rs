//! The JSON shapes that providers' answers share: an object, a row of a list, and a list with a cap. The parsers
//! of The Racing API and The Odds API deserialize their rows through them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Longest JSON text of one race or event: its borrowed structs take several times as much memory.
pub(super) const MAX_ROW_BYTES: usize = 16 * 1024 * 1024;
/// Of the text of a row that cannot be read.
const SAMPLE_CHARS: usize = 200;

/// A JSON object. A derived struct alone also accepts a list of its field values.
pub(super) struct JsonObject<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for JsonObject<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = JsonObject<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            #[inline]
            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields)).map(JsonObject)
            }
        }

        json.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// Returns the struct; fails if the text is not an object or repeats a field.
pub(super) fn parse_object<'a, T: Deserialize<'a>>(json: &'a str) -> serde_json::Result<T> {
    serde_json::from_str(json).map(|JsonObject(row)| row)
}

/// One field of an object that cannot be read as a whole, such as one that repeats another field.
pub(super) fn find_field<'a>(object: &'a str, name: &str) -> Option<&'a RawValue> {
    let fields: HashMap<Cow<'_, str>, &RawValue> = serde_json::from_str(object).ok()?;
    fields.get(name).copied()
}

/// The beginning of a text, for the sample of a rejected row.
pub(super) fn sample(text: &str) -> String {
    text.chars().take(SAMPLE_CHARS).collect()
}

/// One row of a list. A malformed row fails the whole text that holds it, unless it is read leniently: then it
/// costs only itself.
pub(super) struct JsonRow<T, const LENIENT: bool>(pub(super) Result<T, BadRow>);

/// A row that cannot be read.
pub(super) struct BadRow {
    pub(super) text: Box<str>,
    pub(super) sample: String,
    pub(super) error: serde_json::Error,
}

impl<'de, T: Deserialize<'de>, const LENIENT: bool> Deserialize<'de> for JsonRow<T, LENIENT> {
    #[inline]
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        if LENIENT {
            let text = <&RawValue>::deserialize(json)?.get();
            return Ok(Self(parse_object(text).map_err(|error| BadRow {
                text: text.into(),
                sample: sample(text),
                error,
            })));
        }
        let JsonObject(row) = JsonObject::deserialize(json)?;
        Ok(Self(Ok(row)))
    }
}

/// The elements of a list up to `MAX`. Those above it are only counted, so that a hostile answer
/// cannot fill the memory with rows.
pub(super) struct JsonRows<T, const MAX: usize> {
    pub(super) kept: Vec<T>,
    pub(super) over: u64,
}

impl<T, const MAX: usize> Default for JsonRows<T, MAX> {
    fn default() -> Self {
        Self {
            kept: Vec::new(),
            over: 0,
        }
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for JsonRows<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct RowsVisitor<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for RowsVisitor<T, MAX> {
            type Value = JsonRows<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut rows = JsonRows::default();
                while rows.kept.len() < MAX {
                    match list.next_element()? {
                        Some(row) => rows.kept.push(row),
                        None => return Ok(rows),
                    }
                }
                while list.next_element::<IgnoredAny>()?.is_some() {
                    rows.over += 1;
                }
                Ok(rows)
            }
        }

        json.deserialize_seq(RowsVisitor(PhantomData))
    }
}
