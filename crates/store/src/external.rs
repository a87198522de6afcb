//! Changes of other writers: reported by themselves, or watched in their tables; and the notification of
//! their commits. The HTTP API reports, `oddsd watch` installs watches, the relay listens.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::dialect::args;
use super::{Result, Store, StoreError};
use oddsd_core::model::ExternalChange;

/// A request to watch a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchRequest {
    /// As a person writes it: `name` or `schema.name`, in double quotes where SQL asks for them.
    pub table: String,
    /// The columns that identify a row to the rules; none: only that the table changed.
    pub columns: Vec<String>,
    /// Tuples of the columns that one statement reports one by one; above it, one report for all.
    pub bulk: u32,
    /// The commit sends no notification; the relay finds the rows at its next poll.
    pub quiet: bool,
}

/// The plan of a watch, as installed or as it would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WatchPlan {
    /// The table's name in its changes.
    pub table: String,
    pub columns: Vec<String>,
    /// The commit sends no notification, because the server allows two-phase commits, which one would make impossible.
    pub quiet_for_two_phase: bool,
    /// True if the table was watched before: that watch is gone.
    pub replaced: bool,
    /// Partitions that are watched with it.
    pub partitions: usize,
    /// Partitions that cannot be watched: direct writes to them are not seen.
    pub not_covered: Vec<String>,
    /// False if the role may not create event triggers: rows that `ALTER TABLE` or `DROP TABLE` changes, adds or
    /// removes, as with a partition, are not reported.
    pub reports_ddl: bool,
    /// The SQL statements, in order.
    pub statements: Vec<String>,
}

/// A watch that is installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableWatch {
    /// The table's name now.
    pub table: String,
    /// The table's name in its changes: its name when the watch was added.
    pub told_as: String,
    pub columns: Vec<String>,
    pub bulk: u32,
    pub quiet: bool,
    /// Watched columns that no longer exist: changes are reported without a row.
    pub missing: Vec<String>,
    /// True if the triggers are switched off.
    pub disabled: bool,
    pub partitions: usize,
    /// Partitions that came later: direct writes to them are not seen.
    pub not_covered: Vec<String>,
    /// See `WatchPlan::reports_ddl`.
    pub reports_ddl: bool,
}

impl Store {
    /// Stores the changes, each once, all or none of them, and notifies the listeners.
    pub async fn report_changes(&self, changes: &[ExternalChange]) -> Result<()> {
        let mut known = HashSet::with_capacity(changes.len());
        let once = changes.iter().filter(|change| known.insert(*change));
        let rows: serde_json::Value = once
            .map(|change| {
                let event = change.event.as_ref().map(|event| event.as_str());
                serde_json::json!([change.kind.as_str(), event, outbox_detail(change)])
            })
            .collect();
        let sql = "INSERT INTO oddsd.outbox (kinds, event_key, detail, created_at, due_at)
             SELECT value ->> 0, value ->> 1, value ->> 2, now(), now() FROM json_array_elements(CAST($1 AS json))
             RETURNING id, (SELECT pg_notify('oddsd_outbox', ''))";
        self.write(sql, args![rows.to_string()]).await.map(drop)
    }

    /// From now on every committed write to the table is in the outbox, in the writer's own transaction.
    /// A dry run changes nothing. `Misconfigured` when that table cannot be watched.
    pub async fn watch(&self, request: &WatchRequest, dry_run: bool) -> Result<WatchPlan> {
        self.postgres()?.watch(request, dry_run).await
    }

    /// Removes the watch; returns the SQL statements.
    pub async fn unwatch(&self, table: &str, dry_run: bool) -> Result<Vec<String>> {
        self.postgres()?.unwatch(table, dry_run).await
    }

    pub async fn list_watches(&self) -> Result<Vec<TableWatch>> {
        let db = self.postgres()?;
        db.within_deadline(db.watched()).await
    }

    /// Notifies `wakeup` whenever another writer has committed, until `stop`. Notifications can get lost, so
    /// the relay polls as well. SQLite has none: there this returns at once.
    pub async fn listen(&self, wakeup: Arc<Notify>, stop: CancellationToken) {
        match self {
            Self::Postgres(db) => db.listen(wakeup, stop).await,
            Self::Sqlite(_) => {}
        }
    }

    fn postgres(&self) -> Result<&super::postgres::Postgres> {
        match self {
            Self::Postgres(db) => Ok(db),
            Self::Sqlite(_) => Err(StoreError::Misconfigured(
                "only tables of Postgres can be watched, and DATABASE_URL names an SQLite file; whoever writes there \
                 can report its changes with POST /v1/changes"
                    .into(),
            )),
        }
    }
}

/// The detail that the outbox stores: none for a change that has nothing beside its event.
fn outbox_detail(change: &ExternalChange) -> Option<&str> {
    let has_detail = change.event.is_none() || change.detail != "{}";
    has_detail.then_some(change.detail.as_str())
}
