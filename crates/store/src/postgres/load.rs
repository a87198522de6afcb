//! Loads the stored rows into memory in one snapshot. `Store::load` calls it, at start and after any error.
//! Prices come by binary COPY, without text in between, and are handed on row by row.

use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::{Executor, PgConnection};

use super::binary::{CopyRow, Malformed};
use super::{Postgres, map_error, within};
use crate::dialect::DbConnection;
use crate::load::StateLoader;
use crate::{InitialState, Result, StoreError, run_detached};
use oddsd_core::diff::StoredPriceRow;
use oddsd_core::model::{EachWay, Fraction, Offer, PriceStatus};

/// A load of everything may take longer than any other statement.
const LOAD_TIMEOUT: Duration = Duration::from_secs(120);

const PRICES: &str =
    "COPY (SELECT id, event_id, selection_id, bookmaker_id, market, decimal, fractional, point,
    ew_places, ew_denom, status, observed_at FROM oddsd.prices) TO STDOUT (FORMAT binary)";
const PRICE_COLUMNS: i16 = 12;

impl Postgres {
    pub async fn load(&self) -> Result<InitialState> {
        let db = self.clone();
        run_detached(within(LOAD_TIMEOUT, async move { db.load_all().await })).await
    }

    async fn load_all(&self) -> Result<InitialState> {
        let mut connection = self.connection().await?;
        let tx = sqlx::Connection::begin(&mut *connection).await;
        let mut tx = tx.map_err(map_error)?;
        // One snapshot for all statements.
        let mode = format!(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = {}",
            LOAD_TIMEOUT.as_millis()
        );
        tx.execute(sqlx::AssertSqlSafe(mode))
            .await
            .map_err(map_error)?;
        let mut loader = StateLoader::default();
        let mut catalogue = DbConnection::Postgres(&mut tx);
        loader.load_catalogue(&mut catalogue).await?;
        load_prices(&mut tx, &mut loader).await?;
        self.read_days(&mut tx).await?;
        loader.finish(&mut DbConnection::Postgres(&mut tx)).await
    }
}

async fn load_prices(connection: &mut PgConnection, loader: &mut StateLoader) -> Result<()> {
    let mut rows = connection.copy_out_raw(PRICES).await.map_err(map_error)?;
    let mut first = true;
    while let Some(data) = rows.try_next().await.map_err(map_error)? {
        let row = CopyRow::parse(&data, first, PRICE_COLUMNS);
        first = false;
        let Some(row) = row else { continue };
        let price = price(row).map_err(|Malformed(why)| {
            StoreError::Failed(format!("a price holds what oddsd did not write: {why}"))
        })?;
        loader.price(&price)?;
    }
    Ok(())
}

/// Reads the columns of [`PRICES`] in their order.
fn price(mut row: CopyRow<'_>) -> std::result::Result<StoredPriceRow<'_>, Malformed> {
    Ok(StoredPriceRow {
        row: row.int()?,
        event: row.int()?,
        selection: row.int()?,
        bookmaker: row.int()?,
        market: row.text()?,
        offer: Offer {
            decimal: row.decimal()?,
            // An adopted row may hold a word ("Evens"): it is read as none, and the next poll corrects it.
            fractional: row.maybe_text()?.and_then(Fraction::parse),
            point: row.maybe_decimal()?,
            each_way: match (row.maybe_small()?, row.maybe_small()?) {
                (Some(places), Some(denom)) => Some(EachWay { places, denom }),
                _ => None,
            },
        },
        status: PriceStatus::parse(row.text()?).ok_or(Malformed("an unknown status"))?,
        observed_at: row.time()?,
    })
}
