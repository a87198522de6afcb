//! A table of another application and a session that writes into it. `removal` and `watched` measure watches on it.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sqlx::{AssertSqlSafe, Executor, PgConnection};

use crate::database::Database;
use oddsd_core::key::Key;

/// The columns of a usual application log.
const COLUMNS: &str = "(id bigint PRIMARY KEY, user_id int NOT NULL, trig_id int NOT NULL, amount numeric, note text, \
                       at timestamptz NOT NULL DEFAULT now())";
const ROW: &str =
    "$1, ($1 % 50000)::int, ($1 % 1000)::int, $1 * 0.01, 'a note of some length ' || $1";

/// One table, and a session that writes into it.
pub struct ApplicationTable {
    connection: PgConnection,
    table: String,
    insert: String,
    next: i64,
}

impl ApplicationTable {
    /// An empty one; `table` is a plain name of the schema bench.
    pub async fn create(db: &Database, table: &str) -> anyhow::Result<Self> {
        let mut connection = db.connect().await?;
        let table = format!("bench.{table}");
        let make = format!(
            "CREATE SCHEMA IF NOT EXISTS bench; DROP TABLE IF EXISTS {table}; CREATE TABLE {table} {COLUMNS}; \
             CREATE INDEX ON {table} (user_id); CREATE INDEX ON {table} (trig_id)"
        );
        connection.execute(AssertSqlSafe(make)).await?;
        let insert =
            format!("INSERT INTO {table} (id, user_id, trig_id, amount, note) VALUES ({ROW})");
        Ok(Self {
            connection,
            table,
            insert,
            next: 0,
        })
    }

    pub fn name(&self) -> &str {
        &self.table
    }

    /// Inserts one row in a transaction of its own; returns the time until the confirmation.
    pub async fn insert(&mut self) -> anyhow::Result<Duration> {
        self.next += 1;
        // Prepared at the first call, as in an application.
        let insert = sqlx::query(AssertSqlSafe(self.insert.clone()));
        let began = Instant::now();
        insert.bind(self.next).execute(&mut self.connection).await?;
        Ok(began.elapsed())
    }

    /// Inserts `rows` rows into the empty table in one statement.
    pub async fn insert_all(&mut self, rows: i64) -> anyhow::Result<Duration> {
        let one = ROW.replace("$1", "n");
        self.all(
            format!(
                "INSERT INTO {} (id, user_id, trig_id, amount, note) SELECT {one} FROM generate_series(1::bigint, {rows}) n",
                self.table
            ),
            rows,
        )
        .await
    }

    pub async fn update_all(&mut self, rows: i64) -> anyhow::Result<Duration> {
        let update = format!("UPDATE {} SET amount = amount + 1", self.table);
        self.all(update, rows).await
    }

    async fn all(&mut self, statement: String, rows: i64) -> anyhow::Result<Duration> {
        self.connection.execute("CHECKPOINT").await.ok();
        let began = Instant::now();
        let done = self.connection.execute(AssertSqlSafe(statement)).await?;
        let took = began.elapsed();
        ensure!(
            done.rows_affected() == rows as u64,
            "{} of {rows} rows were written",
            done.rows_affected()
        );
        Ok(took)
    }

    /// Inserts a row and, in the same transaction, an outbox row with the key that it makes wrong.
    pub async fn insert_with_key(&mut self, key: &Key) -> anyhow::Result<()> {
        self.next += 1;
        let both = format!(
            "WITH reported AS (INSERT INTO oddsd.outbox (kinds, keys) VALUES ('manual', $2)) {}",
            self.insert
        );
        sqlx::query(AssertSqlSafe(both))
            .bind(self.next)
            .bind(key.as_str())
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    /// Deletes the outbox rows; returns their number and the detail of the last one.
    pub async fn take_reports(&mut self) -> anyhow::Result<(i64, String)> {
        let take = "WITH gone AS (DELETE FROM oddsd.outbox RETURNING id, detail)
                    SELECT count(*), coalesce((array_agg(detail ORDER BY id DESC))[1], '') FROM gone";
        let taken = sqlx::query_as(take).fetch_one(&mut self.connection).await;
        taken.context("cannot take the outbox rows")
    }

    /// The drop itself is reported, too.
    pub async fn drop(mut self) -> anyhow::Result<()> {
        let drop = format!("DROP TABLE {}; DELETE FROM oddsd.outbox", self.table);
        self.connection.execute(AssertSqlSafe(drop)).await?;
        Ok(())
    }
}
