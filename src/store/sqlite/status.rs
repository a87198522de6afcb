//! Transitions, corrections, and what the sidebar and the movers are made of.

use chrono::{DateTime, Utc};

use super::read::{event_columns, seen};
use super::{Sqlite, explain, now};
use crate::model::{Event, EventId, EventStatus};
use crate::store::rows::{self, Columns};
use crate::store::status::{Correction, PriceStep, Transition, correction, price_step, transition};
use crate::store::{Result, Viewed, to_the_end};

/// Listed and not over.
macro_rules! open {
    () => {
        "e.listed AND e.status NOT IN ('completed', 'cancelled', 'abandoned')"
    };
}

impl Sqlite {
    pub async fn transitions(&self, event: &EventId) -> Result<Option<Vec<Transition>>> {
        let found = sqlx::query(
            "SELECT t.id, t.at, t.feed_time, t.before, t.after, t.source
             FROM events e LEFT JOIN transitions t ON t.event_id = e.id WHERE e.key = ?1 ORDER BY t.id",
        )
        .bind(event.as_str())
        .fetch_all(&self.readers)
        .await
        .map_err(explain)?;
        if found.is_empty() {
            return Ok(None);
        }
        // An event without any is one row of nulls.
        let logged = found
            .iter()
            .filter(|row| matches!(row.maybe_int("id"), Ok(Some(_))));
        logged.map(transition).collect::<Result<_>>().map(Some)
    }

    pub async fn request_correction(
        &self,
        event: &EventId,
        status: EventStatus,
    ) -> Result<Option<i64>> {
        let (db, event) = (self.clone(), event.clone());
        to_the_end(async move {
            sqlx::query_scalar(
                "INSERT INTO corrections (event_key, status, asked_at)
                 SELECT key, ?2, ?3 FROM events WHERE key = ?1 RETURNING id",
            )
            .bind(event.as_str())
            .bind(status.as_str())
            .bind(now())
            .fetch_optional(&db.writer)
            .await
            .map_err(explain)
        })
        .await
    }

    pub async fn is_correction_waiting(&self, id: i64) -> Result<bool> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM corrections WHERE id = ?1 AND applied_at IS NULL)",
        )
        .bind(id)
        .fetch_one(&self.readers)
        .await
        .map_err(explain)
    }

    pub async fn corrections(&self) -> Result<Vec<Correction>> {
        let found = sqlx::query(
            "SELECT id, event_key, status FROM corrections WHERE applied_at IS NULL ORDER BY id",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(explain)?;
        found.iter().map(correction).collect()
    }

    pub async fn open_events(
        &self,
        sport: Option<&str>,
        league: Option<&str>,
    ) -> Result<Viewed<Vec<Event>>> {
        let (db, sport, league) = (
            self.clone(),
            sport.map(str::to_owned),
            league.map(str::to_owned),
        );
        // In a task of its own: a dropped `begin()` would leave a reader in an old snapshot for ever.
        to_the_end(async move {
            let mut tx = db.readers.begin().await.map_err(explain)?;
            let view = seen(&mut *tx).await?;
            let found = sqlx::query(concat!(
                "SELECT ",
                event_columns!(),
                " FROM events e WHERE ",
                open!(),
                " AND (?1 IS NULL OR e.sport = ?1) AND (?2 IS NULL OR e.league = ?2)
                 ORDER BY e.starts_at IS NULL, e.starts_at, e.key"
            ))
            .bind(sport)
            .bind(league)
            .fetch_all(&mut *tx)
            .await
            .map_err(explain)?;
            Ok(Viewed {
                view,
                value: found.iter().map(rows::event).collect::<Result<_>>()?,
            })
        })
        .await
    }

    pub async fn price_steps(&self, from: DateTime<Utc>) -> Result<Vec<PriceStep>> {
        let found = sqlx::query(concat!(
            "SELECT e.key AS event_key, s.key AS selection_key, s.name AS selection_name, p.market, h.price_id,
                    h.as_of AS at, h.decimal, h.status AS price_status, h.nth
             FROM (SELECT k.as_of, h.cycle_id, h.price_id, h.decimal, h.status, row_number() OVER steps AS nth,
                          lead(k.as_of) OVER steps AS next_at
                   FROM events e
                   JOIN prices p ON p.event_id = e.id
                   JOIN price_history h ON h.price_id = p.id
                   JOIN cycles k ON k.id = h.cycle_id
                   WHERE ", open!(), "
                   WINDOW steps AS (PARTITION BY h.price_id ORDER BY h.cycle_id)) h
             JOIN prices p ON p.id = h.price_id
             JOIN selections s ON s.id = p.selection_id
             JOIN events e ON e.id = p.event_id
             WHERE (h.as_of >= ?1 OR h.nth = 1 OR coalesce(h.next_at, ?1) >= ?1)
                   AND p.point IS NULL AND p.market NOT LIKE '%\\_lay' ESCAPE '\\' AND s.status = 'active'
             ORDER BY e.id, s.id, p.market, h.cycle_id, h.price_id"
        ))
        .bind(from.timestamp_micros())
        .fetch_all(&self.readers)
        .await
        .map_err(explain)?;
        found.iter().map(price_step).collect()
    }
}
