//! Loads the stored rows into memory in one snapshot. `Store::load` calls it, at start and after any error.

use super::{Sqlite, map_error};
use crate::dialect::DbConnection;
use crate::load::StateLoader;
use crate::rows::{self, Columns, OFFER};
use crate::{InitialState, Result, run_detached};
use oddsd_core::diff::StoredPriceRow;

impl Sqlite {
    /// In a task of its own: a dropped `begin()` would leave a reader in an old snapshot.
    pub async fn load(&self) -> Result<InitialState> {
        let db = self.clone();
        run_detached(async move {
            // A deferred read transaction: one snapshot for all statements.
            let mut tx = db.readers.begin().await.map_err(map_error)?;
            let mut tx = DbConnection::Sqlite(&mut tx);
            let mut loader = StateLoader::default();
            loader.load_catalogue(&mut tx).await?;
            let prices = format!(
                "SELECT p.id, p.event_id, p.selection_id, p.bookmaker_id, p.market, {OFFER} FROM prices p"
            );
            tx.for_each(prices, &[], |row| {
                loader.price(&StoredPriceRow {
                    row: row.int("id")?,
                    event: row.int("event_id")?,
                    selection: row.int("selection_id")?,
                    bookmaker: row.int("bookmaker_id")?,
                    market: row.text("market")?,
                    offer: rows::offer(&row)?,
                    status: rows::price_status(&row)?,
                    observed_at: row.time("observed_at")?,
                })
            })
            .await?;
            loader.finish(&mut tx).await
        })
        .await
    }
}
