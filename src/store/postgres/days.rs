//! The history's partitions: one a day (UTC), made before they are needed, dropped whole when they
//! are over. A recording that is played again has days of its own, made when they come.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{AssertSqlSafe, Executor, PgConnection};

use super::{Postgres, explain};
use crate::store::Result;

/// Days made ahead of the one that is asked for.
const AHEAD: u64 = 2;
const PREFIX: &str = "history_";
const FORMAT: &str = "%Y%m%d";
/// Dropping a day waits for whoever reads history, and makes later readers wait meanwhile.
const LOCK_TIMEOUT: &str = "2s";
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Days whose partition is known to be there.
#[derive(Clone, Default)]
pub struct Days(Arc<Mutex<BTreeSet<NaiveDate>>>);

impl Days {
    fn known(&self) -> std::sync::MutexGuard<'_, BTreeSet<NaiveDate>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Postgres {
    /// Asks the database only when the day has not been met before.
    pub(super) async fn make_day_of(
        &self,
        connection: &mut PgConnection,
        at: DateTime<Utc>,
    ) -> Result<()> {
        let day = at.date_naive();
        if self.days.known().contains(&day) {
            return Ok(());
        }
        sqlx::query("SELECT oddsd.make_history_day($1)")
            .bind(day)
            .execute(connection)
            .await
            .map_err(explain)?;
        self.days.known().insert(day);
        Ok(())
    }

    /// The days that will come next, outside of any cycle.
    pub(super) async fn make_days_ahead(&self, now: DateTime<Utc>) -> Result<()> {
        let mut connection = self.connection().await?;
        for days in 0..=AHEAD {
            let at = now + chrono::TimeDelta::days(days as i64);
            self.make_day_of(&mut connection, at).await?;
        }
        Ok(())
    }

    /// What the database says is there, in place of what was known.
    pub(super) async fn learn_days(&self, connection: &mut PgConnection) -> Result<Vec<NaiveDate>> {
        let names: Vec<String> = sqlx::query_scalar(
            "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             WHERE i.inhparent = 'oddsd.history'::regclass",
        )
        .fetch_all(connection)
        .await
        .map_err(explain)?;
        let day =
            |name: &String| NaiveDate::parse_from_str(name.strip_prefix(PREFIX)?, FORMAT).ok();
        let days: BTreeSet<NaiveDate> = names.iter().filter_map(day).collect();
        self.days.known().clone_from(&days);
        Ok(days.into_iter().collect())
    }

    /// Takes out the days that ended before `before`; returns how many changes they held. A day that
    /// somebody reads for longer than a moment is left for the next time.
    pub(super) async fn drop_days(&self, before: DateTime<Utc>) -> Result<u64> {
        let mut connection = self.connection().await?;
        let days = self.learn_days(&mut connection).await?;
        let mut changes = 0;
        for day in days.into_iter().filter(|day| *day < before.date_naive()) {
            // Counted by the cycles of that day: a count of the rows would read all of them.
            let held: i64 = sqlx::query_scalar(
                "SELECT coalesce(sum(inserted + reopened + changed + withdrawn), 0)::bigint FROM oddsd.cycles
                 WHERE as_of >= $1::timestamp AT TIME ZONE 'UTC' AND as_of < ($1 + 1)::timestamp AT TIME ZONE 'UTC'",
            )
            .bind(day)
            .fetch_one(&mut *connection)
            .await
            .map_err(explain)?;
            let drop = format!(
                "BEGIN; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; DROP TABLE oddsd.{PREFIX}{}; COMMIT",
                day.format(FORMAT)
            );
            match connection.execute(AssertSqlSafe(drop)).await {
                Ok(_) => {
                    self.days.known().remove(&day);
                    changes += held as u64;
                }
                Err(sqlx::Error::Database(busy))
                    if busy.code().as_deref() == Some(LOCK_NOT_AVAILABLE) =>
                {
                    break;
                }
                Err(error) => return Err(explain(error)),
            }
        }
        Ok(changes)
    }
}
