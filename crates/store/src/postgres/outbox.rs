//! Claims and settles outbox rows, and writes the canary, each in one statement. The outbox methods of
//! `Store` call it.

use std::time::Duration;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;

use super::{Postgres, map_error};
use crate::dialect::{StoredRow, split_snapshot};
use crate::outbox::outbox_rows;
use crate::rows::{self, Columns};
use crate::{Backlog, BatchOutcome, CanaryWrite, ClaimedBatch, Result};
use oddsd_core::key::Key;

/// Deletes rows, writes the log ($1) and its counts, inserts the rows of targets to remove later
/// ($2), stores the marks of movement rules ($3, $4): all or nothing.
macro_rules! settle {
    ($rows:literal) => {
        concat!(
            "WITH removal AS MATERIALIZED (
                 SELECT * FROM jsonb_to_recordset($1::jsonb) AS r (
                     cycle_id bigint, rule text, reason text, change text, entity text, keys text, existed bigint,
                     rules text, backend text, attempts int, took_ms bigint, before text, after text)),
                  done AS (DELETE FROM oddsd.outbox WHERE ", $rows, " RETURNING id),
                  left_over AS (
                      INSERT INTO oddsd.outbox (cycle_id, event_key, kinds, keys, detail, before, after, attempts, due_at, last_error)
                      SELECT cycle_id, event_key, kinds, keys, detail, before, after, attempts,
                             now() + wait * interval '1 second', error
                      FROM jsonb_to_recordset($2::jsonb) AS l (
                          cycle_id bigint, event_key text, kinds text, keys text, detail text, before text, after text,
                          attempts int, wait float8, error text)),
                  logged AS (
                      INSERT INTO oddsd.removals (cycle_id, rule, reason, change, entity, keys, existed, rules, backend,
                                                  attempts, took_ms, before, after)
                      SELECT * FROM removal),
                  counted AS (
                      INSERT INTO oddsd.removal_counts AS c (since, reason, removals, keys)
                      SELECT to_timestamp(floor(extract(epoch FROM now()) / 5) * 5), reason, count(*), sum(existed)
                      FROM removal GROUP BY reason ORDER BY reason
                      ON CONFLICT (since, reason)
                      DO UPDATE SET removals = c.removals + excluded.removals, keys = c.keys + excluded.keys),
                  held AS (INSERT INTO oddsd.marks (target, cycle_id)
                           SELECT target, cycle_id FROM jsonb_to_recordset($3::jsonb) AS h (target text, cycle_id bigint)
                           ON CONFLICT DO NOTHING),
                  unmarked AS (DELETE FROM oddsd.marks WHERE target = ANY($4))
             SELECT (SELECT count(*) FROM done) AS done,
                    (SELECT count(*) FROM removal) + coalesce((SELECT sum(removals) FROM oddsd.removal_counts
                         WHERE since > now() - interval '1 minute'), 0)::bigint AS last_minute"
        )
    };
}
const SETTLE_ROWS: &str = settle!("id = ANY($5)");
/// Rows that were committed since are not visible in the snapshot, and stay. With both ends of the range the
/// planner uses the index and skips the dead entries of earlier pages.
const SETTLE_BACKLOG: &str = settle!(
    "id BETWEEN $6 AND $7 AND pg_visible_in_snapshot(xid, (SELECT $8::text::pg_snapshot))
     AND (kinds <> 'again' OR id = ANY($5))"
);

impl Postgres {
    pub async fn claim(&self, who: &str, max: i64, lease_for: Duration) -> Result<ClaimedBatch> {
        let (db, who) = (self.clone(), who.to_owned());
        self.run_detached(async move {
            let mut connection = db.connection().await?;
            let found = sqlx::query(
                "WITH seen AS MATERIALIZED (SELECT pg_current_snapshot()::text AS view), claimed AS (
                     UPDATE oddsd.outbox o SET attempts = attempts + 1, claimed_by = $1,
                         due_at = now() + $3 * interval '1 second'
                     FROM (SELECT id FROM oddsd.outbox WHERE due_at <= now() ORDER BY due_at, id LIMIT $2
                           FOR UPDATE SKIP LOCKED) picked
                     WHERE o.id = picked.id
                     RETURNING o.id, cycle_id, event_key, kinds, keys, detail, before, after, attempts::bigint AS attempts,
                               xid::text::bigint AS xid, created_at)
                 SELECT seen.view, claimed.*, e.sport, e.league, e.venue, e.status FROM seen LEFT JOIN claimed ON true
                 LEFT JOIN oddsd.events e ON e.key = claimed.event_key",
            )
            .bind(&who)
            .bind(max)
            .bind(lease_for.as_secs_f64())
            .fetch_all(&mut *connection)
            .await
            .map_err(map_error)?;
            let found = found.into_iter().map(StoredRow::Postgres).collect();
            let (snapshot, claimed) = split_snapshot(found, "id")?;
            let rows: Vec<StoredRow> = claimed.collect();
            Ok(ClaimedBatch {
                snapshot,
                rows: outbox_rows(rows.iter())?,
            })
        })
        .await
    }

    pub async fn settle(&self, rows: &[i64], done: BatchOutcome) -> Result<u64> {
        let (db, rows) = (self.clone(), rows.to_vec());
        self.run_detached(async move {
            let settled = settle_query(SETTLE_ROWS, &done)
                .bind(&rows)
                .fetch_one(&mut *db.connection().await?)
                .await
                .map_err(map_error)?;
            last_minute(&settled)
        })
        .await
    }

    pub async fn settle_backlog(
        &self,
        backlog: &Backlog,
        done: BatchOutcome,
    ) -> Result<(u64, u64)> {
        let db = self.clone();
        let (from, through, view) = (backlog.from, backlog.through, backlog.snapshot.to_string());
        let again_rows = backlog.again.clone();
        self.run_detached(async move {
            let settled = settle_query(SETTLE_BACKLOG, &done)
                .bind(&again_rows)
                .bind(from)
                .bind(through)
                .bind(&view)
                .fetch_one(&mut *db.connection().await?)
                .await
                .map_err(map_error)?;
            Ok((settled.int("done")? as u64, last_minute(&settled)?))
        })
        .await
    }

    pub async fn touch_canary(&self, key: &Key) -> Result<CanaryWrite> {
        let (db, key) = (self.clone(), key.clone());
        self.run_detached(async move {
            let touched = sqlx::query(
                "WITH beat AS (UPDATE oddsd.canary SET beat = beat + 1, at = now() WHERE id = 1 RETURNING beat),
                      queued AS (INSERT INTO oddsd.outbox (kinds, keys) SELECT 'canary', $1 FROM beat
                               RETURNING id, xid::text::bigint AS xid)
                 SELECT beat, id, xid, pg_current_snapshot()::text AS view FROM beat, queued",
            )
            .bind(key.as_str())
            .fetch_one(&mut *db.connection().await?)
            .await
            .map_err(map_error)?;
            let transaction = touched.int("xid")? as u64;
            let view = rows::snapshot(&touched)?;
            Ok(CanaryWrite {
                beat: touched.int("beat")?,
                transaction,
                outbox: ClaimedBatch::of_canary(touched.int("id")?, transaction, &key, &view),
            })
        })
        .await
    }
}

/// `sql` with its first four parameters.
fn settle_query<'q>(
    sql: &'static str,
    done: &'q BatchOutcome,
) -> Query<'q, sqlx::Postgres, PgArguments> {
    sqlx::query(sql)
        .bind(done.removals_json())
        .bind(done.retries_json())
        .bind(done.kept_json())
        .bind(&done.removed_targets)
}

fn last_minute(row: &PgRow) -> Result<u64> {
    Ok(row.int("last_minute")? as u64)
}
