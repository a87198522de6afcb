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
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

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

#[derive(Clone)]
pub struct Postgres {
    pool: PgPool,
    options: Arc<PgConnectOptions>,
    days: partitions::KnownDays,
    /// Longest wait for one answer.
    deadline: Duration,
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
        let pool = PgPoolOptions::new()
            .max_connections(settings.max_connections.max(2))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    let was_idle = meta.idle_for > PING_AFTER_IDLE;
                    Ok(!was_idle || answers(connection.ping()).await.is_ok())
                })
            })
            .after_connect(move |connection, _| {
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
            .after_release(|connection, _| {
                Box::pin(async move { answers(connection.execute("ROLLBACK")).await.map(|_| true) })
            })
            .connect_lazy_with(options.clone());
        Ok(Self {
            pool,
            options: Arc::new(options),
            days: partitions::KnownDays::default(),
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

    /// Waits for an answer as long as the server may take for it.
    pub async fn within_deadline<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        within(self.deadline, work).await
    }

    pub async fn read(&self, sql: impl Into<String>, args: Vec<Arg>) -> Result<Vec<StoredRow>> {
        self.within_deadline(async {
            let mut connection = self.connection().await?;
            DbConnection::Postgres(&mut connection)
                .fetch(sql, &args)
                .await
        })
        .await
    }

    /// As `read`, to its end, also when the caller is cancelled.
    pub async fn write(&self, sql: impl Into<String>, args: Vec<Arg>) -> Result<Vec<StoredRow>> {
        let (db, sql) = (self.clone(), sql.into());
        run_detached(async move { db.read(sql, args).await }).await
    }

    async fn run_detached<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        write: impl Future<Output = std::result::Result<T, E>> + Send + 'static,
    ) -> std::result::Result<T, E> {
        run_detached(within(self.deadline, write)).await
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }
}

async fn within<T, E: From<StoreError>>(
    deadline: Duration,
    work: impl Future<Output = std::result::Result<T, E>>,
) -> std::result::Result<T, E> {
    // In a box, so that the callers' futures do not hold a second one of this size.
    let answer = tokio::time::timeout(deadline, Box::pin(work)).await;
    answer.unwrap_or_else(|_| {
        let why = format!(
            "no answer within {} s, not even to say that it takes too long; whether a write went through is \
             unknown. Check the network and the server",
            deadline.as_secs()
        );
        Err(StoreError::Down(why).into())
    })
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
