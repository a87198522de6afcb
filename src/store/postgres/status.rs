//! Transitions, corrections, and what the sidebar and the movers are made of.

use chrono::{DateTime, Utc};

use super::read::{event_columns, seen, viewed};
use super::{Postgres, explain};
use crate::model::{Event, EventId, EventStatus};
use crate::store::rows;
use crate::store::status::{Correction, PriceStep, Transition, correction, price_step, transition};
use crate::store::{Result, Viewed};

/// Listed and not over.
macro_rules! open {
    () => {
        "e.listed AND e.status NOT IN ('completed', 'cancelled', 'abandoned')"
    };
}

impl Postgres {
    pub async fn transitions(&self, event: &EventId) -> Result<Option<Vec<Transition>>> {
        let found = sqlx::query(
            "SELECT t.id, (extract(epoch FROM t.at) * 1000000)::bigint AS at,
                    (extract(epoch FROM t.feed_time) * 1000000)::bigint AS feed_time, t.before, t.after, t.source
             FROM oddsd.events e LEFT JOIN oddsd.transitions t ON t.event_id = e.id
             WHERE e.key = $1 ORDER BY t.id",
        )
        .bind(event.as_str())
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(explain)?;
        if found.is_empty() {
            return Ok(None);
        }
        // An event without any is one row of nulls.
        let logged = found
            .iter()
            .filter(|row| matches!(rows::Columns::maybe_int(*row, "id"), Ok(Some(_))));
        logged.map(transition).collect::<Result<_>>().map(Some)
    }

    pub async fn request_correction(
        &self,
        event: &EventId,
        status: EventStatus,
    ) -> Result<Option<i64>> {
        let (db, event) = (self.clone(), event.clone());
        self.to_the_end(async move {
            sqlx::query_scalar(
                "INSERT INTO oddsd.corrections (event_key, status)
                 SELECT key, $2 FROM oddsd.events WHERE key = $1 RETURNING id",
            )
            .bind(event.as_str())
            .bind(status.as_str())
            .fetch_optional(&mut *db.connection().await?)
            .await
            .map_err(explain)
        })
        .await
    }

    pub async fn is_correction_waiting(&self, id: i64) -> Result<bool> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM oddsd.corrections WHERE id = $1 AND applied_at IS NULL)",
        )
        .bind(id)
        .fetch_one(&mut *self.connection().await?)
        .await
        .map_err(explain)
    }

    pub async fn corrections(&self) -> Result<Vec<Correction>> {
        let found = sqlx::query(
            "SELECT id, event_key, status FROM oddsd.corrections WHERE applied_at IS NULL ORDER BY id",
        )
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(explain)?;
        found.iter().map(correction).collect()
    }

    pub async fn open_events(
        &self,
        sport: Option<&str>,
        league: Option<&str>,
    ) -> Result<Viewed<Vec<Event>>> {
        let found = sqlx::query(concat!(
            seen!(),
            "SELECT seen.view, r.* FROM seen LEFT JOIN (SELECT ",
            event_columns!(),
            " FROM oddsd.events e WHERE ",
            open!(),
            " AND ($1::text IS NULL OR e.sport = $1) AND ($2::text IS NULL OR e.league = $2)
             ) r ON true ORDER BY r.starts_at NULLS LAST, r.key"
        ))
        .bind(sport)
        .bind(league)
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(explain)?;
        let (view, events) = viewed(&found, "key")?;
        Ok(Viewed {
            view,
            value: events.map(rows::event).collect::<Result<_>>()?,
        })
    }

    pub async fn price_steps(&self, from: DateTime<Utc>) -> Result<Vec<PriceStep>> {
        let found = sqlx::query(concat!(
            "SELECT e.key AS event_key, s.key AS selection_key, s.name AS selection_name, p.market, h.id AS price_id,
                    (extract(epoch FROM h.as_of) * 1000000)::bigint AS at, h.decimal::text AS decimal,
                    coalesce(h.status, 'open') AS price_status, h.nth
             FROM (SELECT h.as_of, h.cycle_id, q.id, q.decimal, q.status, row_number() OVER steps AS nth,
                          lead(h.as_of) OVER steps AS next_at
                   FROM oddsd.events e
                   JOIN oddsd.history h ON h.event_id = e.id AND h.as_of >= e.first_seen,
                        unnest(h.price_ids, h.decimals, h.statuses) AS q (id, decimal, status)
                   WHERE ", open!(), "
                   WINDOW steps AS (PARTITION BY q.id ORDER BY h.cycle_id)) h
             JOIN oddsd.prices p ON p.id = h.id
             JOIN oddsd.selections s ON s.id = p.selection_id
             JOIN oddsd.events e ON e.id = p.event_id
             WHERE (h.as_of >= $1 OR h.nth = 1 OR coalesce(h.next_at, $1) >= $1)
                   AND p.point IS NULL AND right(p.market, 4) <> '_lay' AND s.status = 'active'
             ORDER BY e.id, s.id, p.market, h.cycle_id, h.id"
        ))
        .bind(from)
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(explain)?;
        found.iter().map(price_step).collect()
    }
}
