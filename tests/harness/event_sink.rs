//! An event sink for feed tests: it records the events, and remembers their texts as the diff does once
//! they are stored.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use oddsd_core::diff::EventSink;
use oddsd_core::model::{EventId, EventSnapshot, Fingerprint, SnapshotMeta};
use oddsd_feeds::{Feed, FeedError, FetchRequest};

/// The events of one fetch.
#[derive(Default)]
pub struct RecordingSink {
    known: HashMap<Fingerprint, EventId>,
    slices: Vec<(Fingerprint, EventId)>,
    /// Events that were read, and whether an equal text may be skipped from now on.
    pub read: Vec<(EventSnapshot, bool)>,
    /// Events that were skipped, because their text was known.
    pub skipped: Vec<EventId>,
    /// Answers that were begun.
    pub begun: usize,
}

impl RecordingSink {
    /// Fetches once. The texts of a complete answer are known from then on.
    pub async fn fetch(
        &mut self,
        feed: &mut Feed,
        ask: &FetchRequest,
        now: DateTime<Utc>,
    ) -> Result<SnapshotMeta, FeedError> {
        self.begun = 0;
        let looked = feed.read(ask, now, self).await?;
        assert!(self.begun > 0, "a fetch begins");
        self.known.extend(self.slices.drain(..));
        Ok(looked.meta)
    }

    /// Forgets every text.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// Forgets the text of one event.
    pub fn forget_event(&mut self, id: &str) {
        self.known.retain(|_, known| known.as_str() != id);
    }

    /// The numbers of events that were read and skipped.
    pub fn read_and_same(&self) -> (usize, usize) {
        (self.read.len(), self.skipped.len())
    }
}

impl EventSink for RecordingSink {
    fn start(&mut self, _: DateTime<Utc>) {
        self.begun += 1;
        self.slices.clear();
        self.read.clear();
        self.skipped.clear();
    }

    fn find_unchanged(&self, slice: &Fingerprint) -> Option<EventId> {
        self.known.get(slice).cloned()
    }

    fn mark_unchanged(&mut self, slice: &Fingerprint) {
        let id = self
            .find_unchanged(slice)
            .expect("only what is known is the same");
        self.skipped.push(id);
    }

    fn push(&mut self, event: EventSnapshot, slice: Option<Fingerprint>) {
        let id = event.event.id.clone();
        self.slices.extend(slice.map(|slice| (slice, id)));
        self.read.push((event, slice.is_some()));
    }
}
