//! The interface through which feeds deliver events one by one, so that no complete answer is held in memory.
//! Implemented by the differ, by recorders and by tests.

use chrono::{DateTime, Utc};

use crate::model::{EventId, EventSnapshot, Look, Slice, Snapshot};

/// Receives the events of an answer as they are read.
pub trait Take: Send {
    /// Starts an answer that was requested at `as_of`. Events of an unfinished answer before it are discarded.
    fn begin(&mut self, as_of: DateTime<Utc>);

    /// The event that is stored exactly as this text describes it, if there is one. Changes nothing.
    fn knows(&self, slice: &Slice) -> Option<EventId>;

    /// Records that this text was delivered again. Call it only after `knows` has returned its event.
    fn same(&mut self, slice: &Slice);

    /// Delivers a parsed event. `slice` is given if no row of the event was rejected, so that an equal text may
    /// be skipped from now on.
    fn take(&mut self, event: EventSnapshot, slice: Option<Slice>);
}

/// Collects all events in memory, for recorders, checks and tests. It skips no text.
#[derive(Default)]
pub struct Collected(pub Vec<EventSnapshot>);

impl Collected {
    /// Joins the collected events with the rest of the answer.
    pub fn into_snapshot(self, meta: Look) -> Snapshot {
        Snapshot {
            source: meta.source,
            as_of: meta.as_of,
            scope: meta.scope,
            events: self.0,
            bookmakers: meta.bookmakers,
            rejects: meta.rejects,
        }
    }
}

impl Take for Collected {
    fn begin(&mut self, _: DateTime<Utc>) {
        self.0.clear();
    }

    fn knows(&self, _: &Slice) -> Option<EventId> {
        None
    }

    fn same(&mut self, _: &Slice) {}

    fn take(&mut self, event: EventSnapshot, _: Option<Slice>) {
        self.0.push(event);
    }
}
