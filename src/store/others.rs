//! What other writers change: reported by themselves, or watched in their tables; and the bell that
//! rings when they have committed.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Result, Store, StoreError, on};
use crate::model::Reported;

/// A table that is to be watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// As a person writes it: `name` or `schema.name`, in double quotes where SQL asks for them.
    pub table: String,
    /// What identifies a row to the rules; none: only that the table changed.
    pub columns: Vec<String>,
    /// Tuples of the columns that one statement reports one by one; above it, one report for all.
    pub bulk: u32,
    /// Nobody is notified at the commit; whoever looks finds it.
    pub quiet: bool,
}

/// What watching a table took, or would take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Installed {
    /// As its changes name it.
    pub table: String,
    pub columns: Vec<String>,
    /// Was it watched before? That watch is gone.
    pub replaced: bool,
    /// Partitions that are watched with it.
    pub partitions: usize,
    /// Partitions that cannot be watched: what is written to them directly is not seen.
    pub not_covered: Vec<String>,
    /// What was said to the database.
    pub statements: Vec<String>,
}

/// A table that is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Watched {
    /// As it is called now.
    pub table: String,
    /// As its changes name it: as it was called when the watch was added.
    pub told_as: String,
    pub columns: Vec<String>,
    pub bulk: u32,
    pub quiet: bool,
    /// Watched columns that are there no more: its changes are reported without a row.
    pub missing: Vec<String>,
    /// Somebody has switched its triggers off.
    pub disabled: bool,
    pub partitions: usize,
    /// Partitions that came later: what is written to them directly is not seen.
    pub not_covered: Vec<String>,
}

impl Store {
    /// Stores the changes, each once, all or none of them; whoever listens is rung.
    pub async fn report(&self, changes: &[Reported]) -> Result<()> {
        let mut known = HashSet::with_capacity(changes.len());
        let once: Vec<Reported> = changes
            .iter()
            .filter(|change| known.insert(*change))
            .cloned()
            .collect();
        on!(self, db => db.report(once).await)
    }

    /// From now on every committed write to the table is in the outbox, in the writer's own transaction.
    /// With `rehearse` nothing is done. `Misconfigured` when that table cannot be watched.
    pub async fn watch(&self, asked: &Asked, rehearse: bool) -> Result<Installed> {
        self.postgres()?.watch(asked, rehearse).await
    }

    pub async fn unwatch(&self, table: &str, rehearse: bool) -> Result<Vec<String>> {
        self.postgres()?.unwatch(table, rehearse).await
    }

    pub async fn watched(&self) -> Result<Vec<Watched>> {
        let db = self.postgres()?;
        db.in_time(db.watched()).await
    }

    /// Rings `bell` whenever another writer has committed something, until `stop`. Whoever is rung has
    /// to look; that nothing rings proves nothing. SQLite tells nobody, so this ends at once.
    pub async fn listen(&self, bell: Arc<Notify>, stop: CancellationToken) {
        match self {
            Self::Postgres(db) => db.listen(bell, stop).await,
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

/// As it stands in the outbox: a change that says no more than its event has no detail.
pub(super) fn detail(change: &Reported) -> Option<&str> {
    let says_more = change.event.is_none() || change.detail != "{}";
    says_more.then_some(change.detail.as_str())
}
