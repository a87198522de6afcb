//! An event sink for feed tests: it records the events, and remembers their texts as the diff does once
//! they are stored.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use oddsd_core::diff::Take;
use oddsd_core::model::{EventId, EventSnapshot, Look, Slice};
use oddsd_feeds::{Ask, Feed, FeedError};

/// The events of one fetch.
#[derive(Default)]
pub struct Taker {
    known: HashMap<Slice, EventId>,
    slices: Vec<(Slice, EventId)>,
    /// Events that were read, and whether an equal text may be skipped from now on.
    pub read: Vec<(EventSnapshot, bool)>,
    /// Events that were skipped, because their text was known.
    pub same: Vec<EventId>,
    /// Answers that were begun.
    pub begun: usize,
}

impl Taker {
    /// Fetches once. The texts of a complete answer are known from then on.
    pub async fn look(
        &mut self,
        feed: &mut Feed,
        ask: &Ask,
        now: DateTime<Utc>,
    ) -> Result<Look, FeedError> {
        self.begun = 0;
        let looked = feed.read(ask, now, self).await?;
        assert!(self.begun > 0, "a fetch begins");
        self.known.extend(self.slices.drain(..));
        Ok(looked.look)
    }

    /// Forgets every text.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// The numbers of events that were read and skipped.
    pub fn read_and_same(&self) -> (usize, usize) {
        (self.read.len(), self.same.len())
    }
}

impl Take for Taker {
    fn begin(&mut self, _: DateTime<Utc>) {
        self.begun += 1;
        self.slices.clear();
        self.read.clear();
        self.same.clear();
    }

    fn knows(&self, slice: &Slice) -> Option<EventId> {
        self.known.get(slice).cloned()
    }

    fn same(&mut self, slice: &Slice) {
        let id = self.knows(slice).expect("only what is known is the same");
        self.same.push(id);
    }

    fn take(&mut self, event: EventSnapshot, slice: Option<Slice>) {
        let id = event.event.id.clone();
        self.slices.extend(slice.map(|slice| (slice, id)));
        self.read.push((event, slice.is_some()));
    }
}
