//! Commits one cycle in one transaction of prepared statements. `Store::commit` calls it.
//!
//! A call of the driver costs ten times as much as a row, so a statement writes up to 256 prices, and history is
//! copied from the rows that have just been stored. The statement for one known price is
//! `WITH moved (id, …) AS (VALUES (?, ?, …)) UPDATE prices SET decimal = moved.decimal, … FROM moved WHERE …`.

use std::sync::{Arc, LazyLock};

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::{CHECKED, Sqlite, check_lease, map_error, now};
use crate::bad_rows::{CommitError, CommitResult};
use crate::dialect::{Arg, args, sqlite_query};
use crate::outbox::kinds_text;
use crate::{
    ClaimedBatch, Committed, CycleMeta, OutboxRow, TxEnd, WriteCounts, WriterLease, facts_text,
    run_detached,
};
use oddsd_core::diff::{Changes, EventChange, PriceChange, PriceChangeKind};
use oddsd_core::model::{DbSnapshot, EventId, EventStatus};

/// Rows of one statement: the largest first, the rest one by one.
const BATCH_SIZES: [usize; 3] = [256, 16, 1];
/// Rows of history that one statement copies, so that its list of ids stays small.
const MAX_COPIED: usize = 50_000;

impl Sqlite {
    /// A rollback makes it a dry run.
    pub(crate) async fn commit(
        &self,
        lease: &WriterLease,
        cycle: &CycleMeta,
        changes: &Arc<Changes>,
        end: TxEnd,
    ) -> CommitResult {
        let (db, lease, cycle, changes) =
            (self.clone(), lease.clone(), cycle.clone(), changes.clone());
        run_detached(async move {
            let mut tx = db.begin().await?;
            let written = write(&mut tx, &lease, &cycle, &changes).await?;
            end.apply(tx).await.map_err(map_error)?;
            Ok(written)
        })
        .await
    }
}

type Tx = sqlx::Transaction<'static, sqlx::Sqlite>;

async fn write(
    tx: &mut Tx,
    lease: &WriterLease,
    cycle: &CycleMeta,
    changes: &Changes,
) -> CommitResult {
    check_lease(tx, lease).await?;
    let at = now();
    let mut written = WriteCounts::default();
    write_cycle(tx, cycle, changes, at).await?;
    write_catalogue(tx, changes, at, &mut written).await?;
    if !changes.corrections.is_empty() {
        let apply = "UPDATE corrections SET applied_at = $2 WHERE id = ANY($1)";
        write_row(tx, apply, args![&changes.corrections[..], at]).await?;
    }
    write_prices(tx, cycle, changes, at, &mut written).await?;
    let entries = changes.outbox_entries(cycle.id);
    let count = entries.len();
    let created_at = DateTime::from_timestamp_micros(at).unwrap_or_default();
    let mut rows = Vec::with_capacity(count);
    for entry in entries {
        let insert = "INSERT INTO outbox (cycle_id, event_key, kinds, created_at, due_at, before, after, detail)
             VALUES ($1, $2, $3, $4, $4, $5, $6, $7)";
        let event = entry.event.as_ref().map(EventId::as_str);
        let (before, after, detail) = (&entry.before, &entry.after, &entry.detail);
        let args = args![
            cycle.id,
            event,
            kinds_text(&entry),
            at,
            before,
            after,
            detail
        ];
        let done = sqlite_query(insert, &args).execute(&mut **tx).await;
        let done = done.map_err(map_error)?;
        written.outbox += done.rows_affected();
        let id = done.last_insert_rowid();
        rows.push(OutboxRow::new(id, id as u64, created_at, entry));
    }
    let written = written.checked(changes, count)?;
    // Writers take turns: the last row is the last commit. A cycle without rows has no commit number.
    let snapshot = rows
        .last()
        .map(|last| DbSnapshot::from_commit_count(last.transaction));
    let outbox = snapshot.map(|snapshot| ClaimedBatch { snapshot, rows });
    Ok(Committed { written, outbox })
}

/// Runs a statement with values that the database may refuse; returns the number of rows affected.
async fn write_row(tx: &mut SqliteConnection, sql: &str, args: Vec<Arg>) -> CommitResult<u64> {
    let done = sqlite_query(sql, &args).execute(tx).await;
    Ok(done.map_err(commit_error)?.rows_affected())
}

async fn write_cycle(
    tx: &mut Tx,
    cycle: &CycleMeta,
    changes: &Changes,
    at: i64,
) -> CommitResult<()> {
    let bookmakers = serde_json::to_string(&cycle.bookmakers).expect("text is JSON");
    let insert = "INSERT INTO cycles (id, feed, as_of, committed_at, races, horses, bookmakers, seen, inserted, reopened, changed,
                             withdrawn, unchanged, stale, rejected, no_price, fetch_ms, diff_ms,
                             next_event, next_selection, next_bookmaker, next_price, open_prices)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
                 coalesce((SELECT open_prices FROM cycles ORDER BY id DESC LIMIT 1),
                          (SELECT count(*) FROM prices WHERE status <> 'withdrawn')) + $9 + $10 - $12)";
    let mut args = args![
        cycle.id,
        &cycle.feed,
        changes.as_of,
        at,
        cycle.races,
        cycle.horses,
        bookmakers,
    ];
    args.extend(cycle.numbers(changes).map(Arg::from));
    let done = sqlite_query(insert, &args).execute(&mut **tx).await;
    Ok(done.map(drop).map_err(map_error)?)
}

async fn write_catalogue(
    tx: &mut Tx,
    changes: &Changes,
    at: i64,
    written: &mut WriteCounts,
) -> CommitResult<()> {
    for change in &changes.bookmakers {
        let insert =
            "INSERT INTO bookmakers (id, key, name, kind, created_at) VALUES ($1, $2, $3, $4, $5)";
        let bookmaker = &change.bookmaker;
        let key = bookmaker.id.as_str();
        let args = args![change.row, key, &bookmaker.name, bookmaker.kind_text(), at];
        write_row(tx, insert, args).await?;
    }
    for change in &changes.confirmed {
        write_transition(tx, changes, change, at).await?;
    }
    for change in &changes.events {
        written.events += write_event(tx, change, at).await?;
        write_transition(tx, changes, change, at).await?;
        if !changes.clock_driven {
            write_row(tx, CHECKED, args![change.row, changes.as_of]).await?;
        }
    }
    for change in &changes.selections {
        let selection = &change.after;
        let upsert = "INSERT INTO selections (id, event_id, key, name, status, facts, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
             ON CONFLICT (id) DO UPDATE SET name = $4, status = $5, facts = $6, updated_at = $7";
        let args = args![
            change.row,
            change.event_row,
            selection.id.as_str(),
            &selection.name,
            selection.status.as_str(),
            facts_text(&selection.attributes),
            at,
        ];
        written.selections += write_row(tx, upsert, args).await?;
    }
    Ok(())
}

async fn write_event(tx: &mut Tx, change: &EventChange, at: i64) -> CommitResult<u64> {
    let event = &change.after;
    let upsert = "INSERT INTO events (id, key, source, sport, league, venue, name, starts_at, day, status, in_play, listed, facts,
                             created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14)
         ON CONFLICT (id) DO UPDATE SET source = $3, sport = $4, league = $5, venue = $6, name = $7, starts_at = $8,
             day = $9, status = $10, in_play = $11, listed = $12, facts = $13, updated_at = $14";
    let args = args![
        change.row,
        event.id.as_str(),
        &*event.source,
        &event.sport,
        &event.league,
        &event.venue,
        &event.name,
        event.starts_at,
        event.day.map(|day| day.to_string()),
        event.status.as_str(),
        event.in_play,
        event.listed,
        facts_text(&event.attributes),
        at,
    ];
    write_row(tx, upsert, args).await
}

async fn write_transition(
    tx: &mut Tx,
    changes: &Changes,
    change: &EventChange,
    at: i64,
) -> CommitResult<()> {
    let Some((before, after)) = change.logged_transition() else {
        return Ok(());
    };
    let insert = "INSERT INTO transitions (event_id, at, feed_time, before, after, source) VALUES ($1, $2, $3, $4, $5, $6)";
    let (before, after) = (before.map(EventStatus::as_str), after.as_str());
    let by = change.status_by.as_str();
    let args = args![change.row, at, changes.as_of, before, after, by];
    write_row(tx, insert, args).await.map(drop)
}

async fn write_prices(
    tx: &mut Tx,
    cycle: &CycleMeta,
    changes: &Changes,
    at: i64,
    written: &mut WriteCounts,
) -> CommitResult<()> {
    let is_new = |change: &&PriceChange| change.kind == PriceChangeKind::Inserted;
    let (new, known): (Vec<_>, Vec<_>) = changes.prices.iter().partition(is_new);
    written.updated = write_batches(tx, &known, changes.as_of, at, &UPDATES).await?;
    written.inserted = write_batches(tx, &new, changes.as_of, at, &INSERTS).await?;
    for batch in changes.prices.chunks(MAX_COPIED) {
        let rows: Vec<i64> = batch.iter().map(|change| change.row).collect();
        let copy = "INSERT INTO price_history (price_id, cycle_id, decimal, fractional, point, ew_places, ew_denom, status, observed_at)
             SELECT p.id, $2, p.decimal, p.fractional, p.point, p.ew_places, p.ew_denom, p.status, p.observed_at
             FROM json_each($1) changed CROSS JOIN prices p ON p.id = changed.value";
        write_row(tx, copy, args![&rows[..], cycle.id]).await?;
    }
    Ok(())
}

/// A statement for each size of [`BATCH_SIZES`].
type Sizes = LazyLock<[String; BATCH_SIZES.len()]>;

const COLUMNS: usize = 13;

static UPDATES: Sizes = LazyLock::new(|| {
    BATCH_SIZES.map(|rows| {
        format!(
            "WITH moved (id, event_id, selection_id, bookmaker_id, market, decimal, fractional, point, ew_places, ew_denom,
                         status, observed_at, updated_at) AS (VALUES {})
             UPDATE prices SET decimal = moved.decimal, fractional = moved.fractional, point = moved.point,
                 ew_places = moved.ew_places, ew_denom = moved.ew_denom, status = moved.status,
                 observed_at = moved.observed_at, updated_at = moved.updated_at
             FROM moved WHERE prices.id = moved.id",
            placeholders(rows)
        )
    })
});
static INSERTS: Sizes = LazyLock::new(|| {
    BATCH_SIZES.map(|rows| {
        format!(
            "INSERT INTO prices (id, event_id, selection_id, bookmaker_id, market, decimal, fractional, point, ew_places,
                                 ew_denom, status, observed_at, updated_at) VALUES {}",
            placeholders(rows)
        )
    })
});

/// Anonymous parameters for this many rows.
fn placeholders(rows: usize) -> String {
    let row = format!("({})", vec!["?"; COLUMNS].join(", "));
    vec![row; rows].join(", ")
}

async fn write_batches(
    tx: &mut Tx,
    changes: &[&PriceChange],
    as_of: DateTime<Utc>,
    at: i64,
    statements: &'static Sizes,
) -> CommitResult<u64> {
    let (mut rest, mut done) = (changes, 0);
    for (size, statement) in BATCH_SIZES.iter().zip(statements.iter()) {
        while let Some((batch, others)) = rest.split_at_checked(*size) {
            let mut query = sqlx::query(AssertSqlSafe(statement.as_str()));
            for change in batch {
                query = bind_price(query, change, as_of, at);
            }
            let affected = query.execute(&mut **tx).await.map_err(commit_error)?;
            done += affected.rows_affected();
            rest = others;
        }
    }
    Ok(done)
}

type Statement<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

/// Binds all columns of a price, in the order of the statements.
fn bind_price<'q>(
    statement: Statement<'q>,
    change: &'q PriceChange,
    as_of: DateTime<Utc>,
    at: i64,
) -> Statement<'q> {
    let offer = &change.offer;
    statement
        .bind(change.row)
        .bind(change.event_row)
        .bind(change.selection_row)
        .bind(change.bookmaker_row)
        .bind(change.market.as_str())
        .bind(offer.decimal.to_string())
        .bind(offer.fractional.map(|fraction| fraction.to_string()))
        .bind(offer.point.map(|point| point.to_string()))
        .bind(offer.each_way.map(|each_way| i64::from(each_way.places)))
        .bind(offer.each_way.map(|each_way| i64::from(each_way.denom)))
        .bind(change.status.as_str())
        .bind(change.stored_time(as_of).timestamp_micros())
        .bind(at)
}

/// The database refused values when a constraint failed (19) or a value is too big (18), unless the row
/// existed (1555 primary key, 2067 unique).
fn commit_error(error: sqlx::Error) -> CommitError {
    let code = match &error {
        sqlx::Error::Database(refused) => refused.code().and_then(|code| code.parse::<u32>().ok()),
        _ => None,
    };
    let values =
        code.is_some_and(|code| matches!(code & 0xff, 18 | 19) && !matches!(code, 1555 | 2067));
    CommitError::new(values, map_error(error))
}
