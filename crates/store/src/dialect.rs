//! Runs one statement on either backend: it is written in the SQL of Postgres and rewritten for SQLite.
//! The read, log, status, lease and outbox modules of the store call it for every statement that both
//! backends share.
//!
//! With one argument, `SELECT id FROM oddsd.outbox WHERE due_at <= now() AND id = ANY($1)` becomes on SQLite
//! `SELECT id FROM outbox WHERE due_at <= $2 AND id IN (SELECT value FROM json_each($1))`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, PgConnection, SqliteConnection};

use super::rows::{self, StoredRow};
use super::{Result, Store, StoreError, dispatch, postgres, sqlite};
use oddsd_core::model::DbSnapshot;

/// Pieces of the SQL of Postgres, and their form on SQLite. SQLite keeps times in microseconds, lists in
/// JSON, and one schema a file.
const REWRITES: [(&str, &str); 12] = [
    ("oddsd.", ""),
    ("pg_current_snapshot()", sqlite::SNAPSHOT),
    (", (SELECT pg_notify('oddsd_outbox', ''))", ""),
    (" * interval '1 second'", ""),
    ("interval '1 minute'", "60000000"),
    ("= ANY($1)", "IN (SELECT value FROM json_each($1))"),
    ("json_array_elements(CAST($1 AS json))", "json_each($1)"),
    ("json_agg(json_build_array(", "json_group_array(json_array("),
    ("cardinality(", "json_array_length("),
    ("greatest(", "max("),
    ("right(p.market, 4)", "substr(p.market, -4)"),
    // Writers take turns: a row's number is the commit that wrote it.
    ("xid::text::bigint", "id"),
];
const NOW: &str = "now()";

/// An argument of a statement, in the types that both backends have.
#[derive(Clone, Debug)]
pub enum Arg {
    Flag(bool),
    Int(i64),
    Text(Option<String>),
    Time(Option<DateTime<Utc>>),
    /// Written as `$1 * interval '1 second'`.
    Delay(Duration),
    Ints(Vec<i64>),
    Texts(Vec<String>),
}

macro_rules! arg_from {
    ($($from:ty => |$value:ident| $arg:expr),+ $(,)?) => {$(
        impl From<$from> for Arg {
            fn from($value: $from) -> Self {
                $arg
            }
        }
    )+};
}
arg_from! {
    bool => |flag| Self::Flag(flag),
    i64 => |number| Self::Int(number),
    &str => |text| Self::Text(Some(text.to_owned())),
    String => |text| Self::Text(Some(text)),
    &String => |text| Self::Text(Some(text.clone())),
    Option<&str> => |text| Self::Text(text.map(str::to_owned)),
    Option<String> => |text| Self::Text(text),
    &Option<String> => |text| Self::Text(text.clone()),
    DateTime<Utc> => |at| Self::Time(Some(at)),
    Option<DateTime<Utc>> => |at| Self::Time(at),
    Duration => |delay| Self::Delay(delay),
    &[i64] => |numbers| Self::Ints(numbers.to_vec()),
    &[String] => |texts| Self::Texts(texts.to_vec()),
}

macro_rules! args {
    ($($value:expr),* $(,)?) => {
        vec![$($crate::dialect::Arg::from($value)),*]
    };
}
pub(super) use args;

/// A connection of either backend, or a transaction on one.
pub enum DbConnection<'c> {
    Postgres(&'c mut PgConnection),
    Sqlite(&'c mut SqliteConnection),
}

impl DbConnection<'_> {
    pub async fn fetch(&mut self, sql: impl Into<String>, args: &[Arg]) -> Result<Vec<StoredRow>> {
        let mut rows = Vec::new();
        let collect = |row| {
            rows.push(row);
            Ok(())
        };
        self.for_each(sql.into(), args, collect).await?;
        Ok(rows)
    }

    /// Hands over row after row: a large table is never held as rows.
    pub async fn for_each(
        &mut self,
        sql: String,
        args: &[Arg],
        mut take: impl FnMut(StoredRow) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Postgres(connection) => {
                let mut rows = postgres_query(sql, args).fetch(&mut **connection);
                while let Some(row) = rows.try_next().await.map_err(postgres::map_error)? {
                    take(StoredRow::Postgres(row))?;
                }
            }
            Self::Sqlite(connection) => {
                let mut rows = sqlite_query(&sql, args).fetch(&mut **connection);
                while let Some(row) = rows.try_next().await.map_err(sqlite::map_error)? {
                    take(StoredRow::Sqlite(row))?;
                }
            }
        }
        Ok(())
    }
}

fn postgres_query<'q>(sql: String, args: &[Arg]) -> Query<'q, sqlx::Postgres, PgArguments> {
    let query = sqlx::query(AssertSqlSafe(sql));
    args.iter().fold(query, |query, arg| match arg {
        Arg::Flag(flag) => query.bind(*flag),
        Arg::Int(number) => query.bind(*number),
        Arg::Text(text) => query.bind(text),
        Arg::Time(at) => query.bind(*at),
        Arg::Delay(delay) => query.bind(delay.as_secs_f64()),
        Arg::Ints(numbers) => query.bind(numbers),
        Arg::Texts(texts) => query.bind(texts),
    })
}

/// The same for SQLite. Its clock is this process's, and comes as one more argument.
pub fn sqlite_query<'q>(sql: &str, args: &[Arg]) -> Query<'q, sqlx::Sqlite, SqliteArguments> {
    let mut text = REWRITES
        .iter()
        .fold(sql.to_owned(), |text, (theirs, ours)| {
            text.replace(theirs, ours)
        });
    let needs_clock = text.contains(NOW);
    if needs_clock {
        text = text.replace(NOW, &format!("${}", args.len() + 1));
    }
    let query = sqlx::query(AssertSqlSafe(text));
    let query = args.iter().fold(query, |query, arg| match arg {
        Arg::Flag(flag) => query.bind(*flag),
        Arg::Int(number) => query.bind(*number),
        Arg::Text(text) => query.bind(text.clone()),
        Arg::Time(at) => query.bind(at.map(|at| at.timestamp_micros())),
        Arg::Delay(delay) => query.bind(sqlite::micros(*delay)),
        Arg::Ints(numbers) => query.bind(serde_json::json!(numbers).to_string()),
        Arg::Texts(texts) => query.bind(serde_json::json!(texts).to_string()),
    });
    match needs_clock {
        true => query.bind(sqlite::now()),
        false => query,
    }
}

/// The rows of a statement that [`with_snapshot`] made: those where `column` is not null.
pub fn split_snapshot(
    rows: Vec<StoredRow>,
    column: &str,
) -> Result<(DbSnapshot, impl Iterator<Item = StoredRow>)> {
    let snapshot = rows::snapshot(rows.first().ok_or_else(no_row)?)?;
    let is_row = move |row: &StoredRow| !row.is_null(column);
    Ok((snapshot, rows.into_iter().filter(is_row)))
}

/// The row of a statement that always returns one.
pub fn only_row(mut rows: Vec<StoredRow>) -> Result<StoredRow> {
    rows.pop().ok_or_else(no_row)
}

fn no_row() -> StoreError {
    StoreError::Failed("the database returned no row".into())
}

/// `select` with the snapshot of the same statement in each row (column `snapshot`), and one row of nulls
/// where it has none: `r` is its name for `order`.
pub fn with_snapshot(select: &str, order: &str) -> String {
    format!(
        "WITH seen AS MATERIALIZED (SELECT CAST(pg_current_snapshot() AS text) AS snapshot)
         SELECT seen.snapshot, r.* FROM seen LEFT JOIN ({select}) r ON true {order}"
    )
}

impl Store {
    pub(super) async fn read(
        &self,
        sql: impl Into<String>,
        args: Vec<Arg>,
    ) -> Result<Vec<StoredRow>> {
        dispatch!(self, db => db.read(sql, args).await)
    }

    /// For a statement that always returns one row.
    pub(super) async fn read_one(
        &self,
        sql: impl Into<String>,
        args: Vec<Arg>,
    ) -> Result<StoredRow> {
        only_row(self.read(sql, args).await?)
    }

    /// Runs one statement that is a transaction of its own, to its end. Returns the rows of its RETURNING.
    pub(super) async fn write(
        &self,
        sql: impl Into<String>,
        args: Vec<Arg>,
    ) -> Result<Vec<StoredRow>> {
        dispatch!(self, db => db.write(sql, args).await)
    }
}
