//! The outbox: what readers still have to be told. A row is written with the change itself, claimed
//! for a while, and leaves only when it is settled.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Removal, Result, Store, Viewed, ask, on};
use crate::key::{Key, Tag};
use crate::model::{ChangeKind, Event, EventId, EventStatus, View};
use crate::rules::{Change, Shown};

/// One price that a cycle changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Moved {
    pub market: String,
    pub bookmaker: String,
    pub withdrawn: bool,
    /// As it is stored now.
    pub now: Shown,
    /// As it was, oldest first, each with the cycle that made it so.
    pub past: Vec<(i64, Shown)>,
}

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
    /// Where the event stands now; `None` when it is not stored.
    pub place: Option<Place>,
    /// Empty unless the purpose is a change.
    pub kinds: BTreeSet<ChangeKind>,
    /// What else is known of the change: a JSON object of its fields.
    pub detail: Option<String>,
    /// The price or status that it was, and is.
    pub before: Option<String>,
    pub after: Option<String>,
    /// Named by a person, to remove again, of the canary, or left over from a removal that went through
    /// for the other targets. Where there are any, rules are not asked.
    pub keys: Vec<Key>,
    pub tags: Vec<Tag>,
    pub attempts: i32,
}

impl Claimed {
    /// A row as whoever has just written it knows it.
    pub fn written(id: i64, transaction: u64, created_at: DateTime<Utc>) -> Self {
        Self {
            id,
            transaction,
            created_at,
            purpose: Purpose::Change,
            cycle: None,
            event: None,
            place: None,
            kinds: BTreeSet::new(),
            detail: None,
            before: None,
            after: None,
            keys: Vec::new(),
            tags: Vec::new(),
            attempts: 1,
        }
    }

    /// What it says, in the words that rules ask in.
    pub fn change(&self) -> Change {
        let mut change = match &self.event {
            Some(event) => Change::of_event(self.kinds.clone(), event),
            None => Change {
                kinds: self.kinds.clone(),
                ..Change::default()
            },
        };
        if let Some(place) = &self.place {
            place.tell(&mut change);
        }
        match &self.detail {
            Some(detail) => change.detail(detail),
            None => change,
        }
    }
}

/// Where an event stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub sport: String,
    pub league: String,
    pub venue: String,
    pub status: Option<EventStatus>,
}

impl Place {
    pub fn of(event: &Event) -> Self {
        Self {
            sport: event.sport.clone(),
            league: event.league.clone(),
            venue: event.venue.clone(),
            status: Some(event.status),
        }
    }

    /// In the words that rules ask in.
    pub fn tell(&self, change: &mut Change) {
        change.fields.add("sport_id", self.sport.as_str());
        change.fields.add("league_id", self.league.as_str());
        change.fields.add("venue", self.venue.as_str());
        if let Some(status) = self.status {
            change.fields.add("current_status", status.as_str());
        }
    }
}

/// What becomes of rows that were worked on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settlement {
    /// Lines of the log.
    pub removals: Vec<Removal>,
    pub again: Option<Again>,
    /// Targets that the cache did not confirm, while it did others.
    pub left: Vec<Left>,
    /// Targets of movement rules that stayed: what they show may be as old as this cycle.
    pub held: Vec<(String, i64)>,
    /// Targets that went, so that nothing old is held under them any more.
    pub unmarked: Vec<String>,
}

impl Settlement {
    /// Both, as if they were one.
    pub fn join(&mut self, next: Self) {
        self.removals.extend(next.removals);
        self.left.extend(next.left);
        match (&mut self.again, next.again) {
            (Some(again), Some(next)) => {
                again.keys.extend(next.keys);
                again.keys.sort();
                again.keys.dedup();
            }
            (again, next) => *again = again.take().or(next),
        }
        // What went later is not held any more, and what is held later was not gone since.
        self.held
            .retain(|(target, _)| !next.unmarked.contains(target));
        self.held.extend(next.held);
        self.unmarked.extend(next.unmarked);
        self.unmarked
            .retain(|target| !self.held.iter().any(|(held, _)| held == target));
    }

    pub(super) fn removals_json(&self) -> serde_json::Value {
        self.removals.iter().map(Removal::stored).collect()
    }

    pub(super) fn left_json(&self) -> serde_json::Value {
        self.left.iter().map(Left::stored).collect()
    }

    pub(super) fn held_json(&self) -> serde_json::Value {
        let held = self.held.iter();
        held.map(|(target, cycle)| serde_json::json!({ "target": target, "cycle_id": cycle }))
            .collect()
    }
}

/// Targets of one change that are tried again on their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    pub cycle: Option<i64>,
    pub event: Option<EventId>,
    pub kinds: BTreeSet<ChangeKind>,
    /// What the log will say of it, as a JSON object.
    pub detail: String,
    pub before: Option<String>,
    pub after: Option<String>,
    pub keys: Vec<Key>,
    pub tags: Vec<Tag>,
    pub attempts: i32,
    pub wait: Duration,
    pub error: String,
}

impl Left {
    /// As the settling statements take it.
    pub(super) fn stored(&self) -> serde_json::Value {
        serde_json::json!({
            "cycle_id": self.cycle, "event_key": self.event, "kinds": kinds_text(&self.kinds),
            "keys": targets_text(&self.keys, &self.tags), "detail": self.detail, "before": self.before, "after": self.after,
            "attempts": self.attempts, "wait": self.wait.as_secs_f64(), "error": self.error,
        })
    }
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
            purpose: Purpose::Canary,
            keys: vec![key.clone()],
            ..Claimed::written(id, transaction, Utc::now())
        };
        let view = view.and(transaction)?;
        Some(Self {
            view,
            rows: vec![row],
        })
    }
}

impl Store {
    /// Takes up to `max` due outbox rows; they are due again after `lease_for` unless settled.
    pub async fn claim(&self, who: &str, max: i64, lease_for: Duration) -> Result<Claim> {
        on!(self, db => db.claim(who, max, lease_for).await)
    }

    /// The rows are done with: they leave the outbox, the removals enter the log, what is left enters the
    /// outbox, all together. Returns how many removals the last minute had, on all daemons.
    pub async fn settle(&self, rows: &[i64], done: Settlement) -> Result<u64> {
        on!(self, db => db.settle(rows, done).await)
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
    /// stays, also with a lower number. Returns how many left, and the removals of the last minute.
    pub async fn settle_backlog(&self, backlog: &Backlog, done: Settlement) -> Result<(u64, u64)> {
        on!(self, db => db.settle_backlog(backlog, done).await)
    }

    /// Puts targets that a person named into the outbox; returns the row. `detail` is a JSON object.
    pub async fn request_removal(
        &self,
        keys: &[Key],
        tags: &[Tag],
        detail: Option<&str>,
    ) -> Result<i64> {
        on!(self, db => db.request_removal(keys, tags, detail).await)
    }

    /// How old the answers under these targets may be, where movements were left: by target, the cycle.
    pub async fn marks(&self, targets: &[String]) -> Result<HashMap<String, i64>> {
        ask!(self, db => db.marks(targets))
    }

    /// The prices of one event that a cycle changed, as they are and as they were.
    pub async fn moved(&self, event: &EventId, cycle: i64) -> Result<Vec<Moved>> {
        ask!(self, db => db.moved(event, cycle))
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

/// Targets as they stand in the outbox: one a line, a tag after a tab, which no key holds.
pub(super) fn targets_text(keys: &[Key], tags: &[Tag]) -> String {
    let keys = keys.iter().map(ToString::to_string);
    let tags = tags.iter().map(|tag| format!("\t{tag}"));
    keys.chain(tags).collect::<Vec<_>>().join("\n")
}

pub(super) fn read_targets(text: &str) -> (Vec<Key>, Vec<Tag>) {
    let (mut keys, mut tags) = (Vec::new(), Vec::new());
    for line in text.lines() {
        match line.strip_prefix('\t') {
            Some(tag) => tags.push(Tag::stored(tag)),
            None => keys.extend(Key::from_person(line)),
        }
    }
    (keys, tags)
}

/// The keys of the row that `again` asks for, if it names any, and its delay.
pub(super) fn again_row(again: &Option<Again>) -> (Option<String>, Duration) {
    match again.as_ref().filter(|again| !again.keys.is_empty()) {
        Some(again) => (Some(targets_text(&again.keys, &[])), again.after),
        None => (None, Duration::ZERO),
    }
}
