//! What readers still have to be told: claimed for a while, settled when it is done.

use std::collections::HashMap;
use std::time::Duration;

use super::log::lately;
use super::read::{seen, viewed};
use super::{Postgres, explain};
use crate::key::{Key, Tag};
use crate::model::EventId;
use crate::store::outbox::{again_row, targets_text};
use crate::store::rows::{self, Columns};
use crate::store::{Backlog, Claim, Moved, Result, Settlement, Touched, Viewed};

/// Takes rows out, writes the log ($1) and counts it, puts back what is left ($2) and the row that removes
/// $3 again, keeps the marks of movement rules ($5, $6): all or nothing.
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
                  again AS (INSERT INTO oddsd.outbox (kinds, keys, due_at)
                            SELECT 'again', $3::text, now() + $4::float8 * interval '1 second' WHERE $3::text IS NOT NULL),
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
                           SELECT target, cycle_id FROM jsonb_to_recordset($5::jsonb) AS h (target text, cycle_id bigint)
                           ON CONFLICT DO NOTHING),
                  unmarked AS (DELETE FROM oddsd.marks WHERE target = ANY($6))
             SELECT (SELECT count(*) FROM done) AS done,
                    (SELECT count(*) FROM removal) + coalesce((SELECT sum(removals) FROM oddsd.removal_counts
                         WHERE since > now() - interval '1 minute'), 0)::bigint AS lately"
        )
    };
}
const SETTLE_ROWS: &str = settle!("id = ANY($7)");
/// What was committed since is not in the view, and stays. Both ends of the range: the planner then
/// goes by the index, which has all that an earlier page left behind below the lower one.
const SETTLE_BACKLOG: &str = settle!(
    "id BETWEEN $8 AND $9 AND pg_visible_in_snapshot(xid, (SELECT $10::text::pg_snapshot))
     AND (kinds <> 'again' OR id = ANY($7))"
);

/// Two steps, because the first one needs no sorting: few texts of kinds differ.
const BACKLOG: &str = concat!(
    seen!(),
    "SELECT seen.view, g.*, e.sport, e.league, e.venue, e.status FROM seen LEFT JOIN (
         SELECT 0::bigint AS id, max(cycle_id) AS cycle_id, event_key, string_agg(kinds, ',') AS kinds, keys, detail,
                NULL::text AS before, NULL::text AS after, max(attempts)::bigint AS attempts, max(xid) AS xid,
                (extract(epoch FROM min(created_at)) * 1000000)::bigint AS created_at,
                sum(looked)::bigint AS looked, min(first) AS first, max(last) AS last, string_agg(again, ',') AS again
         FROM (SELECT max(cycle_id) AS cycle_id, event_key, kinds, keys, detail, max(attempts) AS attempts,
                      max(xid::text::bigint) AS xid, min(created_at) AS created_at, count(*) AS looked,
                      min(id) AS first, max(id) AS last,
                      string_agg(id::text, ',') FILTER (WHERE kinds = 'again') AS again
               FROM (SELECT * FROM oddsd.outbox WHERE kinds <> 'again' OR due_at <= now() ORDER BY id LIMIT $1) page
               GROUP BY event_key, keys, kinds, detail) by_kinds
         GROUP BY event_key, keys, detail, CASE WHEN kinds IN ('again', 'canary') THEN kinds END) g ON true
     LEFT JOIN oddsd.events e ON e.key = g.event_key
     ORDER BY g.first"
);

impl Postgres {
    pub async fn claim(&self, who: &str, max: i64, lease_for: Duration) -> Result<Claim> {
        let (db, who) = (self.clone(), who.to_owned());
        self.to_the_end(async move {
            let mut connection = db.connection().await?;
            let found = sqlx::query(concat!(
                seen!(),
                ", claimed AS (
                     UPDATE oddsd.outbox o SET attempts = attempts + 1, claimed_by = $1,
                         due_at = now() + $3 * interval '1 second'
                     FROM (SELECT id FROM oddsd.outbox WHERE due_at <= now() ORDER BY due_at, id LIMIT $2
                           FOR UPDATE SKIP LOCKED) picked
                     WHERE o.id = picked.id
                     RETURNING o.id, cycle_id, event_key, kinds, keys, detail, before, after, attempts::bigint AS attempts,
                               xid::text::bigint AS xid, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at)
                 SELECT seen.view, claimed.*, e.sport, e.league, e.venue, e.status FROM seen LEFT JOIN claimed ON true
                 LEFT JOIN oddsd.events e ON e.key = claimed.event_key"
            ))
            .bind(&who)
            .bind(max)
            .bind(lease_for.as_secs_f64())
            .fetch_all(&mut *connection)
            .await
            .map_err(explain)?;
            let (view, claimed) = viewed(&found, "id")?;
            Ok(Claim {
                view,
                rows: rows::all_claimed(claimed)?,
            })
        })
        .await
    }

    pub async fn settle(&self, rows: &[i64], done: Settlement) -> Result<u64> {
        let (db, rows) = (self.clone(), rows.to_vec());
        self.to_the_end(async move {
            let settled = settled(SETTLE_ROWS, &done)
                .bind(&rows)
                .fetch_one(&mut *db.connection().await?)
                .await
                .map_err(explain)?;
            lately(&settled)
        })
        .await
    }

    pub async fn backlog(&self, max_rows: i64) -> Result<Backlog> {
        let found = sqlx::query(BACKLOG)
            .bind(max_rows)
            .fetch_all(&mut *self.connection().await?)
            .await
            .map_err(explain)?;
        let (view, groups) = viewed(&found, "id")?;
        rows::backlog(view, groups)
    }

    pub async fn settle_backlog(&self, backlog: &Backlog, done: Settlement) -> Result<(u64, u64)> {
        let db = self.clone();
        let (from, through, view) = (backlog.from, backlog.through, backlog.view.to_string());
        let looked_at = backlog.again.clone();
        self.to_the_end(async move {
            let settled = settled(SETTLE_BACKLOG, &done)
                .bind(&looked_at)
                .bind(from)
                .bind(through)
                .bind(&view)
                .fetch_one(&mut *db.connection().await?)
                .await
                .map_err(explain)?;
            Ok((settled.int("done")? as u64, lately(&settled)?))
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

    pub async fn request_removal(
        &self,
        keys: &[Key],
        tags: &[Tag],
        detail: Option<&str>,
    ) -> Result<i64> {
        let (db, targets) = (self.clone(), targets_text(keys, tags));
        let detail = detail.map(str::to_owned);
        self.to_the_end(async move {
            sqlx::query_scalar(
                "INSERT INTO oddsd.outbox (kinds, keys, detail) VALUES ('manual', $1, $2) RETURNING id, pg_notify('oddsd_outbox', '')",
            )
            .bind(targets)
            .bind(detail)
            .fetch_one(&mut *db.connection().await?)
            .await
            .map_err(explain)
        })
        .await
    }

    pub async fn marks(&self, targets: &[String]) -> Result<HashMap<String, i64>> {
        let found = sqlx::query("SELECT target, cycle_id FROM oddsd.marks WHERE target = ANY($1)")
            .bind(targets)
            .fetch_all(&mut *self.connection().await?)
            .await
            .map_err(explain)?;
        rows::marks(found.iter())
    }

    pub async fn moved(&self, event: &EventId, cycle: i64) -> Result<Vec<Moved>> {
        // The rows of an event's history side by side, newest first; each holds what one cycle changed.
        let found = sqlx::query(
            "WITH event AS (SELECT id FROM oddsd.events WHERE key = $1),
                  page AS MATERIALIZED (
                      SELECT h.* FROM oddsd.history h
                      WHERE h.event_id = (SELECT id FROM event) ORDER BY h.cycle_id DESC LIMIT $3),
                  changed AS MATERIALIZED (SELECT unnest(price_ids) AS price_id FROM page WHERE cycle_id = $2),
                  past AS (SELECT q.*, page.cycle_id FROM page,
                               unnest(page.price_ids, page.decimals, page.fractionals, page.points, page.statuses)
                                   AS q (price_id, decimal, fractional, point, status)
                           WHERE q.price_id IN (SELECT price_id FROM changed))
             SELECT p.id, b.key AS bookmaker, p.market, 0::bigint AS cycle_id, p.decimal::text AS decimal, p.fractional,
                    p.point::text AS point, p.status AS price_status
             FROM oddsd.prices p JOIN oddsd.bookmakers b ON b.id = p.bookmaker_id
             WHERE p.id IN (SELECT price_id FROM changed)
             UNION ALL
             SELECT price_id, '', '', cycle_id, decimal::text, fractional, point::text, coalesce(status, 'open') FROM past
             ORDER BY id, cycle_id",
        )
        .bind(event.as_str())
        .bind(cycle)
        .bind(rows::PAST)
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(explain)?;
        rows::moved(found.iter())
    }

    pub async fn is_pending(&self, row: i64) -> Result<bool> {
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM oddsd.outbox WHERE id = $1)")
            .bind(row)
            .fetch_one(&mut *self.connection().await?)
            .await
            .map_err(explain)
    }

    pub async fn touch_canary(&self, key: &Key) -> Result<Touched> {
        let (db, key) = (self.clone(), key.clone());
        self.to_the_end(async move {
            let touched = sqlx::query(
                "WITH beat AS (UPDATE oddsd.canary SET beat = beat + 1, at = now() WHERE id = 1 RETURNING beat),
                      told AS (INSERT INTO oddsd.outbox (kinds, keys) SELECT 'canary', $1 FROM beat
                               RETURNING id, xid::text::bigint AS xid)
                 SELECT beat, id, xid, pg_current_snapshot()::text AS view FROM beat, told",
            )
            .bind(key.as_str())
            .fetch_one(&mut *db.connection().await?)
            .await
            .map_err(explain)?;
            let transaction = touched.int("xid")? as u64;
            let view = rows::view(&touched)?;
            Ok(Touched {
                beat: touched.int("beat")?,
                transaction,
                told: Claim::of_canary(touched.int("id")?, transaction, &key, &view),
            })
        })
        .await
    }

    pub async fn canary(&self) -> Result<Viewed<i64>> {
        let found = sqlx::query(
            "SELECT pg_current_snapshot()::text AS view, beat FROM oddsd.canary WHERE id = 1",
        )
        .fetch_one(&mut *self.connection().await?)
        .await
        .map_err(explain)?;
        Ok(Viewed {
            view: rows::view(&found)?,
            value: found.int("beat")?,
        })
    }
}

/// `sql` with its first six parameters.
fn settled<'q>(
    sql: &'static str,
    done: &'q Settlement,
) -> sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments> {
    let (keys, after) = again_row(&done.again);
    sqlx::query(sql)
        .bind(done.removals_json())
        .bind(done.left_json())
        .bind(keys)
        .bind(after.as_secs_f64())
        .bind(done.held_json())
        .bind(&done.unmarked)
}
