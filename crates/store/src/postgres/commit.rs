//! Commits one cycle in one transaction. `Store::commit` calls it.
//!
//! Up to [`MAX_IN_ARRAYS`] prices it is one statement, so one round trip, which is the cost of a remote
//! database. The prices of a larger cycle are copied into a table of this session first, in pieces: memory
//! holds one piece, whatever the size of the cycle.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgBindIterExt, PgHasArrayType};
use sqlx::query::Query;
use sqlx::types::Text;
use sqlx::{AssertSqlSafe, Connection, Encode, PgConnection, SqlSafeStr, Type};

use super::error::FENCED;
use super::statement::{STAGING_TABLE, StatementKind};
use super::{LEASE, Postgres, map_error};
use crate::bad_rows::{CommitError, CommitResult};
use crate::outbox::kinds_text;
use crate::rows::{self, StoredRow};
use crate::{
    ClaimedBatch, Committed, CycleMeta, OutboxRow, Result, StoreError, TxEnd, WriteCounts,
    WriterLease, facts_text,
};
use oddsd_core::diff::{Changes, EventChange, OutboxEntry, PriceChange, PriceChangeKind};
use oddsd_core::model::{EventId, PriceStatus};

/// Above this the memory for the arrays, here and at the server, costs more than the round trips.
const MAX_IN_ARRAYS: usize = 50_000;
/// Above this number of slices, grouping by event is cheaper.
const MAX_SLICES: usize = 128;

const PIECE_BYTES: usize = 512 * 1024;
/// For a staged transaction alone: enough to sort and group a hundred thousand prices without files. With more
/// memory the planner would hash all stored prices rather than look up the changed ones.
const WORK_MEMORY: &str = "24MB";
const STAGED_COLUMNS: i16 = 13;
/// The start of a binary COPY: its name, flags and no header extension.
const COPY_BEGIN: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const COPY_END: i16 = -1;

type EncodeResult = std::result::Result<(), BoxDynError>;

/// The input of a commit, owned by the task that writes it.
struct PendingCycle {
    lease: WriterLease,
    meta: CycleMeta,
    changes: Arc<Changes>,
}

impl Postgres {
    /// A rollback makes it a dry run.
    pub(crate) async fn commit(
        &self,
        lease: &WriterLease,
        meta: &CycleMeta,
        changes: &Arc<Changes>,
        end: TxEnd,
    ) -> CommitResult {
        let db = self.clone();
        let cycle = PendingCycle {
            lease: lease.clone(),
            meta: meta.clone(),
            changes: changes.clone(),
        };
        let write = async move { cycle.write(&db, end).await };
        self.run_detached(write).await
    }
}

fn statement_kind(changes: &Changes) -> StatementKind {
    let only_moves = changes.events.is_empty()
        && changes.confirmed.is_empty()
        && changes.selections.is_empty()
        && changes.bookmakers.is_empty()
        && changes.corrections.is_empty()
        && changes.counts.inserted == 0;
    if !only_moves {
        StatementKind::Anything
    } else if event_slices(&changes.prices).nth(MAX_SLICES).is_some() {
        StatementKind::Moves
    } else {
        StatementKind::MovesInSlices
    }
}

/// The database refused values, unless rows exist that are not in memory (23505) or a day has no partition:
/// then the memory is wrong.
fn commit_error(error: sqlx::Error) -> CommitError {
    let values = match &error {
        sqlx::Error::Database(refused) => {
            let code = refused.code().unwrap_or_default();
            match &*code {
                FENCED | "23505" => false,
                "23514" => refused.constraint().is_some(),
                code => ["22", "23", "54"]
                    .iter()
                    .any(|class| code.starts_with(class)),
            }
        }
        _ => false,
    };
    CommitError::new(values, map_error(error))
}

type Statement<'q> = Query<'q, sqlx::Postgres, PgArguments>;

impl PendingCycle {
    async fn write(&self, db: &Postgres, end: TxEnd) -> CommitResult {
        let changes = &self.changes;
        let mut connection = db.connection().await?;
        db.create_day(&mut connection, changes.as_of).await?;
        if changes.prices.len() > MAX_IN_ARRAYS {
            return self.run_staged(&mut connection, end).await;
        }
        let kind = statement_kind(changes);
        if end == TxEnd::Commit {
            return self.run(&mut connection, kind).await;
        }
        let mut tx = connection.begin().await.map_err(map_error)?;
        let written = self.run(&mut tx, kind).await?;
        end.apply(tx).await.map_err(map_error)?;
        Ok(written)
    }

    /// Sends the statement and checks the counts that the database returns.
    async fn run(&self, connection: &mut PgConnection, kind: StatementKind) -> CommitResult {
        let entries = self.changes.outbox_entries(self.meta.id);
        let mut query = self.bind_cycle(sqlx::query(kind.sql().into_sql_str()));
        query = query
            .bind(array(&entries, |entry| {
                entry.event.as_ref().map(EventId::as_str)
            }))
            .bind(array(&entries, kinds_text))
            .bind(array(&entries, |entry| entry.before.as_deref()))
            .bind(array(&entries, |entry| entry.after.as_deref()))
            .bind(array(&entries, |entry| entry.detail.as_deref()));
        if !kind.only_moves() {
            query = self.bind_catalogue(query);
        }
        if kind != StatementKind::Staged {
            query = self.bind_places(self.bind_prices(query), kind);
        }
        let row = query.fetch_one(connection).await.map_err(commit_error)?;
        let row = StoredRow::Postgres(row);
        let written = write_counts(&row, kind)?.checked(&self.changes, entries.len())?;
        let outbox = self.outbox_rows(&row, entries)?;
        Ok(Committed { written, outbox })
    }

    /// The outbox rows that were just written. A reader that begins after the commit sees at least the
    /// statement's own snapshot and its transaction.
    fn outbox_rows(
        &self,
        row: &StoredRow,
        entries: Vec<OutboxEntry>,
    ) -> Result<Option<ClaimedBatch>> {
        let transaction = row.int("xid")? as u64;
        let Some(snapshot) = rows::snapshot(row)?.with_tx(transaction) else {
            return Ok(None);
        };
        let ids: HashMap<String, i64> = row.json("outbox_ids")?;
        let created_at = row.time("at")?;
        let mut rows = Vec::with_capacity(entries.len());
        for entry in entries {
            let id = entry
                .event
                .as_ref()
                .and_then(|event| ids.get(event.as_str()));
            let id = *id.ok_or_else(|| {
                StoreError::Failed("an event of the commit has no outbox row".into())
            })?;
            rows.push(OutboxRow::new(id, transaction, created_at, entry));
        }
        rows.sort_by_key(|row| row.id);
        Ok(Some(ClaimedBatch { snapshot, rows }))
    }

    /// Copies the prices into the staging table, and runs the statement that takes them from there.
    async fn run_staged(&self, connection: &mut PgConnection, end: TxEnd) -> CommitResult {
        let begin = format!("BEGIN; SET LOCAL work_mem = '{WORK_MEMORY}'; {STAGING_TABLE}");
        let begun = connection.begin_with(AssertSqlSafe(begin)).await;
        let mut tx = begun.map_err(map_error)?;
        let copied = copy_to_staging(&mut tx, &self.changes).await;
        copied.map_err(commit_error)?;
        let written = self.run(&mut tx, StatementKind::Staged).await?;
        end.apply(tx).await.map_err(map_error)?;
        Ok(written)
    }

    fn bind_cycle<'q>(&'q self, query: Statement<'q>) -> Statement<'q> {
        let (meta, changes) = (&self.meta, &self.changes);
        query
            .bind(LEASE)
            .bind(&self.lease.holder)
            .bind(self.lease.epoch)
            .bind(meta.id)
            .bind(&meta.feed)
            .bind(changes.as_of)
            .bind(meta.races as i32)
            .bind(meta.horses as i32)
            .bind(&meta.bookmakers)
            .bind(meta.numbers(changes))
    }

    fn bind_catalogue<'q>(&'q self, query: Statement<'q>) -> Statement<'q> {
        let bookmakers = &*self.changes.bookmakers;
        let events = &*self.changes.events;
        let selections = &*self.changes.selections;
        let moved: Vec<&EventChange> = events
            .iter()
            .filter(|e| e.logged_transition().is_some())
            .chain(&self.changes.confirmed)
            .collect();
        let before = |e: &&EventChange| e.before.as_ref().map(|before| before.status.as_str());
        query
            .bind(array(bookmakers, |b| b.row))
            .bind(array(bookmakers, |b| b.bookmaker.id.as_str()))
            .bind(array(bookmakers, |b| b.bookmaker.name.as_str()))
            .bind(array(bookmakers, |b| b.bookmaker.kind_text()))
            .bind(array(events, |e| e.row))
            .bind(array(events, |e| e.after.id.as_str()))
            .bind(array(events, |e| &*e.after.source))
            .bind(array(events, |e| e.after.sport.as_str()))
            .bind(array(events, |e| e.after.league.as_str()))
            .bind(array(events, |e| e.after.venue.as_str()))
            .bind(array(events, |e| e.after.name.as_str()))
            .bind(array(events, |e| e.after.starts_at))
            .bind(array(events, |e| e.after.day))
            .bind(array(events, |e| e.after.status.as_str()))
            .bind(array(events, |e| e.after.in_play))
            .bind(array(events, |e| e.after.listed))
            .bind(array(events, |e| facts_text(&e.after.attributes)))
            .bind(self.changes.clock_driven)
            .bind(array(selections, |s| s.row))
            .bind(array(selections, |s| s.event_row))
            .bind(array(selections, |s| s.after.id.as_str()))
            .bind(array(selections, |s| s.after.name.as_str()))
            .bind(array(selections, |s| s.after.status.as_str()))
            .bind(array(selections, |s| facts_text(&s.after.attributes)))
            .bind(array(&moved, |e| e.row))
            .bind(array(&moved, before))
            .bind(array(&moved, |e| e.after.status.as_str()))
            .bind(array(&moved, |e| e.status_by.as_str()))
            .bind(&self.changes.corrections)
    }

    fn bind_prices<'q>(&'q self, query: Statement<'q>) -> Statement<'q> {
        let prices = &*self.changes.prices;
        // A column that no price has is sent, unpacked and stored as one NULL.
        let fractions = prices.iter().any(|p| p.offer.fractional.is_some());
        let points = prices.iter().any(|p| p.offer.point.is_some());
        let each_ways = prices.iter().any(|p| p.offer.each_way.is_some());
        let statuses = prices.iter().any(|p| nondefault(p.status).is_some());
        let places = |p: &PriceChange| p.offer.each_way.map(|ew| i32::from(ew.places));
        let denom = |p: &PriceChange| p.offer.each_way.map(|ew| i32::from(ew.denom));
        query
            .bind(array(prices, |p| p.row))
            .bind(array(prices, |p| p.offer.decimal))
            .bind(fractions.then(|| array(prices, |p| p.offer.fractional.map(Text))))
            .bind(points.then(|| array(prices, |p| p.offer.point)))
            .bind(each_ways.then(|| array(prices, places)))
            .bind(each_ways.then(|| array(prices, denom)))
            .bind(statuses.then(|| array(prices, |p| nondefault(p.status))))
            .bind(array(prices, |p| p.stored_time(self.changes.as_of)))
    }

    /// Binds the order of the history, and the further columns of new prices.
    fn bind_places<'q>(&'q self, query: Statement<'q>, kind: StatementKind) -> Statement<'q> {
        let prices = &*self.changes.prices;
        if kind == StatementKind::MovesInSlices {
            let slices: Vec<EventSlice> = event_slices(prices).collect();
            return query
                .bind(array(&slices, |slice| slice.event))
                .bind(array(&slices, |slice| slice.low))
                .bind(array(&slices, |slice| slice.high));
        }
        let query = query.bind(array(prices, |p| p.event_row));
        if kind == StatementKind::Moves {
            return query;
        }
        query
            .bind(array(prices, |p| p.selection_row))
            .bind(array(prices, |p| p.bookmaker_row))
            .bind(array(prices, |p| p.market.as_str()))
            .bind(array(prices, |p| p.kind == PriceChangeKind::Inserted))
    }
}

/// Open prices, nearly all, are sent and kept in the history without a status.
fn nondefault(status: PriceStatus) -> Option<&'static str> {
    (status != PriceStatus::Open).then(|| status.as_str())
}

/// A stretch of adjacent prices of one event, counted from one.
struct EventSlice {
    event: i64,
    low: i32,
    high: i32,
}

fn event_slices(prices: &[PriceChange]) -> impl Iterator<Item = EventSlice> {
    let mut before = 0;
    let stretches = prices.chunk_by(|one, other| one.event_row == other.event_row);
    stretches.map(move |stretch| {
        let low = before + 1;
        before += stretch.len() as i32;
        EventSlice {
            event: stretch[0].event_row,
            low,
            high: before,
        }
    })
}

/// The database's own counts.
fn write_counts(row: &StoredRow, kind: StatementKind) -> Result<WriteCounts> {
    let count = |name| row.int(name).map(|count| count as u64);
    let mut written = WriteCounts {
        outbox: count("outbox")?,
        updated: count("updated")?,
        ..WriteCounts::default()
    };
    if !kind.only_moves() {
        written.inserted = count("inserted")?;
        written.events = count("events")?;
        written.selections = count("selections")?;
    }
    Ok(written)
}

/// One column of some rows as an array, encoded without a vector in between. All arrays of a table come from
/// the same rows, so their lengths agree: unequal ones would be padded with NULL by `unnest`, silently.
fn array<'a, T, V>(
    rows: &'a [T],
    value: impl Fn(&'a T) -> V + 'a,
) -> impl Encode<'a, sqlx::Postgres> + Type<sqlx::Postgres> + 'a
where
    V: Encode<'a, sqlx::Postgres> + Type<sqlx::Postgres> + PgHasArrayType + 'a,
{
    rows.iter().map(value).bind_iter()
}

async fn copy_to_staging(connection: &mut PgConnection, changes: &Changes) -> sqlx::Result<()> {
    let mut copy = connection
        .copy_in_raw("COPY pg_temp.oddsd_stage FROM STDIN (FORMAT binary)")
        .await?;
    let mut piece = PgArgumentBuffer::default();
    piece.reserve(PIECE_BYTES + PIECE_BYTES / 8);
    piece.extend(COPY_BEGIN);
    for price in &changes.prices {
        encode_row(price, changes.as_of, &mut piece).map_err(sqlx::Error::Encode)?;
        if piece.len() >= PIECE_BYTES {
            copy.send(piece.as_slice()).await?;
            piece.clear();
        }
    }
    piece.extend(COPY_END.to_be_bytes());
    copy.send(piece.as_slice()).await?;
    copy.finish().await.map(drop)
}

/// Writes the columns in the order of the staging table.
fn encode_row(
    price: &PriceChange,
    as_of: DateTime<Utc>,
    to: &mut PgArgumentBuffer,
) -> EncodeResult {
    let offer = &price.offer;
    to.extend(STAGED_COLUMNS.to_be_bytes());
    encode_field(price.row, to)?;
    encode_field(offer.decimal, to)?;
    encode_field(offer.fractional.map(Text), to)?;
    encode_field(offer.point, to)?;
    encode_field(offer.each_way.map(|ew| i32::from(ew.places)), to)?;
    encode_field(offer.each_way.map(|ew| i32::from(ew.denom)), to)?;
    encode_field(nondefault(price.status), to)?;
    encode_field(price.stored_time(as_of), to)?;
    encode_field(price.event_row, to)?;
    encode_field(price.selection_row, to)?;
    encode_field(price.bookmaker_row, to)?;
    encode_field(price.market.as_str(), to)?;
    encode_field(price.kind == PriceChangeKind::Inserted, to)
}

/// Writes the length of the value, or -1 for NULL, and its binary form.
fn encode_field<'a>(
    value: impl Encode<'a, sqlx::Postgres>,
    to: &mut PgArgumentBuffer,
) -> EncodeResult {
    let start = to.len();
    to.extend([0; 4]);
    let length = match value.encode(to)? {
        IsNull::Yes => -1,
        IsNull::No => i32::try_from(to.len() - start - 4)?,
    };
    to[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}
