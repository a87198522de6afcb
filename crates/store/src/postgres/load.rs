//! Loads the stored rows into memory in one snapshot. `Store::load` calls it, at start and after any error.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor};

use super::{Postgres, map_error};
use crate::dialect::DbConnection;
use crate::load::load;
use crate::{InitialState, Result, run_detached};

/// A load of everything may take longer than any other statement.
const LOAD_TIMEOUT: Duration = Duration::from_secs(120);

impl Postgres {
    pub async fn load(&self) -> Result<InitialState> {
        let db = self.clone();
        let load = Box::pin(async move {
            let mut connection = db.connection().await?;
            let mut tx = connection.begin().await.map_err(map_error)?;
            // One snapshot for all statements.
            let mode = format!(
                "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = {}",
                LOAD_TIMEOUT.as_millis()
            );
            tx.execute(AssertSqlSafe(mode)).await.map_err(map_error)?;
            db.read_days(&mut tx).await?;
            load(DbConnection::Postgres(&mut tx)).await
        });
        let db = self.clone();
        run_detached(async move { db.within(LOAD_TIMEOUT, load).await }).await
    }
}
