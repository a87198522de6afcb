//! The interface through which feeds deliver events one by one, so that no complete answer is held in memory.
//! Implemented by the differ, by recorders and by tests.

use chrono::{DateTime, Utc};

use crate::model::{EventId, EventSnapshot, Fingerprint, Snapshot, SnapshotMeta};

/// Receives the events of an answer as they are read.
pub trait EventSink: Send {
    /// Starts an answer that was requested at `as_of`. Events of an unfinished answer before it are discarded.
    fn start(&mut self, as_of: DateTime<Utc>);

    /// The event that is stored exactly as this text describes it, if there is one. Changes nothing.
    fn find_unchanged(&self, fingerprint: &Fingerprint) -> Option<EventId>;

    /// Records that this text was delivered again. Call it only after `find_unchanged` has returned its event.
    fn mark_unchanged(&mut self, fingerprint: &Fingerprint);

    /// Delivers a parsed event. `fingerprint` is given if no row of the event was rejected, so that an equal text may
    /// be skipped from now on.
    fn push(&mut self, event: EventSnapshot, fingerprint: Option<Fingerprint>);
}

/// Collects all events in memory, for recorders, checks and tests. It skips no text.
#[derive(Default)]
pub struct CollectingSink(pub Vec<EventSnapshot>);

impl CollectingSink {
    /// Joins the collected events with the rest of the answer.
    pub fn into_snapshot(self, meta: SnapshotMeta) -> Snapshot {
        Snapshot {
            source: meta.source,
            as_of: meta.as_of,
            scope: meta.scope,
            events: self.0,
            in_doubt: meta.in_doubt,
            bookmakers: meta.bookmakers,
            rejected: meta.rejected,
        }
    }
}

impl EventSink for CollectingSink {
    fn start(&mut self, _: DateTime<Utc>) {
        self.0.clear();
    }

    fn find_unchanged(&self, _: &Fingerprint) -> Option<EventId> {
        None
    }

    fn mark_unchanged(&mut self, _: &Fingerprint) {}

    fn push(&mut self, event: EventSnapshot, _: Option<Fingerprint>) {
        self.0.push(event);
    }
}
