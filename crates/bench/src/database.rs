//! New databases for measurements, connections past the store, and a probe that reads tables and server counters.
//! All benchmarks with a database use it; the daemon contains nothing of it.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::fixture::{BOOKMAKERS, Fixture, PriceSum, WEIGHTS, bookmaker_ids};
use oddsd_store::{AcquireResult, Store, StoreSettings, Tls, WriterLease};

/// A million rows take long on a small machine.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(600);
/// Longer than any run.
const LEASE_FOR: Duration = Duration::from_secs(48 * 3600);
/// 5 s for the database's autovacuum workers to end.
const DROP_RETRIES: u32 = 50;
const DROP_PAUSE: Duration = Duration::from_millis(100);
/// Settings that decide the cost of a write.
const COST_SETTINGS: [&str; 10] = [
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "autovacuum",
    "jit",
];

/// A database that is created for one measurement and dropped after it.
pub struct Database {
    server: StoreSettings,
    name: String,
    own: StoreSettings,
}

impl Database {
    /// An empty database with the daemon's tables.
    pub async fn create(server: &StoreSettings) -> anyhow::Result<Self> {
        let name = format!("oddsd_bench_{:016x}", fastrand::u64(..));
        let mut admin = connect(server).await?;
        let create = format!("CREATE DATABASE {name} TEMPLATE template0");
        let made = admin.execute(AssertSqlSafe(create)).await;
        admin.close().await.ok();
        made.context(
            "cannot create a database to measure in, and existing databases are not touched; give a role with \
             CREATEDB, or leave --database-url out and a private server is started",
        )?;
        let url = in_database(server.url.expose_secret(), &name);
        let own = StoreSettings {
            url: SecretString::from(url),
            statement_timeout: STATEMENT_TIMEOUT,
            ..server.clone()
        };
        let db = Self {
            server: server.clone(),
            name,
            own,
        };
        match db.migrate().await {
            Ok(()) => Ok(db),
            Err(why) => {
                db.drop().await?;
                Err(why)
            }
        }
    }

    async fn migrate(&self) -> anyhow::Result<()> {
        let store = self.store().await?;
        let done = store.migrate(false).await;
        store.close().await;
        done?;
        Ok(())
    }

    pub fn settings(&self) -> StoreSettings {
        self.own.clone()
    }

    /// The settings for a proxy on this port of the loopback interface.
    pub fn settings_through(&self, port: u16) -> anyhow::Result<StoreSettings> {
        let url = url_through(self.own.url.expose_secret(), port)?;
        Ok(StoreSettings {
            url: SecretString::from(url),
            ..self.own.clone()
        })
    }

    /// The server's address.
    pub async fn address(&self) -> anyhow::Result<std::net::SocketAddr> {
        let options = options(&self.own)?;
        let host = options.get_host().to_owned();
        let mut found = tokio::net::lookup_host((host.as_str(), options.get_port())).await?;
        found
            .next()
            .with_context(|| format!("{host} has no address"))
    }

    pub async fn store(&self) -> anyhow::Result<Store> {
        Ok(Store::open(&self.own).await?)
    }

    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        connect(&self.own).await
    }

    /// Over the server's Unix socket if it can be reached. The driver leaves Nagle's algorithm on: over TCP the end of
    /// a COPY waits 40 ms for an acknowledgement, which is not a limit of the database.
    pub async fn connect_by_socket(&self) -> anyhow::Result<PgConnection> {
        let mut tcp = self.connect().await?;
        // Some roles may not read this setting.
        let folders: Option<String> =
            sqlx::query_scalar("SELECT current_setting('unix_socket_directories')")
                .fetch_one(&mut tcp)
                .await
                .ok();
        let options = options(&self.own)?;
        let is_local = options.get_host() == "localhost" || options.get_host().starts_with("127.");
        for folder in folders.iter().flat_map(|all| all.split(',')).map(str::trim) {
            if is_local && folder.starts_with('/') {
                let options = options.clone().socket(folder);
                if let Ok(socket) = PgConnection::connect_with(&options).await {
                    return Ok(socket);
                }
            }
        }
        Ok(tcp)
    }

    pub async fn probe(&self) -> anyhow::Result<Probe> {
        Ok(Probe(self.connect().await?))
    }

    /// Drops the database and ends its connections.
    pub async fn drop(self) -> anyhow::Result<()> {
        let mut admin = connect(&self.server).await?;
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let mut dropped = admin.execute(AssertSqlSafe(drop.clone())).await;
        // Only a superuser may end an autovacuum worker; for others it has to finish first.
        for _ in 0..DROP_RETRIES {
            if dropped.is_ok() {
                break;
            }
            tokio::time::sleep(DROP_PAUSE).await;
            dropped = admin.execute(AssertSqlSafe(drop.clone())).await;
        }
        admin.close().await.ok();
        dropped.with_context(|| {
            format!(
                "database {} could not be dropped; drop it by hand",
                self.name
            )
        })?;
        Ok(())
    }
}

/// A connection that reads tables and counters of the server.
pub struct Probe(PgConnection);

impl Probe {
    /// Fails unless the daemon's tables hold the fixture's prices.
    pub async fn verify(&mut self, fixture: &Fixture) -> anyhow::Result<()> {
        let (stored, expected) = (self.stored_prices().await?, fixture.price_sum());
        ensure!(
            stored == expected,
            "oddsd stored {stored:?}; the fixture has {expected:?}"
        );
        Ok(())
    }

    /// The open prices of the daemon's tables.
    async fn stored_prices(&mut self) -> anyhow::Result<PriceSum> {
        self.sum(&format!(
            "SELECT count(*), coalesce(sum(p.decimal * 1000 * {weight}), 0)::bigint
             FROM oddsd.prices p JOIN oddsd.selections s ON s.id = p.selection_id
             JOIN oddsd.bookmakers b ON b.id = p.bookmaker_id WHERE p.status = 'open'",
            weight = weight("s.key", "b.key")
        ))
        .await
    }

    /// The prices of a baseline's table.
    pub async fn baseline_prices(&mut self, table: &str) -> anyhow::Result<PriceSum> {
        self.sum(&format!(
            "SELECT count(*), coalesce(sum(odds_decimal * 1000 * {weight}), 0)::bigint FROM {table}",
            weight = weight("horse_id", "bookmaker_id")
        ))
        .await
    }

    async fn sum(&mut self, sql: &str) -> anyhow::Result<PriceSum> {
        let (prices, sum) = sqlx::query_as(AssertSqlSafe(sql.to_owned()))
            .bind(bookmaker_ids())
            .fetch_one(&mut self.0)
            .await?;
        Ok(PriceSum { prices, sum })
    }

    /// The position of the write-ahead log, in bytes.
    pub async fn wal(&mut self) -> anyhow::Result<f64> {
        let at = "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8";
        Ok(sqlx::query_scalar(at).fetch_one(&mut self.0).await?)
    }

    /// False if the role may not.
    pub async fn checkpoint(&mut self) -> bool {
        self.0.execute("CHECKPOINT").await.is_ok()
    }

    /// The next transaction id of the whole server; it stays the same while nothing is written.
    pub async fn next_transaction(&mut self) -> anyhow::Result<i64> {
        let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
        Ok(sqlx::query_scalar(next).fetch_one(&mut self.0).await?)
    }

    /// Does the work of autovacuum now, so that autovacuum does not run during a measurement.
    pub async fn vacuum(&mut self) -> anyhow::Result<()> {
        self.0.execute("VACUUM (ANALYZE)").await?;
        Ok(())
    }
}

/// The text of the driver's errors contains their cause; the chain would repeat it.
pub fn describe_error(why: anyhow::Error) -> anyhow::Error {
    match why.downcast::<sqlx::Error>() {
        Ok(error) => anyhow::anyhow!("the server refused: {error}"),
        Err(why) => why,
    }
}

/// A Postgres store at this URL.
pub async fn open_store(
    url: String,
    max_connections: u32,
    statement_timeout: Duration,
) -> anyhow::Result<Store> {
    let settings = StoreSettings {
        url: SecretString::from(url),
        tls: Tls::VerifyFull,
        max_connections,
        statement_timeout,
    };
    Ok(Store::open(&settings).await?)
}

/// The holder of this process's leases.
pub fn lease_holder() -> String {
    format!("bench-{}", std::process::id())
}

/// Takes the writer lease for the rest of the run; fails if another process holds it.
pub async fn acquire_lease(store: &Store) -> anyhow::Result<WriterLease> {
    match store.acquire_lease(&lease_holder(), LEASE_FOR).await? {
        AcquireResult::Granted(lease) => Ok(lease),
        AcquireResult::HeldBy { holder, .. } => bail!("{holder} holds the lease"),
    }
}

/// Version and settings of the server.
pub async fn server_settings(server: &StoreSettings) -> anyhow::Result<Value> {
    let mut connection = connect(server).await?;
    let mut settings = Map::new();
    for name in COST_SETTINGS {
        let value: Option<String> = sqlx::query_scalar("SELECT current_setting($1, true)")
            .bind(name)
            .fetch_one(&mut connection)
            .await?;
        settings.insert(name.into(), json!(value));
    }
    connection.close().await.ok();
    Ok(settings.into())
}

/// The weight of a key in a [`PriceSum`], in SQL: see [`Fixture::price_sum`].
fn weight(horse: &str, bookmaker: &str) -> String {
    let bookmakers = BOOKMAKERS.len();
    format!(
        "((substr({horse}, 5)::bigint * {bookmakers} + array_position($1::text[], {bookmaker}) - 1) % {WEIGHTS} + 1)"
    )
}

pub fn options(settings: &StoreSettings) -> anyhow::Result<PgConnectOptions> {
    // The driver's own error can contain the URL with its password.
    let options = PgConnectOptions::from_str(settings.url.expose_secret());
    let options = options.map_err(|_| anyhow::anyhow!("--database-url is not a Postgres URL"))?;
    Ok(options.application_name("oddsd bench"))
}

pub async fn connect(settings: &StoreSettings) -> anyhow::Result<PgConnection> {
    let options = options(settings)?;
    let mut connection = PgConnection::connect_with(&options)
        .await
        .context("cannot reach the database server")?;
    connection
        .execute("SET client_min_messages = error")
        .await?;
    Ok(connection)
}

/// The URL with another database in it.
fn in_database(url: &str, name: &str) -> String {
    let (base, query) = match url.split_once('?') {
        Some((base, query)) => (base, format!("?{query}")),
        None => (url, String::new()),
    };
    let (scheme, rest) = base.split_once("://").unwrap_or(("postgres", base));
    let authority = rest.split('/').next().unwrap_or_default();
    format!("{scheme}://{authority}/{name}{query}")
}

/// The URL with another port, on loopback.
fn url_through(url: &str, port: u16) -> anyhow::Result<String> {
    let (scheme, rest) = url.split_once("://").context("a URL has a scheme")?;
    let (authority, path) = rest.split_once('/').context("a URL names a database")?;
    let user = match authority.rsplit_once('@') {
        Some((user, _)) => format!("{user}@"),
        None => String::new(),
    };
    if path.contains("host=") {
        bail!("a URL with its host in the query cannot be measured through a proxy");
    }
    Ok(format!("{scheme}://{user}127.0.0.1:{port}/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_is_changed_to_another_database_or_port() {
        let url = "postgres://u:p%40x@db:5432/odds?sslmode=disable";
        let own = in_database(url, "bench_1");
        assert_eq!(own, "postgres://u:p%40x@db:5432/bench_1?sslmode=disable");
        assert_eq!(
            url_through(&own, 7000).expect("a URL"),
            "postgres://u:p%40x@127.0.0.1:7000/bench_1?sslmode=disable"
        );
        assert_eq!(in_database("postgres://h", "b"), "postgres://h/b");
    }
}
