//! SQLite: one file, one writer connection, a few readers. The embedded default: it starts with
//! nothing, and gives the same answers as Postgres to the same suite of tests.

mod commit;
mod log;
mod outbox;
mod read;
mod report;
mod status;

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::migrate::{Migrate, Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{SqlSafeStr, SqliteConnection};

use super::{Acquired, Lease, Result, StoreError, schema_verdict, to_the_end, too_new};

const LEASE: &str = "writer";
/// How long a statement waits for another process that holds the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// "Last checked" only moves forward.
const CHECKED: &str = "INSERT INTO checks (event_id, checked_at) VALUES (?1, ?2)
    ON CONFLICT (event_id) DO UPDATE SET checked_at = max(checked_at, excluded.checked_at)";
const READERS: u32 = 4;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

const MIGRATIONS: &[(i64, &str, &str)] = &[
    (
        1,
        "tables",
        include_str!("../../../migrations/sqlite/0001_tables.sql"),
    ),
    (
        2,
        "counts",
        include_str!("../../../migrations/sqlite/0002_counts.sql"),
    ),
    (
        3,
        "canary",
        include_str!("../../../migrations/sqlite/0003_canary.sql"),
    ),
    (
        4,
        "rules",
        include_str!("../../../migrations/sqlite/0004_rules.sql"),
    ),
    (
        5,
        "status",
        include_str!("../../../migrations/sqlite/0005_status.sql"),
    ),
];

#[derive(Clone)]
pub struct Sqlite {
    /// One connection: writers inside the process queue here instead of colliding on the file.
    writer: SqlitePool,
    readers: SqlitePool,
}

/// SQLite has no clock of its own that keeps microseconds: ours is the database's.
fn now() -> i64 {
    Utc::now().timestamp_micros()
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4)
}

impl Sqlite {
    pub async fn open(url: &str) -> Result<Self> {
        if url.contains(":memory:") || url.contains("mode=memory") {
            return Err(StoreError::Misconfigured(
                "an SQLite database in memory would be another one for each connection; name a file: \
                 sqlite:path/to/file.db"
                    .into(),
            ));
        }
        let options = SqliteConnectOptions::from_str(url)
            // Its own words quote what they do not understand.
            .map_err(|_| {
                StoreError::Misconfigured(
                    "DATABASE_URL is not an SQLite URL; the form is sqlite:path/to/file.db".into(),
                )
            })?
            .create_if_missing(true)
            // WAL: readers do not wait for the writer. Not sqlx's default.
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options.clone())
            .await
            .map_err(|error| {
                StoreError::Misconfigured(format!(
                    "cannot open {}: {}; check that the folder exists and can be written",
                    options.get_filename().display(),
                    explain(error)
                ))
            })?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(options.read_only(true));
        Ok(Self { writer, readers })
    }

    /// A write transaction. IMMEDIATE: a deferred one that turns to writing fails without waiting.
    async fn begin(&self) -> Result<sqlx::Transaction<'static, sqlx::Sqlite>> {
        self.writer
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(explain)
    }

    pub async fn migrate(&self, adopt: bool, rehearse: bool) -> Result<Vec<String>> {
        let db = self.clone();
        to_the_end(async move {
            // One transaction around all of it: two that migrate at once take turns.
            let mut tx = db.begin().await?;
            let before = applied(&mut tx).await?;
            if let Some(newer) = before.last().filter(|version| **version > needed()) {
                return Err(too_new(*newer, needed()));
            }
            let done = migrator().run_direct(None, &mut *tx, false).await;
            done.map_err(|error| {
                StoreError::Schema(format!(
                    "the tables cannot be brought to this version: {error}; nothing was touched"
                ))
            })?;
            let ended = if rehearse {
                tx.rollback().await
            } else {
                tx.commit().await
            };
            ended.map_err(explain)?;
            let new = MIGRATIONS
                .iter()
                .filter(|(version, ..)| !before.contains(version));
            let mut said: Vec<String> = new
                .map(|(version, name, _)| format!("applied {version:04} {name}"))
                .collect();
            if adopt {
                said.push("an SQLite file has no tables of other programs to adopt".into());
            }
            Ok(said)
        })
        .await
    }

    pub async fn check_schema(&self) -> Result<()> {
        let applied = applied(&mut *self.writer.acquire().await.map_err(explain)?).await?;
        schema_verdict(applied.last().copied(), needed())
    }

    pub async fn acquire(&self, holder: &str, ttl: Duration) -> Result<Acquired> {
        let (db, holder) = (self.clone(), holder.to_owned());
        to_the_end(async move {
            let mut tx = db.begin().await?;
            let taken: Option<i64> = sqlx::query_scalar(
                "INSERT INTO leases (name, holder, epoch, expires_at) VALUES (?1, ?2, 1, ?3)
                 ON CONFLICT (name) DO UPDATE SET holder = ?2, epoch = epoch + 1, expires_at = ?3
                 WHERE expires_at <= ?4 OR holder = ?2
                 RETURNING epoch",
            )
            .bind(LEASE)
            .bind(&holder)
            .bind(now() + micros(ttl))
            .bind(now())
            .fetch_optional(&mut *tx)
            .await
            .map_err(explain)?;
            if let Some(epoch) = taken {
                tx.commit().await.map_err(explain)?;
                return Ok(Acquired::Mine(Lease { holder, epoch }));
            }
            let (holder, until): (String, i64) =
                sqlx::query_as("SELECT holder, expires_at FROM leases WHERE name = ?1")
                    .bind(LEASE)
                    .fetch_one(&mut *tx)
                    .await
                    .map_err(explain)?;
            let left = u64::try_from(until - now()).unwrap_or(0);
            Ok(Acquired::HeldBy {
                holder,
                for_another: Duration::from_micros(left),
            })
        })
        .await
    }

    pub async fn renew(
        &self,
        lease: &Lease,
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
        to_the_end(async move {
            let mut tx = db.begin().await?;
            let held = sqlx::query("UPDATE leases SET expires_at = ?4, state = ?5 WHERE name = ?1 AND holder = ?2 AND epoch = ?3")
                .bind(LEASE)
                .bind(&lease.holder)
                .bind(lease.epoch)
                .bind(now() + micros(ttl))
                .bind(&state)
                .execute(&mut *tx)
                .await
                .map_err(explain)?;
            if held.rows_affected() == 0 {
                return Err(StoreError::Fenced);
            }
            for (event, at) in checked {
                sqlx::query(CHECKED)
                    .bind(event)
                    .bind(at.timestamp_micros())
                    .execute(&mut *tx)
                    .await
                    .map_err(explain)?;
            }
            let corrected: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT 1 FROM corrections WHERE applied_at IS NULL)",
            )
            .fetch_one(&mut *tx)
            .await
            .map_err(explain)?;
            tx.commit().await.map_err(explain)?;
            Ok(corrected)
        })
        .await
    }

    pub async fn release(&self, lease: &Lease) -> Result<()> {
        let (db, lease) = (self.clone(), lease.clone());
        to_the_end(async move {
            sqlx::query(
                "UPDATE leases SET expires_at = ?4 WHERE name = ?1 AND holder = ?2 AND epoch = ?3",
            )
            .bind(LEASE)
            .bind(&lease.holder)
            .bind(lease.epoch)
            .bind(now())
            .execute(&db.writer)
            .await
            .map(drop)
            .map_err(explain)
        })
        .await
    }

    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Row numbers as a JSON array: SQLite's way to take a list as one parameter.
fn ids(rows: &[i64]) -> String {
    serde_json::to_string(rows).expect("numbers are JSON")
}

fn needed() -> i64 {
    MIGRATIONS.last().map_or(0, |(version, ..)| *version)
}

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().map(|(version, name, sql)| {
        Migration::new(
            *version,
            (*name).into(),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    migrator.dangerous_set_table_name("migrations");
    migrator
}

async fn applied(connection: &mut SqliteConnection) -> Result<Vec<i64>> {
    let known: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'migrations')")
            .fetch_one(&mut *connection)
            .await
            .map_err(explain)?;
    if !known {
        return Ok(Vec::new());
    }
    let applied = connection.list_applied_migrations("migrations").await;
    let applied = applied
        .map_err(|error| StoreError::Schema(format!("table migrations cannot be read: {error}")))?;
    Ok(applied.iter().map(|migration| migration.version).collect())
}

fn explain(error: sqlx::Error) -> StoreError {
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
