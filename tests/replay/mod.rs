//! `oddsd replay` of recordings into a real database: its counts and the tables must equal
//! independent counts of the same files. The shipped files of `tests/data` always run, the private
//! recordings only where they are.

mod exchange;
mod league;
mod malformed;
mod racing;
mod status;

use std::path::Path;

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};

use crate::harness::program::{Program, ProgramOutput};
use crate::recordings::json_file;
use oddsd_testkit::postgres;

/// The lines of a recording, decompressed without oddsd.
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

/// The program with a database of its own.
struct ReplayTarget {
    oddsd: Program,
    backend: Backend,
    url: String,
}

impl ReplayTarget {
    async fn new(backend: Backend) -> Self {
        let oddsd = Program::new();
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

    /// Replays a file with the shrink guard off, so that every answer counts as complete.
    async fn replay(&self, file: &Path, feed: &str) -> ProgramOutput {
        let file = file.to_str().expect("UTF-8");
        let no_guard = "--max-removed-fraction=1";
        let args = [
            "replay", file, "--feed", feed, "--json", "--verify", no_guard,
        ];
        self.oddsd.run(&args).await
    }

    /// Rows as text, by plain SQL over a separate connection.
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

/// The stored prices with their keys.
const PRICES: &str = "prices p JOIN events e ON e.id = p.event_id
    JOIN selections s ON s.id = p.selection_id JOIN bookmakers b ON b.id = p.bookmaker_id";

fn count(outcome: &Value, name: &str) -> u64 {
    outcome[name]
        .as_u64()
        .unwrap_or_else(|| panic!("no {name} in {outcome}"))
}
