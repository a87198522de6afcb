//! How a feed hands over its events: one by one, so that nobody ever holds a whole answer.

use chrono::{DateTime, Utc};

use crate::model::{EventId, EventSnapshot, Look, Slice, Snapshot};

/// Takes events as they are read.
pub trait Take: Send {
    /// An answer begins, asked for at `as_of`. What was handed over before it is forgotten: it
    /// turned out not to be one answer.
    fn begin(&mut self, as_of: DateTime<Utc>);

    /// The event whose stored state came from exactly this text, if there is one. Changes nothing.
    fn knows(&self, slice: &Slice) -> Option<EventId>;

    /// This text was met again. Only after `knows` has named its event.
    fn same(&mut self, slice: &Slice);

    /// An event that was read. `slice` is given when the event was read without anything being set
    /// aside, so that the same text may be skipped from now on.
    fn take(&mut self, event: EventSnapshot, slice: Option<Slice>);
}

/// Takes everything into memory: for recorders, checks and tests. It knows no text.
#[derive(Default)]
pub struct Collected(pub Vec<EventSnapshot>);

impl Collected {
    pub fn into_snapshot(self, look: Look) -> Snapshot {
        Snapshot {
            source: look.source,
            as_of: look.as_of,
            scope: look.scope,
            events: self.0,
            bookmakers: look.bookmakers,
            rejects: look.rejects,
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
