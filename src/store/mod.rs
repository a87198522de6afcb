//! The door to the database: what is stored, what changed, what readers still have to be told.
//! Two backends with the same verbs and the same suite of tests: Postgres, and SQLite in one file.
//!
//! Every write runs in a task of its own that nobody cancels: a dropped `begin()` or `commit()`
//! leaves a pooled connection in a state that loses the next write without an error. After any
//! error the caller forgets its memory and loads again: the outcome of that write is unknown.

mod log;
mod others;
mod outbox;
mod poke;
mod postgres;
mod refused;
mod rows;
mod sqlite;
mod status;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use crate::diff::Changes;
use crate::diff::book::Book;
use crate::model::{Counts, Event, EventId, Facts, Offer, PriceStatus, Selection, View};

pub use log::{Removal, RemovalStats, Wanted};
pub use others::{Asked, Installed, Watched};
use outbox::kinds_text;
pub use outbox::{
    Again, Backlog, Claim, Claimed, Left, Moved, Place, Purpose, Settlement, Touched,
};
pub use poke::{Commit, Gone, Poke, Rows, Told};
pub use postgres::Tls;
use refused::Refusal;
pub use status::{Correction, PriceStep, Transition};

/// A door to one database. Cheap to clone.
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The URL or the server can never work as set: a person must act.
    Misconfigured(String),
    /// Not reachable now: try again.
    Down(String),
    /// The tables are missing, older or newer than this program.
    Schema(String),
    /// Another daemon holds the lease: this one must not write.
    Fenced,
    /// Memory and rows disagree, or the server refused the statement: load again.
    Failed(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misconfigured(why) | Self::Schema(why) => f.write_str(why),
            Self::Down(why) => write!(f, "cannot reach the database: {why}"),
            Self::Fenced => f.write_str("another daemon has taken the lease; this one stands by"),
            Self::Failed(why) => write!(f, "the database refused: {why}"),
        }
    }
}

impl std::error::Error for StoreError {}

pub type Result<T> = std::result::Result<T, StoreError>;

/// The right to write, with its fencing number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub holder: String,
    pub epoch: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    Mine(Lease),
    HeldBy {
        holder: String,
        for_another: Duration,
    },
}

/// Last-checked times by event row, which the cycles collect and the next renewal of the lease
/// writes down.
pub type Checks = Arc<Mutex<HashMap<i64, DateTime<Utc>>>>;

/// What is stored, and the number of the next cycle.
#[derive(Debug, Default)]
pub struct Loaded {
    pub book: Book,
    pub next_cycle: i64,
}

/// What a cycle is recorded with, beside its changes.
#[derive(Clone, Debug, Default)]
pub struct CycleFacts {
    pub id: i64,
    pub feed: String,
    pub races: i64,
    pub horses: i64,
    pub bookmakers: Vec<String>,
    pub fetch_ms: i64,
    pub diff_ms: i64,
}

/// A cycle that was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    pub written: Written,
    /// Its outbox rows, as if they had just been claimed; `None` where somebody has to claim them.
    pub told: Option<Claim>,
}

/// The database's own answer after the commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Prices inserted, and prices updated (changed, reopened, withdrawn).
    pub inserted: u64,
    pub updated: u64,
    pub events: u64,
    pub selections: u64,
    pub outbox: u64,
}

impl Written {
    /// What the changes must come to, if memory and rows agree.
    fn expected(changes: &Changes, events_told: usize) -> Self {
        let inserted = changes.counts.inserted;
        Self {
            inserted,
            updated: changes.prices.len() as u64 - inserted,
            events: changes.events.len() as u64,
            selections: changes.selections.len() as u64,
            outbox: events_told as u64,
        }
    }

    fn checked(self, changes: &Changes, events_told: usize) -> Result<Self> {
        let expected = Self::expected(changes, events_told);
        if self == expected {
            return Ok(self);
        }
        Err(StoreError::Failed(format!(
            "the commit wrote {self:?} where {expected:?} was expected; somebody else writes to the oddsd tables"
        )))
    }
}

/// One cycle that changed something, as recorded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CycleRow {
    pub id: i64,
    pub feed: String,
    pub as_of: DateTime<Utc>,
    pub committed_at: DateTime<Utc>,
    pub races: i64,
    pub horses: i64,
    pub bookmakers: i64,
    #[serde(flatten)]
    pub counts: Counts,
    pub fetch_ms: i64,
    pub diff_ms: i64,
}

/// A reader's answer. `value` holds everything that `view` sees; it may hold more, where a later
/// statement of the same load saw a later commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Viewed<T> {
    pub view: View,
    pub value: T,
}

/// One selection of one listed race with its open prices: a row of the by-stage answer.
#[derive(Clone, Debug)]
pub struct Runner {
    pub event: Event,
    /// The newest write to the event, its selections or its prices.
    pub updated_at: DateTime<Utc>,
    pub selection: Selection,
    pub prices: Vec<RunnerPrice>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RunnerPrice {
    pub bookmaker: String,
    pub decimal: Decimal,
    pub fractional: Option<String>,
}

/// Every price of one event, with what it did since it opened.
#[derive(Clone, Debug)]
pub struct EventPrices {
    pub event: Event,
    pub checked_at: DateTime<Utc>,
    pub selections: Vec<Selection>,
    pub prices: Vec<PriceRow>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PriceRow {
    pub selection: String,
    pub market: String,
    pub bookmaker: String,
    pub bookmaker_name: String,
    pub offer: Offer,
    pub status: PriceStatus,
    pub observed_at: DateTime<Utc>,
    /// First, highest and lowest decimal odds in the kept history.
    pub opening: Decimal,
    pub high: Decimal,
    pub low: Decimal,
}

/// What the database knows about the daemon, for `status` from anywhere.
#[derive(Clone, Debug, Serialize)]
pub struct StoreStatus {
    pub holder: Option<String>,
    pub lease_expires_at: Option<DateTime<Utc>>,
    /// What the holder last said of itself.
    pub state: serde_json::Value,
    pub last_cycle: Option<CycleRow>,
    /// Rows that wait, and the age of the oldest. A second removal before its time and a canary are
    /// none: nobody reads an old answer because of them.
    pub outbox_pending: i64,
    pub outbox_oldest_seconds: f64,
    pub outbox_last_error: Option<String>,
    pub events: i64,
    pub open_prices: i64,
}

/// How long things are kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    pub history: Duration,
    pub finished_events: Duration,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Rows of events that were taken out.
    pub events: Vec<i64>,
    pub history: u64,
    pub log: u64,
}

/// Calls the backend that this store is.
macro_rules! on {
    ($store:expr, $inner:ident => $call:expr) => {
        match $store {
            Store::Postgres($inner) => $call,
            Store::Sqlite($inner) => $call,
        }
    };
}
use on;

/// Asks the backend; off this machine, no longer than an answer can take.
macro_rules! ask {
    ($store:expr, $inner:ident => $question:expr) => {
        match $store {
            Store::Postgres($inner) => $inner.in_time($question).await,
            Store::Sqlite($inner) => $question.await,
        }
    };
}
use ask;

impl Store {
    /// Opens the door and proves it: one connection, one question. Migrates nothing.
    pub async fn open(settings: &StoreSettings) -> Result<Self> {
        let url = settings.url.expose_secret();
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres(Box::new(
                postgres::Postgres::open(settings).await?,
            )));
        }
        if url.starts_with("sqlite:") {
            return Ok(Self::Sqlite(sqlite::Sqlite::open(url).await?));
        }
        let scheme = url
            .split(':')
            .next()
            .filter(|s| s.len() < 16 && !s.contains('@'))
            .unwrap_or("?");
        Err(StoreError::Misconfigured(format!(
            "DATABASE_URL starts with \"{scheme}:\"; use postgres://user@host:5432/name or sqlite:path/to/file.db"
        )))
    }

    pub fn backend(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Sqlite(_) => "sqlite",
        }
    }

    /// Brings the tables to this program's version; says what it did, a line each. With `adopt`,
    /// tables that other programs read under the names of our views are imported and renamed aside.
    pub async fn migrate(&self, adopt: bool) -> Result<Vec<String>> {
        on!(self, db => db.migrate(adopt, false).await)
    }

    /// What `migrate` would do, proved by doing it in a transaction that is rolled back.
    pub async fn rehearse_migration(&self, adopt: bool) -> Result<Vec<String>> {
        on!(self, db => db.migrate(adopt, true).await)
    }

    /// `Schema` when the tables are missing, older or newer than this program.
    pub async fn check_schema(&self) -> Result<()> {
        ask!(self, db => db.check_schema())
    }

    pub async fn acquire(&self, holder: &str, ttl: Duration) -> Result<Acquired> {
        on!(self, db => db.acquire(holder, ttl).await)
    }

    /// Holds the lease for another `ttl` and keeps `state` and the last-checked times with it.
    /// Says whether a correction waits. `Fenced` when somebody else has it.
    pub async fn renew(
        &self,
        lease: &Lease,
        ttl: Duration,
        state: &serde_json::Value,
        checked: &[(i64, DateTime<Utc>)],
    ) -> Result<bool> {
        on!(self, db => db.renew(lease, ttl, state, checked).await)
    }

    pub async fn release(&self, lease: &Lease) -> Result<()> {
        on!(self, db => db.release(lease).await)
    }

    pub async fn load(&self) -> Result<Loaded> {
        on!(self, db => db.load().await)
    }

    /// Writes one cycle, all of it or nothing: rows, history, cycle and outbox. A row that only the
    /// database finds fault with is taken out of `changes` first and counted there as rejected, so
    /// that it holds up no other; `changes` is what was written.
    pub async fn commit(
        &self,
        lease: &Lease,
        cycle: &CycleFacts,
        changes: &mut Changes,
    ) -> Result<Committed> {
        // Shared with the task that writes, not copied: there can be a million of them.
        let shared = Arc::new(std::mem::take(changes));
        let first = on!(self, db => db.commit(lease, cycle, &shared).await);
        *changes = sole(shared);
        let (why, refused) = match first {
            Err(Refusal::Values(why)) => (why.to_string(), why),
            outcome => return outcome.map_err(Refusal::error),
        };
        let rehearse =
            |part| async move { on!(self, db => db.rehearse(lease, cycle, &part).await) };
        let aside = refused::culprits(changes, refused, rehearse).await?;
        changes.set_aside(&aside, refused::REASON, &why);
        if changes.is_quiet() {
            return Ok(Committed::default());
        }
        let shared = Arc::new(std::mem::take(changes));
        let second = on!(self, db => db.commit(lease, cycle, &shared).await);
        *changes = sole(shared);
        second.map_err(Refusal::error)
    }

    /// Runners of the listed races that start in `[from, to)`, with their open prices.
    pub async fn runners(
        &self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Result<Viewed<Vec<Runner>>> {
        ask!(self, db => db.runners(from, to))
    }

    /// `None` for an event that is not stored.
    pub async fn event_prices(&self, event: &EventId) -> Result<Viewed<Option<EventPrices>>> {
        ask!(self, db => db.event_prices(event))
    }

    /// What a reader that begins now would see.
    pub async fn view(&self) -> Result<View> {
        ask!(self, db => db.view())
    }

    /// Cycles after this id, oldest first; `after` = -1 gives the newest `limit` ones.
    pub async fn cycles(&self, after: i64, limit: i64) -> Result<Vec<CycleRow>> {
        ask!(self, db => db.cycles(after, limit))
    }

    pub async fn status(&self) -> Result<StoreStatus> {
        ask!(self, db => db.status())
    }

    /// Takes out what is past its retention, seen from `now`.
    pub async fn prune(
        &self,
        lease: &Lease,
        keep: Retention,
        now: DateTime<Utc>,
    ) -> Result<Pruned> {
        on!(self, db => db.prune(lease, keep, now).await)
    }

    /// The database's own clock, for the check of ours.
    pub async fn clock(&self) -> Result<DateTime<Utc>> {
        ask!(self, db => db.clock())
    }

    pub async fn close(&self) {
        on!(self, db => db.close().await)
    }
}

/// A write that has ended holds nothing any more.
fn sole(shared: Arc<Changes>) -> Changes {
    Arc::into_inner(shared).expect("the write has ended")
}

/// Facts as they are stored.
fn facts_text(facts: &Facts) -> String {
    serde_json::to_string(facts).expect("a map of text is JSON")
}

/// Runs a write to its end, whatever happens to whoever waits for it.
async fn to_the_end<T: Send + 'static>(
    write: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(write).await {
        Ok(outcome) => outcome,
        Err(stopped) => Err(StoreError::Failed(format!(
            "the write did not finish: {stopped}"
        ))),
    }
}

/// Do the tables fit this program?
fn schema_verdict(applied: Option<i64>, needed: i64) -> Result<()> {
    match applied {
        None => Err(StoreError::Schema(
            "the database has no oddsd tables yet; run `oddsd migrate`".into(),
        )),
        Some(version) if version > needed => Err(too_new(version, needed)),
        Some(version) if version < needed => Err(StoreError::Schema(format!(
            "the tables are of version {version}, this program needs {needed}; run `oddsd migrate`"
        ))),
        Some(_) => Ok(()),
    }
}

fn too_new(version: i64, needed: i64) -> StoreError {
    StoreError::Schema(format!(
        "the tables are of version {version}, newer than this program ({needed}); run the newer oddsd"
    ))
}
