//! A change that somebody else reports.

use super::{ChangeKind, EventId};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reported {
    pub kind: ChangeKind,
    /// Of kinds that are about an event.
    pub event: Option<EventId>,
    /// Its other fields, as one JSON object: of a row `table`, `op` and `row`; of a task `task`.
    pub detail: String,
}
