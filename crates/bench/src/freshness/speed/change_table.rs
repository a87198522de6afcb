//! Changes for the relay: rows of a bench table, committed with their outbox rows in one statement, as the store
//! does it; and an outbox filled as after an outage. The speed sections write with it.

use anyhow::{Context, ensure};
use chrono::Utc;
use sqlx::{Executor, PgConnection};

use crate::database::Database;
use oddsd_core::key::Key;
use oddsd_core::model::DbSnapshot;
use oddsd_store::{ClaimedBatch, OutboxEntry, OutboxRow};

const TABLE: &str = "
CREATE SCHEMA IF NOT EXISTS bench;
CREATE TABLE IF NOT EXISTS bench.changes (id bigint PRIMARY KEY, version bigint NOT NULL) WITH (fillfactor = 20)";
const COMMIT: &str = "
WITH changed AS (UPDATE bench.changes SET version = version + 1 WHERE id = ANY($1) RETURNING id),
     queued AS (INSERT INTO oddsd.outbox (kinds, keys) SELECT 'manual', k.key
              FROM changed JOIN unnest($1::bigint[], $2::text[]) AS k (id, key) USING (id)
              RETURNING id, keys, xid::text::bigint AS xid)
SELECT id, keys, xid, pg_current_snapshot()::text FROM queued";
/// Rows of one transaction of an outage: a cycle with many changes.
const ROWS_A_CYCLE: i64 = 5_000;

pub struct ChangeTable(PgConnection);

impl ChangeTable {
    /// With `rows` rows, each at version 0.
    pub async fn create(db: &Database, rows: i64) -> anyhow::Result<Self> {
        let mut connection = db.connect().await?;
        connection.execute(TABLE).await?;
        sqlx::query("INSERT INTO bench.changes SELECT id, 0 FROM generate_series(0, $1 - 1) id ON CONFLICT DO NOTHING")
            .bind(rows)
            .execute(&mut connection)
            .await?;
        Ok(Self(connection))
    }

    /// Commits the next version of each row in one transaction; `keys` are the answers that show the rows.
    pub async fn commit(&mut self, ids: &[i64], keys: &[&Key]) -> anyhow::Result<ClaimedBatch> {
        let texts: Vec<&str> = keys.iter().map(|key| key.as_str()).collect();
        let queued: Vec<(i64, String, i64, String)> = sqlx::query_as(COMMIT)
            .bind(ids)
            .bind(&texts)
            .fetch_all(&mut self.0)
            .await?;
        ensure!(queued.len() == ids.len(), "not every row was changed");
        let (_, _, transaction, snapshot) = &queued[0];
        let transaction = *transaction as u64;
        let snapshot = DbSnapshot::parse(snapshot).and_then(|it| it.with_tx(transaction));
        let snapshot = snapshot.context("few transactions at a time")?;
        let row = |(id, key, ..): &(i64, String, i64, String)| {
            let entry = OutboxEntry {
                keys: vec![Key::from_user_input(key).context("a key")?],
                ..OutboxEntry::default()
            };
            Ok(OutboxRow::new(*id, transaction, Utc::now(), entry))
        };
        let rows = queued.iter().map(row).collect::<anyhow::Result<_>>()?;
        Ok(ClaimedBatch { snapshot, rows })
    }

    /// Commits the next version of one row without an outbox row.
    pub async fn commit_unreported(&mut self, id: i64) -> anyhow::Result<()> {
        sqlx::query("UPDATE bench.changes SET version = version + 1 WHERE id = $1")
            .bind(id)
            .execute(&mut self.0)
            .await?;
        Ok(())
    }

    /// Fills the outbox as an outage does: `rows` price changes of `events` events, one transaction for each cycle.
    pub async fn fill_outbox(&mut self, rows: i64, events: i64) -> anyhow::Result<()> {
        for (cycle, from) in (0..rows).step_by(ROWS_A_CYCLE as usize).enumerate() {
            sqlx::query(
                "INSERT INTO oddsd.outbox (cycle_id, event_key, kinds)
                 SELECT $1, 'rac_' || (n % $4), 'price_changed' FROM generate_series($2::bigint, $3 - 1) n",
            )
            .bind(cycle as i64)
            .bind(from)
            .bind(rows.min(from + ROWS_A_CYCLE))
            .bind(events)
            .execute(&mut self.0)
            .await?;
        }
        self.0.execute("VACUUM (ANALYZE) oddsd.outbox").await?;
        Ok(())
    }

    /// Whether the outbox has a change; the second removal of a target is not one.
    pub async fn has_changes(&mut self) -> anyhow::Result<bool> {
        let waiting = "SELECT EXISTS (SELECT FROM oddsd.outbox WHERE kinds <> 'again')";
        Ok(sqlx::query_scalar(waiting).fetch_one(&mut self.0).await?)
    }
}
