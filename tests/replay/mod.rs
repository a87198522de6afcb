//! Recordings through the whole program, `oddsd replay`, into a real database: what it counts and
//! what it leaves in the tables must equal what independent counts of the same files say.

mod broken;
mod exchange;
mod league;
mod racing;
mod status;

use std::path::Path;

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};

use crate::harness::program::{Ended, Oddsd};
use oddsd_testkit::postgres;

fn json_file(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A recording's lines, decompressed without any of our code.
fn lines(path: &Path) -> Vec<String> {
    use std::io::Read;
    let file = std::fs::File::open(path).expect("opens");
    let mut text = String::new();
    match path.extension().and_then(|e| e.to_str()) {
        Some("zst") => {
            let mut decoder = zstd::Decoder::new(file).expect("zstd");
            decoder.window_log_max(27).expect("a window");
            decoder.read_to_string(&mut text).expect("UTF-8");
        }
        _ => {
            bzip2::read::MultiBzDecoder::new(file)
                .read_to_string(&mut text)
                .expect("UTF-8");
        }
    }
    text.lines().map(str::to_owned).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    Postgres,
    Sqlite,
}

/// The program, and a database of its own.
struct Home {
    oddsd: Oddsd,
    backend: Backend,
    url: String,
}

impl Home {
    async fn new(backend: Backend) -> Self {
        let oddsd = Oddsd::new();
        let url = match backend {
            Backend::Postgres => postgres::database().await,
            Backend::Sqlite => format!("sqlite:{}", oddsd.folder().join("odds.db").display()),
        };
        let oddsd = oddsd.with("DATABASE_URL", &url);
        Self {
            oddsd,
            backend,
            url,
        }
    }

    /// Replays every answer as said: none of them is too short to be believed.
    async fn replay(&self, file: &Path, feed: &str) -> Ended {
        let file = file.to_str().expect("UTF-8");
        let believed = "--max-removed-fraction=1";
        let args = [
            "replay", file, "--feed", feed, "--json", "--verify", believed,
        ];
        self.oddsd.run(&args).await
    }

    /// Rows of texts, by plain SQL over a connection of our own.
    async fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let rows =
            |count: usize, get: &dyn Fn(usize) -> Option<String>| (0..count).map(get).collect();
        match self.backend {
            Backend::Postgres => {
                let mut db = postgres::connect(&self.url).await;
                sqlx::query("SET search_path = oddsd")
                    .execute(&mut db)
                    .await
                    .expect("our schema");
                let found = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut db).await;
                let found = found.expect("rows");
                let texts = |row: &sqlx::postgres::PgRow| rows(row.len(), &|n| row.get(n));
                found.iter().map(texts).collect()
            }
            Backend::Sqlite => {
                let mut db = SqliteConnection::connect(&self.url).await.expect("opens");
                let found = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut db).await;
                let found = found.expect("rows");
                let texts = |row: &sqlx::sqlite::SqliteRow| rows(row.len(), &|n| row.get(n));
                found.iter().map(texts).collect()
            }
        }
    }

    async fn number(&self, sql: &str) -> i64 {
        let text = self.rows(&format!("SELECT CAST(({sql}) AS text)")).await;
        let text = text[0][0].as_deref().unwrap_or("0");
        text.parse().unwrap_or_else(|_| panic!("{sql}: {text}"))
    }
}

/// The stored prices with the words they are known by.
const PRICES: &str = "prices p JOIN events e ON e.id = p.event_id
    JOIN selections s ON s.id = p.selection_id JOIN bookmakers b ON b.id = p.bookmaker_id";

fn count(outcome: &Value, name: &str) -> u64 {
    outcome[name]
        .as_u64()
        .unwrap_or_else(|| panic!("no {name} in {outcome}"))
}
