//! Event statuses: the log of transitions, the manual corrections, and the rows of the sidebar and the movers.
//! The poller applies corrections; the HTTP API and `oddsd correct` call the rest.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use super::dialect::{args, split_snapshot, with_snapshot};
use super::read::HISTORY_BEGINS;
use super::rows::{self, EVENT, StoredRow, decode_error};
use super::{Result, Snapshotted, Store};
use oddsd_core::model::{Event, EventId, EventStatus, SelectionId, StatusSource};

/// One change of an event's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    pub id: i64,
    /// When it was stored.
    pub at: DateTime<Utc>,
    /// When it took effect: the time of the poll, an exchange's own time, or the start that the clock reached.
    pub feed_time: DateTime<Utc>,
    /// `None`: the event was new.
    pub before: Option<EventStatus>,
    pub after: EventStatus,
    pub source: StatusSource,
}

/// A status that a person has set for an event, not yet applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    pub id: i64,
    pub event: EventId,
    /// `None`: a status that this program does not know.
    pub status: Option<EventStatus>,
}

/// One value of one price, and when it took it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceStep {
    pub event: EventId,
    pub selection: SelectionId,
    pub selection_name: String,
    pub market: String,
    /// The price's row.
    pub price: i64,
    /// `as_of` of the poll that saw it.
    pub at: DateTime<Utc>,
    /// `None`: not offered.
    pub odds: Option<Decimal>,
    /// The first that is kept of this price.
    pub first: bool,
}

/// Events `e` that are listed and not over.
const OPEN: &str = "e.listed AND e.status NOT IN ('completed', 'cancelled', 'abandoned')";

impl Store {
    /// Oldest first; `None` for an event that is not stored.
    pub async fn transitions(&self, event: &EventId) -> Result<Option<Vec<Transition>>> {
        let sql = "SELECT t.id, t.at, t.feed_time, t.before, t.after, t.source
             FROM oddsd.events e LEFT JOIN oddsd.transitions t ON t.event_id = e.id WHERE e.key = $1 ORDER BY t.id";
        let found = self.read(sql, args![event.as_str()]).await?;
        if found.is_empty() {
            return Ok(None);
        }
        // An event without transitions is one row of nulls.
        let logged = found.iter().filter(|row| !row.is_null("id"));
        logged.map(transition).collect::<Result<_>>().map(Some)
    }

    /// Stores a correction for the leader to apply; returns its id, or `None` when the event is not stored.
    pub async fn request_correction(
        &self,
        event: &EventId,
        status: EventStatus,
    ) -> Result<Option<i64>> {
        let sql = "INSERT INTO oddsd.corrections (event_key, status, asked_at)
             SELECT key, $2, now() FROM oddsd.events WHERE key = $1 RETURNING id";
        let args = args![event.as_str(), status.as_str()];
        let stored = self.write(sql, args).await?;
        stored.first().map(|row| row.int("id")).transpose()
    }

    /// False once it has been applied.
    pub async fn is_correction_waiting(&self, id: i64) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM oddsd.corrections WHERE id = $1 AND applied_at IS NULL) AS waiting";
        self.read_one(sql, args![id]).await?.get("waiting")
    }

    /// Corrections that wait, oldest first. A commit whose changes name them marks them as applied.
    pub async fn corrections(&self) -> Result<Vec<Correction>> {
        let sql = "SELECT id, event_key, status FROM oddsd.corrections WHERE applied_at IS NULL ORDER BY id";
        let found = self.read(sql, args![]).await?;
        found.iter().map(correction).collect()
    }

    /// Events that are listed and not over, by start, then id: of one sport, of one league, or all.
    pub async fn open_events(
        &self,
        sport: Option<&str>,
        league: Option<&str>,
    ) -> Result<Snapshotted<Vec<Event>>> {
        let select = format!(
            "SELECT {EVENT} FROM oddsd.events e WHERE {OPEN}
             AND (CAST($1 AS text) IS NULL OR e.sport = $1) AND (CAST($2 AS text) IS NULL OR e.league = $2)"
        );
        let sql = with_snapshot(&select, "ORDER BY r.starts_at NULLS LAST, r.key");
        let found = self.read(sql, args![sport, league]).await?;
        let (snapshot, events) = split_snapshot(found, "key")?;
        let value = events.map(|row| rows::event(&row)).collect::<Result<_>>()?;
        Ok(Snapshotted { snapshot, value })
    }

    /// The steps of the prices of all open events since `from`, with the last step before it and the first
    /// one of each; by event, selection and market, oldest first. Without lays and lines that have a point.
    pub async fn price_steps(&self, from: DateTime<Utc>) -> Result<Vec<PriceStep>> {
        let found = self.read(self.price_steps_sql(), args![from]).await?;
        found.iter().map(price_step).collect()
    }

    /// On Postgres a history row holds the prices of one event side by side; on SQLite it holds one price.
    fn price_steps_sql(&self) -> String {
        let (id, from) = match self {
            Self::Postgres(_) => (
                "q.id",
                format!(
                    "oddsd.events e JOIN oddsd.history h ON h.event_id = e.id AND h.as_of >= {HISTORY_BEGINS},
                     unnest(h.price_ids, h.decimals, h.statuses) AS q (id, decimal, status)"
                ),
            ),
            Self::Sqlite(_) => (
                "q.price_id",
                "events e JOIN prices p ON p.event_id = e.id JOIN price_history q ON q.price_id = p.id
                 JOIN (SELECT id AS cycle_id, as_of FROM cycles) h ON h.cycle_id = q.cycle_id"
                    .to_owned(),
            ),
        };
        format!(
            "SELECT e.key AS event_key, s.key AS selection_key, s.name AS selection_name, p.market, h.price_id,
                    h.as_of AS at, CAST(h.decimal AS text) AS decimal, coalesce(h.status, 'open') AS price_status, h.nth
             FROM (SELECT h.as_of, h.cycle_id, {id} AS price_id, q.decimal, q.status, row_number() OVER steps AS nth,
                          lead(h.as_of) OVER steps AS next_at
                   FROM {from} WHERE {OPEN}
                   WINDOW steps AS (PARTITION BY {id} ORDER BY h.cycle_id)) h
             JOIN oddsd.prices p ON p.id = h.price_id
             JOIN oddsd.selections s ON s.id = p.selection_id
             JOIN oddsd.events e ON e.id = p.event_id
             WHERE (h.as_of >= $1 OR h.nth = 1 OR coalesce(h.next_at, $1) >= $1)
                   AND p.point IS NULL AND right(p.market, 4) <> '_lay' AND s.status = 'active'
             ORDER BY e.id, s.id, p.market, h.cycle_id, h.price_id"
        )
    }
}

fn transition(row: &StoredRow) -> Result<Transition> {
    let (after, source) = (row.text("after")?, row.text("source")?);
    let status = |text: &str| EventStatus::parse(text).ok_or_else(|| decode_error("status", text));
    Ok(Transition {
        id: row.int("id")?,
        at: row.time("at")?,
        feed_time: row.time("feed_time")?,
        before: row.maybe_text("before")?.map(status).transpose()?,
        after: status(after)?,
        source: StatusSource::parse(source).ok_or_else(|| decode_error("source", source))?,
    })
}

fn correction(row: &StoredRow) -> Result<Correction> {
    Ok(Correction {
        id: row.int("id")?,
        event: EventId::new(row.text("event_key")?),
        status: EventStatus::parse(row.text("status")?),
    })
}

fn price_step(row: &StoredRow) -> Result<PriceStep> {
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
