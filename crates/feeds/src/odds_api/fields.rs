//! The JSON rows of The Odds API. `OddsParser` reads an event strictly first, and leniently, so that a malformed
//! row costs only itself, if the strict form refuses it.

use std::borrow::Cow;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, Error};
use serde_json::value::RawValue;

use crate::json::{JsonRow, JsonRows};

/// Rows of one list: a hostile `[0,0,0,…]` must not become a vector of millions.
const MAX_ROWS: usize = 100_000;

#[derive(serde::Deserialize)]
pub(super) struct EventJson<'a, const LENIENT: bool> {
    #[serde(borrow)]
    pub(super) id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) sport_key: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) sport_title: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) commence_time: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) home_team: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) away_team: Option<Cow<'a, str>>,
    #[serde(default = "Vec::new", deserialize_with = "list_or_null")]
    pub(super) bookmakers: Vec<JsonRow<BookmakerJson<'a, LENIENT>, LENIENT>>,
}

/// A bookmaker's offers on an event.
#[derive(serde::Deserialize)]
pub(super) struct BookmakerJson<'a, const LENIENT: bool> {
    #[serde(borrow)]
    pub(super) key: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) title: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) last_update: Option<Cow<'a, str>>,
    #[serde(default = "Vec::new", deserialize_with = "list_or_null")]
    pub(super) markets: Vec<JsonRow<MarketJson<'a, LENIENT>, LENIENT>>,
}

#[derive(serde::Deserialize)]
pub(super) struct MarketJson<'a, const LENIENT: bool> {
    #[serde(borrow)]
    pub(super) key: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) last_update: Option<Cow<'a, str>>,
    #[serde(default = "Vec::new", deserialize_with = "list_or_null")]
    pub(super) outcomes: Vec<JsonRow<OutcomeJson<'a>, LENIENT>>,
}

/// Serialized for the sample of a rejected row.
#[derive(serde::Deserialize, Serialize)]
pub(super) struct OutcomeJson<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<Cow<'a, str>>,
    /// The number's own text, which keeps its digits.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) price: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) point: Option<&'a RawValue>,
}

/// Reads a list; one of more than [`MAX_ROWS`] is an error of the row that holds it.
pub(super) fn capped_list<'de, T, D>(json: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    keep_capped(JsonRows::deserialize(json)?)
}

/// Reads a list inside an event, where `null` is an empty one.
fn list_or_null<'de, T, D>(json: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    keep_capped(Option::deserialize(json)?.unwrap_or_default())
}

fn keep_capped<T, E: Error>(rows: JsonRows<T, MAX_ROWS>) -> Result<Vec<T>, E> {
    match rows.over {
        0 => Ok(rows.kept),
        _ => Err(E::custom(format_args!(
            "a list of more than {MAX_ROWS} rows"
        ))),
    }
}
