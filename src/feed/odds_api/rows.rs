//! The shape of The Odds API's rows. Every level keeps its rows as raw JSON, so that one bad row
//! costs itself and not its list, and numbers keep the digits they were written with.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Rows of one list: a hostile `[0,0,0,…]` must not become a vector of millions.
pub(super) const MAX_ROWS: usize = 100_000;

#[derive(serde::Deserialize)]
pub struct WireEvent<'a> {
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    #[serde(borrow)]
    pub sport_key: Cow<'a, str>,
    #[serde(borrow, default)]
    pub sport_title: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub commence_time: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub home_team: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub away_team: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub bookmakers: Rows<&'a RawValue>,
}

#[derive(serde::Deserialize)]
pub struct WireBookmaker<'a> {
    #[serde(borrow)]
    pub key: Cow<'a, str>,
    #[serde(borrow, default)]
    pub title: Cow<'a, str>,
    #[serde(borrow, default)]
    pub last_update: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub markets: Rows<&'a RawValue>,
}

#[derive(serde::Deserialize)]
pub struct WireMarket<'a> {
    #[serde(borrow)]
    pub key: Cow<'a, str>,
    #[serde(borrow, default)]
    pub last_update: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub outcomes: Rows<&'a RawValue>,
}

#[derive(serde::Deserialize)]
pub struct WireOutcome<'a> {
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    #[serde(borrow, default)]
    pub description: Option<Cow<'a, str>>,
    /// As it is written, like the point.
    #[serde(borrow, default, deserialize_with = "json_text")]
    pub price: Option<&'a str>,
    #[serde(borrow, default, deserialize_with = "json_text")]
    pub point: Option<&'a str>,
}

fn json_text<'de: 'a, 'a, D: Deserializer<'de>>(json: D) -> Result<Option<&'a str>, D::Error> {
    let raw: Option<&'de RawValue> = Deserialize::deserialize(json)?;
    Ok(raw.map(RawValue::get))
}

/// A list of at most [`MAX_ROWS`]; a longer one is an error of whatever holds it.
pub struct Rows<T>(pub Vec<T>);

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Rows<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(RowsVisitor(PhantomData))
    }
}

struct RowsVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for RowsVisitor<T> {
    type Value = Rows<T>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a list of at most {MAX_ROWS} rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Rows<T>, A::Error> {
        let mut rows = Vec::new();
        while let Some(row) = seq.next_element()? {
            if rows.len() == MAX_ROWS {
                return Err(A::Error::invalid_length(MAX_ROWS + 1, &self));
            }
            rows.push(row);
        }
        Ok(Rows(rows))
    }
}
