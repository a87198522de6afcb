//! The JSON of `mcm` lines, read by `MarketStream`. Numbers stay raw text, because some are strings
//! ("NaN", "Infinity"), integers and floats mix, and prices must be exact. Each element of a list stays raw text too
//! and is parsed alone, so that a malformed one costs only itself.

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
    /// [`MarketChange`]s.
    #[serde(borrow, default)]
    pub mc: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MarketChange<'a> {
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// `true`: this message replaces the market's book.
    #[serde(borrow, default)]
    pub img: Option<&'a RawValue>,
    /// A [`MarketDefinition`].
    #[serde(borrow, default)]
    pub market_definition: Option<&'a RawValue>,
    /// A list of [`RunnerChange`]s.
    #[serde(borrow, default)]
    pub rc: Option<&'a RawValue>,
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
    /// Grows with each change of the definition.
    #[serde(borrow, default)]
    pub version: Option<&'a RawValue>,
    /// [`RunnerDefinition`]s.
    #[serde(borrow, default)]
    pub runners: Vec<&'a RawValue>,
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
    /// Lists of `[price, size]`: all that can be backed and laid.
    #[serde(borrow, default)]
    pub atb: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub atl: Option<&'a RawValue>,
    /// Lists of `[level, price, size]`: the best of them.
    #[serde(borrow, default)]
    pub batb: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub batl: Option<&'a RawValue>,
    /// The same as the exchange's own pages display it.
    #[serde(borrow, default)]
    pub bdatb: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub bdatl: Option<&'a RawValue>,
    /// The last traded price.
    #[serde(borrow, default)]
    pub ltp: Option<&'a RawValue>,
    /// Traded volumes, and starting prices taken and projected: no offers, so they are only counted.
    #[serde(borrow, default)]
    pub trd: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub tv: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub spb: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub spl: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub spn: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub spf: Option<&'a RawValue>,
}

impl RunnerChange<'_> {
    /// The names of its fields that hold no offers.
    pub fn other_fields(&self) -> impl Iterator<Item = &'static str> {
        let fields = [
            ("ltp", self.ltp),
            ("trd", self.trd),
            ("tv", self.tv),
            ("spb", self.spb),
            ("spl", self.spl),
            ("spn", self.spn),
            ("spf", self.spf),
        ];
        let present = fields.into_iter().filter(|(_, field)| field.is_some());
        present.map(|(name, _)| name)
    }
}
