//! Where events stand and have stood: the log of transitions, what people correct, and the rows behind the
//! sidebar and the movers.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use super::rows::Columns;
use super::{Result, Store, Viewed, ask, on};
use crate::model::{Event, EventId, EventStatus, SelectionId, StatusSource};

/// One change of an event's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    pub id: i64,
    /// When it was stored.
    pub at: DateTime<Utc>,
    /// When it was so: the time of the look, an exchange's own, or the clock's that moved it.
    pub feed_time: DateTime<Utc>,
    /// `None`: the event was new.
    pub before: Option<EventStatus>,
    pub after: EventStatus,
    pub source: StatusSource,
}

/// What a person says of an event, not yet carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    pub id: i64,
    pub event: EventId,
    /// `None`: a status that this program does not know.
    pub status: Option<EventStatus>,
}

/// What one price became at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceStep {
    pub event: EventId,
    pub selection: SelectionId,
    pub selection_name: String,
    pub market: String,
    /// The price's row.
    pub price: i64,
    /// `as_of` of the look that saw it.
    pub at: DateTime<Utc>,
    /// `None`: not offered.
    pub odds: Option<Decimal>,
    /// The first that is kept of this price.
    pub first: bool,
}

impl Store {
    /// Oldest first; `None` for an event that is not stored.
    pub async fn transitions(&self, event: &EventId) -> Result<Option<Vec<Transition>>> {
        ask!(self, db => db.transitions(event))
    }

    /// Puts a person's word on record for the one who writes; `None` when the event is not stored.
    pub async fn request_correction(
        &self,
        event: &EventId,
        status: EventStatus,
    ) -> Result<Option<i64>> {
        on!(self, db => db.request_correction(event, status).await)
    }

    /// False once it has been carried out.
    pub async fn is_correction_waiting(&self, id: i64) -> Result<bool> {
        ask!(self, db => db.is_correction_waiting(id))
    }

    /// Those that wait, oldest first. A commit whose changes name them settles them.
    pub async fn corrections(&self) -> Result<Vec<Correction>> {
        ask!(self, db => db.corrections())
    }

    /// Events that are listed and not over, by start, then id: of one sport, of one league, or all.
    pub async fn open_events(
        &self,
        sport: Option<&str>,
        league: Option<&str>,
    ) -> Result<Viewed<Vec<Event>>> {
        ask!(self, db => db.open_events(sport, league))
    }

    /// What the prices of all open events became since `from`, with the last step before it and the first one
    /// of each; by event, selection and market, oldest first. Without lays and lines that have a point.
    pub async fn price_steps(&self, from: DateTime<Utc>) -> Result<Vec<PriceStep>> {
        ask!(self, db => db.price_steps(from))
    }
}

/// Columns `id, at, feed_time, before, after, source`.
pub(super) fn transition(row: &impl Columns) -> Result<Transition> {
    let (after, source) = (row.text("after")?, row.text("source")?);
    let status =
        |text: &str| EventStatus::parse(text).ok_or_else(|| super::rows::odd("status", text));
    Ok(Transition {
        id: row.int("id")?,
        at: row.time("at")?,
        feed_time: row.time("feed_time")?,
        before: row.maybe_text("before")?.map(status).transpose()?,
        after: status(after)?,
        source: StatusSource::parse(source).ok_or_else(|| super::rows::odd("source", source))?,
    })
}

/// Columns `id, event_key, status`.
pub(super) fn correction(row: &impl Columns) -> Result<Correction> {
    Ok(Correction {
        id: row.int("id")?,
        event: EventId::new(row.text("event_key")?),
        status: EventStatus::parse(row.text("status")?),
    })
}

/// Columns `event_key, selection_key, selection_name, market, price_id, at, decimal, price_status, nth`.
pub(super) fn price_step(row: &impl Columns) -> Result<PriceStep> {
    let open = row.text("price_status")? == "open";
    Ok(PriceStep {
        event: EventId::new(row.text("event_key")?),
        selection: SelectionId::new(row.text("selection_key")?),
        selection_name: row.text("selection_name")?.into(),
        market: row.text("market")?.into(),
        price: row.int("price_id")?,
        at: row.time("at")?,
        odds: match open {
            true => Some(row.decimal("decimal")?),
            false => None,
        },
        first: row.int("nth")? == 1,
    })
}
