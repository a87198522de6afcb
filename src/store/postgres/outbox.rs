//! What readers still have to be told: claimed for a while, settled when it is done.

use std::time::Duration;

use sqlx::Row;

use super::read::{seen, viewed};
use super::{Postgres, explain};
use crate::key::Key;
use crate::store::outbox::{again_row, keys_text};
use crate::store::rows::{self, Columns};
use crate::store::{Again, Backlog, Claim, Removal, Result, Touched, Viewed};

/// Takes rows out, writes the log ($1 to $8) and the row that removes $9 again, all or nothing.
macro_rules! settle {
    ($rows:literal) => {
        concat!(
            "WITH done AS (DELETE FROM oddsd.outbox WHERE ", $rows, " RETURNING id),
                  again AS (INSERT INTO oddsd.outbox (kinds, keys, due_at)
                            SELECT 'again', $9::text, now() + $10::float8 * interval '1 second' WHERE $9::text IS NOT NULL),
                  logged AS (
                      INSERT INTO oddsd.removals (cycle_id, rule, reason, keys, existed, backend, attempts, took_ms)
                      SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::int[], $8::bigint[]))
             SELECT count(*) FROM done"
        )
    };
}
const SETTLE_ROWS: &str = settle!("id = ANY($11)");
/// What was committed since is not in the view, and stays. Both ends of the range: the planner then
/// goes by the index, which has all that an earlier page left behind below the lower one.
const SETTLE_BACKLOG: &str = settle!(
    "id BETWEEN $12 AND $13 AND pg_visible_in_snapshot(xid, (SELECT $14::text::pg_snapshot))
     AND (kinds <> 'again' OR id = ANY($11))"
);

/// Two steps, because the first one needs no sorting: few texts of kinds differ.
const BACKLOG: &str = concat!(
    seen!(),
    "SELECT seen.view, g.* FROM seen LEFT JOIN (
         SELECT 0::bigint AS id, max(cycle_id) AS cycle_id, event_key, string_agg(kinds, ',') AS kinds, keys,
                max(attempts)::bigint AS attempts, max(xid) AS xid,
                (extract(epoch FROM min(created_at)) * 1000000)::bigint AS created_at,
                sum(looked)::bigint AS looked, min(first) AS first, max(last) AS last, string_agg(again, ',') AS again
         FROM (SELECT max(cycle_id) AS cycle_id, event_key, kinds, keys, max(attempts) AS attempts,
                      max(xid::text::bigint) AS xid, min(created_at) AS created_at, count(*) AS looked,
                      min(id) AS first, max(id) AS last,
                      string_agg(id::text, ',') FILTER (WHERE kinds = 'again') AS again
               FROM (SELECT * FROM oddsd.outbox WHERE kinds <> 'again' OR due_at <= now() ORDER BY id LIMIT $1) page
               GROUP BY event_key, keys, kinds) by_kinds
         GROUP BY event_key, keys, CASE WHEN kinds IN ('again', 'canary') THEN kinds END) g ON true
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
                     RETURNING o.id, cycle_id, event_key, kinds, keys, attempts::bigint AS attempts,
                               xid::text::bigint AS xid, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at)
                 SELECT seen.view, claimed.* FROM seen LEFT JOIN claimed ON true"
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

    pub async fn settle(
        &self,
        rows: &[i64],
        removals: &[Removal],
        again: Option<Again>,
    ) -> Result<()> {
        let (db, rows, removals) = (self.clone(), rows.to_vec(), removals.to_vec());
        self.to_the_end(async move {
            logged(SETTLE_ROWS, &removals, again)
                .bind(&rows)
                .fetch_one(&mut *db.connection().await?)
                .await
                .map(drop)
                .map_err(explain)
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

    pub async fn settle_backlog(
        &self,
        backlog: &Backlog,
        removals: &[Removal],
        again: Option<Again>,
    ) -> Result<u64> {
        let (db, removals) = (self.clone(), removals.to_vec());
        let (from, through, view) = (backlog.from, backlog.through, backlog.view.to_string());
        let looked_at = backlog.again.clone();
        self.to_the_end(async move {
            let done = logged(SETTLE_BACKLOG, &removals, again)
                .bind(&looked_at)
                .bind(from)
                .bind(through)
                .bind(&view)
                .fetch_one(&mut *db.connection().await?)
                .await
                .map_err(explain)?;
            Ok(done.get::<i64, _>(0) as u64)
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
        let (db, keys) = (self.clone(), keys_text(keys));
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

/// `sql` with its first ten parameters.
fn logged<'q>(
    sql: &'static str,
    removals: &'q [Removal],
    again: Option<Again>,
) -> sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments> {
    let column = |text: fn(&Removal) -> String| removals.iter().map(text).collect::<Vec<_>>();
    let number = |n: fn(&Removal) -> i64| removals.iter().map(n).collect::<Vec<_>>();
    let (keys, after) = again_row(again);
    sqlx::query(sql)
        .bind(removals.iter().map(|r| r.cycle).collect::<Vec<_>>())
        .bind(column(|r| r.rule.clone()))
        .bind(column(|r| r.reason.clone()))
        .bind(column(|r| r.keys.join("\n")))
        .bind(number(|r| r.existed))
        .bind(column(|r| r.backend.clone()))
        .bind(removals.iter().map(|r| r.attempts).collect::<Vec<_>>())
        .bind(number(|r| r.took_ms))
        .bind(keys)
        .bind(after.as_secs_f64())
}
