//! What is asked of Postgres: the book at start, the read API's rows, and the daemon's own log.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{Row, ValueRef};

use super::{LEASE, Postgres, explain};
use crate::model::{EventId, View};
use crate::store::rows::{self, Columns};
use crate::store::{
    CycleRow, EventPrices, Lease, Pruned, Result, Retention, Runner, StoreError, StoreStatus,
    Viewed, to_the_end,
};

/// Columns of an event `e` in the portable types.
macro_rules! event_columns {
    () => {
        "e.key, e.source, e.sport, e.league, e.venue, e.name, (extract(epoch FROM e.starts_at) * 1000000)::bigint AS starts_at,
         e.day::text AS day, e.status, e.in_play, e.listed, e.facts::text AS facts"
    };
}
macro_rules! selection_columns {
    () => {
        "s.key AS selection_key, s.name AS selection_name, s.status AS selection_status, s.facts::text AS selection_facts"
    };
}
pub(super) use {event_columns, selection_columns};
/// Ends in its order, so that the newest page is the same question with DESC. What the clock did is no look.
macro_rules! cycles {
    () => {
        "SELECT id, feed, (extract(epoch FROM as_of) * 1000000)::bigint AS as_of,
         (extract(epoch FROM committed_at) * 1000000)::bigint AS committed_at, races::bigint AS races,
         horses::bigint AS horses, cardinality(bookmakers)::bigint AS bookmakers, seen, inserted, reopened,
         changed, withdrawn, unchanged, stale, rejected, no_price, fetch_ms, diff_ms FROM oddsd.cycles WHERE id > $1 AND feed <> 'clock' ORDER BY id"
    };
}
macro_rules! offer_columns {
    () => {
        "p.decimal::text AS decimal, p.fractional, p.point::text AS point, p.ew_places::bigint AS ew_places,
         p.ew_denom::bigint AS ew_denom, p.status AS price_status, (extract(epoch FROM p.observed_at) * 1000000)::bigint AS observed_at"
    };
}

/// The last cycle before the first that is still kept; NULL when none is over. By our own time
/// and in the order of the cycles: a price with an old feed time is as new as its cycle.
macro_rules! last_old_cycle {
    () => {
        "SELECT nullif(coalesce((SELECT min(id) - 1 FROM oddsd.cycles WHERE as_of >= $1),
                                (SELECT max(id) FROM oddsd.cycles)), 0)"
    };
}

/// What the statement itself sees, there to be joined to its rows: also when it has none.
macro_rules! seen {
    () => {
        "WITH seen AS MATERIALIZED (SELECT pg_current_snapshot()::text AS view) "
    };
}
pub(super) use seen;

/// The rows of a statement that begins with `seen!()`: those where `column` is not null.
pub(super) fn viewed<'r>(
    found: &'r [PgRow],
    column: &'r str,
) -> Result<(View, impl Iterator<Item = &'r PgRow>)> {
    let first = found.first().expect("the view is there without rows, too");
    let is_row = move |row: &&PgRow| row.try_get_raw(column).is_ok_and(|value| !value.is_null());
    Ok((rows::view(first)?, found.iter().filter(is_row)))
}

/// Rows a retention step takes out at once: short transactions, whatever has piled up.
const PRUNE_BATCH: i64 = 20_000;

impl Postgres {
    pub async fn runners(
        &self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Result<Viewed<Vec<Runner>>> {
        let found = sqlx::query(concat!(
            seen!(), "SELECT seen.view, r.* FROM seen LEFT JOIN (
             SELECT ", event_columns!(), ", ", selection_columns!(), ",
                    (extract(epoch FROM greatest(e.updated_at, s.updated_at, max(p.updated_at))) * 1000000)::bigint AS updated_at,
                    coalesce(json_agg(json_build_array(b.name, p.decimal::text, p.fractional)) FILTER (WHERE p.status = 'open'), '[]')::text AS odds
             FROM oddsd.events e
             JOIN oddsd.selections s ON s.event_id = e.id
             LEFT JOIN oddsd.prices p ON p.event_id = e.id AND p.selection_id = s.id AND p.market = 'win'
             LEFT JOIN oddsd.bookmakers b ON b.id = p.bookmaker_id
             WHERE e.starts_at >= $1 AND e.starts_at < $2 AND e.listed
             GROUP BY e.id, s.id) r ON true"
        ))
        .bind(from)
        .bind(to)
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(explain)?;
        let (view, runners) = viewed(&found, "key")?;
        Ok(Viewed {
            view,
            value: runners.map(rows::runner).collect::<Result<_>>()?,
        })
    }

    pub async fn event_prices(&self, event: &EventId) -> Result<Viewed<Option<EventPrices>>> {
        let mut connection = self.connection().await?;
        // The view of the first statement: the next ones see that much, or more.
        let head = sqlx::query(concat!(
            seen!(), "SELECT seen.view, h.* FROM seen LEFT JOIN (
             SELECT e.id, ", event_columns!(), ",
                    (extract(epoch FROM coalesce(c.checked_at, e.updated_at)) * 1000000)::bigint AS checked_at
             FROM oddsd.events e LEFT JOIN oddsd.checks c ON c.event_id = e.id WHERE e.key = $1) h ON true"
        ))
        .bind(event.as_str())
        .fetch_all(&mut *connection)
        .await
        .map_err(explain)?;
        let (view, mut known) = viewed(&head, "key")?;
        let Some(head) = known.next() else {
            return Ok(Viewed { view, value: None });
        };
        let row = head.int("id")?;
        let selections = sqlx::query(concat!(
            "SELECT ",
            selection_columns!(),
            " FROM oddsd.selections s WHERE s.event_id = $1 ORDER BY s.id"
        ))
        .bind(row)
        .fetch_all(&mut *connection)
        .await
        .map_err(explain)?;
        let prices = sqlx::query(concat!(
            "SELECT s.key AS selection_key, p.market, b.key AS bookmaker_key, b.name AS bookmaker_name, ", offer_columns!(), ",
                    coalesce(h.opening, p.decimal)::text AS opening, coalesce(h.high, p.decimal)::text AS high,
                    coalesce(h.low, p.decimal)::text AS low
             FROM oddsd.prices p
             JOIN oddsd.selections s ON s.id = p.selection_id
             JOIN oddsd.bookmakers b ON b.id = p.bookmaker_id
             LEFT JOIN (
                 SELECT q.id, (array_agg(q.decimal ORDER BY h.cycle_id))[1] AS opening, max(q.decimal) AS high,
                        min(q.decimal) AS low
                 FROM oddsd.history h, unnest(h.price_ids, h.decimals) AS q (id, decimal)
                 WHERE h.event_id = $1 AND h.as_of >= (SELECT first_seen FROM oddsd.events WHERE id = $1)
                 GROUP BY q.id) h ON h.id = p.id
             WHERE p.event_id = $1 ORDER BY s.id, p.market, b.key"
        ))
        .bind(row)
        .fetch_all(&mut *connection)
        .await
        .map_err(explain)?;
        Ok(Viewed {
            view,
            value: Some(rows::event_prices(head, &selections, &prices)?),
        })
    }

    pub async fn view(&self) -> Result<View> {
        let row = sqlx::query("SELECT pg_current_snapshot()::text AS view")
            .fetch_one(&mut *self.connection().await?)
            .await
            .map_err(explain)?;
        rows::view(&row)
    }

    pub async fn cycles(&self, after: i64, limit: i64) -> Result<Vec<CycleRow>> {
        let page = match after {
            ..0 => concat!(cycles!(), " DESC LIMIT $2"),
            _ => concat!(cycles!(), " LIMIT $2"),
        };
        let found = sqlx::query(page)
            .bind(after)
            .bind(limit)
            .fetch_all(&mut *self.connection().await?)
            .await
            .map_err(explain)?;
        let mut cycles = found.iter().map(rows::cycle).collect::<Result<Vec<_>>>()?;
        if after < 0 {
            cycles.reverse();
        }
        Ok(cycles)
    }

    pub async fn status(&self) -> Result<StoreStatus> {
        let row = sqlx::query(
            "SELECT l.holder, (extract(epoch FROM l.expires_at) * 1000000)::bigint AS expires_at, coalesce(l.state, '{}')::text AS state,
                    waiting.rows AS pending, coalesce(extract(epoch FROM now() - waiting.oldest), 0)::float8 AS oldest,
                    (SELECT last_error FROM oddsd.outbox WHERE last_error IS NOT NULL ORDER BY due_at DESC LIMIT 1) AS last_error,
                    (SELECT count(*) FROM oddsd.events WHERE listed) AS events,
                    coalesce((SELECT open_prices FROM oddsd.cycles ORDER BY id DESC LIMIT 1),
                             (SELECT count(*) FROM oddsd.prices WHERE status <> 'withdrawn')) AS open_prices
             FROM (SELECT count(*) AS rows, min(created_at) AS oldest FROM oddsd.outbox
                   WHERE kinds <> 'canary' AND (kinds <> 'again' OR attempts > 0 OR due_at <= now())) waiting
             LEFT JOIN oddsd.leases l ON l.name = $1",
        )
        .bind(LEASE)
        .fetch_one(&mut *self.connection().await?)
        .await
        .map_err(explain)?;
        rows::status(&row, self.cycles(-1, 1).await?.pop())
    }

    pub async fn prune(
        &self,
        lease: &Lease,
        keep: Retention,
        now: DateTime<Utc>,
    ) -> Result<Pruned> {
        let (db, lease) = (self.clone(), lease.clone());
        to_the_end(async move {
            let finished = now - keep.finished_events;
            let events = db.in_time(db.prune_events(&lease, finished)).await?;
            let before = now - keep.history;
            db.in_time(db.make_days_ahead(now)).await?;
            let history = db.in_time(db.drop_days(before)).await?;
            db.fold_counts().await?;
            let mut log = 0;
            for step in [
                "DELETE FROM oddsd.removals WHERE ctid = ANY (ARRAY(SELECT ctid FROM oddsd.removals WHERE at < $1 LIMIT $2))",
                "DELETE FROM oddsd.corrections WHERE ctid = ANY (ARRAY(SELECT ctid FROM oddsd.corrections
                     WHERE applied_at < $1 LIMIT $2))",
                concat!("DELETE FROM oddsd.cycles WHERE ctid = ANY (ARRAY(SELECT ctid FROM oddsd.cycles
                     WHERE id <= (", last_old_cycle!(), ") AND id < (SELECT max(id) FROM oddsd.cycles) LIMIT $2))"),
            ] {
                log += db.prune_step(step, before).await?;
            }
            Ok(Pruned { events, history, log })
        })
        .await
    }

    /// Events with all that hangs on them; their history stays until its own time.
    async fn prune_events(&self, lease: &Lease, before: DateTime<Utc>) -> Result<Vec<i64>> {
        let mut connection = self.connection().await?;
        let mut tx = sqlx::Connection::begin(&mut *connection)
            .await
            .map_err(explain)?;
        sqlx::query(
            "SELECT 1 FROM oddsd.leases WHERE name = $1 AND holder = $2 AND epoch = $3 FOR SHARE",
        )
        .bind(LEASE)
        .bind(&lease.holder)
        .bind(lease.epoch)
        .fetch_optional(&mut *tx)
        .await
        .map_err(explain)?
        .ok_or(StoreError::Fenced)?;
        let gone = sqlx::query(
            "WITH gone AS (DELETE FROM oddsd.events WHERE coalesce(starts_at, updated_at) < $1
                           RETURNING id, key, sport, league, venue),
                  told AS (INSERT INTO oddsd.outbox (event_key, kinds, detail)
                           SELECT key, 'event_removed', jsonb_build_object('reason', 'EXPIRED', 'sport_id', sport,
                                                                           'league_id', league, 'venue', venue)::text FROM gone),
                  prices AS (DELETE FROM oddsd.prices WHERE event_id IN (SELECT id FROM gone) RETURNING status),
                  counted AS (UPDATE oddsd.cycles SET open_prices = open_prices -
                                  (SELECT count(*) FROM prices WHERE status <> 'withdrawn')
                              WHERE id = (SELECT max(id) FROM oddsd.cycles)),
                  selections AS (DELETE FROM oddsd.selections WHERE event_id IN (SELECT id FROM gone)),
                  checks AS (DELETE FROM oddsd.checks WHERE event_id IN (SELECT id FROM gone)),
                  transitions AS (DELETE FROM oddsd.transitions WHERE event_id IN (SELECT id FROM gone))
             SELECT id FROM gone ORDER BY id",
        );
        let gone = gone
            .bind(before)
            .fetch_all(&mut *tx)
            .await
            .map_err(explain)?;
        tx.commit().await.map_err(explain)?;
        Ok(gone.iter().map(|row| row.get("id")).collect())
    }

    async fn prune_step(&self, delete: &'static str, before: DateTime<Utc>) -> Result<u64> {
        let mut total = 0;
        loop {
            let batch = async {
                let mut connection = self.connection().await?;
                let delete = sqlx::query(delete).bind(before).bind(PRUNE_BATCH);
                delete.execute(&mut *connection).await.map_err(explain)
            };
            let deleted = self.in_time(batch).await?.rows_affected();
            total += deleted;
            if deleted < PRUNE_BATCH as u64 {
                return Ok(total);
            }
        }
    }

    pub async fn clock(&self) -> Result<DateTime<Utc>> {
        sqlx::query_scalar("SELECT clock_timestamp()")
            .fetch_one(&mut *self.connection().await?)
            .await
            .map_err(explain)
    }
}
