//! The record of one outbox row: the changes of one event in one cycle, or targets to remove.
//! [`Changes`](super::Changes) derives entries; the store writes and claims them, the relay plans removals from them.

use std::collections::BTreeSet;

use crate::key::{Key, Tag};
use crate::model::{ChangeKind, EventId};

/// The content of one outbox row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboxEntry {
    /// See [`Purpose`].
    pub purpose: Purpose,
    /// The cycle that made the change.
    pub cycle: Option<i64>,
    /// The event that changed.
    pub event: Option<EventId>,
    /// The kinds of change; empty unless the purpose is a change.
    pub kinds: BTreeSet<ChangeKind>,
    /// Further fields of the change: a JSON object. `{"was": {…}}` has the sport, league and venue before, if the
    /// event moved between them.
    pub detail: Option<String>,
    /// The status before, if it changed; otherwise the decimal odds of the first changed price.
    pub before: Option<String>,
    /// The same after the change.
    pub after: Option<String>,
    /// Named by an operator, to remove again, of the canary, or left over from a removal that succeeded
    /// for the other targets. Where there are any keys or tags, no rules apply.
    pub keys: Vec<Key>,
    /// As `keys`.
    pub tags: Vec<Tag>,
    /// How often the removal was tried.
    pub attempts: i32,
}

/// The purpose of an outbox row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// Stored rows changed, or an operator named keys.
    #[default]
    Change,
    /// A second removal of keys, for readers that fill a cache on their own.
    SecondRemoval,
    /// A test row: it proves that removals work.
    Canary,
}
