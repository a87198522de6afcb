//! Builds the in-memory state from the stored rows, at start and after any database error. The backends call
//! it inside one read transaction, whose statements see the same snapshot.
//!
//! A stored time that lies in the future of the database's clock is of a clock that was wrong: a last check counts as
//! made now, and a feed time as unknown.

use chrono::DateTime;

use super::dialect::{DbConnection, only_row};
use super::rows::{self, EVENT, OFFER, SELECTION};
use super::{InitialState, Result, StoreError};
use oddsd_core::diff::stored_state::IdAllocator;
use oddsd_core::diff::{DanglingReference, StateBuilder, StoredPriceRow};
use oddsd_core::model::{Bookmaker, BookmakerId, StatusSource};

/// The next row id of each table, and the last cycle.
const NEXT_ROWS: &str = "SELECT greatest(coalesce(k.next_event, 1), coalesce((SELECT max(id) FROM oddsd.events), 0) + 1) AS event,
            greatest(coalesce(k.next_selection, 1), coalesce((SELECT max(id) FROM oddsd.selections), 0) + 1) AS selection,
            greatest(coalesce(k.next_bookmaker, 1), coalesce((SELECT max(id) FROM oddsd.bookmakers), 0) + 1) AS bookmaker,
            greatest(coalesce(k.next_price, 1), coalesce((SELECT max(id) FROM oddsd.prices), 0) + 1) AS price,
            coalesce(k.id, 0) AS cycle
     FROM (SELECT 1) AS one LEFT JOIN (SELECT * FROM oddsd.cycles ORDER BY id DESC LIMIT 1) AS k ON true";

/// Rows are added in the order bookmakers, events, selections, prices. Prices are handed on one by one.
pub async fn load(mut tx: DbConnection<'_>) -> Result<InitialState> {
    let mut state = StateBuilder::default();
    let now = only_row(tx.fetch("SELECT now() AS now", &[]).await?)?.time("now")?;
    let bookmakers = "SELECT id, key, name FROM oddsd.bookmakers".into();
    tx.for_each(bookmakers, &[], |row| {
        let bookmaker = Bookmaker {
            id: BookmakerId::new(row.text("key")?),
            name: row.text("name")?.into(),
        };
        state.add_bookmaker(row.int("id")?, bookmaker);
        Ok(())
    })
    .await?;
    let events = format!(
        "SELECT e.id, {EVENT}, c.checked_at,
                (SELECT t.source FROM oddsd.transitions t WHERE t.event_id = e.id ORDER BY t.id DESC LIMIT 1) AS status_by
         FROM oddsd.events e LEFT JOIN oddsd.checks c ON c.event_id = e.id"
    );
    tx.for_each(events, &[], |row| {
        // An event that was never checked is older than any poll.
        let checked_at = row.maybe_time("checked_at")?;
        let checked_at = checked_at.unwrap_or(DateTime::UNIX_EPOCH).min(now);
        // Without a logged transition nobody knows that only the clock has said it.
        let status_by = row.maybe_text("status_by")?.and_then(|by| by.parse().ok());
        let status_by = status_by.unwrap_or(StatusSource::Feed);
        let id = row.int("id")?;
        state.add_event(id, rows::event(&row)?, checked_at, status_by);
        Ok(())
    })
    .await?;
    let selections = format!("SELECT s.id, s.event_id, {SELECTION} FROM oddsd.selections s");
    tx.for_each(selections, &[], |row| {
        let (id, event) = (row.int("id")?, row.int("event_id")?);
        state.add_selection(id, event, rows::selection(&row)?);
        Ok(())
    })
    .await?;
    let prices = format!(
        "SELECT p.id, p.event_id, p.selection_id, p.bookmaker_id, p.market, {OFFER} FROM oddsd.prices p"
    );
    tx.for_each(prices, &[], |row| {
        let price = StoredPriceRow {
            row: row.int("id")?,
            event: row.int("event_id")?,
            selection: row.int("selection_id")?,
            bookmaker: row.int("bookmaker_id")?,
            market: row.text("market")?,
            offer: rows::offer(&row)?,
            status: rows::price_status(&row)?,
            observed_at: Some(row.time("observed_at")?).filter(|at| *at <= now),
        };
        state.add_price(&price).map_err(|DanglingReference| {
            StoreError::Failed("a price names a selection or bookmaker that is not stored".into())
        })
    })
    .await?;
    let row = only_row(tx.fetch(NEXT_ROWS, &[]).await?)?;
    let next = IdAllocator {
        event: row.int("event")?,
        selection: row.int("selection")?,
        bookmaker: row.int("bookmaker")?,
        price: row.int("price")?,
    };
    let last_cycle = row.int("cycle")?;
    Ok(InitialState {
        state: state.build(next, last_cycle),
        next_cycle: last_cycle + 1,
    })
}
