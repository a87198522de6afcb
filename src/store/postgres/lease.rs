//! The right to write: one row that says who, until when, and for the how-manieth time.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{LEASE, Postgres, explain};
use crate::store::{Acquired, Lease, Result, StoreError};

impl Postgres {
    pub async fn acquire(&self, holder: &str, ttl: Duration) -> Result<Acquired> {
        let (db, holder) = (self.clone(), holder.to_owned());
        self.to_the_end(async move {
            let mut connection = db.connection().await?;
            let taken: Option<(i64,)> = sqlx::query_as(
                "INSERT INTO oddsd.leases AS l (name, holder, epoch, expires_at)
                 VALUES ($1, $2, 1, now() + $3 * interval '1 second')
                 ON CONFLICT (name) DO UPDATE SET holder = $2, epoch = l.epoch + 1,
                     expires_at = now() + $3 * interval '1 second'
                 WHERE l.expires_at <= now() OR l.holder = $2
                 RETURNING epoch",
            )
            .bind(LEASE)
            .bind(&holder)
            .bind(ttl.as_secs_f64())
            .fetch_optional(&mut *connection)
            .await
            .map_err(explain)?;
            if let Some((epoch,)) = taken {
                return Ok(Acquired::Mine(Lease { holder, epoch }));
            }
            let (holder, seconds): (String, f64) = sqlx::query_as(
                "SELECT holder, greatest(extract(epoch FROM expires_at - now()), 0)::float8
                 FROM oddsd.leases WHERE name = $1",
            )
            .bind(LEASE)
            .fetch_one(&mut *connection)
            .await
            .map_err(explain)?;
            Ok(Acquired::HeldBy {
                holder,
                for_another: Duration::from_secs_f64(seconds),
            })
        })
        .await
    }

    pub async fn renew(
        &self,
        lease: &Lease,
        ttl: Duration,
        state: &serde_json::Value,
        checked: &[(i64, DateTime<Utc>)],
    ) -> Result<bool> {
        let (db, lease, state) = (self.clone(), lease.clone(), state.clone());
        let (events, times): (Vec<i64>, Vec<DateTime<Utc>>) = checked.iter().copied().unzip();
        self.to_the_end(async move {
            let corrected: Option<bool> = sqlx::query_scalar(
                "WITH held AS (
                     UPDATE oddsd.leases SET expires_at = now() + $4 * interval '1 second', state = $5
                     WHERE name = $1 AND holder = $2 AND epoch = $3 RETURNING 1),
                 seen AS (
                     INSERT INTO oddsd.checks (event_id, checked_at)
                     SELECT id, max(at) FROM unnest($6::bigint[], $7::timestamptz[]) AS seen (id, at)
                     WHERE EXISTS (SELECT FROM held) GROUP BY id ORDER BY id
                     ON CONFLICT (event_id) DO UPDATE SET checked_at = excluded.checked_at
                     WHERE checks.checked_at < excluded.checked_at)
                 SELECT EXISTS (SELECT 1 FROM oddsd.corrections WHERE applied_at IS NULL) FROM held",
            )
            .bind(LEASE)
            .bind(&lease.holder)
            .bind(lease.epoch)
            .bind(ttl.as_secs_f64())
            .bind(&state)
            .bind(&events)
            .bind(&times)
            .fetch_optional(&mut *db.connection().await?)
            .await
            .map_err(explain)?;
            corrected.ok_or(StoreError::Fenced)
        })
        .await
    }

    pub async fn release(&self, lease: &Lease) -> Result<()> {
        let (db, lease) = (self.clone(), lease.clone());
        self.to_the_end(async move {
            sqlx::query("UPDATE oddsd.leases SET expires_at = now() WHERE name = $1 AND holder = $2 AND epoch = $3")
                .bind(LEASE)
                .bind(&lease.holder)
                .bind(lease.epoch)
                .execute(&mut *db.connection().await?)
                .await
                .map(drop)
                .map_err(explain)
        })
        .await
    }
}
