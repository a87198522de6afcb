//! Deletes the rows that are past their retention, in short transactions. `Store::prune` calls it.

use chrono::{DateTime, Utc};
use sqlx::Connection;

use super::{LEASE, Postgres, map_error};
use crate::dialect::{DbConnection, args};
use crate::{Pruned, Result, Retention, StoreError, WriterLease, run_detached};

/// The last cycle before the first that is still kept; NULL when none is over. By the time and order of the
/// cycles: a price with an old feed time is as new as its cycle.
macro_rules! last_old_cycle {
    () => {
        "SELECT nullif(coalesce((SELECT min(id) - 1 FROM oddsd.cycles WHERE as_of >= $1),
                                (SELECT max(id) FROM oddsd.cycles)), 0)"
    };
}

/// Rows that one transaction deletes.
const PRUNE_BATCH: i64 = 20_000;

impl Postgres {
    pub async fn prune(
        &self,
        lease: &WriterLease,
        keep: Retention,
        now: DateTime<Utc>,
    ) -> Result<Pruned> {
        let (db, lease) = (self.clone(), lease.clone());
        run_detached(async move {
            let finished = now - keep.finished_events;
            let events = db.within_deadline(db.prune_events(&lease, finished)).await?;
            let before = now - keep.history;
            db.within_deadline(db.create_days_ahead(now)).await?;
            let history = db.within_deadline(db.drop_days(before)).await?;
            db.compact_counts().await?;
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

    /// Deletes events with their prices and selections; their history stays until its own time.
    async fn prune_events(&self, lease: &WriterLease, before: DateTime<Utc>) -> Result<Vec<i64>> {
        let mut connection = self.connection().await?;
        let mut tx = connection.begin().await.map_err(map_error)?;
        let held =
            "SELECT 1 FROM oddsd.leases WHERE name = $1 AND holder = $2 AND epoch = $3 FOR SHARE";
        let lease = args![LEASE, &lease.holder, lease.epoch];
        let mut statements = DbConnection::Postgres(&mut tx);
        if statements.fetch(held, &lease).await?.is_empty() {
            return Err(StoreError::Fenced);
        }
        let delete = "WITH gone AS (DELETE FROM oddsd.events WHERE coalesce(starts_at, updated_at) < $1
                           RETURNING id, key, sport, league, venue),
                  queued AS (INSERT INTO oddsd.outbox (event_key, kinds, detail)
                           SELECT key, 'event_removed', jsonb_build_object('reason', 'EXPIRED', 'sport_id', sport,
                                                                           'league_id', league, 'venue', venue)::text FROM gone),
                  prices AS (DELETE FROM oddsd.prices WHERE event_id IN (SELECT id FROM gone) RETURNING status),
                  counted AS (UPDATE oddsd.cycles SET open_prices = open_prices -
                                  (SELECT count(*) FROM prices WHERE status <> 'withdrawn')
                              WHERE id = (SELECT max(id) FROM oddsd.cycles)),
                  selections AS (DELETE FROM oddsd.selections WHERE event_id IN (SELECT id FROM gone)),
                  checks AS (DELETE FROM oddsd.checks WHERE event_id IN (SELECT id FROM gone)),
                  transitions AS (DELETE FROM oddsd.transitions WHERE event_id IN (SELECT id FROM gone))
             SELECT id FROM gone ORDER BY id";
        let before = args![before];
        let gone = statements.fetch(delete, &before).await?;
        tx.commit().await.map_err(map_error)?;
        gone.iter().map(|row| row.int("id")).collect()
    }

    async fn prune_step(&self, delete: &'static str, before: DateTime<Utc>) -> Result<u64> {
        let mut total = 0;
        loop {
            let batch = async {
                let mut connection = self.connection().await?;
                let delete = sqlx::query(delete).bind(before).bind(PRUNE_BATCH);
                delete.execute(&mut *connection).await.map_err(map_error)
            };
            let deleted = self.within_deadline(batch).await?.rows_affected();
            total += deleted;
            if deleted < PRUNE_BATCH as u64 {
                return Ok(total);
            }
        }
    }

    /// Merges the counts that are older than an hour into one row a reason.
    async fn compact_counts(&self) -> Result<()> {
        let compact = "WITH old AS (DELETE FROM oddsd.removal_counts
                         WHERE since < now() - interval '1 hour' AND since <> '-infinity'
                         RETURNING reason, removals, keys)
             INSERT INTO oddsd.removal_counts AS c (since, reason, removals, keys)
             SELECT '-infinity', reason, sum(removals), sum(keys) FROM old GROUP BY reason
             ON CONFLICT (since, reason)
             DO UPDATE SET removals = c.removals + excluded.removals, keys = c.keys + excluded.keys";
        self.write(compact, args![]).await.map(drop)
    }
}
