//! The outbox: what readers still have to be told. A row is written with the change itself, claimed
//! for a while, and leaves only when it is settled.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Result, Store, Viewed, ask, on};
use crate::key::Key;
use crate::model::{ChangeKind, EventId, View};

/// What an outbox row is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// Stored rows changed, or a person named keys.
    Change,
    /// A second removal of keys, for readers that fill a cache on their own.
    Again,
    /// Nobody waits for it: it shows that removals go through.
    Canary,
}

impl Purpose {
    /// The column `kinds` names change kinds, or one of the other two purposes.
    pub(super) fn of(kinds: &str) -> Self {
        match kinds {
            "again" => Self::Again,
            "canary" => Self::Canary,
            _ => Self::Change,
        }
    }
}

/// One outbox row, claimed for a while; or many of one event, keys and purpose, of a `Backlog`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// 0 in a backlog.
    pub id: i64,
    /// The transaction that wrote the row, as a `View` counts them. In a backlog, the highest.
    pub transaction: u64,
    pub created_at: DateTime<Utc>,
    pub purpose: Purpose,
    pub cycle: Option<i64>,
    pub event: Option<EventId>,
    /// Empty unless the purpose is a change.
    pub kinds: BTreeSet<ChangeKind>,
    /// Keys named by a person, to remove again, or of the canary.
    pub keys: Vec<Key>,
    pub attempts: i32,
}

/// Rows that were due, and what the claim saw: the transaction of each of them is in the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub view: View,
    pub rows: Vec<Claimed>,
}

/// Keys that are to be removed a second time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Again {
    pub keys: Vec<Key>,
    pub after: Duration,
}

/// The oldest rows, whoever has claimed them, coalesced by event, keys and purpose. The view sees
/// the transaction of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    pub view: View,
    /// The highest row that was looked at; 0 when there is none.
    pub through: i64,
    /// How many were looked at.
    pub rows: u64,
    pub changes: Vec<Claimed>,
    /// The lowest row that was looked at.
    pub(super) from: i64,
    /// Rows to remove again among them. Whether one was due then cannot be asked later.
    pub(super) again: Vec<i64>,
}

impl Backlog {
    pub(super) fn empty(view: View) -> Self {
        Self {
            view,
            through: 0,
            rows: 0,
            changes: Vec::new(),
            from: i64::MAX,
            again: Vec::new(),
        }
    }
}

/// One beat of the canary, and the transaction that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    pub beat: i64,
    pub transaction: u64,
    /// Its outbox row, as if it had just been claimed; `None` where somebody has to claim it.
    pub told: Option<Claim>,
}

impl Claim {
    /// The row of a canary that was just touched, with the view that its statement had.
    pub(super) fn of_canary(id: i64, transaction: u64, key: &Key, view: &View) -> Option<Self> {
        let row = Claimed {
            id,
            transaction,
            created_at: Utc::now(),
            purpose: Purpose::Canary,
            cycle: None,
            event: None,
            kinds: BTreeSet::new(),
            keys: vec![key.clone()],
            attempts: 1,
        };
        let view = view.and(transaction)?;
        Some(Self {
            view,
            rows: vec![row],
        })
    }
}

/// One line of the invalidation log: rows done with, and what it took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Removal {
    pub id: i64,
    pub at: DateTime<Utc>,
    pub cycle: Option<i64>,
    pub rule: String,
    pub reason: String,
    pub keys: Vec<String>,
    pub existed: i64,
    pub backend: String,
    pub attempts: i32,
    pub took_ms: i64,
}

impl Store {
    /// Takes up to `max` due outbox rows; they are due again after `lease_for` unless settled.
    pub async fn claim(&self, who: &str, max: i64, lease_for: Duration) -> Result<Claim> {
        on!(self, db => db.claim(who, max, lease_for).await)
    }

    /// The rows are done with: they leave the outbox, the removal enters the log and `again` the
    /// outbox, together.
    pub async fn settle(
        &self,
        rows: &[i64],
        removals: &[Removal],
        again: Option<Again>,
    ) -> Result<()> {
        on!(self, db => db.settle(rows, removals, again).await)
    }

    /// The rows are due again after `delay`.
    pub async fn postpone(&self, rows: &[i64], delay: Duration, error: &str) -> Result<()> {
        on!(self, db => db.postpone(rows, delay, error).await)
    }

    /// Looks at the oldest `max_rows` rows, due or not, and claims none. A second removal before its
    /// time is left out.
    pub async fn backlog(&self, max_rows: i64) -> Result<Backlog> {
        ask!(self, db => db.backlog(max_rows))
    }

    /// As `settle`, for the rows that were looked at and no other: one that was committed since
    /// stays, also with a lower number. Returns how many left.
    pub async fn settle_backlog(
        &self,
        backlog: &Backlog,
        removals: &[Removal],
        again: Option<Again>,
    ) -> Result<u64> {
        on!(self, db => db.settle_backlog(backlog, removals, again).await)
    }

    /// Puts keys that a person named into the outbox; returns the row.
    pub async fn request_removal(&self, keys: &[Key]) -> Result<i64> {
        on!(self, db => db.request_removal(keys).await)
    }

    /// False once the row has been settled.
    pub async fn is_pending(&self, row: i64) -> Result<bool> {
        ask!(self, db => db.is_pending(row))
    }

    /// The canary's next beat, with the outbox row that removes `key`.
    pub async fn touch_canary(&self, key: &Key) -> Result<Touched> {
        on!(self, db => db.touch_canary(key).await)
    }

    /// The canary's last beat; 0 before the first.
    pub async fn canary(&self) -> Result<Viewed<i64>> {
        ask!(self, db => db.canary())
    }
}

/// Change kinds as they stand in the outbox.
pub(super) fn kinds_text(kinds: &BTreeSet<ChangeKind>) -> String {
    kinds
        .iter()
        .map(|kind| kind.as_str())
        .collect::<Vec<_>>()
        .join(",")
}

/// Keys as they stand in the outbox: one a line.
pub(super) fn keys_text(keys: &[Key]) -> String {
    keys.iter().map(Key::as_str).collect::<Vec<_>>().join("\n")
}

/// The keys of the row that `again` asks for, if it names any, and its delay.
pub(super) fn again_row(again: Option<Again>) -> (Option<String>, Duration) {
    match again.filter(|again| !again.keys.is_empty()) {
        Some(again) => (Some(keys_text(&again.keys)), again.after),
        None => (None, Duration::ZERO),
    }
}
