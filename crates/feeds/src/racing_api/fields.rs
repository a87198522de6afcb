//! The JSON rows of The Racing API, in two forms: strict structs that borrow their text, and the same structs
//! with every field kept as raw JSON. `RaceParser` reads a race in the strict form first, and in the raw form
//! if the strict form refuses it.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use serde_json::value::RawValue;

use crate::json::{JsonObject, JsonRows};
use oddsd_core::model::sanitize_text;

/// Longer names are cut.
pub(super) const MAX_NAME_CHARS: usize = 200;
pub(super) const MAX_RUNNERS: usize = 100;
pub(super) const MAX_ODDS: usize = 200;

/// A race: `F` is the form of its fields, `L` of its list of runners.
#[derive(Default, Deserialize)]
#[serde(
    default,
    bound(deserialize = "F: Deserialize<'de> + Default, L: Deserialize<'de> + Default")
)]
pub(super) struct RaceJson<F, L> {
    pub(super) race_id: F,
    pub(super) course: F,
    pub(super) date: F,
    pub(super) off_time: F,
    pub(super) off_dt: F,
    pub(super) race_name: F,
    pub(super) distance: F,
    pub(super) region: F,
    pub(super) race_class: F,
    #[serde(rename = "type")]
    pub(super) race_type: F,
    pub(super) age_band: F,
    pub(super) prize: F,
    pub(super) field_size: F,
    pub(super) going: F,
    pub(super) surface: F,
    pub(super) is_abandoned: F,
    pub(super) race_status: F,
    pub(super) runners: L,
}

/// A runner: `F` is the form of its fields, `L` of its list of odds.
#[derive(Default, Deserialize)]
#[serde(
    default,
    bound(deserialize = "F: Deserialize<'de> + Default, L: Deserialize<'de> + Default")
)]
pub(super) struct RunnerJson<F, L> {
    pub(super) horse_id: F,
    pub(super) horse: F,
    pub(super) age: F,
    pub(super) trainer: F,
    pub(super) jockey: F,
    pub(super) number: F,
    pub(super) draw: F,
    pub(super) lbs: F,
    pub(super) form: F,
    pub(super) odds: L,
}

/// The odds of one bookmaker on a runner.
#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "F: Deserialize<'de> + Default"))]
pub(super) struct OddsJson<F> {
    pub(super) bookmaker: F,
    pub(super) fractional: F,
    pub(super) decimal: F,
    pub(super) ew_places: F,
    pub(super) ew_denom: F,
    pub(super) updated: F,
}

pub(super) type StrictOdds<'a> = OddsJson<StrictText<'a>>;
type StrictRunner<'a> = RunnerJson<StrictText<'a>, StrictRows<StrictOdds<'a>, MAX_ODDS>>;
pub(super) type StrictRace<'a> =
    RaceJson<StrictText<'a>, StrictRows<StrictRunner<'a>, MAX_RUNNERS>>;
/// Missing and null are an empty list.
type StrictRows<T, const MAX: usize> = Option<JsonRows<JsonObject<T>, MAX>>;

pub(super) type RawRace<'a> = RaceJson<RawField<'a>, RawField<'a>>;
pub(super) type RawRunner<'a> = RunnerJson<RawField<'a>, RawField<'a>>;
pub(super) type RawOdds<'a> = OddsJson<RawField<'a>>;
/// A field by its JSON text: a number keeps every digit, and a malformed field costs only itself.
pub(super) type RawField<'a> = Option<&'a RawValue>;
pub(super) type RawRows<'a, const MAX: usize> = JsonRows<&'a RawValue, MAX>;

/// Returns the struct, or `None` if the text is not an object or repeats a field.
pub(super) fn parse_object<'a, T: Deserialize<'a>>(json: &'a str) -> Option<T> {
    serde_json::from_str(json).ok().map(|JsonObject(row)| row)
}

/// Returns the rows of a list. Missing and null are an empty list; `None` is another value.
pub(super) fn parse_rows<const MAX: usize>(field: RawField<'_>) -> Option<RawRows<'_, MAX>> {
    match field {
        None => Some(RawRows::default()),
        Some(raw) => serde_json::from_str(raw.get()).ok(),
    }
}

/// A scalar in either form.
pub(super) trait JsonScalar {
    /// The trimmed text. Missing, null, empty and nested values are `None`.
    fn text(&self) -> Option<Cow<'_, str>>;

    /// The JSON text of an object or a list.
    fn nested(&self) -> Option<&str>;

    /// Text for people, safe for logs and pages; "" when there is none.
    fn name(&self) -> String {
        let Some(text) = self.text() else {
            return String::new();
        };
        // Most names are short printable ASCII, which `plain_text` would only copy.
        if text.len() <= MAX_NAME_CHARS && text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            return text.into_owned();
        }
        sanitize_text(&text, MAX_NAME_CHARS)
    }

    fn number(&self) -> Option<u64> {
        self.text()?.parse().ok()
    }

    /// `true`, `"true"`, `"1"`: the provider also sends booleans as text.
    fn is_true(&self) -> bool {
        self.text()
            .is_some_and(|text| text == "1" || text.eq_ignore_ascii_case("true"))
    }
}

impl JsonScalar for RawField<'_> {
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

/// A documented scalar: a string, a boolean or null. Its text is borrowed unless it is escaped. Numbers are
/// refused, because a binary float would lose their digits.
#[derive(Default)]
pub(super) struct StrictText<'a>(Option<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for StrictText<'a> {
    #[inline]
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = StrictText<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a boolean or null")
            }

            #[inline]
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(StrictText(Some(Cow::Borrowed(text))))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(StrictText(Some(Cow::Owned(text.to_owned()))))
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
                let text = if value { "true" } else { "false" };
                Ok(StrictText(Some(Cow::Borrowed(text))))
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(StrictText(None))
            }
        }

        json.deserialize_any(TextVisitor)
    }
}

impl JsonScalar for StrictText<'_> {
    fn text(&self) -> Option<Cow<'_, str>> {
        let text = self.0.as_deref()?.trim();
        (!text.is_empty()).then_some(Cow::Borrowed(text))
    }

    fn nested(&self) -> Option<&str> {
        None
    }
}
