//! The invalidation log, and what is counted along with it.

use sqlx::Row;

use super::{Sqlite, explain, now};
use crate::store::rows;
use crate::store::{Removal, RemovalStats, Result, Wanted, to_the_end};

/// Microseconds.
const MINUTE: i64 = 60 * 1_000_000;

macro_rules! removals {
    () => {
        "SELECT id, at, cycle_id, rule, reason, change, entity, keys, existed, rules, backend, attempts, took_ms, before,
         after FROM removals WHERE id > ?1 AND (?3 IS NULL OR reason = ?3) AND (?4 IS NULL OR entity = ?4) ORDER BY id"
    };
}

impl Sqlite {
    pub async fn removals(&self, wanted: &Wanted) -> Result<Vec<Removal>> {
        let page = match wanted.after {
            None => concat!(removals!(), " DESC LIMIT ?2"),
            Some(_) => concat!(removals!(), " LIMIT ?2"),
        };
        let found = sqlx::query(page)
            .bind(wanted.after.unwrap_or(-1))
            .bind(wanted.limit)
            .bind(&wanted.reason)
            .bind(&wanted.entity)
            .fetch_all(&self.readers)
            .await
            .map_err(explain)?;
        rows::removals(found.iter(), wanted)
    }

    pub async fn removal_stats(&self) -> Result<RemovalStats> {
        let found = sqlx::query(
            "SELECT reason, sum(removals) AS removals, sum(keys) AS keys,
                    coalesce(sum(removals) FILTER (WHERE since > ?1), 0) AS lately
             FROM removal_counts GROUP BY reason",
        )
        .bind(now() - MINUTE)
        .fetch_all(&self.readers)
        .await
        .map_err(explain)?;
        rows::removal_stats(found.iter())
    }

    pub async fn raise_alarm(&self, name: &str) -> Result<bool> {
        self.alarm(
            name,
            "INSERT INTO alarms (name, since) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        )
        .await
    }

    pub async fn lower_alarm(&self, name: &str) -> Result<bool> {
        self.alarm(name, "DELETE FROM alarms WHERE name = ?1 AND since <= ?2")
            .await
    }

    async fn alarm(&self, name: &str, statement: &'static str) -> Result<bool> {
        let (db, name) = (self.clone(), name.to_owned());
        to_the_end(async move {
            let done = sqlx::query(statement)
                .bind(name)
                .bind(now())
                .execute(&db.writer)
                .await
                .map_err(explain)?;
            Ok(done.rows_affected() > 0)
        })
        .await
    }

    pub async fn is_alarmed(&self, name: &str) -> Result<bool> {
        let found = sqlx::query("SELECT EXISTS (SELECT 1 FROM alarms WHERE name = ?1)")
            .bind(name)
            .fetch_one(&self.readers)
            .await
            .map_err(explain)?;
        Ok(found.get(0))
    }

    /// What is older than an hour is counted together.
    pub(super) async fn fold_counts(&self) -> Result<()> {
        let db = self.clone();
        to_the_end(async move {
            let mut tx = db.begin().await?;
            let before = now() - 60 * MINUTE;
            for statement in [
                "INSERT INTO removal_counts (since, reason, removals, keys)
                 SELECT 0, reason, sum(removals), sum(keys) FROM removal_counts WHERE since < ?1 AND since > 0 GROUP BY reason
                 ON CONFLICT (since, reason)
                 DO UPDATE SET removals = removals + excluded.removals, keys = keys + excluded.keys",
                "DELETE FROM removal_counts WHERE since < ?1 AND since > 0",
            ] {
                sqlx::query(statement).bind(before).execute(&mut *tx).await.map_err(explain)?;
            }
            tx.commit().await.map_err(explain)
        })
        .await
    }
}
