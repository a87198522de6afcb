//! Connects to Postgres: options, TLS requirements, and the refusal of transaction-mode poolers.
//! `Postgres::open` calls it; `migrate` and `watch` open connections of their own with it.

use std::str::FromStr;
use std::time::Duration;

use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::map_error;
use crate::{Result, StoreError, StoreSettings};
use oddsd_core::model::{ESCAPE_CREDENTIALS, has_unescaped_credentials};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const TRANSACTION_POOLER_PORT: u16 = 6543;
/// A dedicated session answers at once; one shared with an open transaction never does.
const POOLER_ANSWER: Duration = Duration::from_secs(3);
/// The settings that sqlx accepts in a URL. It logs any other one with its value, so no other one reaches it.
const URL_SETTINGS: [&str; 19] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "options[search_path]",
];

/// The required security of a connection off loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Tls {
    /// Encrypted, and the certificate names the host. Anything less is refused off loopback.
    VerifyFull,
    /// Encrypted, any certificate: for a private network that you trust.
    Require,
    /// Plain text: for a private network that you trust.
    Off,
}

/// The word of node-postgres for TLS without a check of the certificate.
const NO_VERIFY: &str = "no-verify";

pub async fn connect(options: &PgConnectOptions) -> Result<PgConnection> {
    match tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(options)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(match map_error(error) {
            StoreError::Down(why) => StoreError::Down(why + &ipv6_hint(options).await),
            other => other,
        }),
        Err(_) => Err(StoreError::Down(format!(
            "{}:{} accepts no connection within {} s; check host, port and firewall",
            options.get_host(),
            options.get_port(),
            CONNECT_TIMEOUT.as_secs()
        ))),
    }
}

/// Direct hosts of some providers have IPv6 addresses only, and many machines have none: the
/// system's error ("network is unreachable") does not mention it.
async fn ipv6_hint(options: &PgConnectOptions) -> String {
    let asked = tokio::net::lookup_host((options.get_host(), options.get_port())).await;
    let addresses: Vec<_> = asked.into_iter().flatten().collect();
    if !addresses.is_empty()
        && addresses.iter().all(|address| address.is_ipv6())
        && !is_local(options.get_host())
    {
        format!(
            "; {} has IPv6 addresses only, so a machine without IPv6 cannot reach it: use the session pooler's host (port 5432)",
            options.get_host()
        )
    } else {
        String::new()
    }
}

pub fn connect_options(settings: &StoreSettings) -> Result<PgConnectOptions> {
    let url = settings.url.expose_secret().trim();
    let wrong = |why: &str| StoreError::Misconfigured(format!("DATABASE_URL is not usable: {why}"));
    if has_unescaped_credentials(url) {
        return Err(wrong(ESCAPE_CREDENTIALS));
    }
    if names_several_hosts(url) {
        return Err(wrong(
            "it names several hosts, and oddsd writes to one: give the host of the primary, or of a proxy in front of it",
        ));
    }
    // sqlx's own error can quote the URL, password and all.
    let options = PgConnectOptions::from_str(&strip_unknown_settings(url)).map_err(|_| {
        wrong(
            "the form is postgres://user:password@host:5432/name (special characters in the password as %XX)",
        )
    })?;
    // The driver looks an IPv6 address up with its brackets.
    let options = match options.get_host().strip_prefix('[') {
        Some(address) => options.clone().host(address.trim_end_matches(']')),
        None => options,
    };
    // Session poolers refuse unknown start-up settings.
    let options = options.application_name("oddsd").extra_float_digits(None);
    if options.get_port() == TRANSACTION_POOLER_PORT {
        return Err(transaction_pooler(
            "port 6543 is the transaction-mode pooler of Supabase",
        ));
    }
    let host = options.get_host().to_owned();
    if is_local(&host) {
        return Ok(options);
    }
    match (settings.tls, requested_ssl_mode(url)) {
        // Never less than the URL asks for.
        (Tls::VerifyFull, None) | (_, Some("verify-full")) => {
            Ok(options.ssl_mode(PgSslMode::VerifyFull))
        }
        (Tls::VerifyFull, Some(weaker)) => Err(StoreError::Misconfigured(format!(
            "DATABASE_URL asks for sslmode={weaker} to {host}, which does not prove who answers; use \
             sslmode=verify-full, or say DATABASE_TLS=require (or off) if the network in between is yours"
        ))),
        (_, Some("verify-ca")) => Ok(options.ssl_mode(PgSslMode::VerifyCa)),
        (Tls::Require, _) | (Tls::Off, Some("require" | NO_VERIFY)) => {
            Ok(options.ssl_mode(PgSslMode::Require))
        }
        (Tls::Off, _) => Ok(options.ssl_mode(PgSslMode::Disable)),
    }
}

/// Removes settings of other programs from the URL (`pgbouncer=true`, `channel_binding=…`), and gives their words for a
/// mode of TLS in the driver's.
fn strip_unknown_settings(url: &str) -> String {
    let Some((base, query)) = url.split_once('?') else {
        return url.to_owned();
    };
    let known: Vec<String> = query
        .split('&')
        .filter(|pair| URL_SETTINGS.contains(&pair.split('=').next().unwrap_or_default()))
        .map(|pair| match pair.split_once('=') {
            Some((name @ ("sslmode" | "ssl-mode"), NO_VERIFY)) => format!("{name}=require"),
            _ => pair.to_owned(),
        })
        .collect();
    if known.is_empty() {
        base.to_owned()
    } else {
        format!("{base}?{}", known.join("&"))
    }
}

/// `postgres://u@a:5432,b:5432/name`, which libpq tries one after the other.
fn names_several_hosts(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let hosts = authority.rsplit('@').next().unwrap_or_default();
    hosts.contains(',')
}

fn requested_ssl_mode(url: &str) -> Option<&str> {
    let (_, query) = url.split_once('?')?;
    query.split('&').rev().find_map(|pair| {
        pair.strip_prefix("sslmode=")
            .or_else(|| pair.strip_prefix("ssl-mode="))
    })
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

/// A session keeps its settings. Behind a transaction-mode pooler the next statement runs in any free
/// session; an open transaction on a second connection makes it a different one. Where the pooler has only
/// one session, the next statement never runs.
pub async fn refuse_transaction_pooler(
    direct: &mut PgConnection,
    options: &PgConnectOptions,
) -> Result<()> {
    let mark = format!("{:016x}", fastrand::u64(..));
    let set = format!("SELECT set_config('oddsd.session', '{mark}', false)");
    // Raw statements: the extended protocol would already fail behind such a pooler.
    direct
        .execute(AssertSqlSafe(set))
        .await
        .map_err(map_error)?;
    let mut other = connect(options).await?;
    other.execute("BEGIN").await.map_err(map_error)?;
    let kept = sqlx::raw_sql("SELECT coalesce(current_setting('oddsd.session', true), '')");
    let kept = tokio::time::timeout(POOLER_ANSWER, direct.fetch_one(kept)).await;
    other.close().await.ok();
    let kept: String = match kept {
        Ok(row) => sqlx::Row::try_get(&row.map_err(map_error)?, 0).map_err(map_error)?,
        Err(_) => String::new(),
    };
    if kept == mark {
        Ok(())
    } else {
        Err(transaction_pooler(
            "the database answers through a transaction-mode pooler",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mode of the connection, or the reason of the refusal.
    fn mode(url: &str, tls: Tls) -> String {
        let options = connect_options(&StoreSettings {
            url: url.into(),
            tls,
            max_connections: 2,
            statement_timeout: Duration::from_secs(1),
        });
        match options {
            Ok(options) => format!("{:?}", options.get_ssl_mode()),
            Err(StoreError::Misconfigured(why)) => why,
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_stronger_of_setting_and_url_decides_off_loopback() {
        let far = "postgres://u@db.example.com:5432/odds";
        let far_with = |mode: &str| format!("{far}?sslmode={mode}");
        for (url, tls, expected) in [
            (far, Tls::VerifyFull, "VerifyFull"),
            (far, Tls::Require, "Require"),
            (far, Tls::Off, "Disable"),
            (&far_with("verify-full"), Tls::Off, "VerifyFull"),
            (&far_with("require"), Tls::Off, "Require"),
            (&far_with("no-verify"), Tls::Require, "Require"),
            (&far_with("no-verify"), Tls::Off, "Require"),
        ] {
            assert_eq!(mode(url, tls), expected, "{url}");
        }
        for near in ["localhost", "127.0.0.1", "127.9.9.9", "[::1]"] {
            let url = format!("postgres://u@{near}:5432/odds?sslmode=disable");
            assert_eq!(mode(&url, Tls::VerifyFull), "Disable", "{near}");
        }
    }

    #[test]
    fn a_refused_url_is_answered_with_the_remedy_and_without_the_password() {
        let far = "postgres://u:canary@db.example.com:5432/odds";
        let weak = [
            "disable",
            "allow",
            "prefer",
            "require",
            "verify-ca",
            "no-verify",
        ];
        let weak = weak.iter().flat_map(|mode| {
            let remedy =
                "db.example.com, which does not prove who answers; use sslmode=verify-full";
            ["sslmode", "ssl-mode"].map(|name| (format!("{far}?{name}={mode}"), remedy))
        });
        let form = "postgres://user:password@host:5432/name";
        let others = [
            // A host that hides behind a local one.
            (
                "u:canary@localhost/odds?host=db.example.com&sslmode=disable",
                "verify-full",
            ),
            (
                "u:canary@127.0.0.1/odds?hostaddr=203.0.113.9&sslmode=disable",
                "verify-full",
            ),
            (
                "u:canary@pooler.example.com:6543/odds?pgbouncer=true",
                "(port 5432)",
            ),
            ("u:canary@host:notaport/x", form),
            ("u:can ary@[bad/x?sslmode=maybe", form),
            ("u:can/ary@host/x", "%2F"),
            ("u:can#ary@host/x", "%23"),
            ("u:canary@a:5432,b:5432/x", "primary"),
        ];
        let others = others.map(|(rest, remedy)| (format!("postgres://{rest}"), remedy));
        for (url, remedy) in weak.chain(others) {
            let why = mode(&url, Tls::VerifyFull);
            assert!(why.contains(remedy) && !why.contains("can"), "{why}");
        }
    }

    #[test]
    fn an_ipv6_address_is_used_without_its_brackets() {
        let options = connect_options(&StoreSettings {
            url: "postgres://u@[::1]:5433/odds".into(),
            tls: Tls::VerifyFull,
            max_connections: 2,
            statement_timeout: Duration::from_secs(1),
        });
        let options = options.expect("valid");
        assert_eq!((options.get_host(), options.get_port()), ("::1", 5433));
    }

    #[test]
    fn settings_of_other_programs_never_reach_the_driver() {
        let url = "postgres://u@h/d?pgbouncer=true&sslmode=verify-full&sslpassword=canary";
        assert_eq!(
            strip_unknown_settings(url),
            "postgres://u@h/d?sslmode=verify-full"
        );
        assert_eq!(
            strip_unknown_settings("postgres://u@h/d?token=canary"),
            "postgres://u@h/d"
        );
    }
}
