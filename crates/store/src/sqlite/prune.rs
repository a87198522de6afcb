//! Deletes the rows that are past their retention, in short transactions. `Store::prune` calls it.

use chrono::{DateTime, Utc};

use super::{Sqlite, check_lease, execute, fetch, map_error};
use crate::dialect::args;
use crate::{Pruned, Result, Retention, WriterLease, run_detached};

/// The last cycle before the first that is still kept; NULL when none is over.
macro_rules! last_old_cycle {
    () => {
        "SELECT nullif(coalesce((SELECT min(id) - 1 FROM cycles WHERE as_of >= $1), (SELECT max(id) FROM cycles)), 0)"
    };
}

/// Rows that one transaction deletes, so that a cycle never waits long for its turn.
const PRUNE_BATCH: i64 = 20_000;

const HISTORY: &str = concat!(
    "DELETE FROM price_history WHERE rowid IN (SELECT rowid FROM price_history WHERE cycle_id <= (",
    last_old_cycle!(),
    ") LIMIT $2)"
);
const LOG: [&str; 3] = [
    "DELETE FROM removals WHERE id IN (SELECT id FROM removals WHERE at < $1 LIMIT $2)",
    "DELETE FROM corrections WHERE id IN (SELECT id FROM corrections WHERE applied_at < $1 LIMIT $2)",
    concat!(
        "DELETE FROM cycles WHERE id IN (SELECT id FROM cycles WHERE id <= (",
        last_old_cycle!(),
        ") AND id < (SELECT max(id) FROM cycles) LIMIT $2)"
    ),
];
/// Follows the deletion of events.
const EVENT_ROWS: [&str; 5] = [
    "UPDATE cycles SET open_prices = open_prices - (
         SELECT count(*) FROM prices
         WHERE status <> 'withdrawn' AND event_id IN (SELECT value FROM json_each($1)))
     WHERE id = (SELECT max(id) FROM cycles)",
    "DELETE FROM prices WHERE event_id IN (SELECT value FROM json_each($1))",
    "DELETE FROM selections WHERE event_id IN (SELECT value FROM json_each($1))",
    "DELETE FROM checks WHERE event_id IN (SELECT value FROM json_each($1))",
    "DELETE FROM transitions WHERE event_id IN (SELECT value FROM json_each($1))",
];

impl Sqlite {
    pub async fn prune(
        &self,
        lease: &WriterLease,
        keep: Retention,
        now: DateTime<Utc>,
    ) -> Result<Pruned> {
        let (db, lease) = (self.clone(), lease.clone());
        run_detached(async move {
            let events = db.prune_events(&lease, now - keep.finished_events).await?;
            db.compact_counts().await?;
            let before = now - keep.history;
            let history = db.prune_step(HISTORY, before).await?;
            let mut log = 0;
            for statement in LOG {
                log += db.prune_step(statement, before).await?;
            }
            Ok(Pruned {
                events,
                history,
                log,
            })
        })
        .await
    }

    /// Deletes events with their prices and selections; their history stays until its own time.
    async fn prune_events(&self, lease: &WriterLease, before: DateTime<Utc>) -> Result<Vec<i64>> {
        let mut tx = self.begin().await?;
        check_lease(&mut tx, lease).await?;
        let queue = "INSERT INTO outbox (event_key, kinds, detail, created_at, due_at)
             SELECT key, 'event_removed', json_object('reason', 'EXPIRED', 'sport_id', sport, 'league_id', league,
                                                      'venue', venue), now(), now()
             FROM events WHERE coalesce(starts_at, updated_at) < $1";
        execute(&mut tx, queue, args![before]).await?;
        let delete = "DELETE FROM events WHERE coalesce(starts_at, updated_at) < $1 RETURNING id";
        let deleted = fetch(&mut tx, delete, args![before]).await?;
        let events = deleted.iter().map(|row| row.int("id"));
        let events = events.collect::<Result<Vec<_>>>()?;
        for statement in EVENT_ROWS {
            execute(&mut tx, statement, args![&events[..]]).await?;
        }
        tx.commit().await.map_err(map_error)?;
        Ok(events)
    }

    async fn prune_step(&self, delete: &'static str, before: DateTime<Utc>) -> Result<u64> {
        let mut total = 0;
        loop {
            let mut writer = self.writer().await?;
            let deleted = execute(&mut writer, delete, args![before, PRUNE_BATCH]).await?;
            total += deleted;
            if deleted < PRUNE_BATCH as u64 {
                return Ok(total);
            }
        }
    }

    /// Merges the counts that are older than an hour into one row a reason.
    async fn compact_counts(&self) -> Result<()> {
        let mut tx = self.begin().await?;
        for statement in [
            "INSERT INTO removal_counts (since, reason, removals, keys)
             SELECT 0, reason, sum(removals), sum(keys) FROM removal_counts
             WHERE since < now() - 60 * interval '1 minute' AND since > 0 GROUP BY reason
             ON CONFLICT (since, reason)
             DO UPDATE SET removals = removals + excluded.removals, keys = keys + excluded.keys",
            "DELETE FROM removal_counts WHERE since < now() - 60 * interval '1 minute' AND since > 0",
        ] {
            execute(&mut tx, statement, args![]).await?;
        }
        tx.commit().await.map_err(map_error)
    }
}
