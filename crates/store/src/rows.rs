//! Decodes rows into values: both backends select the same columns, so each is read by one function.
//! The modules of the store that select rows call it.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::{ColumnIndex, Database, Decode, Row, Type, ValueRef};

use super::{Result, StoreError};
use oddsd_core::model::{
    DbSnapshot, EachWay, Event, EventId, EventStatus, Fraction, Offer, PriceStatus, Selection,
    SelectionId, SelectionStatus,
};

/// The columns that [`event`] reads, of an event `e`.
pub const EVENT: &str = "e.key, e.source, e.sport, e.league, e.venue, e.name, e.starts_at, CAST(e.day AS text) AS day, \
     e.status, e.in_play, e.listed, CAST(e.facts AS text) AS facts";
/// The columns that [`selection`] reads, of a selection `s`.
pub const SELECTION: &str = "s.key AS selection_key, s.name AS selection_name, \
     s.status AS selection_status, CAST(s.facts AS text) AS selection_facts";
/// The columns that [`offer`] and [`price_status`] read, and `observed_at`, of a price `p`.
pub const OFFER: &str = "CAST(p.decimal AS text) AS decimal, p.fractional, CAST(p.point AS text) AS point, \
     CAST(p.ew_places AS bigint) AS ew_places, CAST(p.ew_denom AS bigint) AS ew_denom, \
     p.status AS price_status, p.observed_at";

/// Postgres counts from 2000-01-01, in microseconds since 1970.
pub const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// The moment from which a database counts its timestamps, in microseconds since 1970.
pub trait TimestampEpoch {
    const MICROS: i64;
}

impl TimestampEpoch for sqlx::Postgres {
    const MICROS: i64 = POSTGRES_EPOCH;
}

impl TimestampEpoch for sqlx::Sqlite {
    const MICROS: i64 = 0;
}

/// A row that is read by column name. Decimals are selected as text.
pub trait Columns {
    fn int(&self, name: &str) -> Result<i64>;
    fn maybe_int(&self, name: &str) -> Result<Option<i64>>;
    fn flag(&self, name: &str) -> Result<bool>;
    fn text(&self, name: &str) -> Result<&str>;
    fn maybe_text(&self, name: &str) -> Result<Option<&str>>;
    fn maybe_time(&self, name: &str) -> Result<Option<DateTime<Utc>>>;
    /// True for a column that is not there, too.
    fn is_null(&self, name: &str) -> bool;

    fn time(&self, name: &str) -> Result<DateTime<Utc>> {
        self.maybe_time(name)?
            .ok_or_else(|| decode_error(name, "NULL"))
    }
    fn decimal(&self, name: &str) -> Result<Decimal> {
        decimal(self.text(name)?, name)
    }
    fn maybe_decimal(&self, name: &str) -> Result<Option<Decimal>> {
        self.maybe_text(name)?
            .map(|text| decimal(text, name))
            .transpose()
    }
    fn maybe_string(&self, name: &str) -> Result<Option<String>> {
        Ok(self.maybe_text(name)?.map(Into::into))
    }
    fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        serde_json::from_str(self.text(name)?).map_err(|error| decode_error(name, error))
    }
}

impl<R> Columns for R
where
    R: Row,
    for<'n> &'n str: ColumnIndex<R>,
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> bool: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> &'r str: Decode<'r, R::Database> + Type<R::Database>,
    R::Database: Database + TimestampEpoch,
{
    fn int(&self, name: &str) -> Result<i64> {
        self.try_get(name)
            .map_err(|error| decode_error(name, error))
    }
    fn maybe_int(&self, name: &str) -> Result<Option<i64>> {
        self.try_get(name)
            .map_err(|error| decode_error(name, error))
    }
    fn flag(&self, name: &str) -> Result<bool> {
        self.try_get(name)
            .map_err(|error| decode_error(name, error))
    }
    fn text(&self, name: &str) -> Result<&str> {
        self.try_get(name)
            .map_err(|error| decode_error(name, error))
    }
    fn maybe_text(&self, name: &str) -> Result<Option<&str>> {
        self.try_get(name)
            .map_err(|error| decode_error(name, error))
    }
    // Both databases send a timestamp as a number of microseconds. The driver's own type would panic at
    // Postgres's `infinity`.
    fn maybe_time(&self, name: &str) -> Result<Option<DateTime<Utc>>> {
        let micros: Option<i64> = self
            .try_get_unchecked(name)
            .map_err(|error| decode_error(name, error))?;
        let time = |micros: i64| {
            let since_1970 = micros.checked_add(R::Database::MICROS);
            let time = since_1970.and_then(DateTime::from_timestamp_micros);
            time.ok_or_else(|| decode_error(name, micros))
        };
        micros.map(time).transpose()
    }
    fn is_null(&self, name: &str) -> bool {
        self.try_get_raw(name).is_ok_and(|value| value.is_null())
    }
}

pub fn decode_error(name: &str, why: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(format!(
        "column {name} holds what oddsd did not write: {why}"
    ))
}

pub fn decimal(text: &str, name: &str) -> Result<Decimal> {
    Decimal::from_str_exact(text)
        .map(|d| d.normalize())
        .map_err(|error| decode_error(name, error))
}

/// Columns `key, source, sport, league, venue, name, starts_at, day, status, in_play, listed, facts`.
pub fn event(row: &impl Columns) -> Result<Event> {
    let status = row.text("status")?;
    Ok(Event {
        id: EventId::new(row.text("key")?),
        source: row.text("source")?.into(),
        sport: row.text("sport")?.into(),
        league: row.text("league")?.into(),
        venue: row.text("venue")?.into(),
        name: row.text("name")?.into(),
        starts_at: row.maybe_time("starts_at")?,
        day: match row.maybe_text("day")? {
            Some(day) => Some(day.parse().map_err(|error| decode_error("day", error))?),
            None => None,
        },
        status: EventStatus::parse(status).ok_or_else(|| decode_error("status", status))?,
        in_play: row.flag("in_play")?,
        listed: row.flag("listed")?,
        attributes: row.json("facts")?,
    })
}

/// Columns `selection_key, selection_name, selection_status, selection_facts`.
pub fn selection(row: &impl Columns) -> Result<Selection> {
    let status = row.text("selection_status")?;
    Ok(Selection {
        id: SelectionId::new(row.text("selection_key")?),
        name: row.text("selection_name")?.into(),
        status: SelectionStatus::parse(status).ok_or_else(|| decode_error("status", status))?,
        attributes: row.json("selection_facts")?,
    })
}

/// Columns `decimal, fractional, point, ew_places, ew_denom`.
pub fn offer(row: &impl Columns) -> Result<Offer> {
    let places = row.maybe_int("ew_places")?;
    let denom = row.maybe_int("ew_denom")?;
    let small = |n: i64| u16::try_from(n).map_err(|error| decode_error("ew_places", error));
    Ok(Offer {
        decimal: row.decimal("decimal")?,
        // An adopted row may hold a word ("Evens"): it is read as none, and the next poll corrects it.
        fractional: row.maybe_text("fractional")?.and_then(Fraction::parse),
        point: row.maybe_decimal("point")?,
        each_way: match (places, denom) {
            (Some(places), Some(denom)) => Some(EachWay {
                places: small(places)?,
                denom: small(denom)?,
            }),
            _ => None,
        },
    })
}

/// Column `price_status`.
pub fn price_status(row: &impl Columns) -> Result<PriceStatus> {
    let status = row.text("price_status")?;
    PriceStatus::parse(status).ok_or_else(|| decode_error("status", status))
}

/// Column `view`, in the text form of Postgres.
pub fn snapshot(row: &impl Columns) -> Result<DbSnapshot> {
    let text = row.text("view")?;
    DbSnapshot::parse(text).ok_or_else(|| decode_error("view", text))
}
