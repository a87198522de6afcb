//! The SQLite backend: one file, one writer connection, a few readers. It is the default, which needs no
//! server. `Store` calls it, and it passes the same tests as Postgres.

mod commit;
mod file;
mod outbox;
mod prune;

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::migrate::Migrate;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection, SqliteConnection};

use super::dialect::{Arg, DbConnection, args, only_row, sqlite_query};
use super::lease::LEASE;
use super::load::load;
use super::rows::StoredRow;
use super::{
    InitialState, Migrations, Result, StoreError, TxEnd, WriterLease, migrations, run_detached,
};
use file::OpenFile;

/// The snapshot in the text form of Postgres: the highest outbox row that was ever committed. Writers take
/// turns, so these rows are numbered in the order of the commits.
pub(super) const SNAPSHOT: &str = "(SELECT printf('%d:%d:', n, n) FROM (\
     SELECT coalesce(max(seq), 0) + 1 AS n FROM sqlite_sequence WHERE name = 'outbox'))";
/// How long a statement waits for another process that holds the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// A last-checked time only grows, unless a wrong clock has set it ahead.
const CHECKED: &str = "INSERT INTO checks (event_id, checked_at) VALUES ($1, $2)
    ON CONFLICT (event_id) DO UPDATE SET checked_at = excluded.checked_at
    WHERE checked_at < excluded.checked_at OR checked_at > now()";
const READERS: u32 = 4;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

const TABLE: &str = "migrations";
const MIGRATIONS: Migrations = migrations!("sqlite": 1 "tables", 2 "counts", 3 "canary", 4 "rules", 5 "status", 6 "kept_settings", 7 "database_id");

#[derive(Clone)]
pub struct Sqlite {
    /// One connection: writers inside the process queue here instead of colliding on the file.
    writer: SqlitePool,
    readers: SqlitePool,
    file: OpenFile,
}

/// SQLite has no clock with microseconds, so this process's clock is the database's.
pub(super) fn now() -> i64 {
    Utc::now().timestamp_micros()
}

pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4)
}

fn options(url: &str) -> Result<SqliteConnectOptions> {
    if url.contains(":memory:") || url.contains("mode=memory") {
        return Err(StoreError::Misconfigured(
            "an SQLite database in memory would be another one for each connection; name a file: \
             sqlite:path/to/file.db"
                .into(),
        ));
    }
    // The driver's error would quote the URL.
    SqliteConnectOptions::from_str(url).map_err(|_| {
        StoreError::Misconfigured(
            "DATABASE_URL is not an SQLite URL; the form is sqlite:path/to/file.db".into(),
        )
    })
}

/// After SQLite has rolled a transaction back by itself (a full disk, an I/O error), the driver's own rollback fails, and
/// the driver believes for ever that the transaction is open (sqlx 0.9.0). Such a connection is closed.
fn pool() -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_release(|connection, _| {
            Box::pin(async move {
                // Answered after the rollback that a dropped transaction has queued.
                connection.ping().await?;
                Ok(!connection.is_in_transaction())
            })
        })
}

/// The file that the URL names.
pub fn describe(url: &str) -> Result<String> {
    Ok(format!(
        "sqlite file {}",
        options(url)?.get_filename().display()
    ))
}

impl Sqlite {
    pub async fn open(url: &str) -> Result<Self> {
        let options = options(url)?
            .create_if_missing(true)
            // WAL: readers do not wait for the writer. Not sqlx's default.
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT);
        let path = options.get_filename().to_owned();
        let cannot_open = |why: StoreError| {
            StoreError::Misconfigured(format!(
                "cannot open {}: {why}; check that the folder exists and can be written",
                path.display()
            ))
        };
        let writer = pool().max_connections(1).connect_with(options.clone());
        let writer = writer
            .await
            .map_err(|error| cannot_open(map_error(error)))?;
        let file = OpenFile::at(path.clone());
        let file = file.map_err(|error| cannot_open(map_error(error.into())))?;
        // Only the first connection may create the file.
        let options = options.create_if_missing(false);
        writer.set_connect_options(options.clone());
        let readers = pool()
            .max_connections(READERS)
            .connect_lazy_with(options.read_only(true));
        Ok(Self {
            writer,
            readers,
            file,
        })
    }

    pub async fn reader(&self) -> Result<PoolConnection<sqlx::Sqlite>> {
        self.file.check()?;
        self.readers.acquire().await.map_err(map_error)
    }

    pub async fn read(&self, sql: impl Into<String>, args: Vec<Arg>) -> Result<Vec<StoredRow>> {
        fetch(&mut *self.reader().await?, sql, args).await
    }

    /// Runs one statement that is a transaction of its own, to its end. Returns the rows of its RETURNING.
    pub async fn write(&self, sql: impl Into<String>, args: Vec<Arg>) -> Result<Vec<StoredRow>> {
        let (db, sql) = (self.clone(), sql.into());
        run_detached(async move { fetch(&mut *db.writer().await?, sql, args).await }).await
    }

    /// Names the file on this machine.
    pub fn file_identity(&self) -> String {
        self.file.identity()
    }

    async fn writer(&self) -> Result<PoolConnection<sqlx::Sqlite>> {
        self.file.check()?;
        self.writer.acquire().await.map_err(map_error)
    }

    /// A write transaction. IMMEDIATE: a deferred one that turns to writing fails without waiting.
    async fn begin(&self) -> Result<sqlx::Transaction<'static, sqlx::Sqlite>> {
        self.file.check()?;
        self.writer
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(map_error)
    }

    pub(crate) async fn migrate(&self, adopt: bool, end: TxEnd) -> Result<Vec<String>> {
        let db = self.clone();
        run_detached(async move {
            // One transaction around all of it: two that migrate at once take turns.
            let mut tx = db.begin().await?;
            let before = applied(&mut tx).await?;
            MIGRATIONS.refuse_newer(&before)?;
            let migrator = MIGRATIONS.migrator(TABLE);
            let done = migrator.run_direct(None, &mut *tx, false).await;
            done.map_err(|error| {
                StoreError::Schema(format!(
                    "the tables cannot be brought to this version: {error}; nothing was touched"
                ))
            })?;
            end.apply(tx).await.map_err(map_error)?;
            let mut report = MIGRATIONS.report_new(&before);
            if adopt {
                report.push("an SQLite file has no tables of other programs to adopt".into());
            }
            Ok(report)
        })
        .await
    }

    pub async fn check_schema(&self) -> Result<()> {
        let mut writer = self.writer().await?;
        MIGRATIONS.check(&applied(&mut writer).await?)
    }

    pub async fn renew(
        &self,
        lease: &WriterLease,
        ttl: Duration,
        state: &serde_json::Value,
        checked: &[(i64, DateTime<Utc>)],
    ) -> Result<bool> {
        let (db, lease, state, checked) = (
            self.clone(),
            lease.clone(),
            state.to_string(),
            checked.to_vec(),
        );
        run_detached(async move {
            let mut tx = db.begin().await?;
            let renew = "UPDATE leases SET expires_at = now() + $4, state = $5 WHERE name = $1 AND holder = $2 AND epoch = $3";
            let args = args![LEASE, &lease.holder, lease.epoch, ttl, state];
            if execute(&mut tx, renew, args).await? == 0 {
                return Err(StoreError::Fenced);
            }
            for (event, at) in checked {
                execute(&mut tx, CHECKED, args![event, at]).await?;
            }
            let corrected =
                "SELECT EXISTS (SELECT 1 FROM corrections WHERE applied_at IS NULL) AS corrected";
            let corrected = only_row(fetch(&mut tx, corrected, args![]).await?)?.get("corrected")?;
            tx.commit().await.map_err(map_error)?;
            Ok(corrected)
        })
        .await
    }

    /// In a task of its own: a dropped `begin()` would leave a reader in an old snapshot.
    pub async fn load(&self) -> Result<InitialState> {
        let db = self.clone();
        run_detached(async move {
            // A deferred read transaction: one snapshot for all statements.
            let mut reader = db.reader().await?;
            let mut tx = reader.begin().await.map_err(map_error)?;
            load(DbConnection::Sqlite(&mut tx)).await
        })
        .await
    }

    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

async fn fetch(
    connection: &mut SqliteConnection,
    sql: impl Into<String>,
    args: Vec<Arg>,
) -> Result<Vec<StoredRow>> {
    DbConnection::Sqlite(connection).fetch(sql, &args).await
}

/// Runs one statement of a transaction; returns the number of rows affected.
async fn execute(connection: &mut SqliteConnection, sql: &str, args: Vec<Arg>) -> Result<u64> {
    let done = sqlite_query(sql, &args).execute(connection).await;
    Ok(done.map_err(map_error)?.rows_affected())
}

/// `Fenced` unless the lease is held.
async fn check_lease(connection: &mut SqliteConnection, lease: &WriterLease) -> Result<()> {
    let held = "SELECT 1 FROM leases WHERE name = $1 AND holder = $2 AND epoch = $3";
    let args = args![LEASE, &lease.holder, lease.epoch];
    match fetch(connection, held, args).await?.is_empty() {
        true => Err(StoreError::Fenced),
        false => Ok(()),
    }
}

async fn applied(connection: &mut SqliteConnection) -> Result<Vec<i64>> {
    let known: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'migrations')")
            .fetch_one(&mut *connection)
            .await
            .map_err(map_error)?;
    if !known {
        return Ok(Vec::new());
    }
    let applied = connection.list_applied_migrations(TABLE).await;
    let applied = applied
        .map_err(|error| StoreError::Schema(format!("table migrations cannot be read: {error}")))?;
    Ok(applied.iter().map(|migration| migration.version).collect())
}

pub(super) fn map_error(error: sqlx::Error) -> StoreError {
    match &error {
        sqlx::Error::Database(refused) => {
            let (message, code) = (refused.message(), refused.code().unwrap_or_default());
            // The primary code is the low byte: 5 busy, 6 locked, 8 read-only, 13 full, 14 cannot open, 26 not a database.
            match code.parse::<u32>().unwrap_or(0) & 0xff {
                5 | 6 => StoreError::Down(format!("another process holds the file ({message})")),
                13 => StoreError::Down(format!("the disk is full ({message}); free some space")),
                8 | 14 | 26 => StoreError::Misconfigured(format!(
                    "the database file cannot be used ({message}); check DATABASE_URL and the file's rights"
                )),
                1 if message.contains("no such table") => StoreError::Schema(format!(
                    "{message}; run `oddsd migrate` to bring the tables to this version"
                )),
                _ => StoreError::Failed(format!("{message} ({code})")),
            }
        }
        sqlx::Error::Io(io) => StoreError::Down(io.to_string()),
        sqlx::Error::PoolTimedOut => StoreError::Down("no connection became free in time".into()),
        sqlx::Error::PoolClosed => {
            StoreError::Down("the connections were closed; oddsd is shutting down".into())
        }
        _ => StoreError::Failed(error.to_string()),
    }
}
