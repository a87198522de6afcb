//! From what the feed said, and from the commit, until every reader can know it: until the cache has
//! confirmed the removal.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::histogram::Times;
use crate::store::{Commit, Gone, Purpose, Rows};

/// Commits whose removal is waited for. More are let go, the oldest first, and counted.
const WAITING: usize = 16 * 1024;

#[derive(Default)]
pub(super) struct Fresh {
    /// Commits by their highest outbox row: rows leave it from the lowest.
    waiting: BTreeMap<i64, Waiting>,
    /// The feed's times are the wall's.
    pub real_clock: bool,
    /// Feed to readable. The canary is of no feed.
    pub feed: Times,
    /// Commit to readable, the canary's too.
    pub commit: Times,
    /// Commits whose removal nobody told of.
    pub unheard: u64,
}

struct Waiting {
    committed: Instant,
    /// From the feed to the commit; `None` where that means nothing.
    before: Option<Duration>,
    transaction: u64,
}

impl Fresh {
    pub fn new(real_clock: bool) -> Self {
        Self {
            real_clock,
            ..Self::default()
        }
    }

    pub fn committed(&mut self, commit: &Commit) {
        let rows = &commit.claim.rows;
        let Some(last) = rows.iter().max_by_key(|row| row.id) else {
            return;
        };
        let changes = rows.iter().any(|row| row.purpose == Purpose::Change);
        let before = (commit.committed_at - commit.observed_at).to_std();
        let waiting = Waiting {
            committed: commit.at,
            before: before.ok().filter(|_| changes && self.real_clock),
            transaction: last.transaction,
        };
        self.waiting.insert(last.id, waiting);
        if self.waiting.len() > WAITING {
            self.waiting.pop_first();
            self.unheard += 1;
        }
    }

    pub fn removed(&mut self, gone: &Gone) {
        let these = match &gone.rows {
            Rows::These(rows) => rows.clone(),
            Rows::Through(last, view) => {
                let up_to = self.waiting.range(..=*last);
                let seen = up_to.filter(|(_, waiting)| view.sees(waiting.transaction));
                seen.map(|(row, _)| *row).collect()
            }
        };
        for row in these {
            let Some(waiting) = self.waiting.remove(&row) else {
                continue;
            };
            let took = gone.at.saturating_duration_since(waiting.committed);
            self.commit.add(took, gone.at);
            if let Some(before) = waiting.before {
                self.feed.add(before + took, gone.at);
            }
        }
    }

    /// Another daemon leads: what becomes of it is not told here.
    pub fn forget(&mut self) {
        self.waiting.clear();
    }
}
