//! Claims and settles outbox rows, and writes the canary, each in one statement. The outbox methods of
//! `Store` call it.

use std::time::Duration;

use super::Postgres;
use crate::dialect::{Arg, args, only_row, split_snapshot};
use crate::outbox::outbox_rows;
use crate::rows::{self, StoredRow};
use crate::{Backlog, BatchOutcome, CanaryWrite, ClaimedBatch, Result};
use oddsd_core::key::Key;

/// Deletes rows, writes the log ($1) and its counts, inserts the rows of targets to remove later
/// ($2), stores the marks of movement rules ($3, $4): all or nothing. A new card is no sign of a wrong rule: the
/// removals of new events count only for the total, not for the rate.
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
                      SELECT CASE WHEN change LIKE '%event_added%' THEN '-infinity'
                                  ELSE to_timestamp(floor(extract(epoch FROM now()) / 5) * 5) END AS since,
                             reason, count(*), sum(existed)
                      FROM removal GROUP BY 1, 2 ORDER BY 1, 2
                      ON CONFLICT (since, reason)
                      DO UPDATE SET removals = c.removals + excluded.removals, keys = c.keys + excluded.keys),
                  held AS (INSERT INTO oddsd.marks (target, cycle_id)
                           SELECT target, cycle_id FROM jsonb_to_recordset($3::jsonb) AS h (target text, cycle_id bigint)
                           ON CONFLICT DO NOTHING),
                  unmarked AS (DELETE FROM oddsd.marks WHERE target = ANY($4))
             SELECT (SELECT count(*) FROM done) AS done,
                    (SELECT count(*) FROM removal WHERE change NOT LIKE '%event_added%') + coalesce((SELECT sum(removals) FROM oddsd.removal_counts
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

const CLAIM: &str = "WITH seen AS MATERIALIZED (SELECT pg_current_snapshot()::text AS snapshot), claimed AS (
         UPDATE oddsd.outbox o SET attempts = attempts + 1, claimed_by = $1,
             due_at = now() + $3 * interval '1 second'
         FROM (SELECT id FROM oddsd.outbox WHERE due_at <= now() ORDER BY due_at, id LIMIT $2
               FOR UPDATE SKIP LOCKED) picked
         WHERE o.id = picked.id
         RETURNING o.id, cycle_id, event_key, kinds, keys, detail, before, after, attempts::bigint AS attempts,
                   xid::text::bigint AS xid, created_at)
     SELECT seen.snapshot, claimed.*, e.sport, e.league, e.venue, e.status FROM seen LEFT JOIN claimed ON true
     LEFT JOIN oddsd.events e ON e.key = claimed.event_key";

impl Postgres {
    pub async fn claim(&self, who: &str, max: i64, lease_for: Duration) -> Result<ClaimedBatch> {
        let found = self.write(CLAIM, args![who, max, lease_for]).await?;
        let (snapshot, claimed) = split_snapshot(found, "id")?;
        let rows = outbox_rows(claimed)?;
        Ok(ClaimedBatch { snapshot, rows })
    }

    pub async fn settle(&self, rows: &[i64], done: BatchOutcome) -> Result<u64> {
        let settled = self.write_outcome(SETTLE_ROWS, done, args![rows]).await?;
        Ok(settled.int("last_minute")? as u64)
    }

    pub async fn settle_backlog(
        &self,
        backlog: &Backlog,
        done: BatchOutcome,
    ) -> Result<(u64, u64)> {
        let snapshot = backlog.snapshot.to_string();
        let rows = args![&backlog.again[..], backlog.from, backlog.through, snapshot];
        let settled = self.write_outcome(SETTLE_BACKLOG, done, rows).await?;
        Ok((
            settled.int("done")? as u64,
            settled.int("last_minute")? as u64,
        ))
    }

    /// `rows` are the parameters after the first four.
    async fn write_outcome(
        &self,
        sql: &str,
        done: BatchOutcome,
        rows: Vec<Arg>,
    ) -> Result<StoredRow> {
        let mut args = args![
            done.removals_json().to_string(),
            done.retries_json().to_string(),
            done.kept_json().to_string(),
            &done.removed_targets[..],
        ];
        args.extend(rows);
        only_row(self.write(sql, args).await?)
    }

    pub async fn touch_canary(&self, key: &Key) -> Result<CanaryWrite> {
        let touch = "WITH beat AS (UPDATE oddsd.canary SET beat = beat + 1, at = now() WHERE id = 1 RETURNING beat),
                  queued AS (INSERT INTO oddsd.outbox (kinds, keys) SELECT 'canary', $1 FROM beat
                           RETURNING id, xid::text::bigint AS xid)
             SELECT beat, id, xid, pg_current_snapshot()::text AS snapshot FROM beat, queued";
        let touched = only_row(self.write(touch, args![key.as_str()]).await?)?;
        let transaction = touched.int("xid")? as u64;
        let snapshot = rows::snapshot(&touched)?;
        Ok(CanaryWrite {
            beat: touched.int("beat")?,
            transaction,
            outbox: ClaimedBatch::of_canary(touched.int("id")?, transaction, key, &snapshot),
        })
    }
}
