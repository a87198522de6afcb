//! What the bench does to a server past the store: databases of its own, the tables of the other
//! designs, and looks at the server's own counters. Nothing here is on the product's path.

mod answers;
mod changes;
mod narrow;
mod watched;
mod wide;

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::card::{BOOKMAKERS, Check, WEIGHTS, bookmaker_ids};
use oddsd_store::{Store, StoreSettings};

pub use answers::{Answers, Writer, Wrote};
pub use changes::Changes;
pub use narrow::Narrow;
pub use watched::Tlog;
pub use wide::Wide;

/// A million rows may take long on a small machine; nothing here is worth waiting longer for.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(600);
/// Settings that decide what a write costs.
const TOLD: [&str; 10] = [
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

/// A database that is made for one measurement and dropped after it.
pub struct Database {
    server: StoreSettings,
    name: String,
    own: StoreSettings,
}

impl Database {
    /// An empty one with the product's tables.
    pub async fn fresh(server: &StoreSettings) -> anyhow::Result<Self> {
        let name = format!("oddsd_bench_{:016x}", fastrand::u64(..));
        let mut admin = connect(server).await?;
        let create = format!("CREATE DATABASE {name} TEMPLATE template0");
        let made = admin.execute(AssertSqlSafe(create)).await;
        admin.close().await.ok();
        made.context(
            "cannot create a database to measure in, and the tables of others are not touched; give a role with \
             CREATEDB, or leave --database-url out and a private server is started",
        )?;
        let url = in_database(server.url.expose_secret(), &name);
        let own = StoreSettings {
            url: SecretString::from(url),
            statement_timeout: STATEMENT_TIMEOUT,
            ..server.clone()
        };
        let made = Self {
            server: server.clone(),
            name,
            own,
        };
        match made.migrated().await {
            Ok(()) => Ok(made),
            Err(why) => {
                made.drop().await?;
                Err(why)
            }
        }
    }

    /// One that is there already, with the product's tables in it; whoever made it drops it.
    pub fn at(own: &StoreSettings) -> Self {
        Self {
            server: own.clone(),
            name: String::new(),
            own: own.clone(),
        }
    }

    async fn migrated(&self) -> anyhow::Result<()> {
        let store = self.store().await?;
        let done = store.migrate(false).await;
        store.close().await;
        done?;
        Ok(())
    }

    /// Through another port of this machine.
    pub fn settings(&self) -> StoreSettings {
        self.own.clone()
    }

    pub fn settings_through(&self, port: u16) -> anyhow::Result<StoreSettings> {
        let url = through(self.own.url.expose_secret(), port)?;
        Ok(StoreSettings {
            url: SecretString::from(url),
            ..self.own.clone()
        })
    }

    /// Where the server listens.
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

    /// By the server's socket in the file system where there is one. The driver leaves Nagle's
    /// algorithm on: over TCP the end of a COPY waits 40 ms for an acknowledgement, which is no
    /// limit of the database's.
    pub async fn connect_closely(&self) -> anyhow::Result<PgConnection> {
        let mut plain = self.connect().await?;
        // Not every role may ask.
        let folders: Option<String> =
            sqlx::query_scalar("SELECT current_setting('unix_socket_directories')")
                .fetch_one(&mut plain)
                .await
                .ok();
        let options = options(&self.own)?;
        let here = options.get_host() == "localhost" || options.get_host().starts_with("127.");
        for folder in folders.iter().flat_map(|all| all.split(',')).map(str::trim) {
            if here && folder.starts_with('/') {
                let close = options.clone().socket(folder);
                if let Ok(close) = PgConnection::connect_with(&close).await {
                    return Ok(close);
                }
            }
        }
        Ok(plain)
    }

    pub async fn eye(&self) -> anyhow::Result<Eye> {
        Ok(Eye(self.connect().await?))
    }

    /// Whoever is still connected is sent away.
    pub async fn drop(self) -> anyhow::Result<()> {
        let mut admin = connect(&self.server).await?;
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let dropped = admin.execute(AssertSqlSafe(drop)).await;
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

/// A connection that only looks.
pub struct Eye(PgConnection);

impl Eye {
    /// What the product's tables hold.
    pub async fn stored(&mut self) -> anyhow::Result<Check> {
        self.sum(&format!(
            "SELECT count(*), coalesce(sum(p.decimal * 1000 * {weight}), 0)::bigint
             FROM oddsd.prices p JOIN oddsd.selections s ON s.id = p.selection_id
             JOIN oddsd.bookmakers b ON b.id = p.bookmaker_id WHERE p.status = 'open'",
            weight = weight("s.key", "b.key")
        ))
        .await
    }

    /// What such a table of another design holds.
    pub async fn wide(&mut self, table: &str) -> anyhow::Result<Check> {
        self.sum(&format!(
            "SELECT count(*), coalesce(sum(odds_decimal * 1000 * {weight}), 0)::bigint FROM {table}",
            weight = weight("horse_id", "bookmaker_id")
        ))
        .await
    }

    async fn sum(&mut self, sql: &str) -> anyhow::Result<Check> {
        let (prices, sum) = sqlx::query_as(AssertSqlSafe(sql.to_owned()))
            .bind(bookmaker_ids())
            .fetch_one(&mut self.0)
            .await?;
        Ok(Check { prices, sum })
    }

    /// How far the write-ahead log has come, in bytes.
    pub async fn wal(&mut self) -> anyhow::Result<f64> {
        let at = "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8";
        Ok(sqlx::query_scalar(at).fetch_one(&mut self.0).await?)
    }

    /// False where the role may not.
    pub async fn checkpoint(&mut self) -> bool {
        self.0.execute("CHECKPOINT").await.is_ok()
    }

    /// The next transaction number of the whole server: it stands still while nobody writes.
    pub async fn next_transaction(&mut self) -> anyhow::Result<i64> {
        let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
        Ok(sqlx::query_scalar(next).fetch_one(&mut self.0).await?)
    }

    /// Statistics and a clean table, as autovacuum would have them after a while.
    pub async fn settle(&mut self) -> anyhow::Result<()> {
        self.0.execute("VACUUM (ANALYZE)").await?;
        Ok(())
    }
}

/// The driver's errors tell their cause already, and would be told twice.
pub fn plainly(why: anyhow::Error) -> anyhow::Error {
    match why.downcast::<sqlx::Error>() {
        Ok(error) => anyhow::anyhow!("the server refused: {error}"),
        Err(why) => why,
    }
}

/// Version and settings of the server.
pub async fn told(server: &StoreSettings) -> anyhow::Result<Value> {
    let mut connection = connect(server).await?;
    let mut told = Map::new();
    for name in TOLD {
        let value: Option<String> = sqlx::query_scalar("SELECT current_setting($1, true)")
            .bind(name)
            .fetch_one(&mut connection)
            .await?;
        told.insert(name.into(), json!(value));
    }
    connection.close().await.ok();
    Ok(told.into())
}

/// The weight of a key in a [`Check`], in SQL: see [`Card::check`](super::card::Card::check).
fn weight(horse: &str, bookmaker: &str) -> String {
    let bookmakers = BOOKMAKERS.len();
    format!(
        "((substr({horse}, 5)::bigint * {bookmakers} + array_position($1::text[], {bookmaker}) - 1) % {WEIGHTS} + 1)"
    )
}

fn options(settings: &StoreSettings) -> anyhow::Result<PgConnectOptions> {
    // The driver's own error can quote the URL, password and all.
    let options = PgConnectOptions::from_str(settings.url.expose_secret());
    let options = options.map_err(|_| anyhow::anyhow!("--database-url is not a Postgres URL"))?;
    Ok(options.application_name("oddsd bench"))
}

async fn connect(settings: &StoreSettings) -> anyhow::Result<PgConnection> {
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
fn through(url: &str, port: u16) -> anyhow::Result<String> {
    let (scheme, rest) = url.split_once("://").context("a URL has a scheme")?;
    let (authority, path) = rest.split_once('/').context("a URL names a database")?;
    let user = match authority.rsplit_once('@') {
        Some((user, _)) => format!("{user}@"),
        None => String::new(),
    };
    if path.contains("host=") {
        bail!("a URL with its host in the query cannot be measured through a slow wire");
    }
    Ok(format!("{scheme}://{user}127.0.0.1:{port}/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_leads_to_another_database_or_through_another_port() {
        let url = "postgres://u:p%40x@db:5432/odds?sslmode=disable";
        let own = in_database(url, "bench_1");
        assert_eq!(own, "postgres://u:p%40x@db:5432/bench_1?sslmode=disable");
        assert_eq!(
            through(&own, 7000).expect("a URL"),
            "postgres://u:p%40x@127.0.0.1:7000/bench_1?sslmode=disable"
        );
        assert_eq!(in_database("postgres://h", "b"), "postgres://h/b");
    }
}
