//! The Postgres backend: its connection pool and the limits on every wait.
//! `Store` calls it; each module beside holds the statements of one task.

mod adopt;
mod commit;
mod connect;
mod error;
mod grants;
mod lease;
mod listen;
mod load;
mod migrate;
mod outbox;
mod partitions;
mod prune;
mod statement;
mod views;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::pool::{PoolConnection, PoolConnectionMetadata};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};

use super::dialect::{Arg, DbConnection};
use super::lease::LEASE;
use super::rows::StoredRow;
use super::{Result, StoreError, StoreSettings, run_detached};
use connect::connect;

pub use connect::Tls;
pub(super) use error::map_error;

const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// The pool retries a refused connection until its timeout and then hides the reason: after this wait,
/// a direct connection finds the reason.
const PROBE_AFTER: Duration = Duration::from_millis(250);
/// A session that holds a transaction open without working is ended by the server.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(30);
/// The server ends a statement at its timeout and reports it. When no report arrives within this time,
/// the connection is lost.
const ANSWER_GRACE: Duration = Duration::from_secs(5);
/// A session that was idle for longer is pinged before it is used.
const PING_AFTER_IDLE: Duration = Duration::from_secs(30);
/// A read that takes longer is given up when another session turns out to hang: otherwise the reads that hang as well
/// would keep all connections until their own deadline.
const READ_PATIENCE: Duration = Duration::from_secs(1);
/// `on` in a session whose server or role allows no writes: a standby, a primary that has become one, a default.
const READ_ONLY: &str = "SELECT current_setting('transaction_read_only')";

#[derive(Clone)]
pub struct Postgres {
    pool: PgPool,
    options: Arc<PgConnectOptions>,
    retired: RetiredSessions,
    days: partitions::KnownDays,
    /// How many sessions were opened.
    opened: tokio::sync::watch::Sender<u64>,
    /// Longest wait for one answer.
    deadline: Duration,
}

/// The moment up to which opened sessions are closed instead of used again. When one session hangs, was ended by
/// the server or refuses writes, the others of its age most likely do as well (a failover, a network that lost its
/// connections), and each would cost one failure more.
#[derive(Clone, Default)]
struct RetiredSessions {
    opened_until: tokio::sync::watch::Sender<Option<Instant>>,
    /// Signals that a session did not answer.
    hung: tokio::sync::watch::Sender<()>,
}

impl RetiredSessions {
    /// Retires the sessions that are open now.
    fn retire_open(&self) {
        self.opened_until.send_replace(Some(Instant::now()));
    }

    fn contains(&self, session: &PoolConnectionMetadata) -> bool {
        let until = *self.opened_until.borrow();
        until.is_some_and(|until| until.elapsed() <= session.age)
    }

    /// Returns when a session has hung since the call, and not before `READ_PATIENCE`.
    async fn until_hung(&self) {
        let mut hung = self.hung.subscribe();
        tokio::time::sleep(READ_PATIENCE).await;
        if hung.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// Host, port and name of the database that the settings name.
pub fn describe(settings: &StoreSettings) -> Result<String> {
    let options = connect::connect_options(settings)?;
    let host = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    let database = options.get_database().unwrap_or(options.get_username());
    Ok(format!("postgres at {host}, database {database}"))
}

impl Postgres {
    pub async fn open(settings: &StoreSettings) -> Result<Self> {
        let options = connect::connect_options(settings)?;
        // A direct connection first: the pool would report a timeout where this reports the cause.
        let mut direct = connect(&options).await?;
        connect::refuse_transaction_pooler(&mut direct, &options).await?;
        direct.close().await.ok();

        let statement_ms = settings.statement_timeout.as_millis();
        let idle_ms = IDLE_IN_TRANSACTION.as_millis();
        let deadline = settings.statement_timeout + ANSWER_GRACE;
        let retired = RetiredSessions::default();
        let (before_use, after_use) = (retired.clone(), retired.clone());
        let opened = tokio::sync::watch::Sender::new(0);
        let after_open = opened.clone();
        let pool = PgPoolOptions::new()
            .max_connections(settings.max_connections.max(2))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(move |connection, meta| {
                let retired = before_use.clone();
                Box::pin(async move {
                    if retired.contains(&meta) {
                        return Ok(false);
                    }
                    if meta.idle_for > PING_AFTER_IDLE && answers(connection.ping()).await.is_err()
                    {
                        retired.retire_open();
                        return Ok(false);
                    }
                    Ok(true)
                })
            })
            .after_connect(move |connection, _| {
                after_open.send_modify(|count| *count += 1);
                Box::pin(async move {
                    // Set here and not as start-up options, which some poolers refuse. Below `error` the
                    // server only reports that a ROLLBACK had nothing to roll back. No statement is
                    // worth JIT compilation. A custom plan for ten thousand changes would read a
                    // million prices; the generic plan uses the index.
                    let limits = format!(
                        "SET statement_timeout = {statement_ms}; SET client_min_messages = error; SET jit = off; \
                         SET plan_cache_mode = force_generic_plan; \
                         SET idle_in_transaction_session_timeout = {idle_ms}"
                    );
                    connection.execute(AssertSqlSafe(limits)).await.map(drop)
                })
            })
            // A dropped `begin()` can leave a transaction open in a pooled session, and the next
            // write would be lost with it (sqlx 0.8.6 and 0.9.0).
            .after_release(move |connection, meta| {
                let retired = after_use.clone();
                Box::pin(async move {
                    if retired.contains(&meta) {
                        return Ok(false);
                    }
                    let reset = AssertSqlSafe(format!("ROLLBACK; {READ_ONLY}"));
                    let read_only = match answers(connection.fetch_one(reset)).await {
                        Ok(row) => row.try_get::<String, _>(0)? == "on",
                        Err(why) => {
                            retired.retire_open();
                            return Err(why);
                        }
                    };
                    if read_only {
                        retired.retire_open();
                    }
                    Ok(!read_only)
                })
            })
            .connect_lazy_with(options.clone());
        Ok(Self {
            pool,
            options: Arc::new(options),
            retired,
            days: partitions::KnownDays::default(),
            opened,
            deadline,
        })
    }

    /// A connection from the pool; when there is none, the server's own reason.
    pub async fn connection(&self) -> Result<PoolConnection<sqlx::Postgres>> {
        let waiting = self.pool.acquire();
        tokio::pin!(waiting);
        let acquired = match tokio::time::timeout(PROBE_AFTER, &mut waiting).await {
            Ok(acquired) => acquired,
            Err(_) => {
                // Rare, and its future is large: every statement would carry it.
                let probe = async {
                    connect(&self.options).await?.close().await.ok();
                    Ok::<_, StoreError>(())
                };
                Box::pin(probe).await?;
                waiting.await
            }
        };
        acquired.map_err(|error| match error {
            sqlx::Error::PoolTimedOut => StoreError::Down(
                "all connections are busy; raise DATABASE_MAX_CONNECTIONS or find the slow query"
                    .into(),
            ),
            error => map_error(error),
        })
    }

    pub fn opened_sessions(&self) -> tokio::sync::watch::Receiver<u64> {
        self.opened.subscribe()
    }

    /// The same pool, with at most this wait for one answer.
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self {
            deadline: self.deadline.min(deadline),
            ..self.clone()
        }
    }

    /// Waits for an answer as long as the server may take for it.
    pub async fn within_deadline<T, E: From<StoreError>>(
        &self,
        work: impl Future<Output = std::result::Result<T, E>>,
    ) -> std::result::Result<T, E> {
        self.within(self.deadline, work).await
    }

    /// A session that does not answer in time is closed, and the sessions of its age with it.
    async fn within<T, E: From<StoreError>>(
        &self,
        deadline: Duration,
        work: impl Future<Output = std::result::Result<T, E>>,
    ) -> std::result::Result<T, E> {
        // In a box, so that the callers' futures do not hold a second one of this size.
        let mut work = Box::pin(work);
        let answer = tokio::time::timeout(deadline, &mut work).await;
        answer.unwrap_or_else(|_| {
            // Before the session is released, so that it is not asked for a ROLLBACK first.
            self.retired.retire_open();
            self.retired.hung.send_replace(());
            drop(work);
            let why = format!(
                "no answer within {} s, not even to say that it takes too long; whether a write went through is \
                 unknown. Check the network and the server",
                deadline.as_secs()
            );
            Err(StoreError::Down(why).into())
        })
    }

    pub async fn read(&self, sql: impl Into<String>, args: Vec<Arg>) -> Result<Vec<StoredRow>> {
        let reading = self.within_deadline(self.fetch(sql.into(), args));
        tokio::select! {
            biased;
            rows = reading => rows,
            () = self.retired.until_hung() => Err(StoreError::Down(
                "no answer, and another session hangs as well. Check the network and the server".into(),
            )),
        }
    }

    /// Runs one statement to its end, also when the caller is cancelled.
    pub async fn write(&self, sql: impl Into<String>, args: Vec<Arg>) -> Result<Vec<StoredRow>> {
        let (db, sql) = (self.clone(), sql.into());
        self.run_detached(async move { db.fetch(sql, args).await })
            .await
    }

    async fn fetch(&self, sql: String, args: Vec<Arg>) -> Result<Vec<StoredRow>> {
        let mut connection = self.connection().await?;
        DbConnection::Postgres(&mut connection)
            .fetch(sql, &args)
            .await
    }

    fn run_detached<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        write: impl Future<Output = std::result::Result<T, E>> + Send + 'static,
    ) -> impl Future<Output = std::result::Result<T, E>> {
        let (db, write) = (self.clone(), Box::pin(write));
        run_detached(async move { db.within_deadline(write).await })
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// For the pool's own statements: a session that does not answer is given up.
async fn answers<T>(
    statement: impl Future<Output = std::result::Result<T, sqlx::Error>>,
) -> std::result::Result<T, sqlx::Error> {
    let timed_out = |_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()));
    tokio::time::timeout(ANSWER_GRACE, statement)
        .await
        .unwrap_or_else(timed_out)
}

/// Runs SQL text that this program generated; returns the number of rows affected.
async fn execute(connection: &mut PgConnection, sql: String) -> Result<u64> {
    let done = connection.execute(AssertSqlSafe(sql)).await;
    Ok(done.map_err(map_error)?.rows_affected())
}
