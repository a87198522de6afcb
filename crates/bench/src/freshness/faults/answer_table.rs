//! The rows behind the cached answers of the run under faults. Each has a version; one statement commits the next
//! version with an outbox row, one statement reads it.

use anyhow::{Context, ensure};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection};

use crate::database::{connect, options};
use oddsd_core::key::Key;
use oddsd_core::model::DbSnapshot;
use oddsd_store::StoreSettings;

const TABLE: &str = "
CREATE SCHEMA IF NOT EXISTS bench;
CREATE TABLE bench.answers (id integer PRIMARY KEY, version bigint NOT NULL) WITH (fillfactor = 50)";
/// Each miss uses one during its load.
const CONNECTIONS: u32 = 12;

pub struct AnswerTable {
    settings: StoreSettings,
    pool: PgPool,
}

impl AnswerTable {
    /// With `rows` rows, each at version 0.
    pub async fn create(settings: &StoreSettings, rows: usize) -> anyhow::Result<Self> {
        let mut connection = connect(settings).await?;
        connection.execute(TABLE).await?;
        sqlx::query("INSERT INTO bench.answers SELECT n, 0 FROM generate_series(0, $1 - 1) n")
            .bind(i32::try_from(rows)?)
            .execute(&mut connection)
            .await?;
        connection.close().await.ok();
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .test_before_acquire(false)
            .connect_with(options(settings)?)
            .await?;
        Ok(Self {
            settings: settings.clone(),
            pool,
        })
    }

    /// The version, and the snapshot of the statement that read it.
    pub async fn load(&self, row: usize) -> anyhow::Result<(DbSnapshot, u64)> {
        let (snapshot, version): (String, i64) = sqlx::query_as(
            "SELECT pg_current_snapshot()::text, version FROM bench.answers WHERE id = $1",
        )
        .bind(i32::try_from(row)?)
        .fetch_one(&self.pool)
        .await?;
        Ok((parse(&snapshot)?, version.cast_unsigned()))
    }

    pub async fn writer(&self) -> anyhow::Result<AnswerWriter> {
        Ok(AnswerWriter(connect(&self.settings).await?))
    }

    /// Begins a transaction that has an id.
    pub async fn open_transaction(&self) -> anyhow::Result<OpenTransaction> {
        let mut connection = connect(&self.settings).await?;
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

pub struct AnswerWriter(PgConnection);

/// A committed change.
pub struct CommittedVersion {
    pub version: u64,
    pub outbox_row: i64,
    pub transaction: u64,
    /// The snapshot of the statement that wrote it.
    pub snapshot: DbSnapshot,
}

impl AnswerWriter {
    /// Commits the next version and an outbox row with the key of its answer in one transaction.
    pub async fn commit(&mut self, row: usize, key: &Key) -> anyhow::Result<CommittedVersion> {
        let (version, outbox_row, transaction, snapshot): (i64, i64, i64, String) = sqlx::query_as(
            "WITH changed AS (UPDATE bench.answers SET version = version + 1 WHERE id = $1 RETURNING version),
                  queued AS (INSERT INTO oddsd.outbox (kinds, keys) SELECT 'manual', $2 FROM changed
                           RETURNING id, xid::text::bigint AS xid)
             SELECT version, id, xid, pg_current_snapshot()::text FROM changed, queued",
        )
        .bind(i32::try_from(row)?)
        .bind(key.as_str())
        .fetch_one(&mut self.0)
        .await?;
        Ok(CommittedVersion {
            version: version.cast_unsigned(),
            outbox_row,
            transaction: transaction.cast_unsigned(),
            snapshot: parse(&snapshot)?,
        })
    }
}

pub struct OpenTransaction {
    connection: PgConnection,
    pub id: u64,
}

impl OpenTransaction {
    /// Commits it; fails if it was not open until now.
    pub async fn end(mut self) -> anyhow::Result<()> {
        let id: i64 = sqlx::query_scalar("SELECT pg_current_xact_id()::text::bigint")
            .fetch_one(&mut self.connection)
            .await?;
        ensure!(
            id.cast_unsigned() == self.id,
            "the transaction ended too early"
        );
        self.connection.execute("COMMIT").await?;
        self.connection.close().await.ok();
        Ok(())
    }
}

fn parse(snapshot: &str) -> anyhow::Result<DbSnapshot> {
    DbSnapshot::parse(snapshot).with_context(|| format!("the server's snapshot is {snapshot:?}"))
}
