//! The writer lease: holder, expiry and epoch, in one row. The leader election acquires, renews and releases
//! it, and every commit proves its epoch.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::dialect::args;
use super::{Result, Store, dispatch};

/// The name of the lease's row: there is one writer.
pub(super) const LEASE: &str = "writer";

/// The right to write, with its fencing number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriterLease {
    pub holder: String,
    pub epoch: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcquireResult {
    Granted(WriterLease),
    HeldBy {
        holder: String,
        expires_in: Duration,
    },
}

impl Store {
    /// Takes the lease for `ttl` if it is free, expired, or already this holder's; the epoch grows by one.
    pub async fn acquire_lease(&self, holder: &str, ttl: Duration) -> Result<AcquireResult> {
        let sql = "INSERT INTO oddsd.leases AS l (name, holder, epoch, expires_at)
             VALUES ($1, $2, 1, now() + $3 * interval '1 second')
             ON CONFLICT (name) DO UPDATE SET holder = $2, epoch = l.epoch + 1,
                 expires_at = now() + $3 * interval '1 second'
             WHERE l.expires_at <= now() OR l.holder = $2
             RETURNING epoch";
        let taken = self.write(sql, args![LEASE, holder, ttl]).await?;
        if let Some(row) = taken.first() {
            return Ok(AcquireResult::Granted(WriterLease {
                holder: holder.to_owned(),
                epoch: row.int("epoch")?,
            }));
        }
        let sql = "SELECT holder, expires_at, now() AS now FROM oddsd.leases WHERE name = $1";
        let row = self.read_one(sql, args![LEASE]).await?;
        let left = row.time("expires_at")? - row.time("now")?;
        Ok(AcquireResult::HeldBy {
            holder: row.text("holder")?.into(),
            expires_in: left.to_std().unwrap_or_default(),
        })
    }

    /// Holds the lease for another `ttl` and stores `state` and the last-checked times with it.
    /// Returns whether a correction waits. `Fenced` when another daemon holds the lease.
    pub async fn renew_lease(
        &self,
        lease: &WriterLease,
        ttl: Duration,
        state: &serde_json::Value,
        checked: &[(i64, DateTime<Utc>)],
    ) -> Result<bool> {
        dispatch!(self, db => db.renew(lease, ttl, state, checked).await)
    }

    /// Lets the lease expire now, if it is still this one.
    pub async fn release_lease(&self, lease: &WriterLease) -> Result<()> {
        let sql = "UPDATE oddsd.leases SET expires_at = now() WHERE name = $1 AND holder = $2 AND epoch = $3";
        let args = args![LEASE, &lease.holder, lease.epoch];
        self.write(sql, args).await.map(drop)
    }
}
