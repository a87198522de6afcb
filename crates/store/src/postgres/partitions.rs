//! The history's partitions: one a day (UTC), created before they are needed, dropped whole after the retention.
//! The commit and the prune call it. A replayed recording creates its own days as they come.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use parking_lot::Mutex;
use sqlx::{AssertSqlSafe, Executor, PgConnection};

use super::{Postgres, map_error};
use crate::Result;

/// Days that are created ahead of the current one.
const AHEAD: u64 = 2;
const PREFIX: &str = "history_";
const FORMAT: &str = "%Y%m%d";
/// Dropping a day waits for the readers of history, and later readers wait behind it.
const LOCK_TIMEOUT: &str = "500ms";
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Days whose partition is known to exist.
pub type KnownDays = Arc<Mutex<BTreeSet<NaiveDate>>>;

impl Postgres {
    /// Creates the day of `at`; calls the database only for a day that is not known.
    pub(super) async fn create_day(
        &self,
        connection: &mut PgConnection,
        at: DateTime<Utc>,
    ) -> Result<()> {
        let day = at.date_naive();
        if self.days.lock().contains(&day) {
            return Ok(());
        }
        sqlx::query("SELECT oddsd.make_history_day($1)")
            .bind(day)
            .execute(connection)
            .await
            .map_err(map_error)?;
        self.days.lock().insert(day);
        Ok(())
    }

    /// Creates the next days, outside of any cycle.
    pub(super) async fn create_days_ahead(&self, now: DateTime<Utc>) -> Result<()> {
        let mut connection = self.connection().await?;
        for days in 0..=AHEAD {
            let at = now + chrono::TimeDelta::days(days as i64);
            self.create_day(&mut connection, at).await?;
        }
        Ok(())
    }

    /// Reads the existing days from the database and keeps them as the known ones.
    pub(super) async fn read_days(&self, connection: &mut PgConnection) -> Result<Vec<NaiveDate>> {
        let names: Vec<String> = sqlx::query_scalar(
            "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             WHERE i.inhparent = 'oddsd.history'::regclass",
        )
        .fetch_all(connection)
        .await
        .map_err(map_error)?;
        let day =
            |name: &String| NaiveDate::parse_from_str(name.strip_prefix(PREFIX)?, FORMAT).ok();
        let days: BTreeSet<NaiveDate> = names.iter().filter_map(day).collect();
        self.days.lock().clone_from(&days);
        Ok(days.into_iter().collect())
    }

    /// Drops the days that ended before `before`; returns how many changes they held. A day that is being
    /// read is left for the next time.
    pub(super) async fn drop_days(&self, before: DateTime<Utc>) -> Result<u64> {
        let mut connection = self.connection().await?;
        let days = self.read_days(&mut connection).await?;
        let mut changes = 0;
        for day in days.into_iter().filter(|day| *day < before.date_naive()) {
            // The cycles of that day have the count: counting the rows would read all of them.
            let held: i64 = sqlx::query_scalar(
                "SELECT coalesce(sum(inserted + reopened + changed + withdrawn), 0)::bigint FROM oddsd.cycles
                 WHERE as_of >= $1::timestamp AT TIME ZONE 'UTC' AND as_of < ($1 + 1)::timestamp AT TIME ZONE 'UTC'",
            )
            .bind(day)
            .fetch_one(&mut *connection)
            .await
            .map_err(map_error)?;
            let drop = format!(
                "BEGIN; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; DROP TABLE oddsd.{PREFIX}{}; COMMIT",
                day.format(FORMAT)
            );
            match connection.execute(AssertSqlSafe(drop)).await {
                Ok(_) => {
                    self.days.lock().remove(&day);
                    changes += held as u64;
                }
                Err(sqlx::Error::Database(busy))
                    if busy.code().as_deref() == Some(LOCK_NOT_AVAILABLE) =>
                {
                    break;
                }
                Err(error) => return Err(map_error(error)),
            }
        }
        Ok(changes)
    }
}
