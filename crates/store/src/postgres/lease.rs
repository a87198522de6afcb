//! Renews the writer lease, together with the last-checked times, in one statement.
//! `Store::renew_lease` calls it.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{LEASE, Postgres, map_error};
use crate::{Result, StoreError, WriterLease};

impl Postgres {
    pub async fn renew(
        &self,
        lease: &WriterLease,
        ttl: Duration,
        state: &serde_json::Value,
        checked: &[(i64, DateTime<Utc>)],
    ) -> Result<bool> {
        let (db, lease, state) = (self.clone(), lease.clone(), state.clone());
        let (events, times): (Vec<i64>, Vec<DateTime<Utc>>) = checked.iter().copied().unzip();
        self.run_detached(async move {
            let corrected: Option<bool> = sqlx::query_scalar(
                "WITH held AS (
                     UPDATE oddsd.leases SET expires_at = now() + $4 * interval '1 second', state = $5
                     WHERE name = $1 AND holder = $2 AND epoch = $3 RETURNING 1),
                 seen AS (
                     INSERT INTO oddsd.checks (event_id, checked_at)
                     SELECT id, max(at) FROM unnest($6::bigint[], $7::timestamptz[]) AS seen (id, at)
                     WHERE EXISTS (SELECT FROM held) GROUP BY id ORDER BY id
                     ON CONFLICT (event_id) DO UPDATE SET checked_at = excluded.checked_at
                     WHERE checks.checked_at < excluded.checked_at OR checks.checked_at > now())
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
            .map_err(map_error)?;
            corrected.ok_or(StoreError::Fenced)
        })
        .await
    }
}
