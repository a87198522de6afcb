//! The invalidation log: what was removed, for what, and why; counted along for all daemons together.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Result, Store, ask, on};

/// One line: one thing that changed, and what was removed for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removal {
    pub id: i64,
    pub at: DateTime<Utc>,
    pub cycle: Option<i64>,
    /// Names of the rules that asked for it, comma-separated.
    pub rule: String,
    pub reason: String,
    /// Change kinds, comma-separated.
    pub change: String,
    /// The event, table or task.
    pub entity: Option<String>,
    /// Keys as they are, `tag …`, and patterns (`sidebar:7:*`).
    #[serde(rename = "targets")]
    pub keys: Vec<String>,
    /// Answers that were there under them. One that two lines name counts for the first.
    #[serde(rename = "keys_removed")]
    pub existed: i64,
    /// The version of the rules that were in force.
    #[serde(rename = "rules_version")]
    pub rules: String,
    pub backend: String,
    pub attempts: i32,
    pub took_ms: i64,
    /// The price or status that it was and is.
    pub before: Option<String>,
    pub after: Option<String>,
}

/// Which lines of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Lines after this one, oldest first; `None`: the newest ones.
    pub after: Option<i64>,
    pub limit: i64,
    pub reason: Option<String>,
    /// The event, table or task.
    pub entity: Option<String>,
}

/// All removals since the tables were made, by all daemons.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RemovalStats {
    pub total_invalidations: i64,
    pub keys_deleted: i64,
    pub by_reason: BTreeMap<String, i64>,
    /// In the last 60 s.
    pub per_minute: i64,
}

impl Store {
    /// Lines of the log, oldest first.
    pub async fn removals(&self, wanted: &Wanted) -> Result<Vec<Removal>> {
        ask!(self, db => db.removals(wanted))
    }

    pub async fn removal_stats(&self) -> Result<RemovalStats> {
        ask!(self, db => db.removal_stats())
    }

    /// True for the first who raises it: one warning, whoever sees it.
    pub async fn raise_alarm(&self, name: &str) -> Result<bool> {
        on!(self, db => db.raise_alarm(name).await)
    }

    /// True for the one who ends it.
    pub async fn lower_alarm(&self, name: &str) -> Result<bool> {
        on!(self, db => db.lower_alarm(name).await)
    }

    pub async fn is_alarmed(&self, name: &str) -> Result<bool> {
        ask!(self, db => db.is_alarmed(name))
    }
}

impl Removal {
    /// As the settling statements take it.
    pub(super) fn stored(&self) -> serde_json::Value {
        serde_json::json!({
            "cycle_id": self.cycle, "rule": self.rule, "reason": self.reason, "change": self.change,
            "entity": self.entity, "keys": self.keys.join("\n"), "existed": self.existed, "rules": self.rules,
            "backend": self.backend, "attempts": self.attempts, "took_ms": self.took_ms, "before": self.before,
            "after": self.after,
        })
    }
}
