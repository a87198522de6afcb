//! What readers still have to be told: claimed for a while, settled when it is done.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::SqliteConnection;

use super::read::{commits, seen, view};
use super::{Sqlite, explain, ids, micros, now};
use crate::key::{Key, Tag};
use crate::model::{EventId, View};
use crate::store::outbox::{again_row, targets_text};
use crate::store::rows::{self, Columns};
use crate::store::{Backlog, Claim, Moved, Result, Settlement, Touched, Viewed, to_the_end};

impl Sqlite {
    pub async fn claim(&self, who: &str, max: i64, lease_for: Duration) -> Result<Claim> {
        // Looked at by a reader first: a quiet outbox costs no write lock.
        let look = sqlx::query(concat!(
            "SELECT EXISTS (SELECT 1 FROM outbox WHERE due_at <= ?1) AS due, ",
            commits!()
        ));
        let look = look.bind(now()).fetch_one(&self.readers).await;
        let look = look.map_err(explain)?;
        let before = view(&look)?;
        if !look.flag("due")? {
            return Ok(Claim {
                view: before,
                rows: Vec::new(),
            });
        }
        let (db, who) = (self.clone(), who.to_owned());
        to_the_end(async move {
            let claimed = sqlx::query(concat!(
                "UPDATE outbox SET attempts = attempts + 1, claimed_by = ?1, due_at = ?2
                 WHERE id IN (SELECT id FROM outbox WHERE due_at <= ?3 ORDER BY due_at, id LIMIT ?4)
                 RETURNING id, cycle_id, event_key, kinds, keys, detail, before, after, attempts, id AS xid, created_at,
                     (SELECT sport FROM events WHERE key = event_key) AS sport, (SELECT league FROM events WHERE key = event_key) AS league,
                     (SELECT venue FROM events WHERE key = event_key) AS venue, (SELECT status FROM events WHERE key = event_key) AS status, ",
                commits!()
            ))
            .bind(&who)
            .bind(now() + micros(lease_for))
            .bind(now())
            .bind(max)
            .fetch_all(&db.writer)
            .await
            .map_err(explain)?;
            Ok(Claim {
                view: match claimed.first() {
                    Some(row) => view(row)?,
                    None => before,
                },
                rows: rows::all_claimed(claimed.iter())?,
            })
        })
        .await
    }

    pub async fn settle(&self, rows: &[i64], done: Settlement) -> Result<u64> {
        let (db, rows) = (self.clone(), ids(rows));
        to_the_end(async move {
            let mut tx = db.begin().await?;
            sqlx::query("DELETE FROM outbox WHERE id IN (SELECT value FROM json_each(?1))")
                .bind(rows)
                .execute(&mut *tx)
                .await
                .map_err(explain)?;
            let lately = write_down(&mut tx, done).await?;
            tx.commit().await.map_err(explain)?;
            Ok(lately)
        })
        .await
    }

    pub async fn backlog(&self, max_rows: i64) -> Result<Backlog> {
        let db = self.clone();
        to_the_end(async move {
            let mut tx = db.readers.begin().await.map_err(explain)?;
            let view = seen(&mut *tx).await?;
            let groups = sqlx::query(
                "SELECT g.*, e.sport, e.league, e.venue, e.status FROM (
                     SELECT 0 AS id, max(cycle_id) AS cycle_id, event_key, group_concat(DISTINCT kinds) AS kinds, keys, detail,
                            NULL AS before, NULL AS after, max(attempts) AS attempts, max(id) AS xid,
                            min(created_at) AS created_at, count(*) AS looked, min(id) AS first, max(id) AS last,
                            group_concat(id) FILTER (WHERE kinds = 'again') AS again
                     FROM (SELECT * FROM outbox WHERE kinds <> 'again' OR due_at <= ?2 ORDER BY id LIMIT ?1)
                     GROUP BY event_key, keys, detail, CASE WHEN kinds IN ('again', 'canary') THEN kinds END) g
                 LEFT JOIN events e ON e.key = g.event_key
                 ORDER BY first",
            )
            .bind(max_rows)
            .bind(now())
            .fetch_all(&mut *tx)
            .await
            .map_err(explain)?;
            rows::backlog(view, groups.iter())
        })
        .await
    }

    pub async fn settle_backlog(&self, backlog: &Backlog, done: Settlement) -> Result<(u64, u64)> {
        let (db, looked_at) = (self.clone(), ids(&backlog.again));
        let (from, through) = (backlog.from, backlog.through);
        to_the_end(async move {
            let mut tx = db.begin().await?;
            // Whatever was committed since has a higher number.
            let gone = sqlx::query(
                "DELETE FROM outbox WHERE id BETWEEN ?1 AND ?2
                 AND (kinds <> 'again' OR id IN (SELECT value FROM json_each(?3)))",
            )
            .bind(from)
            .bind(through)
            .bind(looked_at)
            .execute(&mut *tx)
            .await
            .map_err(explain)?;
            let lately = write_down(&mut tx, done).await?;
            tx.commit().await.map_err(explain)?;
            Ok((gone.rows_affected(), lately))
        })
        .await
    }

    pub async fn postpone(&self, rows: &[i64], delay: Duration, error: &str) -> Result<()> {
        let (db, rows, error) = (self.clone(), ids(rows), error.to_owned());
        to_the_end(async move {
            sqlx::query(
                "UPDATE outbox SET due_at = ?2, last_error = ?3 WHERE id IN (SELECT value FROM json_each(?1))",
            )
            .bind(&rows)
            .bind(now() + micros(delay))
            .bind(&error)
            .execute(&db.writer)
            .await
            .map(drop)
            .map_err(explain)
        })
        .await
    }

    pub async fn request_removal(
        &self,
        keys: &[Key],
        tags: &[Tag],
        detail: Option<&str>,
    ) -> Result<i64> {
        let (db, targets) = (self.clone(), targets_text(keys, tags));
        let detail = detail.map(str::to_owned);
        to_the_end(async move {
            let mut tx = db.begin().await?;
            let row = insert(&mut tx, "manual", &targets, Duration::ZERO).await?;
            sqlx::query("UPDATE outbox SET detail = ?2 WHERE id = ?1")
                .bind(row)
                .bind(detail)
                .execute(&mut *tx)
                .await
                .map_err(explain)?;
            tx.commit().await.map_err(explain)?;
            Ok(row)
        })
        .await
    }

    pub async fn marks(&self, targets: &[String]) -> Result<HashMap<String, i64>> {
        let found = sqlx::query(
            "SELECT target, cycle_id FROM marks WHERE target IN (SELECT value FROM json_each(?1))",
        )
        .bind(serde_json::json!(targets).to_string())
        .fetch_all(&self.readers)
        .await
        .map_err(explain)?;
        rows::marks(found.iter())
    }

    pub async fn moved(&self, event: &EventId, cycle: i64) -> Result<Vec<Moved>> {
        let found = sqlx::query(
            "WITH known AS (SELECT id FROM prices WHERE event_id = (SELECT id FROM events WHERE key = ?1)),
                  changed AS MATERIALIZED (
                      SELECT price_id FROM price_history WHERE cycle_id = ?2 AND price_id IN (SELECT id FROM known)),
                  recent AS (SELECT DISTINCT cycle_id FROM price_history WHERE price_id IN (SELECT price_id FROM changed)
                             ORDER BY cycle_id DESC LIMIT ?3)
             SELECT p.id, b.key AS bookmaker, p.market, 0 AS cycle_id, p.decimal, p.fractional, p.point, p.status AS price_status
             FROM prices p JOIN bookmakers b ON b.id = p.bookmaker_id WHERE p.id IN (SELECT price_id FROM changed)
             UNION ALL
             SELECT price_id, '', '', cycle_id, decimal, fractional, point, status FROM price_history
             WHERE price_id IN (SELECT price_id FROM changed) AND cycle_id >= (SELECT min(cycle_id) FROM recent)
             ORDER BY 1, 4",
        )
        .bind(event.as_str())
        .bind(cycle)
        .bind(rows::PAST)
        .fetch_all(&self.readers)
        .await
        .map_err(explain)?;
        rows::moved(found.iter())
    }

    pub async fn is_pending(&self, row: i64) -> Result<bool> {
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM outbox WHERE id = ?1)")
            .bind(row)
            .fetch_one(&self.readers)
            .await
            .map_err(explain)
    }

    pub async fn touch_canary(&self, key: &Key) -> Result<Touched> {
        let (db, key) = (self.clone(), key.clone());
        to_the_end(async move {
            let mut tx = db.begin().await?;
            let beat = sqlx::query_scalar(
                "UPDATE canary SET beat = beat + 1, at = ?1 WHERE id = 1 RETURNING beat",
            )
            .bind(now())
            .fetch_one(&mut *tx)
            .await
            .map_err(explain)?;
            let row = insert(&mut tx, "canary", key.as_str(), Duration::ZERO).await?;
            tx.commit().await.map_err(explain)?;
            Ok(Touched {
                beat,
                transaction: row as u64,
                told: Claim::of_canary(row, row as u64, &key, &View::after(row as u64)),
            })
        })
        .await
    }

    pub async fn canary(&self) -> Result<Viewed<i64>> {
        // One statement, one snapshot.
        let found = sqlx::query(concat!(
            "SELECT beat, ",
            commits!(),
            " FROM canary WHERE id = 1"
        ))
        .fetch_one(&self.readers)
        .await
        .map_err(explain)?;
        Ok(Viewed {
            view: view(&found)?,
            value: found.int("beat")?,
        })
    }
}

/// A row of keys, due after a while; returns its number.
async fn insert(
    tx: &mut SqliteConnection,
    kinds: &str,
    keys: &str,
    after: Duration,
) -> Result<i64> {
    let at = now();
    sqlx::query_scalar(
        "INSERT INTO outbox (kinds, keys, created_at, due_at) VALUES (?1, ?2, ?3, ?4) RETURNING id",
    )
    .bind(kinds)
    .bind(keys)
    .bind(at)
    .bind(at + micros(after))
    .fetch_one(tx)
    .await
    .map_err(explain)
}

/// The lines of the log and their count, what is left, the row that removes keys again, and the marks of
/// movement rules. Returns the removals of the last minute.
async fn write_down(tx: &mut SqliteConnection, done: Settlement) -> Result<u64> {
    let at = now();
    let removals = done.removals_json().to_string();
    let log = [
        "INSERT INTO removals (at, cycle_id, rule, reason, change, entity, keys, existed, rules, backend, attempts, took_ms,
                               before, after)
         SELECT ?2, r.value ->> 'cycle_id', r.value ->> 'rule', r.value ->> 'reason', r.value ->> 'change',
                r.value ->> 'entity', r.value ->> 'keys', r.value ->> 'existed', r.value ->> 'rules',
                r.value ->> 'backend', r.value ->> 'attempts', r.value ->> 'took_ms', r.value ->> 'before',
                r.value ->> 'after'
         FROM json_each(?1) r",
        "INSERT INTO removal_counts (since, reason, removals, keys)
         SELECT ?2 - ?2 % 5000000, r.value ->> 'reason', count(*), sum(r.value ->> 'existed') FROM json_each(?1) r WHERE true
         GROUP BY 2
         ON CONFLICT (since, reason)
         DO UPDATE SET removals = removals + excluded.removals, keys = keys + excluded.keys",
    ];
    for statement in log.into_iter().filter(|_| !done.removals.is_empty()) {
        sqlx::query(statement)
            .bind(&removals)
            .bind(at)
            .execute(&mut *tx)
            .await
            .map_err(explain)?;
    }
    let others = [
        (
            done.left.is_empty(),
            "INSERT INTO outbox (cycle_id, event_key, kinds, keys, detail, before, after, attempts, last_error, created_at,
                                 due_at)
             SELECT l.value ->> 'cycle_id', l.value ->> 'event_key', l.value ->> 'kinds', l.value ->> 'keys',
                    l.value ->> 'detail', l.value ->> 'before', l.value ->> 'after', l.value ->> 'attempts',
                    l.value ->> 'error', ?2, ?2 + CAST((l.value ->> 'wait') * 1000000 AS INTEGER)
             FROM json_each(?1) l",
            done.left_json(),
        ),
        (
            done.held.is_empty(),
            "INSERT OR IGNORE INTO marks (target, cycle_id)
             SELECT h.value ->> 'target', h.value ->> 'cycle_id' FROM json_each(?1) h WHERE ?2 > 0",
            done.held_json(),
        ),
        (
            done.unmarked.is_empty(),
            "DELETE FROM marks WHERE target IN (SELECT value FROM json_each(?1)) AND ?2 > 0",
            serde_json::json!(done.unmarked),
        ),
    ];
    for (_, statement, rows) in others.into_iter().filter(|(empty, ..)| !empty) {
        sqlx::query(statement)
            .bind(rows.to_string())
            .bind(at)
            .execute(&mut *tx)
            .await
            .map_err(explain)?;
    }
    if let (Some(keys), after) = again_row(&done.again) {
        insert(tx, "again", &keys, after).await?;
    }
    let lately = sqlx::query(
        "SELECT coalesce(sum(removals), 0) AS lately FROM removal_counts WHERE since > ?1",
    )
    .bind(at - 60 * 1_000_000)
    .fetch_one(tx)
    .await
    .map_err(explain)?;
    Ok(lately.int("lately")? as u64)
}
