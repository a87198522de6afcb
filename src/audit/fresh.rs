//! The time from the feed, and from the commit, until readers can see a change: until the cache has confirmed the
//! removal. The audit state feeds it with each commit and removal.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::histogram::WindowedHistogram;
use oddsd_store::{CommitEvent, Purpose, RowSet, SettledRows};

/// The most commits whose removal is awaited. Of more, the oldest are given up and counted.
const MOST_WAITING: usize = 16 * 1024;

#[derive(Default)]
pub(super) struct FreshnessTracker {
    /// Commits by their highest outbox row: the relay settles rows from the lowest.
    waiting: BTreeMap<i64, UnconfirmedCommit>,
    /// The feed's times are those of the wall clock.
    pub real_clock: bool,
    /// From feed to readable. The canary has no feed.
    pub feed: WindowedHistogram,
    /// From commit to readable, the canary included.
    pub commit: WindowedHistogram,
    /// Commits whose removal was not reported.
    pub unconfirmed: u64,
}

struct UnconfirmedCommit {
    committed: Instant,
    /// From the feed to the commit; `None` where that is not known.
    before: Option<Duration>,
    transaction: u64,
}

impl FreshnessTracker {
    pub fn new(real_clock: bool) -> Self {
        Self {
            real_clock,
            ..Self::default()
        }
    }

    pub fn committed(&mut self, commit: &CommitEvent) {
        let rows = &commit.batch.rows;
        let Some(last) = rows.iter().max_by_key(|row| row.id) else {
            return;
        };
        let changes = rows.iter().any(|row| row.entry.purpose == Purpose::Change);
        let before = (commit.committed_at - commit.observed_at).to_std();
        let waiting = UnconfirmedCommit {
            committed: commit.at,
            before: before.ok().filter(|_| changes && self.real_clock),
            transaction: last.transaction,
        };
        self.waiting.insert(last.id, waiting);
        if self.waiting.len() > MOST_WAITING {
            self.waiting.pop_first();
            self.unconfirmed += 1;
        }
    }

    pub fn removed(&mut self, gone: &SettledRows) {
        let rows = match &gone.rows {
            RowSet::Ids(rows) => rows.clone(),
            RowSet::Through(last, snapshot) => {
                let up_to = self.waiting.range(..=*last);
                let seen = up_to.filter(|(_, waiting)| snapshot.is_visible(waiting.transaction));
                seen.map(|(row, _)| *row).collect()
            }
        };
        for row in rows {
            let Some(waiting) = self.waiting.remove(&row) else {
                continue;
            };
            let took = gone.at.saturating_duration_since(waiting.committed);
            self.commit.record(took, gone.at);
            if let Some(before) = waiting.before {
                self.feed.record(before + took, gone.at);
            }
        }
    }

    /// Another daemon leads, whose removals are not reported here.
    pub fn reset(&mut self) {
        self.waiting.clear();
    }
}
