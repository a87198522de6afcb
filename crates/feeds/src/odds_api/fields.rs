//! The JSON rows of The Odds API. With `&RawValue` as the row type of their lists, one malformed row costs only
//! itself; with structs, an event is parsed at once. `OddsParser` uses both forms.

use std::borrow::Cow;

use serde::de::{Deserialize, Deserializer, Error};
use serde_json::value::RawValue;

use crate::json::JsonRows;

/// Rows of one list: a hostile `[0,0,0,…]` must not become a vector of millions.
const MAX_ROWS: usize = 100_000;

/// An event; `B` is the form of its bookmakers.
#[derive(serde::Deserialize)]
#[serde(bound(deserialize = "B: Deserialize<'de>"))]
pub(super) struct EventJson<'a, B> {
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
    #[serde(default = "Vec::new", deserialize_with = "capped_list")]
    pub(super) bookmakers: Vec<B>,
}

/// A bookmaker's offers on an event; `M` is the form of its markets.
#[derive(serde::Deserialize)]
#[serde(bound(deserialize = "M: Deserialize<'de>"))]
pub(super) struct BookmakerJson<'a, M> {
    #[serde(borrow)]
    pub(super) key: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) title: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) last_update: Option<Cow<'a, str>>,
    #[serde(default = "Vec::new", deserialize_with = "capped_list")]
    pub(super) markets: Vec<M>,
}

/// A market of a bookmaker; `O` is the form of its outcomes.
#[derive(serde::Deserialize)]
#[serde(bound(deserialize = "O: Deserialize<'de>"))]
pub(super) struct MarketJson<'a, O> {
    #[serde(borrow)]
    pub(super) key: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) last_update: Option<Cow<'a, str>>,
    #[serde(default = "Vec::new", deserialize_with = "capped_list")]
    pub(super) outcomes: Vec<O>,
}

#[derive(serde::Deserialize)]
pub(super) struct OutcomeJson<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) description: Option<Cow<'a, str>>,
    /// The number's own text, which keeps its digits.
    #[serde(borrow, default)]
    pub(super) price: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) point: Option<&'a RawValue>,
}

pub(super) type StrictMarket<'a> = MarketJson<'a, OutcomeJson<'a>>;
pub(super) type StrictBookmaker<'a> = BookmakerJson<'a, StrictMarket<'a>>;
pub(super) type StrictEvent<'a> = EventJson<'a, StrictBookmaker<'a>>;
pub(super) type RawMarket<'a> = MarketJson<'a, &'a RawValue>;
pub(super) type RawBookmaker<'a> = BookmakerJson<'a, &'a RawValue>;
pub(super) type RawEvent<'a> = EventJson<'a, &'a RawValue>;

/// Reads a list; one of more than [`MAX_ROWS`] is an error of the row that holds it.
pub(super) fn capped_list<'de, T, D>(json: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let rows = JsonRows::<T, MAX_ROWS>::deserialize(json)?;
    match rows.over {
        0 => Ok(rows.kept),
        _ => Err(D::Error::custom(format_args!(
            "a list of more than {MAX_ROWS} rows"
        ))),
    }
}
