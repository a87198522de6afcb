//! The invalidation log: one row a removal, with its change and reason, the totals of all daemons, and the
//! rate alert. The relay writes it through `settle`; the HTTP API and the CLI read it here.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::dialect::args;
use super::rows::StoredRow;
use super::{Result, Store};

/// One line of the log: one change, and the targets that were removed for it.
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
    /// Cached answers that existed under them. One that two lines name counts for the first.
    #[serde(rename = "keys_removed")]
    pub existed: i64,
    /// The version of the rules in force.
    #[serde(rename = "rules_version")]
    pub rules: String,
    pub backend: String,
    pub attempts: i32,
    pub took_ms: i64,
    /// The price or status before and after the change.
    pub before: Option<String>,
    pub after: Option<String>,
}

/// Which lines of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFilter {
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
    pub async fn removals(&self, wanted: &LogFilter) -> Result<Vec<Removal>> {
        let order = wanted.after.map_or("DESC", |_| "");
        let sql = format!(
            "SELECT id, at, cycle_id, rule, reason, change, entity, keys, existed, rules, backend,
                    CAST(attempts AS bigint) AS attempts, took_ms, before, after
             FROM oddsd.removals
             WHERE id > $1 AND (CAST($3 AS text) IS NULL OR reason = $3) AND (CAST($4 AS text) IS NULL OR entity = $4)
             ORDER BY id {order} LIMIT $2"
        );
        let after = wanted.after.unwrap_or(-1);
        let args = args![after, wanted.limit, &wanted.reason, &wanted.entity];
        let found = self.read(sql, args).await?;
        let mut removals = found.iter().map(removal).collect::<Result<Vec<_>>>()?;
        if wanted.after.is_none() {
            removals.reverse();
        }
        Ok(removals)
    }

    pub async fn removal_stats(&self) -> Result<RemovalStats> {
        let sql = "SELECT reason, CAST(sum(removals) AS bigint) AS removals, CAST(sum(keys) AS bigint) AS keys,
                    CAST(coalesce(sum(removals) FILTER (WHERE since > now() - interval '1 minute'), 0) AS bigint) AS last_minute
             FROM oddsd.removal_counts GROUP BY reason";
        let mut stats = RemovalStats::default();
        for row in self.read(sql, args![]).await? {
            let removals = row.int("removals")?;
            stats.total_invalidations += removals;
            stats.keys_deleted += row.int("keys")?;
            stats.per_minute += row.int("last_minute")?;
            stats.by_reason.insert(row.text("reason")?.into(), removals);
        }
        Ok(stats)
    }

    /// Returns true for the first daemon that raises it, so that the warning is logged once.
    pub async fn raise_alert(&self, name: &str) -> Result<bool> {
        let sql = "INSERT INTO oddsd.alarms (name, since) VALUES ($1, now()) ON CONFLICT DO NOTHING RETURNING name";
        Ok(!self.write(sql, args![name]).await?.is_empty())
    }

    /// Returns true for the daemon that ends it.
    pub async fn clear_alert(&self, name: &str) -> Result<bool> {
        let sql = "DELETE FROM oddsd.alarms WHERE name = $1 RETURNING name";
        Ok(!self.write(sql, args![name]).await?.is_empty())
    }

    pub async fn is_alert_raised(&self, name: &str) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM oddsd.alarms WHERE name = $1) AS alarmed";
        self.read_one(sql, args![name]).await?.get("alarmed")
    }
}

impl Removal {
    /// The JSON that the settling statements read.
    pub(super) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "cycle_id": self.cycle, "rule": self.rule, "reason": self.reason, "change": self.change,
            "entity": self.entity, "keys": self.keys.join("\n"), "existed": self.existed, "rules": self.rules,
            "backend": self.backend, "attempts": self.attempts, "took_ms": self.took_ms, "before": self.before,
            "after": self.after,
        })
    }
}

fn removal(row: &StoredRow) -> Result<Removal> {
    Ok(Removal {
        id: row.int("id")?,
        at: row.time("at")?,
        cycle: row.get("cycle_id")?,
        rule: row.text("rule")?.into(),
        reason: row.text("reason")?.into(),
        change: row.text("change")?.into(),
        entity: row.get("entity")?,
        keys: row.text("keys")?.lines().map(Into::into).collect(),
        existed: row.int("existed")?,
        rules: row.text("rules")?.into(),
        backend: row.text("backend")?.into(),
        attempts: row.int("attempts")? as i32,
        took_ms: row.int("took_ms")?,
        before: row.get("before")?,
        after: row.get("after")?,
    })
}
