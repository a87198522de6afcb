//! Commits one cycle in one transaction. `Store::commit` calls it.
//!
//! Up to [`MAX_IN_ARRAYS`] prices it is one statement, so one round trip, which is the cost of a remote
//! database. The prices of a larger cycle are copied into a table of this session first, in pieces: memory
//! holds one piece, whatever the size of the cycle.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, SqlSafeStr};

use super::binary::{PgField, SIGNATURE, array};
use super::error::FENCED;
use super::statement::{STAGING_TABLE, StatementKind};
use super::{LEASE, Postgres, map_error};
use crate::bad_rows::CommitError;
use crate::outbox::kinds_text;
use crate::rows::{self, Columns};
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
const COPY_END: i16 = -1;

/// The input of a commit, owned by the task that writes it.
struct PendingCycle {
    lease: WriterLease,
    facts: CycleMeta,
    changes: Arc<Changes>,
}

impl Postgres {
    /// A rollback makes it a dry run.
    pub(crate) async fn commit(
        &self,
        lease: &WriterLease,
        facts: &CycleMeta,
        changes: &Arc<Changes>,
        end: TxEnd,
    ) -> std::result::Result<Committed, CommitError> {
        let db = self.clone();
        let cycle = PendingCycle {
            lease: lease.clone(),
            facts: facts.clone(),
            changes: changes.clone(),
        };
        let write = async move { Ok(db.write(&cycle, end).await) };
        self.run_detached(write).await?
    }

    async fn write(
        &self,
        cycle: &PendingCycle,
        end: TxEnd,
    ) -> std::result::Result<Committed, CommitError> {
        let changes = &cycle.changes;
        let mut connection = self.connection().await?;
        self.create_day(&mut connection, changes.as_of).await?;
        if changes.prices.len() > MAX_IN_ARRAYS {
            return cycle.run_staged(&mut connection, end).await;
        }
        let kind = statement_kind(changes);
        if end == TxEnd::Commit {
            return cycle.run(&mut connection, kind).await;
        }
        let mut tx = connection.begin().await.map_err(map_error)?;
        let written = cycle.run(&mut tx, kind).await?;
        end.apply(tx).await.map_err(map_error)?;
        Ok(written)
    }
}

fn statement_kind(changes: &Changes) -> StatementKind {
    let only_moves = changes.events.is_empty()
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
    /// Sends the statement and checks the counts that the database returns.
    async fn run(
        &self,
        connection: &mut PgConnection,
        kind: StatementKind,
    ) -> std::result::Result<Committed, CommitError> {
        let entries = self.changes.outbox_entries(self.facts.id);
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
        let written = write_counts(&row, kind).checked(&self.changes, entries.len())?;
        let outbox = self.outbox_rows(&row, entries)?;
        Ok(Committed { written, outbox })
    }

    /// The outbox rows that were just written. A reader that begins after the commit sees at least the
    /// statement's own snapshot and its transaction.
    fn outbox_rows(&self, row: &PgRow, entries: Vec<OutboxEntry>) -> Result<Option<ClaimedBatch>> {
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
    async fn run_staged(
        &self,
        connection: &mut PgConnection,
        end: TxEnd,
    ) -> std::result::Result<Committed, CommitError> {
        let begin = format!("BEGIN; SET LOCAL work_mem = '{WORK_MEMORY}'; {STAGING_TABLE}");
        let begun = connection.begin_with(AssertSqlSafe(begin)).await;
        let mut tx = begun.map_err(map_error)?;
        let copied = copy_to_staging(&mut tx, &self.changes.prices).await;
        copied.map_err(commit_error)?;
        let written = self.run(&mut tx, StatementKind::Staged).await?;
        end.apply(tx).await.map_err(map_error)?;
        Ok(written)
    }

    fn bind_cycle<'q>(&'q self, query: Statement<'q>) -> Statement<'q> {
        let (facts, changes) = (&self.facts, &self.changes);
        let counts = &changes.counts;
        let counts = [
            counts.seen,
            counts.inserted,
            counts.reopened,
            counts.changed,
            counts.withdrawn,
            counts.unchanged,
            counts.stale,
            counts.rejected,
            counts.no_price,
        ];
        let mut numbers: Vec<i64> = counts.iter().map(|n| *n as i64).collect();
        let next = &changes.next_ids;
        numbers.extend([facts.fetch_ms, facts.diff_ms]);
        numbers.extend([next.event, next.selection, next.bookmaker, next.price]);
        query
            .bind(LEASE)
            .bind(&self.lease.holder)
            .bind(self.lease.epoch)
            .bind(facts.id)
            .bind(&facts.feed)
            .bind(changes.as_of)
            .bind(facts.races as i32)
            .bind(facts.horses as i32)
            .bind(&facts.bookmakers)
            .bind(numbers)
    }

    fn bind_catalogue<'q>(&'q self, query: Statement<'q>) -> Statement<'q> {
        let bookmakers = &*self.changes.bookmakers;
        let events = &*self.changes.events;
        let selections = &*self.changes.selections;
        let moved: Vec<&EventChange> = events
            .iter()
            .filter(|e| e.status_transition().is_some())
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
            .bind(fractions.then(|| array(prices, |p| p.offer.fractional)))
            .bind(points.then(|| array(prices, |p| p.offer.point)))
            .bind(each_ways.then(|| array(prices, places)))
            .bind(each_ways.then(|| array(prices, denom)))
            .bind(statuses.then(|| array(prices, |p| nondefault(p.status))))
            .bind(array(prices, |p| p.observed_at))
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

/// The database's own counts, in the order of the statement's columns.
fn write_counts(row: &PgRow, kind: StatementKind) -> WriteCounts {
    let count = |at: usize| row.get::<i64, _>(at) as u64;
    let mut written = WriteCounts {
        outbox: count(1),
        updated: count(2),
        ..WriteCounts::default()
    };
    if !kind.only_moves() {
        (written.inserted, written.events, written.selections) = (count(7), count(8), count(9));
    }
    written
}

async fn copy_to_staging(
    connection: &mut PgConnection,
    prices: &[PriceChange],
) -> sqlx::Result<()> {
    let mut copy = connection
        .copy_in_raw("COPY pg_temp.oddsd_stage FROM STDIN (FORMAT binary)")
        .await?;
    let mut piece = Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 8);
    piece.extend(SIGNATURE);
    for price in prices {
        encode_row(price, &mut piece);
        if piece.len() >= PIECE_BYTES {
            copy.send(&*piece).await?;
            piece.clear();
        }
    }
    piece.extend(COPY_END.to_be_bytes());
    copy.send(&*piece).await?;
    copy.finish().await.map(drop)
}

/// Writes the columns in the order of the staging table.
fn encode_row(price: &PriceChange, to: &mut Vec<u8>) {
    let offer = &price.offer;
    to.extend(STAGED_COLUMNS.to_be_bytes());
    price.row.write(to);
    offer.decimal.write(to);
    offer.fractional.write(to);
    offer.point.write(to);
    offer.each_way.map(|ew| i32::from(ew.places)).write(to);
    offer.each_way.map(|ew| i32::from(ew.denom)).write(to);
    nondefault(price.status).write(to);
    price.observed_at.write(to);
    price.event_row.write(to);
    price.selection_row.write(to);
    price.bookmaker_row.write(to);
    price.market.as_str().write(to);
    (price.kind == PriceChangeKind::Inserted).write(to);
}
