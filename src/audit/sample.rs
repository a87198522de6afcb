//! Which changes are looked at, when each look is due, and what share of the changes was clean how
//! soon. Pure: whoever calls says what time it is.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::cause::{Finding, Past, Verdict, judge};
use super::offender::Wrong;
use crate::key::Key;
use crate::rulebook::Rulebook;
use crate::rules::{Rules, Then};
use crate::store::{Claimed, Commit, Purpose};

/// When the answers of a change are looked at, after its commit.
pub const LOOKS: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(60),
];
/// How soon a change may be clean, and the look that has to find it so. None is at 2 s: the one
/// before speaks for it.
pub const WITHIN: [(&str, usize); 4] = [("50ms", 0), ("250ms", 1), ("2s", 2), ("60s", 4)];
/// Answers looked at for one change; those that most of it makes wrong come first.
const KEYS: usize = 8;

/// How many changes are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub most: u32,
    pub per: Duration,
    /// Whether the canary's are among them.
    pub canaries: bool,
}

impl Rate {
    pub const FREE: Self = Self {
        most: 20,
        per: Duration::from_secs(1),
        canaries: true,
    };
    /// Each look at each key is paid for.
    pub const BILLED: Self = Self {
        most: 1,
        per: Duration::from_secs(3600),
        canaries: false,
    };
    pub const NONE: Self = Self {
        most: 0,
        per: Duration::from_secs(1),
        canaries: false,
    };
}

/// One answer that a change makes wrong.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub key: Key,
    /// The outbox row that removes it, and the transaction it has to have seen.
    pub row: i64,
    pub transaction: u64,
    past: Past,
}

struct Sample {
    number: u64,
    at: Instant,
    committed_at: DateTime<Utc>,
    change: i64,
    cycle: Option<i64>,
    watched: Vec<Watched>,
    next: usize,
    /// Clean or not; `None`: not looked at, or too late to tell.
    clean: [Option<bool>; LOOKS.len()],
}

/// A look that is to be made now.
pub(super) struct Due {
    pub number: u64,
    pub look: usize,
    pub watched: Vec<Watched>,
}

/// Of the changes looked at so far: how many were clean within each time, of how many; and how many
/// were stale at each look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    pub clean: [(u64, u64); WITHIN.len()],
    pub stale_at: [u64; LOOKS.len()],
}

pub(super) struct Samples {
    rate: Rate,
    rules: Rulebook,
    window: Option<(Instant, u32)>,
    open: VecDeque<Sample>,
    closed: Shares,
    pub taken: u64,
    pub passed_over: u64,
}

impl Samples {
    pub fn new(rate: Rate, rules: Rulebook) -> Self {
        Self {
            rate,
            rules,
            window: None,
            open: VecDeque::new(),
            closed: Shares::default(),
            taken: 0,
            passed_over: 0,
        }
    }

    /// Takes a commit, or passes it over.
    pub fn take(&mut self, commit: &Commit) {
        let watched = watched(commit, self.rate.canaries, &self.rules.now());
        if watched.is_empty() || self.rate.most == 0 {
            return;
        }
        let (began, taken) = self.window.unwrap_or((commit.at, 0));
        let over = commit.at.saturating_duration_since(began) >= self.rate.per;
        let (began, taken) = if over { (commit.at, 0) } else { (began, taken) };
        if taken >= self.rate.most {
            self.passed_over += 1;
            return;
        }
        self.window = Some((began, taken + 1));
        self.taken += 1;
        let rows = &commit.claim.rows;
        self.open.push_back(Sample {
            number: self.taken,
            at: commit.at,
            committed_at: commit.committed_at,
            change: rows.iter().map(|row| row.id).max().unwrap_or_default(),
            cycle: rows.iter().find_map(|row| row.cycle),
            watched,
            next: 0,
            clean: [None; LOOKS.len()],
        });
    }

    /// When the next look is due.
    pub fn next_due(&self) -> Option<Instant> {
        let dues = self.open.iter().map(|open| open.at + LOOKS[open.next]);
        dues.min()
    }

    /// The latest look that is due of each change: earlier ones that nobody came to make are over.
    pub fn due(&self, now: Instant) -> Vec<Due> {
        let due = self.open.iter().filter_map(|open| {
            let age = now.saturating_duration_since(open.at);
            let look = (open.next..LOOKS.len()).rfind(|look| LOOKS[*look] <= age)?;
            Some(Due {
                number: open.number,
                look,
                watched: open.watched.clone(),
            })
        });
        due.collect()
    }

    /// What a look at `now` found, a finding for each of the watched. Says what was wrong, if anything.
    pub fn looked(
        &mut self,
        number: u64,
        look: usize,
        findings: &[Finding],
        now: Instant,
    ) -> Vec<Wrong> {
        let Some(at) = self.open.iter().position(|open| open.number == number) else {
            return Vec::new();
        };
        let sample = &mut self.open[at];
        let age = now.saturating_duration_since(sample.at);
        let (mut wrongs, mut clean) = (Vec::new(), Some(true));
        for (watched, finding) in sample.watched.iter_mut().zip(findings) {
            let (level, cause) = match judge(&mut watched.past, finding, now) {
                Verdict::Clean => continue,
                Verdict::CleanAtLast(cause) => (None, Some(cause)),
                Verdict::Unknown => {
                    clean = clean.filter(|clean| !clean);
                    continue;
                }
                Verdict::Wrong(level, cause) => {
                    clean = Some(false);
                    (Some(level), cause)
                }
            };
            wrongs.extend(cause.map(|cause| Wrong {
                change: sample.change,
                cycle: sample.cycle,
                committed_at: sample.committed_at,
                key: watched.key.clone(),
                level,
                cause,
                age,
            }));
        }
        // Clean a second after the commit says nothing about its first 50 ms; stale does.
        if clean == Some(true) && age > LOOKS[look] * 2 {
            clean = None;
        }
        sample.clean[look] = clean;
        sample.next = look + 1;
        if sample.next == LOOKS.len() {
            self.closed.count(&sample.clean);
            self.open.remove(at);
        }
        wrongs
    }

    pub fn shares(&self) -> Shares {
        let mut shares = self.closed;
        for open in &self.open {
            shares.count(&open.clean);
        }
        shares
    }

    /// What was begun is not finished: nobody looks any more.
    pub fn forget(&mut self) {
        let shares = self.shares();
        self.open.clear();
        self.closed = shares;
    }
}

impl Shares {
    fn count(&mut self, clean: &[Option<bool>; LOOKS.len()]) {
        for ((_, look), (clean_so_far, of)) in WITHIN.iter().zip(&mut self.clean) {
            let ever_stale = clean[*look..].contains(&Some(false));
            if ever_stale || clean[*look] == Some(true) {
                *of += 1;
                *clean_so_far += u64::from(!ever_stale);
            }
        }
        for (stale, clean) in self.stale_at.iter_mut().zip(clean) {
            *stale += u64::from(*clean == Some(false));
        }
    }

    /// The share that was clean within each of [`WITHIN`]; `None` of nothing.
    pub fn told(&self) -> impl Iterator<Item = (&'static str, Option<f64>)> {
        let shares = WITHIN.iter().zip(self.clean);
        shares.map(|((name, _), (clean, of))| (*name, (of > 0).then(|| clean as f64 / of as f64)))
    }
}

/// The answers that this commit makes wrong, each with the newest of its rows.
fn watched(commit: &Commit, canaries: bool, rules: &Rules) -> Vec<Watched> {
    let mut keys: BTreeMap<Key, (usize, i64, u64)> = BTreeMap::new();
    for row in &commit.claim.rows {
        let named = match row.purpose {
            Purpose::Again => continue,
            Purpose::Canary if !canaries => continue,
            Purpose::Canary | Purpose::Change => row.keys.iter().cloned(),
        };
        for key in named.chain(removed(row, rules)) {
            let (rows, id, transaction) = keys.entry(key).or_default();
            *rows += 1;
            *id = row.id.max(*id);
            *transaction = row.transaction.max(*transaction);
        }
    }
    let mut keys: Vec<(Key, (usize, i64, u64))> = keys.into_iter().collect();
    keys.sort_by_key(|(_, (rows, ..))| std::cmp::Reverse(*rows));
    keys.truncate(KEYS);
    let watched = |(key, (_, row, transaction))| Watched {
        key,
        row,
        transaction,
        past: Past::default(),
    };
    keys.into_iter().map(watched).collect()
}

/// Keys that rules remove for this row in any case: what is only marked stale is served by agreement, and
/// a movement may be too small.
fn removed(row: &Claimed, rules: &Rules) -> Vec<Key> {
    if row.purpose != Purpose::Change || !row.keys.is_empty() {
        return Vec::new();
    }
    let hits = rules.decide(&row.change(), None).into_iter();
    let aims = hits
        .filter(|hit| hit.rule.then != Then::MarkStale)
        .flat_map(|hit| hit.aims);
    let in_any_case = aims.filter(|aim| aim.if_moved.is_none());
    in_any_case
        .filter_map(|aim| aim.target.key().cloned())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Clean = [Option<bool>; LOOKS.len()];

    fn shares(changes: &[Clean]) -> Shares {
        let mut shares = Shares::default();
        changes.iter().for_each(|change| shares.count(change));
        shares
    }

    proptest! {
        /// A change that was looked at in time, always, is clean from its last stale look on.
        #[test]
        fn a_change_is_clean_once_no_later_look_is_stale(looks in prop::collection::vec(any::<[bool; LOOKS.len()]>(), 1..20)) {
            let changes: Vec<Clean> = looks.iter().map(|looks| looks.map(Some)).collect();
            let told = shares(&changes);
            for ((_, look), (clean, of)) in WITHIN.iter().zip(told.clean) {
                let exact = looks.iter().filter(|looks| looks[*look..].iter().all(|clean| *clean)).count();
                prop_assert_eq!((clean, of), (exact as u64, looks.len() as u64));
            }
            prop_assert!(told.clean.is_sorted());
        }

        /// Looks that were not made never make a change look better.
        #[test]
        fn a_look_that_is_missing_is_no_proof(looks: [bool; LOOKS.len()], made: [bool; LOOKS.len()]) {
            let all = shares(&[looks.map(Some)]);
            let some = shares(&[std::array::from_fn(|n| made[n].then_some(looks[n]))]);
            for (n, ((_, look), (clean, of))) in WITHIN.iter().zip(some.clean).enumerate() {
                prop_assert!(clean <= of && of <= 1);
                prop_assert!(clean == 0 || made[*look] && looks[*look]);
                let stale_was_seen = (*look..LOOKS.len()).any(|n| made[n] && !looks[n]);
                prop_assert!(!stale_was_seen || (clean, of) == (0, 1) && all.clean[n] == (0, 1));
            }
        }
    }
}
