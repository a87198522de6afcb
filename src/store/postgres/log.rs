//! The invalidation log, and what is counted along with it.

use sqlx::Row;

use super::{Postgres, explain};
use crate::store::rows::{self, Columns};
use crate::store::{Removal, RemovalStats, Result, Wanted};

macro_rules! removals {
    () => {
        "SELECT id, (extract(epoch FROM at) * 1000000)::bigint AS at, cycle_id, rule, reason, change, entity, keys, existed,
         rules, backend, attempts::bigint AS attempts, took_ms, before, after FROM oddsd.removals
         WHERE id > $1 AND ($3::text IS NULL OR reason = $3) AND ($4::text IS NULL OR entity = $4) ORDER BY id"
    };
}

impl Postgres {
    pub async fn removals(&self, wanted: &Wanted) -> Result<Vec<Removal>> {
        let page = match wanted.after {
            None => concat!(removals!(), " DESC LIMIT $2"),
            Some(_) => concat!(removals!(), " LIMIT $2"),
        };
        let found = sqlx::query(page)
            .bind(wanted.after.unwrap_or(-1))
            .bind(wanted.limit)
            .bind(&wanted.reason)
            .bind(&wanted.entity)
            .fetch_all(&mut *self.connection().await?)
            .await
            .map_err(explain)?;
        rows::removals(found.iter(), wanted)
    }

    pub async fn removal_stats(&self) -> Result<RemovalStats> {
        let found = sqlx::query(
            "SELECT reason, sum(removals)::bigint AS removals, sum(keys)::bigint AS keys,
                    coalesce(sum(removals) FILTER (WHERE since > now() - interval '1 minute'), 0)::bigint AS lately
             FROM oddsd.removal_counts GROUP BY reason",
        )
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(explain)?;
        rows::removal_stats(found.iter())
    }

    pub async fn raise_alarm(&self, name: &str) -> Result<bool> {
        self.alarm(
            name,
            "INSERT INTO oddsd.alarms (name) VALUES ($1) ON CONFLICT DO NOTHING",
        )
        .await
    }

    pub async fn lower_alarm(&self, name: &str) -> Result<bool> {
        self.alarm(name, "DELETE FROM oddsd.alarms WHERE name = $1")
            .await
    }

    async fn alarm(&self, name: &str, statement: &'static str) -> Result<bool> {
        let (db, name) = (self.clone(), name.to_owned());
        self.to_the_end(async move {
            let done = sqlx::query(statement)
                .bind(name)
                .execute(&mut *db.connection().await?)
                .await
                .map_err(explain)?;
            Ok(done.rows_affected() > 0)
        })
        .await
    }

    pub async fn is_alarmed(&self, name: &str) -> Result<bool> {
        let found = sqlx::query("SELECT EXISTS (SELECT FROM oddsd.alarms WHERE name = $1)")
            .bind(name)
            .fetch_one(&mut *self.connection().await?)
            .await
            .map_err(explain)?;
        Ok(found.get(0))
    }

    /// What is older than an hour is counted together.
    pub(super) async fn fold_counts(&self) -> Result<()> {
        let db = self.clone();
        self.to_the_end(async move {
            sqlx::query(
                "WITH old AS (DELETE FROM oddsd.removal_counts
                              WHERE since < now() - interval '1 hour' AND since <> '-infinity'
                              RETURNING reason, removals, keys)
                 INSERT INTO oddsd.removal_counts AS c (since, reason, removals, keys)
                 SELECT '-infinity', reason, sum(removals), sum(keys) FROM old GROUP BY reason
                 ON CONFLICT (since, reason)
                 DO UPDATE SET removals = c.removals + excluded.removals, keys = c.keys + excluded.keys",
            )
            .execute(&mut *db.connection().await?)
            .await
            .map(drop)
            .map_err(explain)
        })
        .await
    }
}

/// How many removals the last minute had, from an answer that has it as `lately`.
pub(super) fn lately(row: &sqlx::postgres::PgRow) -> Result<u64> {
    Ok(row.int("lately")? as u64)
}
