//! What is asked of SQLite: the same questions as of Postgres, with the same columns.

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use sqlx::Row;
use sqlx::sqlite::{SqliteExecutor, SqliteRow};

use super::{LEASE, Sqlite, explain, now};
use crate::model::{EventId, View};
use crate::store::rows::{self, Columns, Loader};
use crate::store::{
    CycleRow, EventPrices, Lease, Loaded, Pruned, Result, Retention, Runner, StoreError,
    StoreStatus, Viewed, to_the_end,
};

macro_rules! event_columns {
    () => {
        "e.key, e.source, e.sport, e.league, e.venue, e.name, e.starts_at, e.day, e.status, e.in_play, e.listed, e.facts"
    };
}
macro_rules! selection_columns {
    () => {
        "s.key AS selection_key, s.name AS selection_name, s.status AS selection_status, s.facts AS selection_facts"
    };
}
pub(super) use event_columns;
/// Ends in its order, so that the newest page is the same question with DESC. What the clock did is no look.
macro_rules! cycles {
    () => {
        "SELECT id, feed, as_of, committed_at, races, horses, json_array_length(bookmakers) AS bookmakers, seen,
         inserted, reopened, changed, withdrawn, unchanged, stale, rejected, no_price, fetch_ms, diff_ms
         FROM cycles WHERE id > ?1 AND feed <> 'clock' ORDER BY id"
    };
}
macro_rules! offer_columns {
    () => {
        "p.decimal, p.fractional, p.point, p.ew_places, p.ew_denom, p.status AS price_status, p.observed_at"
    };
}

/// As on Postgres: the last cycle before the first that is still kept.
macro_rules! last_old_cycle {
    () => {
        "SELECT nullif(coalesce((SELECT min(id) - 1 FROM cycles WHERE as_of >= ?1), (SELECT max(id) FROM cycles)), 0)"
    };
}

/// The highest outbox row that was ever committed. Writers take turns, so the rows are numbered in
/// the order of the commits.
macro_rules! commits {
    () => {
        "coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0) AS commits"
    };
}
pub(super) use commits;

/// What a transaction sees, or one statement of its own.
pub(super) async fn seen(reader: impl SqliteExecutor<'_>) -> Result<View> {
    let row = sqlx::query(concat!("SELECT ", commits!()))
        .fetch_one(reader)
        .await
        .map_err(explain)?;
    view(&row)
}

/// Column `commits`.
pub(super) fn view(row: &SqliteRow) -> Result<View> {
    Ok(View::after(row.int("commits")? as u64))
}

/// Rows a retention step takes out at once.
const PRUNE_BATCH: i64 = 20_000;

impl Sqlite {
    /// In a task of its own: a dropped `begin()` would leave a reader in an old snapshot for ever.
    pub async fn load(&self) -> Result<Loaded> {
        let db = self.clone();
        to_the_end(async move { db.everything().await }).await
    }

    async fn everything(&self) -> Result<Loaded> {
        // One deferred read transaction: one snapshot for all five questions.
        let mut tx = self.readers.begin().await.map_err(explain)?;
        let mut loader = Loader::default();
        for row in sqlx::query("SELECT id, key, name FROM bookmakers")
            .fetch_all(&mut *tx)
            .await
            .map_err(explain)?
        {
            loader.bookmaker(&row)?;
        }
        // Where no look is on record, any look is newer.
        let events = sqlx::query(concat!(
            "SELECT e.id, ",
            event_columns!(),
            ", coalesce(c.checked_at, 0) AS checked_at,
               e.status = 'suspended' AND 'correction' IS (
                   SELECT t.source FROM transitions t WHERE t.event_id = e.id ORDER BY t.id DESC LIMIT 1) AS corrected
             FROM events e LEFT JOIN checks c ON c.event_id = e.id"
        ));
        for row in events.fetch_all(&mut *tx).await.map_err(explain)? {
            loader.event(&row)?;
        }
        let selections = sqlx::query(concat!(
            "SELECT s.id, s.event_id, ",
            selection_columns!(),
            " FROM selections s"
        ));
        for row in selections.fetch_all(&mut *tx).await.map_err(explain)? {
            loader.selection(&row)?;
        }
        let mut prices = sqlx::query(concat!(
            "SELECT p.id, p.event_id, p.selection_id, p.bookmaker_id, p.market, ",
            offer_columns!(),
            " FROM prices p"
        ))
        .fetch(&mut *tx);
        while let Some(row) = prices.try_next().await.map_err(explain)? {
            loader.price(&row)?;
        }
        drop(prices);
        let next = sqlx::query(
            "SELECT max(coalesce(k.next_event, 1), coalesce((SELECT max(id) FROM events), 0) + 1) AS event,
                    max(coalesce(k.next_selection, 1), coalesce((SELECT max(id) FROM selections), 0) + 1) AS selection,
                    max(coalesce(k.next_bookmaker, 1), coalesce((SELECT max(id) FROM bookmakers), 0) + 1) AS bookmaker,
                    max(coalesce(k.next_price, 1), coalesce((SELECT max(id) FROM prices), 0) + 1) AS price,
                    coalesce(k.id, 0) AS cycle
             FROM (SELECT 1) AS one LEFT JOIN (SELECT * FROM cycles ORDER BY id DESC LIMIT 1) AS k ON true",
        );
        let next = next.fetch_one(&mut *tx).await.map_err(explain)?;
        loader.finish(&next)
    }

    /// A view, and an answer that holds what it sees: one read transaction around both.
    pub async fn runners(
        &self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Result<Viewed<Vec<Runner>>> {
        let db = self.clone();
        to_the_end(async move { db.card(from, to).await }).await
    }

    async fn card(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<Viewed<Vec<Runner>>> {
        let mut tx = self.readers.begin().await.map_err(explain)?;
        let view = seen(&mut *tx).await?;
        let runners = sqlx::query(concat!(
            "SELECT ", event_columns!(), ", ", selection_columns!(), ",
                    max(e.updated_at, s.updated_at, coalesce(max(p.updated_at), 0)) AS updated_at,
                    json_group_array(json_array(b.name, p.decimal, p.fractional)) FILTER (WHERE p.status = 'open') AS odds
             FROM events e
             JOIN selections s ON s.event_id = e.id
             LEFT JOIN prices p ON p.event_id = e.id AND p.selection_id = s.id AND p.market = 'win'
             LEFT JOIN bookmakers b ON b.id = p.bookmaker_id
             WHERE e.starts_at >= ?1 AND e.starts_at < ?2 AND e.listed
             GROUP BY e.id, s.id"
        ))
        .bind(from.timestamp_micros())
        .bind(to.timestamp_micros())
        .fetch_all(&mut *tx)
        .await
        .map_err(explain)?;
        Ok(Viewed {
            view,
            value: runners.iter().map(rows::runner).collect::<Result<_>>()?,
        })
    }

    pub async fn event_prices(&self, event: &EventId) -> Result<Viewed<Option<EventPrices>>> {
        let (db, event) = (self.clone(), event.clone());
        to_the_end(async move { db.prices_of(&event).await }).await
    }

    async fn prices_of(&self, event: &EventId) -> Result<Viewed<Option<EventPrices>>> {
        let mut tx = self.readers.begin().await.map_err(explain)?;
        let view = seen(&mut *tx).await?;
        let head = sqlx::query(concat!(
            "SELECT e.id, ",
            event_columns!(),
            ", coalesce(c.checked_at, e.updated_at) AS checked_at
             FROM events e LEFT JOIN checks c ON c.event_id = e.id WHERE e.key = ?1"
        ))
        .bind(event.as_str())
        .fetch_optional(&mut *tx)
        .await
        .map_err(explain)?;
        let Some(head) = head else {
            return Ok(Viewed { view, value: None });
        };
        let row = head.int("id")?;
        let selections = sqlx::query(concat!(
            "SELECT ",
            selection_columns!(),
            " FROM selections s WHERE s.event_id = ?1 ORDER BY s.id"
        ))
        .bind(row)
        .fetch_all(&mut *tx)
        .await
        .map_err(explain)?;
        // REAL only orders here; what is returned is the exact text.
        let prices = sqlx::query(concat!(
            "SELECT s.key AS selection_key, p.market, b.key AS bookmaker_key, b.name AS bookmaker_name, ", offer_columns!(), ",
                    coalesce((SELECT decimal FROM price_history WHERE price_id = p.id ORDER BY cycle_id LIMIT 1), p.decimal) AS opening,
                    coalesce((SELECT decimal FROM price_history WHERE price_id = p.id ORDER BY CAST(decimal AS REAL) DESC LIMIT 1), p.decimal) AS high,
                    coalesce((SELECT decimal FROM price_history WHERE price_id = p.id ORDER BY CAST(decimal AS REAL) LIMIT 1), p.decimal) AS low
             FROM prices p
             JOIN selections s ON s.id = p.selection_id
             JOIN bookmakers b ON b.id = p.bookmaker_id
             WHERE p.event_id = ?1 ORDER BY s.id, p.market, b.key"
        ))
        .bind(row)
        .fetch_all(&mut *tx)
        .await
        .map_err(explain)?;
        Ok(Viewed {
            view,
            value: Some(rows::event_prices(&head, &selections, &prices)?),
        })
    }

    pub async fn view(&self) -> Result<View> {
        seen(&self.readers).await
    }

    pub async fn cycles(&self, after: i64, limit: i64) -> Result<Vec<CycleRow>> {
        let page = match after {
            ..0 => concat!(cycles!(), " DESC LIMIT ?2"),
            _ => concat!(cycles!(), " LIMIT ?2"),
        };
        let found = sqlx::query(page)
            .bind(after)
            .bind(limit)
            .fetch_all(&self.readers)
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
            "SELECT l.holder, l.expires_at, coalesce(l.state, '{}') AS state,
                    waiting.rows AS pending, max(0.0, (?2 - coalesce(waiting.oldest, ?2)) / 1000000.0) AS oldest,
                    (SELECT last_error FROM outbox WHERE last_error IS NOT NULL ORDER BY due_at DESC LIMIT 1) AS last_error,
                    (SELECT count(*) FROM events WHERE listed) AS events,
                    coalesce((SELECT open_prices FROM cycles ORDER BY id DESC LIMIT 1),
                             (SELECT count(*) FROM prices WHERE status <> 'withdrawn')) AS open_prices
             FROM (SELECT count(*) AS rows, min(created_at) AS oldest FROM outbox
                   WHERE kinds <> 'canary' AND (kinds <> 'again' OR attempts > 0 OR due_at <= ?2)) AS waiting
             LEFT JOIN leases l ON l.name = ?1",
        )
        .bind(LEASE)
        .bind(now())
        .fetch_one(&self.readers)
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
            let mut tx = db.begin().await?;
            sqlx::query("SELECT 1 FROM leases WHERE name = ?1 AND holder = ?2 AND epoch = ?3")
                .bind(LEASE)
                .bind(&lease.holder)
                .bind(lease.epoch)
                .fetch_optional(&mut *tx)
                .await
                .map_err(explain)?
                .ok_or(StoreError::Fenced)?;
            let finished = (now - keep.finished_events).timestamp_micros();
            sqlx::query(
                "INSERT INTO outbox (event_key, kinds, detail, created_at, due_at)
                 SELECT key, 'event_removed', json_object('reason', 'EXPIRED', 'sport_id', sport, 'league_id', league,
                                                          'venue', venue), ?2, ?2
                 FROM events WHERE coalesce(starts_at, updated_at) < ?1",
            )
            .bind(finished)
            .bind(super::now())
            .execute(&mut *tx)
            .await
            .map_err(explain)?;
            let events: Vec<i64> = sqlx::query(
                "DELETE FROM events WHERE coalesce(starts_at, updated_at) < ?1 RETURNING id",
            )
            .bind(finished)
            .fetch_all(&mut *tx)
            .await
            .map_err(explain)?
            .iter()
            .map(|row| row.get("id"))
            .collect();
            sqlx::query(
                "UPDATE cycles SET open_prices = open_prices - (
                     SELECT count(*) FROM prices
                     WHERE status <> 'withdrawn' AND event_id IN (SELECT value FROM json_each(?1)))
                 WHERE id = (SELECT max(id) FROM cycles)",
            )
            .bind(super::ids(&events))
            .execute(&mut *tx)
            .await
            .map_err(explain)?;
            for orphans in [
                "DELETE FROM prices WHERE event_id IN (SELECT value FROM json_each(?1))",
                "DELETE FROM selections WHERE event_id IN (SELECT value FROM json_each(?1))",
                "DELETE FROM checks WHERE event_id IN (SELECT value FROM json_each(?1))",
                "DELETE FROM transitions WHERE event_id IN (SELECT value FROM json_each(?1))",
            ] {
                sqlx::query(orphans)
                    .bind(super::ids(&events))
                    .execute(&mut *tx)
                    .await
                    .map_err(explain)?;
            }
            tx.commit().await.map_err(explain)?;
            db.fold_counts().await?;
            let before = (now - keep.history).timestamp_micros();
            let history = db
                .prune_step(
                    concat!(
                        "DELETE FROM price_history WHERE rowid IN (
                             SELECT rowid FROM price_history WHERE cycle_id <= (",
                        last_old_cycle!(),
                        ") LIMIT ?2)"
                    ),
                    before,
                )
                .await?;
            let mut log = 0;
            for old in [
                "DELETE FROM removals WHERE id IN (SELECT id FROM removals WHERE at < ?1 LIMIT ?2)",
                "DELETE FROM corrections WHERE id IN (SELECT id FROM corrections WHERE applied_at < ?1 LIMIT ?2)",
                concat!(
                    "DELETE FROM cycles WHERE id IN (SELECT id FROM cycles WHERE id <= (",
                    last_old_cycle!(),
                    ") AND id < (SELECT max(id) FROM cycles) LIMIT ?2)"
                ),
            ] {
                log += db.prune_step(old, before).await?;
            }
            Ok(Pruned {
                events,
                history,
                log,
            })
        })
        .await
    }

    /// In short transactions, so that a cycle never waits long for its turn.
    async fn prune_step(&self, delete: &'static str, before: i64) -> Result<u64> {
        let mut total = 0;
        loop {
            let batch = sqlx::query(delete).bind(before).bind(PRUNE_BATCH);
            let done = batch.execute(&self.writer).await.map_err(explain)?;
            total += done.rows_affected();
            if done.rows_affected() < PRUNE_BATCH as u64 {
                return Ok(total);
            }
        }
    }

    pub async fn clock(&self) -> Result<DateTime<Utc>> {
        Ok(Utc::now())
    }
}
