//! Claims and settles outbox rows, and writes the canary, in transactions of several statements. The outbox
//! methods of `Store` call it.

use std::time::Duration;

use sqlx::SqliteConnection;

use super::{SNAPSHOT, Sqlite, execute, fetch, map_error};
use crate::dialect::{args, only_row};
use crate::outbox::outbox_rows;
use crate::rows;
use crate::{Backlog, BatchOutcome, CanaryWrite, ClaimedBatch, Result, run_detached};
use oddsd_core::key::Key;
use oddsd_core::model::DbSnapshot;

const LOG: [&str; 2] = [
    "INSERT INTO removals (at, cycle_id, rule, reason, change, entity, keys, existed, rules, backend, attempts, took_ms,
                           before, after)
     SELECT now(), r.value ->> 'cycle_id', r.value ->> 'rule', r.value ->> 'reason', r.value ->> 'change',
            r.value ->> 'entity', r.value ->> 'keys', r.value ->> 'existed', r.value ->> 'rules',
            r.value ->> 'backend', r.value ->> 'attempts', r.value ->> 'took_ms', r.value ->> 'before',
            r.value ->> 'after'
     FROM json_each($1) r",
    "INSERT INTO removal_counts (since, reason, removals, keys)
     SELECT CASE WHEN r.value ->> 'change' LIKE '%event_added%' THEN 0 ELSE now() - now() % 5000000 END,
            r.value ->> 'reason', count(*), sum(r.value ->> 'existed') FROM json_each($1) r
     WHERE true GROUP BY 1, 2
     ON CONFLICT (since, reason)
     DO UPDATE SET removals = removals + excluded.removals, keys = keys + excluded.keys",
];
const LEFT: &str =
    "INSERT INTO outbox (cycle_id, event_key, kinds, keys, detail, before, after, attempts, last_error, created_at,
                         due_at)
     SELECT l.value ->> 'cycle_id', l.value ->> 'event_key', l.value ->> 'kinds', l.value ->> 'keys',
            l.value ->> 'detail', l.value ->> 'before', l.value ->> 'after', l.value ->> 'attempts',
            l.value ->> 'error', now(), now() + CAST((l.value ->> 'wait') * 1000000 AS INTEGER)
     FROM json_each($1) l";
const HELD: &str = "INSERT OR IGNORE INTO marks (target, cycle_id)
     SELECT h.value ->> 'target', h.value ->> 'cycle_id' FROM json_each($1) h";
const UNMARKED: &str = "DELETE FROM marks WHERE target IN (SELECT value FROM json_each($1))";

impl Sqlite {
    pub async fn claim(&self, who: &str, max: i64, lease_for: Duration) -> Result<ClaimedBatch> {
        // A reader asks first, so that an empty outbox costs no write lock.
        let due = format!(
            "SELECT EXISTS (SELECT 1 FROM outbox WHERE due_at <= now()) AS due, {SNAPSHOT} AS snapshot"
        );
        let due = only_row(self.read(due, args![]).await?)?;
        let (mut snapshot, mut rows) = (rows::snapshot(&due)?, Vec::new());
        if due.get("due")? {
            let claim = format!(
                "UPDATE outbox SET attempts = attempts + 1, claimed_by = $1, due_at = now() + $2
                 WHERE id IN (SELECT id FROM outbox WHERE due_at <= now() ORDER BY due_at, id LIMIT $3)
                 RETURNING id, cycle_id, event_key, kinds, keys, detail, before, after, attempts, id AS xid, created_at,
                     (SELECT sport FROM events WHERE key = event_key) AS sport, (SELECT league FROM events WHERE key = event_key) AS league,
                     (SELECT venue FROM events WHERE key = event_key) AS venue, (SELECT status FROM events WHERE key = event_key) AS status,
                     {SNAPSHOT} AS snapshot"
            );
            let claimed = self.write(claim, args![who, lease_for, max]).await?;
            if let Some(first) = claimed.first() {
                snapshot = rows::snapshot(first)?;
            }
            rows = outbox_rows(claimed.into_iter())?;
        }
        Ok(ClaimedBatch { snapshot, rows })
    }

    pub async fn settle(&self, rows: &[i64], done: BatchOutcome) -> Result<u64> {
        let (db, args) = (self.clone(), args![rows]);
        run_detached(async move {
            let mut tx = db.begin().await?;
            execute(&mut tx, "DELETE FROM outbox WHERE id = ANY($1)", args).await?;
            let last_minute = write_outcome(&mut tx, done).await?;
            tx.commit().await.map_err(map_error)?;
            Ok(last_minute)
        })
        .await
    }

    pub async fn settle_backlog(
        &self,
        backlog: &Backlog,
        done: BatchOutcome,
    ) -> Result<(u64, u64)> {
        let db = self.clone();
        let args = args![&backlog.again[..], backlog.from, backlog.through];
        run_detached(async move {
            let mut tx = db.begin().await?;
            // Rows that were committed since have higher numbers.
            let delete = "DELETE FROM outbox WHERE id BETWEEN $2 AND $3 AND (kinds <> 'again' OR id = ANY($1))";
            let deleted = execute(&mut tx, delete, args).await?;
            let last_minute = write_outcome(&mut tx, done).await?;
            tx.commit().await.map_err(map_error)?;
            Ok((deleted, last_minute))
        })
        .await
    }

    pub async fn touch_canary(&self, key: &Key) -> Result<CanaryWrite> {
        let (db, key) = (self.clone(), key.clone());
        run_detached(async move {
            let mut tx = db.begin().await?;
            let touch = "UPDATE canary SET beat = beat + 1, at = now() WHERE id = 1 RETURNING beat";
            let beat = only_row(fetch(&mut tx, touch, args![]).await?)?.int("beat")?;
            let insert = "INSERT INTO outbox (kinds, keys, created_at, due_at) VALUES ('canary', $1, now(), now()) RETURNING id";
            let inserted = fetch(&mut tx, insert, args![key.as_str()]).await?;
            let row = only_row(inserted)?.int("id")?;
            tx.commit().await.map_err(map_error)?;
            let transaction = row as u64;
            let snapshot = DbSnapshot::from_commit_count(transaction);
            Ok(CanaryWrite {
                beat,
                transaction,
                outbox: ClaimedBatch::of_canary(row, transaction, &key, &snapshot),
            })
        })
        .await
    }
}

/// Writes the log and its counts, the rows of targets to remove later, and the marks of movement rules. Returns
/// the removals of the last minute.
async fn write_outcome(tx: &mut SqliteConnection, done: BatchOutcome) -> Result<u64> {
    let unmarked = serde_json::json!(done.removed_targets);
    for (statements, rows) in [
        (&LOG[..], done.removals_json()),
        (&[LEFT], done.retries_json()),
        (&[HELD], done.kept_json()),
        (&[UNMARKED], unmarked),
    ] {
        if rows.as_array().is_none_or(Vec::is_empty) {
            continue;
        }
        for statement in statements {
            execute(tx, statement, args![rows.to_string()]).await?;
        }
    }
    let count = "SELECT coalesce(sum(removals), 0) AS last_minute FROM removal_counts
         WHERE since > now() - interval '1 minute'";
    Ok(only_row(fetch(tx, count, args![]).await?)?.int("last_minute")? as u64)
}
