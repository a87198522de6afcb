//! Decodes rows into values: both backends select the same columns, so each is read by one function.
//! The modules of the store that select rows call it.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Postgres, Row, Sqlite, Type, ValueRef};

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
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// A row of either backend, read by column name. Decimals are selected as text.
pub enum StoredRow {
    Postgres(PgRow),
    Sqlite(SqliteRow),
}

impl StoredRow {
    pub fn get<'r, T>(&'r self, name: &str) -> Result<T>
    where
        T: Decode<'r, Postgres> + Type<Postgres> + Decode<'r, Sqlite> + Type<Sqlite>,
    {
        let value = match self {
            Self::Postgres(row) => row.try_get(name),
            Self::Sqlite(row) => row.try_get(name),
        };
        value.map_err(|error| decode_error(name, error))
    }

    pub fn int(&self, name: &str) -> Result<i64> {
        self.get(name)
    }

    pub fn text(&self, name: &str) -> Result<&str> {
        self.get(name)
    }

    pub fn maybe_text(&self, name: &str) -> Result<Option<&str>> {
        self.get(name)
    }

    pub fn is_null(&self, name: &str) -> bool {
        match self {
            Self::Postgres(row) => row.try_get_raw(name).is_ok_and(|value| value.is_null()),
            Self::Sqlite(row) => row.try_get_raw(name).is_ok_and(|value| value.is_null()),
        }
    }

    /// Both databases send a timestamp as a number of microseconds. The driver's own type would panic at
    /// Postgres's `infinity`.
    pub fn maybe_time(&self, name: &str) -> Result<Option<DateTime<Utc>>> {
        let (micros, epoch) = match self {
            Self::Postgres(row) => (row.try_get_unchecked(name), POSTGRES_EPOCH),
            Self::Sqlite(row) => (row.try_get_unchecked(name), 0),
        };
        let micros: Option<i64> = micros.map_err(|error| decode_error(name, error))?;
        let time = |micros: i64| {
            let since_1970 = micros.checked_add(epoch);
            let time = since_1970.and_then(DateTime::from_timestamp_micros);
            time.ok_or_else(|| decode_error(name, micros))
        };
        micros.map(time).transpose()
    }

    pub fn time(&self, name: &str) -> Result<DateTime<Utc>> {
        self.maybe_time(name)?
            .ok_or_else(|| decode_error(name, "NULL"))
    }

    pub fn decimal(&self, name: &str) -> Result<Decimal> {
        decimal(self.text(name)?, name)
    }

    pub fn maybe_decimal(&self, name: &str) -> Result<Option<Decimal>> {
        let text = self.maybe_text(name)?;
        text.map(|text| decimal(text, name)).transpose()
    }

    pub fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        serde_json::from_str(self.text(name)?).map_err(|error| decode_error(name, error))
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
pub fn event(row: &StoredRow) -> Result<Event> {
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
        in_play: row.get("in_play")?,
        listed: row.get("listed")?,
        attributes: row.json("facts")?,
    })
}

/// Columns `selection_key, selection_name, selection_status, selection_facts`.
pub fn selection(row: &StoredRow) -> Result<Selection> {
    let status = row.text("selection_status")?;
    Ok(Selection {
        id: SelectionId::new(row.text("selection_key")?),
        name: row.text("selection_name")?.into(),
        status: SelectionStatus::parse(status).ok_or_else(|| decode_error("status", status))?,
        attributes: row.json("selection_facts")?,
    })
}

/// Columns `decimal, fractional, point, ew_places, ew_denom`.
pub fn offer(row: &StoredRow) -> Result<Offer> {
    let places = row.get("ew_places")?;
    let denom = row.get("ew_denom")?;
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
pub fn price_status(row: &StoredRow) -> Result<PriceStatus> {
    let status = row.text("price_status")?;
    PriceStatus::parse(status).ok_or_else(|| decode_error("status", status))
}

/// Column `snapshot`, in the text form of Postgres.
pub fn snapshot(row: &StoredRow) -> Result<DbSnapshot> {
    let text = row.text("snapshot")?;
    DbSnapshot::parse(text).ok_or_else(|| decode_error("snapshot", text))
}
