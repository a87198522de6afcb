//! The usual table for prices, one wide row for each, and the usual ways to write it; the columns are those of a
//! worker in the field (`ra_odds_live`). The sections of `write` compare the daemon's commit with it.
//!
//! Each way is as a careful engineer writes it with the same driver: prepared, binary, one transaction. The upsert:
//!
//! ```sql
//! INSERT INTO bench.multirow AS stored (race_id, horse_id, bookmaker_id, …) VALUES ($1, $2, $3, …), …
//! ON CONFLICT (race_id, horse_id, bookmaker_id) DO UPDATE SET race_time = excluded.race_time, …, updated_at = now()
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveDate, Utc};
use rust_decimal::Decimal;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Postgres};

use crate::fixture::{BOOKMAKERS, Fixture, bookmaker_ids};

#[rustfmt::skip]
const TEXTS: [&str; 20] = [
    "race_id", "horse_id", "bookmaker_id", "race_time", "course", "race_name", "race_class", "race_type",
    "distance", "going", "horse_name", "horse_number", "jockey", "trainer", "draw", "weight", "age", "form",
    "bookmaker_name", "odds_fractional",
];
/// The other columns with their types.
const OTHERS: [(&str, &str); 6] = [
    ("race_date", "date"),
    ("off_dt", "timestamptz"),
    ("runners", "integer"),
    ("in_play", "boolean"),
    ("odds_decimal", "numeric(10,3)"),
    ("odds_timestamp", "timestamptz"),
];
/// Two indexes: the primary key and the key of the upsert. Tables in the field often have more, which makes each
/// rewrite slower.
const COLUMNS: &str = "
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    race_id text NOT NULL, horse_id text NOT NULL, bookmaker_id text NOT NULL,
    race_date date, race_time text, off_dt timestamptz, course text, race_name text, race_class text,
    race_type text, distance text, going text, runners integer, horse_name text, horse_number text,
    jockey text, trainer text, draw text, weight text, age text, form text, bookmaker_name text,
    bookmaker_type text NOT NULL DEFAULT 'fixed', market_type text NOT NULL DEFAULT 'win',
    odds_decimal numeric(10,3), odds_fractional text, market_status text NOT NULL DEFAULT 'open',
    in_play boolean, odds_timestamp timestamptz,
    fetched_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (race_id, horse_id, bookmaker_id)";
/// A newer time alone is not a change.
const DIFFERS: &str = "(stored.odds_decimal, stored.odds_fractional, stored.market_status)
    IS DISTINCT FROM (excluded.odds_decimal, excluded.odds_fractional, excluded.market_status)";
const ROWS_A_STATEMENT: usize = 500;
/// Rows of one `unnest` statement; more would only make the message larger.
const ROWS_OF_ARRAYS: usize = 25_000;

/// One such table with its own connection. Each way of writing has its own table, so that it does not find rows that
/// another way has written.
pub struct BaselineTable {
    connection: PgConnection,
    pub table: String,
    upsert_of_one: Arc<str>,
    upsert_of_many: Arc<str>,
    upsert_of_arrays: Arc<str>,
}

impl BaselineTable {
    pub async fn new(mut connection: PgConnection, name: &str) -> anyhow::Result<Self> {
        let table = format!("bench.{name}");
        let create = format!("CREATE SCHEMA IF NOT EXISTS bench; CREATE TABLE {table} ({COLUMNS})");
        connection.execute(AssertSqlSafe(create)).await?;
        Ok(Self {
            connection,
            upsert_of_one: upsert(&table, 1).into(),
            upsert_of_many: upsert(&table, ROWS_A_STATEMENT).into(),
            upsert_of_arrays: upsert_of_arrays(&table).into(),
            table,
        })
    }

    /// All rows, by one prepared upsert each, in one transaction.
    pub async fn row_by_row(&mut self, fixture: &Fixture) -> anyhow::Result<Duration> {
        let texts = RowTexts::new(fixture);
        let rows = texts.all(fixture);
        let started = Instant::now();
        let mut tx = self.connection.begin().await?;
        for row in &rows {
            let upsert = sqlx::query(AssertSqlSafe(Arc::clone(&self.upsert_of_one)));
            bind_row(upsert, row).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(started.elapsed())
    }

    /// All rows, by upserts of 500 rows each, in one transaction.
    pub async fn multirow(&mut self, fixture: &Fixture) -> anyhow::Result<Duration> {
        let texts = RowTexts::new(fixture);
        let rows = texts.all(fixture);
        let started = Instant::now();
        let mut tx = self.connection.begin().await?;
        for batch in rows.chunks(ROWS_A_STATEMENT) {
            let upsert = match batch.len() {
                ROWS_A_STATEMENT => sqlx::query(AssertSqlSafe(Arc::clone(&self.upsert_of_many))),
                rest => sqlx::query(AssertSqlSafe(upsert(&self.table, rest))).persistent(false),
            };
            let upsert = batch.iter().fold(upsert, bind_row);
            upsert.execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(started.elapsed())
    }

    /// All rows as arrays; the server compares them and rewrites those that differ.
    pub async fn unnest_compare(&mut self, fixture: &Fixture) -> anyhow::Result<Duration> {
        let texts = RowTexts::new(fixture);
        let rows = texts.all(fixture);
        let started = Instant::now();
        let mut tx = self.connection.begin().await?;
        for batch in rows.chunks(ROWS_OF_ARRAYS) {
            let column = |n: usize| -> Vec<&str> { batch.iter().map(|row| row.texts[n]).collect() };
            let upsert = sqlx::query(AssertSqlSafe(Arc::clone(&self.upsert_of_arrays)));
            let upsert = (0..TEXTS.len()).fold(upsert, |upsert, n| upsert.bind(column(n)));
            upsert
                .bind(batch.iter().map(|row| row.race_date).collect::<Vec<_>>())
                .bind(batch.iter().map(|row| row.off_dt).collect::<Vec<_>>())
                .bind(batch.iter().map(|row| row.runners).collect::<Vec<_>>())
                .bind(vec![false; batch.len()])
                .bind(batch.iter().map(|row| row.decimal).collect::<Vec<_>>())
                .bind(batch.iter().map(|row| row.observed_at).collect::<Vec<_>>())
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(started.elapsed())
    }

    /// Only the changed rows, four columns of each, by the key: the best that a worker which keeps the stored state in
    /// memory does with such a table.
    pub async fn update_changed(
        &mut self,
        fixture: &Fixture,
        changed: &[usize],
    ) -> anyhow::Result<Duration> {
        let texts = RowTexts::new(fixture);
        let rows: Vec<WideRow<'_>> = changed.iter().map(|&at| texts.row(fixture, at)).collect();
        let column = |n: usize| -> Vec<&str> { rows.iter().map(|row| row.texts[n]).collect() };
        let started = Instant::now();
        let update = format!(
            "UPDATE {} w SET odds_decimal = n.odds_decimal, odds_fractional = n.odds_fractional,
                    odds_timestamp = n.odds_timestamp, updated_at = now()
             FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::numeric[], $6::timestamptz[])
                  AS n (race_id, horse_id, bookmaker_id, odds_fractional, odds_decimal, odds_timestamp)
             WHERE (w.race_id, w.horse_id, w.bookmaker_id) = (n.race_id, n.horse_id, n.bookmaker_id)",
            self.table
        );
        sqlx::query(AssertSqlSafe(update))
            .bind(column(0))
            .bind(column(1))
            .bind(column(2))
            .bind(column(19))
            .bind(rows.iter().map(|row| row.decimal).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.observed_at).collect::<Vec<_>>())
            .execute(&mut self.connection)
            .await?;
        Ok(started.elapsed())
    }

    /// The same number of rows rewritten inside the server; no row is sent or compared.
    pub async fn server_side(&mut self, rows: usize) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let table = &self.table;
        let update =
            format!("UPDATE {table} SET odds_timestamp = now(), updated_at = now() WHERE id <= $1");
        sqlx::query(AssertSqlSafe(update))
            .bind(rows as i64)
            .execute(&mut self.connection)
            .await?;
        Ok(started.elapsed())
    }
}

/// One price as the usual worker holds it before the write.
struct WideRow<'a> {
    texts: [&'a str; TEXTS.len()],
    race_date: NaiveDate,
    off_dt: DateTime<Utc>,
    runners: i32,
    decimal: Decimal,
    observed_at: DateTime<Utc>,
}

/// The texts that rows borrow; made before the measurement starts.
struct RowTexts {
    races: Vec<[String; 4]>,
    horses: Vec<[String; 4]>,
    bookmakers: Vec<String>,
}

impl RowTexts {
    pub fn new(fixture: &Fixture) -> Self {
        let races = (0..fixture.races()).map(|race| {
            [
                fixture.race_id(race),
                fixture.off_time(race),
                fixture.race_name(race),
                format!("Class {}", 1 + race % 6),
            ]
        });
        let horses = (0..fixture.runners()).map(|runner| {
            [
                fixture.horse_id(runner),
                fixture.horse(runner),
                (runner % 8 + 1).to_string(),
                (4 + runner % 6).to_string(),
            ]
        });
        Self {
            races: races.collect(),
            horses: horses.collect(),
            bookmakers: bookmaker_ids(),
        }
    }

    fn row(&self, fixture: &Fixture, at: usize) -> WideRow<'_> {
        let race = fixture.race_of(at / BOOKMAKERS.len());
        WideRow {
            texts: self.texts(fixture, at),
            race_date: fixture.day_of(race),
            off_dt: fixture.off_at(race),
            runners: 8,
            decimal: fixture.decimal(at),
            observed_at: fixture.observed_at(at),
        }
    }

    /// In the order of [`TEXTS`].
    #[rustfmt::skip]
    fn texts(&self, fixture: &Fixture, at: usize) -> [&str; TEXTS.len()] {
        let (runner, n) = (at / BOOKMAKERS.len(), at % BOOKMAKERS.len());
        let race = fixture.race_of(runner);
        let [race_id, off_time, race_name, class] = &self.races[race];
        let [horse_id, horse, number, age] = &self.horses[runner];
        [
            race_id, horse_id, &self.bookmakers[n], off_time, fixture.course(race), race_name, class, "Hurdle",
            "2m53y", "Good", horse, number, fixture.jockey(runner), "Jeremy Scott", number, "158", age, "542-13",
            BOOKMAKERS[n], fixture.fractional(at),
        ]
    }

    fn all<'a>(&'a self, fixture: &Fixture) -> Vec<WideRow<'a>> {
        (0..fixture.prices())
            .map(|at| self.row(fixture, at))
            .collect()
    }
}

type Upsert<'q> = Query<'q, Postgres, PgArguments>;

fn bind_row<'q>(upsert: Upsert<'q>, row: &'q WideRow<'_>) -> Upsert<'q> {
    let upsert = row
        .texts
        .iter()
        .fold(upsert, |upsert, text| upsert.bind(*text));
    upsert
        .bind(row.race_date)
        .bind(row.off_dt)
        .bind(row.runners)
        .bind(false)
        .bind(row.decimal)
        .bind(row.observed_at)
}

fn column_names() -> impl Iterator<Item = &'static str> {
    TEXTS
        .into_iter()
        .chain(OTHERS.into_iter().map(|(name, _)| name))
}

fn insert_clause(table: &str) -> String {
    let names: Vec<&str> = column_names().collect();
    format!("INSERT INTO {table} AS stored ({})", names.join(", "))
}

fn conflict_clause() -> String {
    let rest = column_names().skip(3);
    let set: Vec<String> = rest
        .map(|name| format!("{name} = excluded.{name}"))
        .collect();
    format!(
        "ON CONFLICT (race_id, horse_id, bookmaker_id) DO UPDATE SET {}, fetched_at = now(), updated_at = now()",
        set.join(", ")
    )
}

/// The upsert of this number of rows.
fn upsert(table: &str, rows: usize) -> String {
    let rows: Vec<String> = (0..rows).map(placeholders).collect();
    let (insert, rows, set) = (insert_clause(table), rows.join(", "), conflict_clause());
    format!("{insert} VALUES {rows} {set}")
}

/// `($27, $28, …)` for the row of this number.
fn placeholders(row: usize) -> String {
    let width = TEXTS.len() + OTHERS.len();
    let numbers: Vec<String> = (1..=width)
        .map(|n| format!("${}", row * width + n))
        .collect();
    format!("({})", numbers.join(", "))
}

/// The upsert of one array per column, which leaves equal rows alone.
fn upsert_of_arrays(table: &str) -> String {
    let texts = TEXTS.iter().map(|_| "text");
    // An array type has no precision.
    let others = OTHERS
        .iter()
        .map(|(_, of)| of.split('(').next().unwrap_or(of));
    let arrays: Vec<String> = texts
        .chain(others)
        .enumerate()
        .map(|(n, of)| format!("${}::{of}[]", n + 1))
        .collect();
    let (insert, arrays, set) = (insert_clause(table), arrays.join(", "), conflict_clause());
    format!("{insert} SELECT * FROM unnest({arrays}) {set} WHERE {DIFFERS}")
}
