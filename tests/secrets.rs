//! Tests that no secret is printed: every command, in every kind of trouble, at the finest log level.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::harness::program::Program;
use oddsd_testkit::ports::free_port;
use oddsd_testkit::postgres;
use oddsd_testkit::redis::RedisServer;

/// Texts that must never be printed. Each is part of a secret with characters that URLs, headers and
/// JSON encode differently.
const CANARIES: [&str; 8] = [
    "DatabaseCanary",
    "RedisCanary",
    "TokenCanary",
    "UserinfoCanary",
    "NameCanary",
    "PassCanary",
    "KeyCanary",
    "ReportCanary",
];
/// Commands that run in parallel: most of them wait for a server that does not answer.
const AT_ONCE: usize = 12;

/// Libraries too, each by name: a plain `trace` leaves them out.
const EVERYTHING: &str = "trace,sqlx=trace,fred=trace,hyper=trace,hyper_util=trace,reqwest=trace,\
                          h2=trace,rustls=trace,moka=trace";

/// A secret around a canary, as it is, and as a URL takes it.
fn secret(canary: &str) -> String {
    format!("{canary}@7/:+\"9")
}

fn in_url(canary: &str) -> String {
    format!("{canary}%407%2F%3A%2B%229")
}

/// A careless server that echoes every request.
struct Echo {
    port: u16,
    server: JoinHandle<()>,
}

impl Echo {
    async fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    let head = String::from_utf8_lossy(&head).into_owned();
                    let reported =
                        serde_json::json!({ "message": head, "detail": head, "error": head })
                            .to_string();
                    let answer = format!(
                        "HTTP/1.1 {status} Told\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{reported}",
                        reported.len()
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { port, server }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Settings that cause a failure.
type Trouble = (&'static str, Vec<(&'static str, String)>);

/// The settings of every case, unless its trouble overrides them.
fn settings(echo: &Echo, database: &str) -> Vec<(&'static str, String)> {
    vec![
        ("DATABASE_URL", with_password(database)),
        ("RACING_API_URL", echo.url()),
        ("RACING_API_USERNAME", secret("NameCanary")),
        ("RACING_API_PASSWORD", secret("PassCanary")),
        ("ODDS_API_URL", echo.url()),
        ("ODDS_API_KEY", secret("KeyCanary")),
        ("REPORT_TOKEN", secret("ReportCanary")),
        ("ODDS_API_SPORT", "baseball_mlb".into()),
        ("LISTEN", "off".into()),
        ("RUST_LOG", EVERYTHING.into()),
    ]
}

/// The private server trusts its role, so the password is sent and not needed.
fn with_password(database: &str) -> String {
    database.replacen('@', &format!(":{}@", in_url("DatabaseCanary")), 1)
}

async fn troubles(
    refuses: &Echo,
    fails: &Echo,
    welcomes: &Echo,
    redis: &RedisServer,
) -> Vec<Trouble> {
    let closed_port = free_port();
    let redis_url = |port: u16| format!("redis://:{}@127.0.0.1:{port}", in_url("RedisCanary"));
    let database = |role: &str, port: u16| {
        let password = in_url("DatabaseCanary");
        format!("postgres://{role}:{password}@127.0.0.1:{port}/odds")
    };
    let server: u16 = postgres::server_url()
        .rsplit([':', '/'])
        .nth(1)
        .and_then(|port| port.parse().ok())
        .expect("a port");
    let upstash = |url: String| {
        vec![
            ("UPSTASH_REDIS_REST_URL", url),
            ("UPSTASH_REDIS_REST_TOKEN", secret("TokenCanary")),
        ]
    };
    let with_user = |url: String| {
        let user = format!(
            "http://{}:{}@",
            in_url("UserinfoCanary"),
            in_url("TokenCanary")
        );
        url.replacen("http://", &user, 1)
    };
    let mut troubles: Vec<Trouble> = vec![
        ("a feed that refuses", vec![]),
        (
            "another feed that refuses",
            vec![("FEED", "odds-api".into())],
        ),
        ("a feed that fails", vec![("RACING_API_URL", fails.url())]),
        (
            "a feed that says nonsense",
            vec![
                ("FEED", "odds-api".into()),
                ("ODDS_API_URL", welcomes.url()),
            ],
        ),
        (
            "nobody at the feed's port",
            vec![("RACING_API_URL", format!("http://127.0.0.1:{closed_port}"))],
        ),
        (
            "a cache that takes the password",
            vec![("REDIS_URL", redis.url())],
        ),
        (
            "a cache that refuses the password",
            vec![("REDIS_URL", redis_url(redis.port()))],
        ),
        (
            "nobody at the cache's port",
            vec![("REDIS_URL", redis_url(closed_port))],
        ),
        ("a cache that refuses the token", upstash(refuses.url())),
        ("a cache that fails", upstash(fails.url())),
        ("a cache that says nonsense", upstash(welcomes.url())),
        (
            "a cache with its secrets in the URL",
            upstash(with_user(refuses.url())),
        ),
        (
            "a database that refuses the password",
            vec![("DATABASE_URL", database("oddsd_by_password", server))],
        ),
        (
            "nobody at the database's port",
            vec![("DATABASE_URL", database("oddsd", closed_port))],
        ),
    ];
    let password = in_url("DatabaseCanary");
    for (what, url) in [
        (
            "no port",
            format!("postgres://u:{password}@127.0.0.1:port/odds"),
        ),
        ("no scheme", format!("u:{password}@127.0.0.1/odds")),
        (
            "another scheme",
            format!("mysql://u:{password}@127.0.0.1/odds"),
        ),
        (
            "an unknown setting",
            format!("postgres://u@127.0.0.1:{closed_port}/odds?sslpassword={password}&sslmode=odd"),
        ),
        (
            "a pooler",
            format!("postgres://u:{password}@127.0.0.1:6543/odds"),
        ),
        (
            "a far host",
            format!("postgres://u:{password}@db.invalid/odds?sslmode=require"),
        ),
        (
            "a wrong SQLite URL",
            format!("sqlite:odds.db?mode={password}"),
        ),
    ] {
        troubles.push((what, vec![("DATABASE_URL", url)]));
    }
    let password = in_url("RedisCanary");
    for (what, url) in [
        (
            "no port at the cache",
            format!("redis://:{password}@127.0.0.1:port"),
        ),
        (
            "too high a port at the cache",
            format!("redis://:{password}@127.0.0.1:99999"),
        ),
        ("no scheme at the cache", format!(":{password}@127.0.0.1")),
        (
            "another scheme at the cache",
            format!("http://:{password}@127.0.0.1"),
        ),
        ("no host at the cache", format!("rediss://:{password}@")),
    ] {
        troubles.push((what, vec![("REDIS_URL", url)]));
    }
    for (what, url) in [
        ("a feed's URL with a password", with_user(refuses.url())),
        (
            "no URL of a feed",
            format!("{}//", in_url("UserinfoCanary")),
        ),
    ] {
        troubles.push((what, vec![("RACING_API_URL", url)]));
    }
    troubles
}

const COMMANDS: &[&[&str]] = &[
    &["run", "--for", "400ms"],
    &["once"],
    &["check"],
    &["check", "--json"],
    &["record", "--out", "recording.jsonl", "--for", "400ms"],
    &["migrate", "--dry-run"],
    &["migrate"],
    &["status"],
    &["tail", "--for", "100ms", "--json"],
    &["invalidate", "races:by-stage:v1"],
    &["replay", "league.jsonl", "--feed", "odds-api"],
    &["healthcheck"],
];

#[tokio::test]
async fn secrets_stay_out_of_every_commands_output() {
    let (refuses, fails) = (Echo::start(401).await, Echo::start(500).await);
    let welcomes = Echo::start(200).await;
    let redis = RedisServer::with_password("RedisCanary").await;
    let database = postgres::database().await;
    let troubles = troubles(&refuses, &fails, &welcomes, &redis).await;
    let usual = settings(&refuses, &database);
    let forbidden = Arc::new(forbidden());

    let mut runs = Vec::new();
    for (n, (what, trouble)) in troubles.iter().enumerate() {
        let mut oddsd = Program::new();
        for (name, value) in usual.iter().chain(trouble) {
            oddsd.set(name, value);
        }
        oddsd.set("LOG_FORMAT", ["pretty", "logfmt", "json"][n % 3]);
        let line = r#"{"fetched_at":"2026-08-04T00:00:00Z","body":[]}"#;
        std::fs::write(oddsd.folder().join("league.jsonl"), line).expect("writes");
        let forbidden = Arc::clone(&forbidden);
        runs.push(async move {
            let mut seen = Vec::new();
            for command in COMMANDS {
                let ended = oddsd.run(command).await;
                let at = format!("{what}, oddsd {}", command.join(" "));
                seen.extend(shown(&at, &ended.all(), &forbidden));
                let recording = oddsd.folder().join("recording.jsonl");
                if let Ok(text) = std::fs::read_to_string(recording) {
                    seen.extend(shown(&at, &text, &forbidden));
                }
            }
            seen
        });
    }
    let mut runs = stream::iter(runs).buffer_unordered(AT_ONCE);
    let mut seen = Vec::new();
    while let Some(found) = runs.next().await {
        seen.extend(found);
    }
    assert!(
        seen.is_empty(),
        "{} leaks:\n{}",
        seen.len(),
        seen.join("\n")
    );
}

/// Help shows the source and the value of a setting, but never the value of a secret.
#[tokio::test]
async fn secrets_stay_out_of_help_and_usage_errors() {
    let mut oddsd = Program::new();
    for (name, canary) in [
        ("RACING_API_USERNAME", "NameCanary"),
        ("RACING_API_PASSWORD", "PassCanary"),
        ("ODDS_API_KEY", "KeyCanary"),
        ("REPORT_TOKEN", "ReportCanary"),
        ("REDIS_URL", "RedisCanary"),
        ("UPSTASH_REDIS_REST_TOKEN", "TokenCanary"),
        ("UPSTASH_REDIS_REST_URL", "UserinfoCanary"),
        ("DATABASE_URL", "DatabaseCanary"),
    ] {
        oddsd.set(name, canary);
    }
    let forbidden = forbidden();
    let mut seen = Vec::new();
    for args in [
        &["--help"][..],
        &["run", "--help"],
        &["help", "check"],
        &["-h"],
        &["run", "--wrong"],
        &["run", "--listen", "nowhere"],
        &["--version"],
    ] {
        let ended = oddsd.run(args).await;
        seen.extend(shown(&args.join(" "), &ended.all(), &forbidden));
    }
    // An unreadable `.env` shows none either.
    let broken = "ODDS_API_KEY=KeyCanary\nRACING_API_PASSWORD=Pass Canary PassCanary\n";
    std::fs::write(oddsd.folder().join(".env"), broken).expect("writes");
    let ended = oddsd
        .run(&["status"])
        .await
        .expect_code(78)
        .expect_texts(&[".env", "NAME=value"]);
    seen.extend(shown(".env", &ended.all(), &forbidden));
    assert_eq!(seen, [""; 0]);
}

/// Every form in which a canary could be seen: as it is (also inside a percent-encoded text), and
/// inside base64, wherever in the encoded text it begins.
fn forbidden() -> Vec<String> {
    let mut forms = Vec::new();
    for canary in CANARIES {
        forms.push(canary.to_lowercase());
        for before in 0..3 {
            let text = [vec![b'.'; before], canary.as_bytes().to_vec()].concat();
            // What comes before and after shares a group of four with the canary's ends.
            let encoded = base64(&text);
            forms.push(encoded[4..text.len() / 3 * 4].to_lowercase());
        }
    }
    forms
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - group.len()));
        for n in 0..=group.len() {
            text.push(LETTERS[(bits >> (18 - 6 * n)) as usize & 63] as char);
        }
    }
    text
}

fn shown(at: &str, text: &str, forbidden: &[String]) -> Vec<String> {
    let mut seen = Vec::new();
    for line in text.lines() {
        let low = line.to_lowercase();
        if let Some(form) = forbidden.iter().find(|form| low.contains(*form)) {
            let short: String = line.chars().take(600).collect();
            seen.push(format!("{at} [{form}]: {short}"));
        }
    }
    seen
}

#[test]
fn secret_search_finds_every_encoding() {
    let forbidden = forbidden();
    let basic = |text: &str| format!("authorization: Basic {}", base64(text.as_bytes()));
    for text in [
        "redis://:RedisCanary@h".to_owned(),
        format!("token {}", in_url("TokenCanary").to_uppercase()),
        basic(&format!("user:{}", secret("PassCanary"))),
        basic(&format!("me:{}", secret("PassCanary"))),
        basic(&format!("{}:x", secret("NameCanary"))),
        basic(&format!("x{}", secret("KeyCanary"))),
    ] {
        assert_eq!(shown("here", &text, &forbidden).len(), 1, "{text}");
    }
    assert_eq!(
        base64(b"oddsd-tests:paddock-pass"),
        "b2Rkc2QtdGVzdHM6cGFkZG9jay1wYXNz"
    );
    assert!(shown("here", "a quiet line", &forbidden).is_empty());
}
