//! The rows behind cached answers, as programs have them that keep a cache by themselves: a version
//! each, moved on by one statement that tells our outbox as well, and read by one statement.

use anyhow::{Context, ensure};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection};

use oddsd_core::key::Key;
use oddsd_core::model::DbSnapshot;
use oddsd_store::StoreSettings;

const TABLE: &str = "
CREATE SCHEMA IF NOT EXISTS bench;
CREATE TABLE bench.answers (id integer PRIMARY KEY, version bigint NOT NULL) WITH (fillfactor = 50)";
/// Every read that misses has one for a moment.
const CONNECTIONS: u32 = 12;

pub struct Answers {
    settings: StoreSettings,
    pool: PgPool,
}

impl Answers {
    /// So many rows, each at version 0.
    pub async fn new(settings: &StoreSettings, rows: usize) -> anyhow::Result<Self> {
        let mut connection = super::connect(settings).await?;
        connection.execute(TABLE).await?;
        sqlx::query("INSERT INTO bench.answers SELECT n, 0 FROM generate_series(0, $1 - 1) n")
            .bind(i32::try_from(rows)?)
            .execute(&mut connection)
            .await?;
        connection.close().await.ok();
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .test_before_acquire(false)
            .connect_with(super::options(settings)?)
            .await?;
        Ok(Self {
            settings: settings.clone(),
            pool,
        })
    }

    /// The version, and what the statement that read it saw.
    pub async fn load(&self, row: usize) -> anyhow::Result<(DbSnapshot, u64)> {
        let (view, version): (String, i64) = sqlx::query_as(
            "SELECT pg_current_snapshot()::text, version FROM bench.answers WHERE id = $1",
        )
        .bind(i32::try_from(row)?)
        .fetch_one(&self.pool)
        .await?;
        Ok((parsed(&view)?, version.cast_unsigned()))
    }

    pub async fn writer(&self) -> anyhow::Result<Writer> {
        Ok(Writer(super::connect(&self.settings).await?))
    }

    /// A transaction that has an id, and does not end.
    pub async fn open_transaction(&self) -> anyhow::Result<OpenTransaction> {
        let mut connection = super::connect(&self.settings).await?;
        connection.execute("BEGIN").await?;
        let id: i64 = sqlx::query_scalar("SELECT pg_current_xact_id()::text::bigint")
            .fetch_one(&mut connection)
            .await?;
        Ok(OpenTransaction {
            connection,
            id: id.cast_unsigned(),
        })
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }
}

pub struct Writer(PgConnection);

/// A committed change.
pub struct Wrote {
    pub version: u64,
    pub outbox_row: i64,
    pub transaction: u64,
    /// Of the statement that wrote it.
    pub view: DbSnapshot,
}

impl Writer {
    /// The next version, and the outbox row that says which key it makes wrong: one transaction.
    pub async fn commit(&mut self, row: usize, key: &Key) -> anyhow::Result<Wrote> {
        let (version, outbox_row, transaction, view): (i64, i64, i64, String) = sqlx::query_as(
            "WITH moved AS (UPDATE bench.answers SET version = version + 1 WHERE id = $1 RETURNING version),
                  told AS (INSERT INTO oddsd.outbox (kinds, keys) SELECT 'manual', $2 FROM moved
                           RETURNING id, xid::text::bigint AS xid)
             SELECT version, id, xid, pg_current_snapshot()::text FROM moved, told",
        )
        .bind(i32::try_from(row)?)
        .bind(key.as_str())
        .fetch_one(&mut self.0)
        .await?;
        Ok(Wrote {
            version: version.cast_unsigned(),
            outbox_row,
            transaction: transaction.cast_unsigned(),
            view: parsed(&view)?,
        })
    }
}

pub struct OpenTransaction {
    connection: PgConnection,
    pub id: u64,
}

impl OpenTransaction {
    /// Fails unless it was open until now.
    pub async fn end(mut self) -> anyhow::Result<()> {
        let id: i64 = sqlx::query_scalar("SELECT pg_current_xact_id()::text::bigint")
            .fetch_one(&mut self.connection)
            .await?;
        ensure!(
            id.cast_unsigned() == self.id,
            "the transaction had ended before its time"
        );
        self.connection.execute("COMMIT").await?;
        self.connection.close().await.ok();
        Ok(())
    }
}

fn parsed(view: &str) -> anyhow::Result<DbSnapshot> {
    DbSnapshot::parse(view).with_context(|| format!("the server's view is {view:?}"))
}
