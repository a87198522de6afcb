//! What readers still have to be told: claimed for a while, settled when it is done.

use std::time::Duration;

use super::{Postgres, explain};
use crate::key::Key;
use crate::store::rows;
use crate::store::{Claimed, Removal, Result};

impl Postgres {
    pub async fn claim(&self, who: &str, max: i64, lease_for: Duration) -> Result<Vec<Claimed>> {
        let (db, who) = (self.clone(), who.to_owned());
        self.to_the_end(async move {
            let mut connection = db.connection().await?;
            let claimed = sqlx::query(
                "UPDATE oddsd.outbox o SET attempts = attempts + 1, claimed_by = $1,
                     due_at = now() + $3 * interval '1 second'
                 FROM (SELECT id FROM oddsd.outbox WHERE due_at <= now() ORDER BY due_at, id LIMIT $2
                       FOR UPDATE SKIP LOCKED) picked
                 WHERE o.id = picked.id
                 RETURNING o.id, cycle_id, event_key, kinds, keys, attempts::bigint AS attempts",
            )
            .bind(&who)
            .bind(max)
            .bind(lease_for.as_secs_f64())
            .fetch_all(&mut *connection)
            .await
            .map_err(explain)?;
            rows::all_claimed(&claimed)
        })
        .await
    }

    pub async fn settle(&self, rows: &[i64], removals: &[Removal]) -> Result<()> {
        let (db, rows, removals) = (self.clone(), rows.to_vec(), removals.to_vec());
        self.to_the_end(async move {
            let column = |text: fn(&Removal) -> String| removals.iter().map(text).collect::<Vec<_>>();
            let number = |n: fn(&Removal) -> i64| removals.iter().map(n).collect::<Vec<_>>();
            sqlx::query(
                "WITH done AS (DELETE FROM oddsd.outbox WHERE id = ANY($1))
                 INSERT INTO oddsd.removals (cycle_id, rule, reason, keys, existed, backend, attempts, took_ms)
                 SELECT * FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::int[], $9::bigint[])",
            )
            .bind(&rows)
            .bind(removals.iter().map(|r| r.cycle).collect::<Vec<_>>())
            .bind(column(|r| r.rule.clone()))
            .bind(column(|r| r.reason.clone()))
            .bind(column(|r| r.keys.join("\n")))
            .bind(number(|r| r.existed))
            .bind(column(|r| r.backend.clone()))
            .bind(removals.iter().map(|r| r.attempts).collect::<Vec<_>>())
            .bind(number(|r| r.took_ms))
            .execute(&mut *db.connection().await?)
            .await
            .map(drop)
            .map_err(explain)
        })
        .await
    }

    pub async fn postpone(&self, rows: &[i64], delay: Duration, error: &str) -> Result<()> {
        let (db, rows, error) = (self.clone(), rows.to_vec(), error.to_owned());
        self.to_the_end(async move {
            sqlx::query(
                "UPDATE oddsd.outbox SET due_at = now() + $2 * interval '1 second', last_error = $3 WHERE id = ANY($1)",
            )
            .bind(&rows)
            .bind(delay.as_secs_f64())
            .bind(&error)
            .execute(&mut *db.connection().await?)
            .await
            .map(drop)
            .map_err(explain)
        })
        .await
    }

    pub async fn request_removal(&self, keys: &[Key]) -> Result<i64> {
        let db = self.clone();
        let keys = keys.iter().map(Key::as_str).collect::<Vec<_>>().join("\n");
        self.to_the_end(async move {
            sqlx::query_scalar(
                "INSERT INTO oddsd.outbox (kinds, keys) VALUES ('manual', $1) RETURNING id",
            )
            .bind(keys)
            .fetch_one(&mut *db.connection().await?)
            .await
            .map_err(explain)
        })
        .await
    }

    pub async fn is_pending(&self, row: i64) -> Result<bool> {
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM oddsd.outbox WHERE id = $1)")
            .bind(row)
            .fetch_one(&mut *self.connection().await?)
            .await
            .map_err(explain)
    }
}
