//! Postgres: how we connect, what we refuse to connect to, the lease, and the outbox.

mod adopt;
mod commit;
mod migrate;
mod read;
mod views;

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::rows;
use super::{Acquired, Claimed, Lease, Removal, Result, StoreError, StoreSettings, to_the_end};
use crate::key::Key;

/// The one writer.
const LEASE: &str = "writer";
/// Short: with the database down, each acquire would otherwise burn its whole timeout and hide why.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A session that holds a transaction open without working is ended by the server.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(30);
const TRANSACTION_POOLER_PORT: u16 = 6543;

/// What we demand of an encrypted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Tls {
    /// Encrypted, and the certificate names the host. Anything less is refused off loopback.
    VerifyFull,
    /// Encrypted, any certificate: for a private network that you trust.
    Require,
    /// Plain text: for a private network that you trust.
    Off,
}

#[derive(Clone)]
pub struct Postgres {
    pool: PgPool,
    options: PgConnectOptions,
}

impl Postgres {
    pub async fn open(settings: &StoreSettings) -> Result<Self> {
        let options = connect_options(settings)?;
        // A direct connection first: the pool would report a timeout where this reports the cause.
        let mut direct = connect(&options).await?;
        refuse_transaction_pooler(&mut direct, &options).await?;
        direct.close().await.ok();

        let statement_ms = settings.statement_timeout.as_millis();
        let idle_ms = IDLE_IN_TRANSACTION.as_millis();
        let pool = PgPoolOptions::new()
            .max_connections(settings.max_connections.max(2))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    // Set here and not as start-up options, which some poolers refuse.
                    let limits = format!(
                        "SET statement_timeout = {statement_ms}; SET idle_in_transaction_session_timeout = {idle_ms}"
                    );
                    connection.execute(AssertSqlSafe(limits)).await.map(drop)
                })
            })
            // A dropped `begin()` can leave a transaction open in a pooled session, and the next
            // write would be lost with it (sqlx 0.8.6 and 0.9.0).
            .after_release(|connection, _| {
                Box::pin(async move { Ok(connection.execute("ROLLBACK").await.is_ok()) })
            })
            .connect_lazy_with(options.clone());
        Ok(Self { pool, options })
    }

    /// One connection from the pool; when there is none, the reason that the server itself gives.
    async fn connection(&self) -> Result<sqlx::pool::PoolConnection<sqlx::Postgres>> {
        match self.pool.acquire().await {
            Ok(connection) => Ok(connection),
            Err(sqlx::Error::PoolTimedOut) => match connect(&self.options).await {
                Err(cause) => Err(cause),
                Ok(_) => Err(StoreError::Down(
                    "all connections are busy; raise DATABASE_MAX_CONNECTIONS or find the slow query".into(),
                )),
            },
            Err(error) => Err(explain(error)),
        }
    }

    pub async fn acquire(&self, holder: &str, ttl: Duration) -> Result<Acquired> {
        let (db, holder) = (self.clone(), holder.to_owned());
        to_the_end(async move {
            let mut connection = db.connection().await?;
            let taken: Option<(i64,)> = sqlx::query_as(
                "INSERT INTO oddsd.leases AS l (name, holder, epoch, expires_at)
                 VALUES ($1, $2, 1, now() + $3 * interval '1 second')
                 ON CONFLICT (name) DO UPDATE SET holder = $2, epoch = l.epoch + 1,
                     expires_at = now() + $3 * interval '1 second'
                 WHERE l.expires_at <= now() OR l.holder = $2
                 RETURNING epoch",
            )
            .bind(LEASE)
            .bind(&holder)
            .bind(ttl.as_secs_f64())
            .fetch_optional(&mut *connection)
            .await
            .map_err(explain)?;
            if let Some((epoch,)) = taken {
                return Ok(Acquired::Mine(Lease { holder, epoch }));
            }
            let (holder, seconds): (String, f64) = sqlx::query_as(
                "SELECT holder, greatest(extract(epoch FROM expires_at - now()), 0)::float8
                 FROM oddsd.leases WHERE name = $1",
            )
            .bind(LEASE)
            .fetch_one(&mut *connection)
            .await
            .map_err(explain)?;
            Ok(Acquired::HeldBy {
                holder,
                for_another: Duration::from_secs_f64(seconds),
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
    ) -> Result<()> {
        let (db, lease, state) = (self.clone(), lease.clone(), state.clone());
        let (events, times): (Vec<i64>, Vec<DateTime<Utc>>) = checked.iter().copied().unzip();
        to_the_end(async move {
            let held = sqlx::query(
                "WITH held AS (
                     UPDATE oddsd.leases SET expires_at = now() + $4 * interval '1 second', state = $5
                     WHERE name = $1 AND holder = $2 AND epoch = $3 RETURNING 1),
                 seen AS (
                     INSERT INTO oddsd.checks (event_id, checked_at)
                     SELECT * FROM unnest($6::bigint[], $7::timestamptz[]) WHERE EXISTS (SELECT FROM held)
                     ON CONFLICT (event_id) DO UPDATE SET checked_at = excluded.checked_at)
                 SELECT 1 FROM held",
            )
            .bind(LEASE)
            .bind(&lease.holder)
            .bind(lease.epoch)
            .bind(ttl.as_secs_f64())
            .bind(&state)
            .bind(&events)
            .bind(&times)
            .fetch_optional(&mut *db.connection().await?)
            .await
            .map_err(explain)?;
            held.map(drop).ok_or(StoreError::Fenced)
        })
        .await
    }

    pub async fn release(&self, lease: &Lease) -> Result<()> {
        let (db, lease) = (self.clone(), lease.clone());
        to_the_end(async move {
            sqlx::query("UPDATE oddsd.leases SET expires_at = now() WHERE name = $1 AND holder = $2 AND epoch = $3")
                .bind(LEASE)
                .bind(&lease.holder)
                .bind(lease.epoch)
                .execute(&mut *db.connection().await?)
                .await
                .map(drop)
                .map_err(explain)
        })
        .await
    }

    pub async fn claim(&self, who: &str, max: i64, lease_for: Duration) -> Result<Vec<Claimed>> {
        let (db, who) = (self.clone(), who.to_owned());
        to_the_end(async move {
            let mut connection = db.connection().await?;
            let claimed = sqlx::query(
                "UPDATE oddsd.outbox o SET attempts = attempts + 1, claimed_by = $1,
                     due_at = now() + $3 * interval '1 second'
                 FROM (SELECT id FROM oddsd.outbox WHERE due_at <= now() ORDER BY due_at, id LIMIT $2
                       FOR UPDATE SKIP LOCKED) picked
                 WHERE o.id = picked.id
                 RETURNING o.id, cycle_id, event_key, kinds, keys, attempts::bigint AS attempts",
            )
            .bind(&who)
            .bind(max)
            .bind(lease_for.as_secs_f64())
            .fetch_all(&mut *connection)
            .await
            .map_err(explain)?;
            claimed.iter().map(rows::claimed).collect()
        })
        .await
    }

    pub async fn settle(&self, rows: &[i64], removals: &[Removal]) -> Result<()> {
        let (db, rows, removals) = (self.clone(), rows.to_vec(), removals.to_vec());
        to_the_end(async move {
            let column = |text: fn(&Removal) -> String| removals.iter().map(text).collect::<Vec<_>>();
            let number = |n: fn(&Removal) -> i64| removals.iter().map(n).collect::<Vec<_>>();
            sqlx::query(
                "WITH done AS (DELETE FROM oddsd.outbox WHERE id = ANY($1))
                 INSERT INTO oddsd.removals (cycle_id, rule, reason, keys, existed, backend, attempts, took_ms)
                 SELECT * FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::int[], $9::bigint[])",
            )
            .bind(&rows)
            .bind(removals.iter().map(|r| r.cycle).collect::<Vec<_>>())
            .bind(column(|r| r.rule.clone()))
            .bind(column(|r| r.reason.clone()))
            .bind(column(|r| r.keys.join("\n")))
            .bind(number(|r| r.existed))
            .bind(column(|r| r.backend.clone()))
            .bind(removals.iter().map(|r| r.attempts).collect::<Vec<_>>())
            .bind(number(|r| r.took_ms))
            .execute(&mut *db.connection().await?)
            .await
            .map(drop)
            .map_err(explain)
        })
        .await
    }

    pub async fn postpone(&self, rows: &[i64], delay: Duration, error: &str) -> Result<()> {
        let (db, rows, error) = (self.clone(), rows.to_vec(), error.to_owned());
        to_the_end(async move {
            sqlx::query(
                "UPDATE oddsd.outbox SET due_at = now() + $2 * interval '1 second', last_error = $3 WHERE id = ANY($1)",
            )
            .bind(&rows)
            .bind(delay.as_secs_f64())
            .bind(&error)
            .execute(&mut *db.connection().await?)
            .await
            .map(drop)
            .map_err(explain)
        })
        .await
    }

    pub async fn request_removal(&self, keys: &[Key]) -> Result<i64> {
        let db = self.clone();
        let keys = keys.iter().map(Key::as_str).collect::<Vec<_>>().join("\n");
        to_the_end(async move {
            sqlx::query_scalar(
                "INSERT INTO oddsd.outbox (kinds, keys) VALUES ('manual', $1) RETURNING id",
            )
            .bind(keys)
            .fetch_one(&mut *db.connection().await?)
            .await
            .map_err(explain)
        })
        .await
    }

    pub async fn is_pending(&self, row: i64) -> Result<bool> {
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM oddsd.outbox WHERE id = $1)")
            .bind(row)
            .fetch_one(&mut *self.connection().await?)
            .await
            .map_err(explain)
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection> {
    match tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(options)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(explain(error)),
        Err(_) => Err(StoreError::Down(format!(
            "{}:{} accepts no connection within {} s; check host, port and firewall",
            options.get_host(),
            options.get_port(),
            CONNECT_TIMEOUT.as_secs()
        ))),
    }
}

fn connect_options(settings: &StoreSettings) -> Result<PgConnectOptions> {
    let url = settings.url.expose_secret();
    // sqlx's own error can quote the URL, password and all.
    let options = PgConnectOptions::from_str(url).map_err(|_| {
        StoreError::Misconfigured(
            "DATABASE_URL is not a Postgres URL; the form is postgres://user:password@host:5432/name \
             (special characters in the password as %XX)"
                .into(),
        )
    })?;
    let options = options.application_name("oddsd");
    if options.get_port() == TRANSACTION_POOLER_PORT {
        return Err(transaction_pooler(
            "port 6543 is the transaction-mode pooler of Supabase",
        ));
    }
    let host = options.get_host().to_owned();
    if is_local(&host) {
        return Ok(options);
    }
    let asked = asked_ssl_mode(url);
    match settings.tls {
        Tls::VerifyFull if matches!(asked, None | Some("verify-full")) => {
            Ok(options.ssl_mode(PgSslMode::VerifyFull))
        }
        Tls::VerifyFull => Err(StoreError::Misconfigured(format!(
            "DATABASE_URL asks for sslmode={} to {host}, which does not prove who answers; use sslmode=verify-full, \
             or say DATABASE_TLS=require (or off) if the network in between is yours",
            asked.unwrap_or_default()
        ))),
        Tls::Require => Ok(options.ssl_mode(PgSslMode::Require)),
        Tls::Off => Ok(options.ssl_mode(PgSslMode::Disable)),
    }
}

fn asked_ssl_mode(url: &str) -> Option<&str> {
    let (_, query) = url.split_once('?')?;
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix("sslmode="))
}

fn is_local(host: &str) -> bool {
    host == "localhost"
        || host.starts_with('/')
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

fn transaction_pooler(how: &str) -> StoreError {
    StoreError::Misconfigured(format!(
        "{how}: each statement may reach another server session there, and prepared statements then give wrong \
         values without an error; use the session pooler (port 5432) or the direct connection"
    ))
}

/// A session keeps what was set in it. Behind a transaction-mode pooler the next statement lands
/// in whatever session is free; an open transaction on a second connection makes sure of that.
async fn refuse_transaction_pooler(
    direct: &mut PgConnection,
    options: &PgConnectOptions,
) -> Result<()> {
    let mark = format!("{:016x}", fastrand::u64(..));
    let set = format!("SELECT set_config('oddsd.session', '{mark}', false)");
    // Raw statements: the extended protocol would already trip over what we are looking for.
    direct.execute(AssertSqlSafe(set)).await.map_err(explain)?;
    let mut other = connect(options).await?;
    other.execute("BEGIN").await.map_err(explain)?;
    let kept = sqlx::raw_sql("SELECT coalesce(current_setting('oddsd.session', true), '')");
    let kept = direct.fetch_one(kept).await.map_err(explain)?;
    other.close().await.ok();
    let kept: String = sqlx::Row::try_get(&kept, 0).map_err(explain)?;
    if kept == mark {
        Ok(())
    } else {
        Err(transaction_pooler(
            "the database answers through a transaction-mode pooler",
        ))
    }
}

/// What a database error means for the caller. The text never holds the URL.
fn explain(error: sqlx::Error) -> StoreError {
    match &error {
        sqlx::Error::Database(refused) => {
            let code = refused.code().unwrap_or_default();
            let message = refused.message();
            match &*code {
                // The fence of the commit divides by the number of leases that are ours.
                "22012" => StoreError::Fenced,
                "28P01" | "28000" => StoreError::Misconfigured(format!(
                    "the database refused the login ({message}); check user and password in DATABASE_URL"
                )),
                "3D000" => StoreError::Misconfigured(format!(
                    "{message}; create it, or correct the name at the end of DATABASE_URL"
                )),
                "42501" => StoreError::Misconfigured(format!(
                    "{message}; grant the user the right to create and use schema oddsd"
                )),
                "3F000" | "42P01" | "42703" => StoreError::Schema(format!(
                    "{message}; run `oddsd migrate` to bring the tables to this version"
                )),
                // Shutting down, starting up, too many connections, out of resources.
                code if code.starts_with("57P")
                    || code.starts_with("53")
                    || code.starts_with("08") =>
                {
                    StoreError::Down(message.to_owned())
                }
                _ => StoreError::Failed(format!("{message} ({code})")),
            }
        }
        sqlx::Error::Io(io) => StoreError::Down(io.to_string()),
        sqlx::Error::Tls(tls) => StoreError::Misconfigured(format!(
            "no trusted TLS connection to the database ({tls}); check the host name, or give the authority's \
             certificate with sslrootcert=… in DATABASE_URL"
        )),
        sqlx::Error::PoolTimedOut => StoreError::Down("no connection became free in time".into()),
        sqlx::Error::PoolClosed => {
            StoreError::Down("the connections were closed; oddsd is shutting down".into())
        }
        sqlx::Error::WorkerCrashed | sqlx::Error::Protocol(_) => {
            StoreError::Down(error.to_string())
        }
        _ => StoreError::Failed(error.to_string()),
    }
}
