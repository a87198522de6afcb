//! The database: stored state, history, log and outbox. The services (poller, relay, auditor, HTTP API, CLI)
//! call the methods of [`Store`]; `postgres` and `sqlite` implement them and pass the same tests.
//!
//! Every write runs in a task of its own that is never cancelled: a dropped `begin()` or `commit()`
//! leaves a pooled connection in a state that loses the next write without an error. After any
//! error the caller discards its in-memory state and loads again: the outcome of that write is unknown.

mod bad_rows;
mod dialect;
mod external;
mod identity;
mod kept_settings;
mod lease;
mod load;
mod log;
mod notify;
mod outbox;
mod postgres;
mod read;
mod rows;
mod sqlite;
mod status;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

use oddsd_core::diff::Changes;
use oddsd_core::diff::stored_state::StoredState;
pub use oddsd_core::diff::{OutboxEntry, Purpose};
use oddsd_core::model::Attributes;

use bad_rows::{CommitError, CommitResult};
pub use external::{TableWatch, WatchPlan, WatchRequest};
pub use kept_settings::KeptSetting;
use lease::LEASE;
pub use lease::{AcquireResult, WriterLease};
pub use log::{LogFilter, Removal, RemovalStats};
pub use notify::{AuditEvent, CommitEvent, CommitNotifier, RowSet, SettledRows};
pub use outbox::{
    Backlog, BatchOutcome, CanaryWrite, ClaimedBatch, EventContext, OutboxRow, PriceHistory,
    RetryEntry,
};
pub use postgres::Tls;
pub use read::{CycleRow, EventPrices, PriceRow, Runner, RunnerPrice, Snapshotted, StoreStatus};
pub use status::{Correction, PriceStep, Transition};

/// One database of either backend. Cheap to clone.
#[derive(Clone)]
pub enum Store {
    Postgres(Box<postgres::Postgres>),
    Sqlite(sqlite::Sqlite),
}

#[derive(Clone, Debug)]
pub struct StoreSettings {
    pub url: SecretString,
    pub tls: Tls,
    pub max_connections: u32,
    /// The server ends a statement of ours after this long.
    pub statement_timeout: Duration,
}

/// Why the database did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The URL or the server can never work as configured: a person must act.
    #[error("{0}")]
    Misconfigured(String),
    /// Not reachable now: try again.
    #[error("cannot reach the database: {0}")]
    Down(String),
    /// The tables are missing, older or newer than this program.
    #[error("{0}")]
    Schema(String),
    /// Another daemon holds the lease: this one must not write.
    #[error("another daemon has taken the lease; this one stands by")]
    Fenced,
    /// Memory and rows disagree, or the server refused the statement: load again.
    #[error("the database refused: {0}")]
    Failed(String),
}

pub type Result<T> = std::result::Result<T, StoreError>;

/// Last-checked times by event row. The cycles collect them and the next renewal of the lease stores them.
pub type LastChecked = Arc<Mutex<HashMap<i64, DateTime<Utc>>>>;

/// The stored rows at start, and the number of the next cycle.
#[derive(Debug, Default)]
pub struct InitialState {
    pub state: StoredState,
    pub next_cycle: i64,
}

/// The metadata that a cycle is recorded with, beside its changes.
#[derive(Clone, Debug, Default)]
pub struct CycleMeta {
    pub id: i64,
    pub feed: String,
    pub races: i64,
    pub horses: i64,
    pub bookmakers: Vec<String>,
    pub fetch_ms: i64,
    pub diff_ms: i64,
}

impl CycleMeta {
    /// The columns of the cycle from `seen` to `next_price`, in their order.
    fn numbers(&self, changes: &Changes) -> [i64; 15] {
        let (counts, next) = (&changes.counts, &changes.next_ids);
        let count = |count: u64| count as i64;
        [
            count(counts.seen),
            count(counts.inserted),
            count(counts.reopened),
            count(counts.changed),
            count(counts.withdrawn),
            count(counts.unchanged),
            count(counts.stale),
            count(counts.rejected),
            count(counts.no_price),
            self.fetch_ms,
            self.diff_ms,
            next.event,
            next.selection,
            next.bookmaker,
            next.price,
        ]
    }
}

/// A cycle that was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    pub written: WriteCounts,
    /// Its outbox rows, as if they had just been claimed; `None` where they have to be claimed.
    pub outbox: Option<ClaimedBatch>,
}

/// Row counts of a commit, as the database counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteCounts {
    /// Prices inserted, and prices updated (changed, reopened, withdrawn).
    pub inserted: u64,
    pub updated: u64,
    pub events: u64,
    pub selections: u64,
    pub outbox: u64,
}

impl WriteCounts {
    /// Fails unless they are the counts of these changes: then memory and rows disagree.
    fn checked(self, changes: &Changes, entries: usize) -> Result<Self> {
        let inserted = changes.counts.inserted;
        let expected = Self {
            inserted,
            updated: changes.prices.len() as u64 - inserted,
            events: changes.events.len() as u64,
            selections: changes.selections.len() as u64,
            outbox: entries as u64,
        };
        if self == expected {
            return Ok(self);
        }
        Err(StoreError::Failed(format!(
            "the commit wrote {self:?} where {expected:?} was expected; somebody else writes to the oddsd tables"
        )))
    }
}

/// How long rows are kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    pub history: Duration,
    pub finished_events: Duration,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Row ids of the events that were deleted.
    pub events: Vec<i64>,
    pub history: u64,
    pub log: u64,
}

/// Calls the backend of this store.
macro_rules! dispatch {
    ($store:expr, $backend:ident => $call:expr) => {
        match $store {
            Store::Postgres($backend) => $call,
            Store::Sqlite($backend) => $call,
        }
    };
}
use dispatch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    Postgres,
    Sqlite,
}

impl StoreSettings {
    /// Checks the URL without a connection. Returns the database as text, never with the password:
    /// `postgres at db.example.com:5432, database odds`.
    pub fn describe(&self) -> Result<String> {
        let settings = self.with_lower_scheme();
        match self.backend()? {
            Backend::Postgres => postgres::describe(&settings),
            Backend::Sqlite => sqlite::describe(settings.url.expose_secret()),
        }
    }

    fn backend(&self) -> Result<Backend> {
        let url = self.url.expose_secret().trim();
        let (scheme, _) = url.split_once(':').unwrap_or(("", ""));
        match scheme.to_ascii_lowercase().as_str() {
            "postgres" | "postgresql" if url.contains("://") => return Ok(Backend::Postgres),
            "sqlite" => return Ok(Backend::Sqlite),
            _ => {}
        }
        let is_word = scheme.len() < 24 && !scheme.contains(['@', '/', '"', '\'']);
        let begins = match is_word && !scheme.is_empty() {
            true => format!("begins with {scheme}:"),
            false => "does not begin with the name of a database".into(),
        };
        Err(StoreError::Misconfigured(format!(
            "DATABASE_URL {begins}; write postgres://user@host:5432/name or sqlite:path/to/file.db, without quotes around it"
        )))
    }

    fn with_lower_scheme(&self) -> Self {
        let url = self.url.expose_secret().trim();
        let (scheme, rest) = url.split_once(':').unwrap_or(("", url));
        Self {
            url: format!("{}:{rest}", scheme.to_ascii_lowercase()).into(),
            ..self.clone()
        }
    }
}

impl Store {
    /// Connects once to prove the settings. Migrates nothing.
    pub async fn open(settings: &StoreSettings) -> Result<Self> {
        match settings.backend()? {
            Backend::Postgres => Ok(Self::Postgres(Box::new(
                postgres::Postgres::open(&settings.with_lower_scheme()).await?,
            ))),
            Backend::Sqlite => {
                let url = settings.with_lower_scheme().url;
                Ok(Self::Sqlite(
                    sqlite::Sqlite::open(url.expose_secret()).await?,
                ))
            }
        }
    }

    pub fn backend(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Sqlite(_) => "sqlite",
        }
    }

    /// The same database, for statements that are given up (`Down`) after `deadline`. The session of such a statement
    /// is closed, and the next one begins with a new session. SQLite has its own limits: there nothing changes.
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        match self {
            Self::Postgres(db) => Self::Postgres(Box::new(db.with_deadline(deadline))),
            Self::Sqlite(db) => Self::Sqlite(db.clone()),
        }
    }

    /// Brings the tables to this program's version; returns a line for each step. With `adopt`, tables that
    /// other programs read under the names of our views are imported and renamed.
    pub async fn migrate(&self, adopt: bool) -> Result<Vec<String>> {
        dispatch!(self, db => db.migrate(adopt, TxEnd::Commit).await)
    }

    /// Does what `migrate` does in a transaction that is rolled back.
    pub async fn dry_run_migration(&self, adopt: bool) -> Result<Vec<String>> {
        dispatch!(self, db => db.migrate(adopt, TxEnd::Rollback).await)
    }

    /// `Schema` when the tables are missing, older or newer than this program.
    pub async fn check_schema(&self) -> Result<()> {
        match self {
            Self::Postgres(db) => db.within_deadline(db.check_schema()).await,
            Self::Sqlite(db) => db.check_schema().await,
        }
    }

    pub async fn load(&self) -> Result<InitialState> {
        dispatch!(self, db => db.load().await)
    }

    /// Writes one cycle in one transaction: rows, history, cycle and outbox. A row that only the
    /// database refuses is taken out of `changes` first and counted there as rejected, so that the
    /// other rows are stored; afterwards `changes` is what was written.
    pub async fn commit(
        &self,
        lease: &WriterLease,
        cycle: &CycleMeta,
        changes: &mut Changes,
    ) -> Result<Committed> {
        let (why, refused) = match self.try_commit(lease, cycle, changes).await {
            Err(CommitError::BadValues(why)) => (why.to_string(), why),
            outcome => return outcome.map_err(CommitError::into_inner),
        };
        let dry_run = |part| async move {
            let end = TxEnd::Rollback;
            let outcome = dispatch!(self, db => db.commit(lease, cycle, &part, end).await);
            outcome.map(drop)
        };
        let excluded = bad_rows::find_bad_rows(changes, refused, dry_run).await?;
        changes.exclude(&excluded, bad_rows::REASON, &why);
        if changes.is_empty() {
            return Ok(Committed::default());
        }
        let second = self.try_commit(lease, cycle, changes).await;
        second.map_err(CommitError::into_inner)
    }

    /// Shares the changes with the task that writes, without a copy: there can be a million of them.
    async fn try_commit(
        &self,
        lease: &WriterLease,
        cycle: &CycleMeta,
        changes: &mut Changes,
    ) -> CommitResult {
        let shared = Arc::new(std::mem::take(changes));
        let outcome = dispatch!(self, db => db.commit(lease, cycle, &shared, TxEnd::Commit).await);
        *changes = Arc::into_inner(shared).expect("the task that wrote them has ended");
        outcome
    }

    /// Deletes the rows that are past their retention at `now`, or now by the database's clock if that is earlier: a
    /// clock that is ahead by mistake deletes nothing early.
    pub async fn prune(
        &self,
        lease: &WriterLease,
        keep: Retention,
        now: DateTime<Utc>,
    ) -> Result<Pruned> {
        let now = now.min(self.server_time().await?);
        dispatch!(self, db => db.prune(lease, keep, now).await)
    }

    pub async fn close(&self) {
        dispatch!(self, db => db.close().await)
    }
}

/// Facts in their stored form.
fn facts_text(facts: &Attributes) -> String {
    serde_json::to_string(facts).expect("a map of text is JSON")
}

/// How a transaction ends that succeeded: a dry run is rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TxEnd {
    Commit,
    Rollback,
}

impl TxEnd {
    async fn apply<DB: sqlx::Database>(self, tx: sqlx::Transaction<'_, DB>) -> sqlx::Result<()> {
        match self {
            Self::Commit => tx.commit().await,
            Self::Rollback => tx.rollback().await,
        }
    }
}

/// Runs a write to its end, also when its caller is cancelled.
async fn run_detached<T: Send + 'static, E: From<StoreError> + Send + 'static>(
    write: impl Future<Output = std::result::Result<T, E>> + Send + 'static,
) -> std::result::Result<T, E> {
    tokio::spawn(write).await.unwrap_or_else(|stopped| {
        let why = format!("the write did not finish: {stopped}");
        Err(StoreError::Failed(why).into())
    })
}

/// The migrations in a folder, `0001_tables.sql` and on, for a module two levels below this one.
macro_rules! migrations {
    ($folder:literal: $($version:literal $name:literal),+) => {
        $crate::Migrations(&[$((
            $version,
            $name,
            include_str!(concat!("../../../../migrations/", $folder, "/000", $version, "_", $name, ".sql")),
        )),+])
    };
}
use migrations;

/// The migrations of one backend: version, name and SQL, in order.
struct Migrations(&'static [(i64, &'static str, &'static str)]);

impl Migrations {
    fn needed(&self) -> i64 {
        self.0.last().map_or(0, |(version, ..)| *version)
    }

    fn migrator(&self, table: &'static str) -> Migrator {
        let migrations = self.0.iter().map(|(version, name, sql)| {
            let (name, sql) = ((*name).into(), sql.into_sql_str());
            Migration::new(*version, name, MigrationType::Simple, sql, false)
        });
        let mut migrator = Migrator::with_migrations(migrations.collect());
        migrator.dangerous_set_table_name(table);
        migrator
    }

    /// Fails when a newer program has been here.
    fn refuse_newer(&self, applied: &[i64]) -> Result<()> {
        match applied.last().filter(|version| **version > self.needed()) {
            None => Ok(()),
            Some(version) => Err(StoreError::Schema(format!(
                "the tables are of version {version}, newer than this program ({}); run the newer oddsd",
                self.needed()
            ))),
        }
    }

    /// Fails unless the tables fit this program.
    fn check(&self, applied: &[i64]) -> Result<()> {
        self.refuse_newer(applied)?;
        let needed = self.needed();
        match applied.last() {
            None => Err(StoreError::Schema(
                "the database has no oddsd tables yet; run `oddsd migrate`".into(),
            )),
            Some(version) if *version < needed => Err(StoreError::Schema(format!(
                "the tables are of version {version}, this program needs {needed}; run `oddsd migrate`"
            ))),
            Some(_) => Ok(()),
        }
    }

    /// A line for each migration that was not there before.
    fn report_new(&self, before: &[i64]) -> Vec<String> {
        let new = self.0.iter();
        let new = new.filter(|(version, ..)| !before.contains(version));
        new.map(|(version, name, _)| format!("applied {version:04} {name}"))
            .collect()
    }
}
