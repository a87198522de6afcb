//! The log of stale reads: the last changes that an answer outlived, and counts by cause. Auditor and canary add to
//! it; the report shows it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::cause::{AuditLevel, Cause};
use oddsd_core::key::Key;

/// The most changes that are kept.
const KEPT: usize = 100;

/// One answer that was found stale.
#[derive(Clone, Debug)]
pub(super) struct StaleRead {
    /// The outbox row of the change.
    pub change: i64,
    pub cycle: Option<i64>,
    pub committed_at: DateTime<Utc>,
    pub key: Key,
    /// `None`: the answer is gone by now.
    pub level: Option<AuditLevel>,
    pub cause: Cause,
    /// Since the commit.
    pub age: Duration,
}

/// A change with an answer that outlived it. The field names are those of the API.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StaleChange {
    /// The outbox row of the change.
    pub change: i64,
    pub cycle: Option<i64>,
    pub committed_at: DateTime<Utc>,
    /// The answer that was found stale last.
    pub key: String,
    pub level: AuditLevel,
    /// The cause as last assessed.
    pub cause: Cause,
    /// When a stale answer was first and last found, after the commit.
    pub first_seen_ms: u64,
    pub last_seen_ms: u64,
    /// Causes under which it was counted.
    #[serde(skip)]
    counted: BTreeSet<Cause>,
}

#[derive(Default)]
pub(super) struct StaleChangeLog {
    last: VecDeque<StaleChange>,
    counts: BTreeMap<Cause, u64>,
}

impl StaleChangeLog {
    pub fn add(&mut self, read: StaleRead) {
        let ms = read.age.as_millis() as u64;
        let mut known = self.last.iter();
        let known = known.position(|known| known.change == read.change);
        let at = known.unwrap_or_else(|| {
            if self.last.len() == KEPT {
                self.last.pop_front();
            }
            self.last.push_back(StaleChange {
                change: read.change,
                cycle: read.cycle,
                committed_at: read.committed_at,
                key: String::new(),
                level: AuditLevel::Second,
                cause: read.cause,
                first_seen_ms: ms,
                last_seen_ms: ms,
                counted: BTreeSet::new(),
            });
            self.last.len() - 1
        });
        let change = &mut self.last[at];
        change.key = read.key.to_string();
        change.cause = read.cause;
        if let Some(level) = read.level {
            (change.level, change.last_seen_ms) = (level, ms);
        }
        if change.counted.insert(read.cause) {
            *self.counts.entry(read.cause).or_default() += 1;
        }
    }

    /// Stale changes by cause. A change whose cause was reassessed counts under each.
    pub fn counts(&self) -> BTreeMap<Cause, u64> {
        let count = |cause: &Cause| (*cause, self.counts.get(cause).copied().unwrap_or(0));
        Cause::ALL.iter().map(count).collect()
    }

    pub fn newest_first(&self) -> Vec<StaleChange> {
        self.last.iter().rev().cloned().collect()
    }
}
