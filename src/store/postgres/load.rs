//! Everything that is stored, into memory, at start and after any database error. Prices come by
//! COPY in binary: no text in between, and nothing is held of a row but what the book keeps.

use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::{Executor, PgConnection};

use super::wire::{Fields, Malformed};
use super::{Postgres, explain, within};
use crate::diff::PriceRow;
use crate::model::{EachWay, Fraction, Offer, PriceStatus};
use crate::store::rows::{Loader, orphan};
use crate::store::{Loaded, Result, StoreError, to_the_end};

/// A load of everything may take longer than any other statement.
const LOAD_TIMEOUT: Duration = Duration::from_secs(120);

const PRICES: &str =
    "COPY (SELECT id, event_id, selection_id, bookmaker_id, market, decimal, fractional, point,
    ew_places, ew_denom, status, observed_at FROM oddsd.prices) TO STDOUT (FORMAT binary)";
const PRICE_COLUMNS: i16 = 12;

impl Postgres {
    pub async fn load(&self) -> Result<Loaded> {
        let db = self.clone();
        to_the_end(within(LOAD_TIMEOUT, async move { db.everything().await })).await
    }

    async fn everything(&self) -> Result<Loaded> {
        let mut connection = self.connection().await?;
        // One snapshot for all questions.
        let mut tx = sqlx::Connection::begin(&mut *connection)
            .await
            .map_err(explain)?;
        let rules = format!(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = {}",
            LOAD_TIMEOUT.as_millis()
        );
        tx.execute(sqlx::AssertSqlSafe(rules))
            .await
            .map_err(explain)?;
        let mut loader = Loader::default();
        let mut bookmakers =
            sqlx::query("SELECT id, key, name FROM oddsd.bookmakers").fetch(&mut *tx);
        while let Some(row) = bookmakers.try_next().await.map_err(explain)? {
            loader.bookmaker(&row)?;
        }
        drop(bookmakers);
        // Where no look is on record, any look is newer.
        let mut events = sqlx::query(concat!(
            "SELECT e.id, ", super::read::event_columns!(), ",
                    (extract(epoch FROM coalesce(c.checked_at, 'epoch')) * 1000000)::bigint AS checked_at,
                    e.status = 'suspended' AND 'correction' IS NOT DISTINCT FROM (
                        SELECT t.source FROM oddsd.transitions t WHERE t.event_id = e.id ORDER BY t.id DESC LIMIT 1) AS corrected
             FROM oddsd.events e LEFT JOIN oddsd.checks c ON c.event_id = e.id"
        ))
        .fetch(&mut *tx);
        while let Some(row) = events.try_next().await.map_err(explain)? {
            loader.event(&row)?;
        }
        drop(events);
        let mut selections = sqlx::query(concat!(
            "SELECT s.id, s.event_id, ",
            super::read::selection_columns!(),
            " FROM oddsd.selections s"
        ))
        .fetch(&mut *tx);
        while let Some(row) = selections.try_next().await.map_err(explain)? {
            loader.selection(&row)?;
        }
        drop(selections);
        prices(&mut tx, &mut loader).await?;
        let next = sqlx::query(
            "SELECT greatest(coalesce(k.next_event, 1), coalesce((SELECT max(id) FROM oddsd.events), 0) + 1) AS event,
                    greatest(coalesce(k.next_selection, 1), coalesce((SELECT max(id) FROM oddsd.selections), 0) + 1) AS selection,
                    greatest(coalesce(k.next_bookmaker, 1), coalesce((SELECT max(id) FROM oddsd.bookmakers), 0) + 1) AS bookmaker,
                    greatest(coalesce(k.next_price, 1), coalesce((SELECT max(id) FROM oddsd.prices), 0) + 1) AS price,
                    coalesce(k.id, 0) AS cycle
             FROM (SELECT 1) AS one LEFT JOIN (SELECT * FROM oddsd.cycles ORDER BY id DESC LIMIT 1) AS k ON true",
        );
        let next = next.fetch_one(&mut *tx).await.map_err(explain)?;
        self.learn_days(&mut tx).await?;
        loader.finish(&next)
    }
}

async fn prices(connection: &mut PgConnection, loader: &mut Loader) -> Result<()> {
    let mut rows = connection.copy_out_raw(PRICES).await.map_err(explain)?;
    let mut first = true;
    while let Some(data) = rows.try_next().await.map_err(explain)? {
        let fields = Fields::of(&data, first, PRICE_COLUMNS);
        first = false;
        let Some(fields) = fields else { continue };
        let price = price(fields).map_err(|Malformed(why)| {
            StoreError::Failed(format!("a price holds what oddsd did not write: {why}"))
        })?;
        loader.0.price(&price).map_err(|_| orphan())?;
    }
    Ok(())
}

/// In the order of the columns above.
fn price(mut fields: Fields<'_>) -> std::result::Result<PriceRow<'_>, Malformed> {
    Ok(PriceRow {
        row: fields.int()?,
        event: fields.int()?,
        selection: fields.int()?,
        bookmaker: fields.int()?,
        market: fields.text()?,
        offer: Offer {
            decimal: fields.decimal()?,
            // Other people's words ("Evens") are read as none, and put right with the next look.
            fractional: fields.maybe_text()?.and_then(Fraction::parse),
            point: fields.maybe_decimal()?,
            each_way: match (fields.maybe_small()?, fields.maybe_small()?) {
                (Some(places), Some(denom)) => Some(EachWay { places, denom }),
                _ => None,
            },
        },
        status: PriceStatus::parse(fields.text()?).ok_or(Malformed("a status that is none"))?,
        observed_at: fields.time()?,
    })
}
