//! Changes that were still not seen where they should have been: the last of them, and how many for
//! each cause.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::cause::{Cause, Level};
use crate::key::Key;

/// So many are remembered.
const REMEMBERED: usize = 100;

/// An old answer that was found. `level`: `None` when it was gone by now.
#[derive(Clone, Debug)]
pub(super) struct Wrong {
    /// The outbox row of the change.
    pub change: i64,
    pub cycle: Option<i64>,
    pub committed_at: DateTime<Utc>,
    pub key: Key,
    pub level: Option<Level>,
    pub cause: Cause,
    /// How long ago the commit was.
    pub age: Duration,
}

/// One change with an answer that outlived it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Offender {
    /// The outbox row of the change.
    pub change: i64,
    pub cycle: Option<i64>,
    pub committed_at: DateTime<Utc>,
    /// The answer that was found last.
    pub key: String,
    pub level: Level,
    /// As it looked last.
    pub cause: Cause,
    /// When it was first and last found, after the commit.
    pub first_seen_ms: u64,
    pub last_seen_ms: u64,
    /// Causes that it was counted under.
    #[serde(skip)]
    counted: BTreeSet<Cause>,
}

#[derive(Default)]
pub(super) struct Offenders {
    last: VecDeque<Offender>,
    counts: BTreeMap<Cause, u64>,
}

impl Offenders {
    pub fn add(&mut self, wrong: Wrong) {
        let ms = wrong.age.as_millis() as u64;
        let known = self.last.iter().position(|one| one.change == wrong.change);
        let at = known.unwrap_or_else(|| {
            if self.last.len() == REMEMBERED {
                self.last.pop_front();
            }
            self.last.push_back(Offender {
                change: wrong.change,
                cycle: wrong.cycle,
                committed_at: wrong.committed_at,
                key: String::new(),
                level: Level::Second,
                cause: wrong.cause,
                first_seen_ms: ms,
                last_seen_ms: ms,
                counted: BTreeSet::new(),
            });
            self.last.len() - 1
        });
        let one = &mut self.last[at];
        one.key = wrong.key.to_string();
        one.cause = wrong.cause;
        if let Some(level) = wrong.level {
            (one.level, one.last_seen_ms) = (level, ms);
        }
        if one.counted.insert(wrong.cause) {
            *self.counts.entry(wrong.cause).or_default() += 1;
        }
    }

    /// Changes seen wrong for each cause; one that looked different later counts under each.
    pub fn counts(&self) -> BTreeMap<Cause, u64> {
        let count = |cause| (cause, self.counts.get(&cause).copied().unwrap_or(0));
        Cause::ALL.into_iter().map(count).collect()
    }

    /// Newest first.
    pub fn told(&self) -> Vec<Offender> {
        self.last.iter().rev().cloned().collect()
    }
}
