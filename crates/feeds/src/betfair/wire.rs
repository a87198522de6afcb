//! The JSON of `mcm` lines, read by `MarketStream`. Numbers stay raw text, because some are strings
//! ("NaN", "Infinity"), integers and floats mix, and prices must be exact; fields that are not used
//! (traded sizes, starting price projections, …) are skipped.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Deserialize)]
pub struct StreamMessage<'a> {
    #[serde(borrow, default)]
    pub op: Cow<'a, str>,
    /// Milliseconds since 1970.
    #[serde(default)]
    pub pt: Option<i64>,
    #[serde(borrow, default)]
    pub mc: Option<Vec<MarketChange<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MarketChange<'a> {
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// This message replaces the market's book.
    #[serde(default)]
    pub img: Option<bool>,
    #[serde(borrow, default)]
    pub market_definition: Option<MarketDefinition<'a>>,
    #[serde(borrow, default)]
    pub rc: Option<Vec<RunnerChange<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MarketDefinition<'a> {
    #[serde(borrow, default)]
    pub event_type_id: Cow<'a, str>,
    #[serde(borrow, default)]
    pub market_type: Cow<'a, str>,
    #[serde(borrow, default)]
    pub market_time: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub status: Cow<'a, str>,
    #[serde(default)]
    pub in_play: bool,
    #[serde(borrow, default)]
    pub venue: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub country_code: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub event_name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub runners: Vec<RunnerDefinition<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunnerDefinition<'a> {
    pub id: i64,
    #[serde(borrow, default)]
    pub hc: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub status: Cow<'a, str>,
    #[serde(borrow, default)]
    pub bsp: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub struct RunnerChange<'a> {
    pub id: i64,
    #[serde(borrow, default)]
    pub hc: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub ltp: Option<&'a RawValue>,
    /// `[price, size]`.
    #[serde(borrow, default)]
    pub atb: Vec<[&'a RawValue; 2]>,
    #[serde(borrow, default)]
    pub atl: Vec<[&'a RawValue; 2]>,
    /// `[level, price, size]`.
    #[serde(borrow, default)]
    pub batb: Vec<[&'a RawValue; 3]>,
    #[serde(borrow, default)]
    pub batl: Vec<[&'a RawValue; 3]>,
}
