//! Postgres: the connections, and how long anything may wait for them.

mod adopt;
mod commit;
mod connect;
mod days;
mod explain;
mod lease;
mod listen;
mod load;
mod log;
mod migrate;
mod outbox;
mod read;
mod report;
mod rights;
mod staging;
mod statement;
mod status;
mod views;
mod watch;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor};

use super::{Result, StoreError, StoreSettings, to_the_end};
use connect::connect;
use explain::explain;

pub use connect::Tls;

/// The one writer.
const LEASE: &str = "writer";
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// The pool retries a refused connection until its timeout and then hides the reason: when it has
/// none by then, a connection of our own asks the server why.
const ASK_WHY_AFTER: Duration = Duration::from_millis(250);
/// A session that holds a transaction open without working is ended by the server.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(30);
/// The server ends a statement at its timeout and says so. When not even that arrives, this much
/// later, nobody is there any more.
const SILENCE: Duration = Duration::from_secs(5);
/// A session that rested for longer is asked whether it is still there before it gets work.
const RESTED: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub struct Postgres {
    pool: PgPool,
    options: Arc<PgConnectOptions>,
    days: days::Days,
    /// Longest wait for one answer.
    deadline: Duration,
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
        let deadline = settings.statement_timeout + SILENCE;
        let pool = PgPoolOptions::new()
            .max_connections(settings.max_connections.max(2))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    let rested = meta.idle_for > RESTED;
                    Ok(!rested || answers(connection.ping()).await.is_ok())
                })
            })
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    // Set here and not as start-up options, which some poolers refuse. Below
                    // `error` the server only says that our ROLLBACKs had nothing to roll back.
                    // Nothing we ask is worth compiling first. And a plan made for the numbers at
                    // hand reads a million prices to change ten thousand: the general one goes by
                    // the index, and costs what the change costs.
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
            days: days::Days::default(),
            deadline,
        })
    }

    /// One connection from the pool; when there is none, the reason that the server itself gives.
    async fn connection(&self) -> Result<PoolConnection<sqlx::Postgres>> {
        let waiting = self.pool.acquire();
        tokio::pin!(waiting);
        let acquired = match tokio::time::timeout(ASK_WHY_AFTER, &mut waiting).await {
            Ok(acquired) => acquired,
            Err(_) => {
                connect(&self.options).await?.close().await.ok();
                waiting.await
            }
        };
        acquired.map_err(|error| match error {
            sqlx::Error::PoolTimedOut => StoreError::Down(
                "all connections are busy; raise DATABASE_MAX_CONNECTIONS or find the slow query"
                    .into(),
            ),
            error => explain(error),
        })
    }

    /// Waits for an answer no longer than one can come.
    pub async fn in_time<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        within(self.deadline, work).await
    }

    async fn to_the_end<T: Send + 'static>(
        &self,
        write: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        to_the_end(within(self.deadline, write)).await
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }
}

async fn within<T>(deadline: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(deadline, work)
        .await
        .unwrap_or_else(|_| {
            Err(StoreError::Down(format!(
                "no answer within {} s, not even to say that it takes too long; whether a write went through is \
                 unknown. Check the network and the server",
                deadline.as_secs()
            )))
        })
}

/// For the pool's own questions: a session that is silent is not worth waiting for.
async fn answers<T>(
    question: impl Future<Output = std::result::Result<T, sqlx::Error>>,
) -> std::result::Result<T, sqlx::Error> {
    let silent = |_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()));
    tokio::time::timeout(SILENCE, question)
        .await
        .unwrap_or_else(silent)
}
