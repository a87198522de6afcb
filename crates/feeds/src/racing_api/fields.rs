//! The JSON rows of The Racing API, in two forms: strict structs that borrow their text, and the same structs
//! with every field kept as raw JSON, in which a malformed row costs only itself. `RaceParser` reads a race in
//! the strict form first, and in the lenient form if the strict one refuses it.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use serde_json::value::RawValue;

use crate::json::{JsonRow, JsonRows};
use oddsd_core::model::sanitize_text;

/// Longer names are cut.
pub(super) const MAX_NAME_CHARS: usize = 200;
pub(super) const MAX_RUNNERS: usize = 100;
pub(super) const MAX_ODDS: usize = 200;

/// A race; `F` is the form of its fields.
#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "F: Deserialize<'de> + Default"))]
pub(super) struct RaceJson<F, const LENIENT: bool> {
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
    pub(super) runners: RowList<RunnerJson<F, LENIENT>, MAX_RUNNERS, LENIENT>,
}

#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "F: Deserialize<'de> + Default"))]
pub(super) struct RunnerJson<F, const LENIENT: bool> {
    pub(super) horse_id: F,
    pub(super) horse: F,
    pub(super) age: F,
    pub(super) trainer: F,
    pub(super) jockey: F,
    pub(super) number: F,
    pub(super) draw: F,
    pub(super) lbs: F,
    pub(super) form: F,
    pub(super) odds: RowList<OddsJson<F>, MAX_ODDS, LENIENT>,
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

pub(super) type StrictRace<'a> = RaceJson<StrictText<'a>, false>;
pub(super) type LenientRace<'a> = RaceJson<RawField<'a>, true>;
/// A field by its JSON text: a number keeps every digit, and a malformed field costs only itself.
pub(super) type RawField<'a> = Option<&'a RawValue>;
pub(super) type Rows<T, const MAX: usize, const LENIENT: bool> = JsonRows<JsonRow<T, LENIENT>, MAX>;

/// A list. Missing and null are an empty one; `None` is another value, which is an error in the strict form.
pub(super) struct RowList<T, const MAX: usize, const LENIENT: bool>(
    pub(super) Option<Rows<T, MAX, LENIENT>>,
);

impl<T, const MAX: usize, const LENIENT: bool> Default for RowList<T, MAX, LENIENT> {
    fn default() -> Self {
        Self(Some(JsonRows::default()))
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize, const LENIENT: bool> Deserialize<'de>
    for RowList<T, MAX, LENIENT>
{
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        if LENIENT {
            return Ok(match RawField::deserialize(json)? {
                Some(raw) => Self(serde_json::from_str(raw.get()).ok()),
                None => Self::default(),
            });
        }
        let rows: Option<_> = Deserialize::deserialize(json)?;
        Ok(Self(Some(rows.unwrap_or_default())))
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
        // Most names are short printable ASCII, which `sanitize_text` would only copy.
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
