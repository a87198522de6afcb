//! What readers still have to be told: claimed for a while, settled when it is done.

use std::time::Duration;

use sqlx::SqliteConnection;

use super::read::{commits, seen, view};
use super::{Sqlite, explain, ids, micros, now};
use crate::key::Key;
use crate::model::View;
use crate::store::outbox::{again_row, keys_text};
use crate::store::rows::{self, Columns};
use crate::store::{Again, Backlog, Claim, Removal, Result, Touched, Viewed, to_the_end};

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
                 RETURNING id, cycle_id, event_key, kinds, keys, attempts, id AS xid, created_at, ",
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

    pub async fn settle(
        &self,
        rows: &[i64],
        removals: &[Removal],
        again: Option<Again>,
    ) -> Result<()> {
        let (db, rows, removals) = (self.clone(), ids(rows), removals.to_vec());
        to_the_end(async move {
            let mut tx = db.begin().await?;
            sqlx::query("DELETE FROM outbox WHERE id IN (SELECT value FROM json_each(?1))")
                .bind(rows)
                .execute(&mut *tx)
                .await
                .map_err(explain)?;
            log(&mut tx, removals, again).await?;
            tx.commit().await.map_err(explain)
        })
        .await
    }

    pub async fn backlog(&self, max_rows: i64) -> Result<Backlog> {
        let db = self.clone();
        to_the_end(async move {
            let mut tx = db.readers.begin().await.map_err(explain)?;
            let view = seen(&mut *tx).await?;
            let groups = sqlx::query(
                "SELECT 0 AS id, max(cycle_id) AS cycle_id, event_key, group_concat(DISTINCT kinds) AS kinds, keys,
                        max(attempts) AS attempts, max(id) AS xid, min(created_at) AS created_at, count(*) AS looked,
                        min(id) AS first, max(id) AS last,
                        group_concat(id) FILTER (WHERE kinds = 'again') AS again
                 FROM (SELECT * FROM outbox WHERE kinds <> 'again' OR due_at <= ?2 ORDER BY id LIMIT ?1)
                 GROUP BY event_key, keys, CASE WHEN kinds IN ('again', 'canary') THEN kinds END
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

    pub async fn settle_backlog(
        &self,
        backlog: &Backlog,
        removals: &[Removal],
        again: Option<Again>,
    ) -> Result<u64> {
        let (db, removals, looked_at) = (self.clone(), removals.to_vec(), ids(&backlog.again));
        let (from, through) = (backlog.from, backlog.through);
        to_the_end(async move {
            let mut tx = db.begin().await?;
            // Whatever was committed since has a higher number.
            let done = sqlx::query(
                "DELETE FROM outbox WHERE id BETWEEN ?1 AND ?2
                 AND (kinds <> 'again' OR id IN (SELECT value FROM json_each(?3)))",
            )
            .bind(from)
            .bind(through)
            .bind(looked_at)
            .execute(&mut *tx)
            .await
            .map_err(explain)?;
            log(&mut tx, removals, again).await?;
            tx.commit().await.map_err(explain)?;
            Ok(done.rows_affected())
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

    pub async fn request_removal(&self, keys: &[Key]) -> Result<i64> {
        let (db, keys) = (self.clone(), keys_text(keys));
        to_the_end(async move {
            let mut tx = db.begin().await?;
            let row = insert(&mut tx, "manual", &keys, Duration::ZERO).await?;
            tx.commit().await.map_err(explain)?;
            Ok(row)
        })
        .await
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

/// The lines of the log, and the row that removes keys again.
async fn log(
    tx: &mut SqliteConnection,
    removals: Vec<Removal>,
    again: Option<Again>,
) -> Result<()> {
    for removal in removals {
        sqlx::query(
            "INSERT INTO removals (at, cycle_id, rule, reason, keys, existed, backend, attempts, took_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )
        .bind(now())
        .bind(removal.cycle)
        .bind(removal.rule)
        .bind(removal.reason)
        .bind(removal.keys.join("\n"))
        .bind(removal.existed)
        .bind(removal.backend)
        .bind(removal.attempts)
        .bind(removal.took_ms)
        .execute(&mut *tx)
        .await
        .map_err(explain)?;
    }
    if let (Some(keys), after) = again_row(again) {
        insert(tx, "again", &keys, after).await?;
    }
    Ok(())
}
