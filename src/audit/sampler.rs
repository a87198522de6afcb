//! Which changes are checked, when each check is due, and which share of the changes was clean how soon. The auditor
//! calls it with the time, so it is pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::cause::{Assessment, History, Observation, assess};
use super::stale::StaleRead;
use crate::rules_file::RulesHandle;
use oddsd_core::key::Key;
use oddsd_core::rules::{Action, Rules};
use oddsd_store::{CommitEvent, OutboxRow, Purpose};

/// When the answers of a change are checked, after its commit.
pub const CHECK_OFFSETS: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(60),
];
/// The service-level windows, each with the check that decides it. There is no check at 2 s: the one at 1 s decides.
pub const SLO_WINDOWS: [(&str, usize); 4] = [("50ms", 0), ("250ms", 1), ("2s", 2), ("60s", 4)];
/// The most keys checked for one change; those that most of its rows make wrong come first.
const MOST_KEYS: usize = 8;

/// How many changes are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleRate {
    pub most: u32,
    pub per: Duration,
    /// Whether the canary's writes are among them.
    pub canaries: bool,
}

impl SampleRate {
    pub const FREE: Self = Self {
        most: 20,
        per: Duration::from_secs(1),
        canaries: true,
    };
    /// The cache bills each lookup.
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

    /// The most lookups in this time.
    pub fn lookups(self, time: Duration) -> u64 {
        let changes = u64::from(self.most) * time.as_secs() / self.per.as_secs();
        changes * (MOST_KEYS * CHECK_OFFSETS.len()) as u64
    }
}

/// A key whose answer a change makes wrong.
#[derive(Clone, Debug)]
pub(super) struct WatchedKey {
    pub key: Key,
    /// The outbox row that removes it, and the transaction that a current answer includes.
    pub row: i64,
    pub transaction: u64,
    history: History,
}

struct SampledChange {
    number: u64,
    at: Instant,
    committed_at: DateTime<Utc>,
    change: i64,
    cycle: Option<i64>,
    keys: Vec<WatchedKey>,
    /// The next check, as an index of [`CHECK_OFFSETS`].
    next: usize,
    /// By check; `None`: not made, or too late to tell.
    clean: [Option<bool>; CHECK_OFFSETS.len()],
}

/// A check that is to be made now.
pub(super) struct DueCheck {
    pub number: u64,
    pub check: usize,
    pub keys: Vec<WatchedKey>,
}

/// Of the changes checked so far: how many were clean within each window, of how many; and how many were stale at
/// each check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SloRatios {
    pub clean: [(u64, u64); SLO_WINDOWS.len()],
    pub stale_at: [u64; CHECK_OFFSETS.len()],
}

pub(super) struct Sampler {
    rate: SampleRate,
    rules: RulesHandle,
    window: Option<(Instant, u32)>,
    open: VecDeque<SampledChange>,
    closed: SloRatios,
    pub sampled: u64,
    pub skipped: u64,
}

impl Sampler {
    pub fn new(rate: SampleRate, rules: RulesHandle) -> Self {
        Self {
            rate,
            rules,
            window: None,
            open: VecDeque::new(),
            closed: SloRatios::default(),
            sampled: 0,
            skipped: 0,
        }
    }

    /// Adds a commit to the checks, unless the rate is used up.
    pub fn sample(&mut self, commit: &CommitEvent) {
        let keys = watched_keys(commit, self.rate.canaries, &self.rules.current());
        if keys.is_empty() || self.rate.most == 0 {
            return;
        }
        let (began, taken) = self.window.unwrap_or((commit.at, 0));
        let over = commit.at.saturating_duration_since(began) >= self.rate.per;
        let (began, taken) = if over { (commit.at, 0) } else { (began, taken) };
        if taken >= self.rate.most {
            self.skipped += 1;
            return;
        }
        self.window = Some((began, taken + 1));
        self.sampled += 1;
        let rows = &commit.batch.rows;
        self.open.push_back(SampledChange {
            number: self.sampled,
            at: commit.at,
            committed_at: commit.committed_at,
            change: rows.iter().map(|row| row.id).max().unwrap_or_default(),
            cycle: rows.iter().find_map(|row| row.entry.cycle),
            keys,
            next: 0,
            clean: [None; CHECK_OFFSETS.len()],
        });
    }

    /// When the next check is due.
    pub fn next_due(&self) -> Option<Instant> {
        let open = self.open.iter();
        let dues = open.map(|open| open.at + CHECK_OFFSETS[open.next]);
        dues.min()
    }

    /// The latest due check of each change; earlier ones that were missed are skipped.
    pub fn due(&self, now: Instant) -> Vec<DueCheck> {
        let due = self.open.iter().filter_map(|open| {
            let age = now.saturating_duration_since(open.at);
            let mut checks = open.next..CHECK_OFFSETS.len();
            let check = checks.rfind(|check| CHECK_OFFSETS[*check] <= age)?;
            Some(DueCheck {
                number: open.number,
                check,
                keys: open.keys.clone(),
            })
        });
        due.collect()
    }

    /// Records the observations of a check at `now`, one for each key. Returns the stale ones.
    pub fn record(
        &mut self,
        due: &DueCheck,
        observations: &[Observation],
        now: Instant,
    ) -> Vec<StaleRead> {
        let is_same = |open: &SampledChange| open.number == due.number;
        let Some(at) = self.open.iter().position(is_same) else {
            return Vec::new();
        };
        let change = &mut self.open[at];
        let age = now.saturating_duration_since(change.at);
        let (mut stale, mut clean) = (Vec::new(), Some(true));
        for (watched, observed) in change.keys.iter_mut().zip(observations) {
            let (level, cause) = match assess(&mut watched.history, observed, now) {
                Assessment::Clean => continue,
                Assessment::CleanAtLast(cause) => (None, Some(cause)),
                Assessment::Unknown => {
                    clean = clean.filter(|clean| !clean);
                    continue;
                }
                Assessment::Stale(level, cause) => {
                    clean = Some(false);
                    (Some(level), cause)
                }
            };
            stale.extend(cause.map(|cause| StaleRead {
                change: change.change,
                cycle: change.cycle,
                committed_at: change.committed_at,
                key: watched.key.clone(),
                level,
                cause,
                age,
            }));
        }
        // A late check that finds an answer clean proves nothing about an earlier time; a stale answer does.
        if clean == Some(true) && age > CHECK_OFFSETS[due.check] * 2 {
            clean = None;
        }
        change.clean[due.check] = clean;
        change.next = due.check + 1;
        if change.next == CHECK_OFFSETS.len() {
            self.closed.count(&change.clean);
            self.open.remove(at);
        }
        stale
    }

    pub fn ratios(&self) -> SloRatios {
        let mut ratios = self.closed;
        for open in &self.open {
            ratios.count(&open.clean);
        }
        ratios
    }

    /// Ends all open checks; what they found so far counts.
    pub fn reset(&mut self) {
        self.closed = self.ratios();
        self.open.clear();
    }
}

impl SloRatios {
    fn count(&mut self, clean: &[Option<bool>; CHECK_OFFSETS.len()]) {
        for ((_, check), (clean_so_far, of)) in SLO_WINDOWS.iter().zip(&mut self.clean) {
            let ever_stale = clean[*check..].contains(&Some(false));
            if ever_stale || clean[*check] == Some(true) {
                *of += 1;
                *clean_so_far += u64::from(!ever_stale);
            }
        }
        for (stale, clean) in self.stale_at.iter_mut().zip(clean) {
            *stale += u64::from(*clean == Some(false));
        }
    }

    /// The share that was clean within each of [`SLO_WINDOWS`]; `None` of no change.
    pub fn clean_ratios(&self) -> impl Iterator<Item = (&'static str, Option<f64>)> {
        let windows = SLO_WINDOWS.iter().zip(self.clean);
        windows.map(|((name, _), (clean, of))| (*name, (of > 0).then(|| clean as f64 / of as f64)))
    }
}

/// The keys whose answers this commit makes wrong, each with the newest of its rows.
fn watched_keys(commit: &CommitEvent, canaries: bool, rules: &Rules) -> Vec<WatchedKey> {
    let mut keys: BTreeMap<Key, (usize, i64, u64)> = BTreeMap::new();
    for row in &commit.batch.rows {
        let named = match row.entry.purpose {
            Purpose::SecondRemoval => continue,
            Purpose::Canary if !canaries => continue,
            Purpose::Canary | Purpose::Change => row.entry.keys.iter().cloned(),
        };
        for key in named.chain(removed_keys(row, rules)) {
            let (rows, id, transaction) = keys.entry(key).or_default();
            *rows += 1;
            *id = row.id.max(*id);
            *transaction = row.transaction.max(*transaction);
        }
    }
    let mut keys: Vec<(Key, (usize, i64, u64))> = keys.into_iter().collect();
    keys.sort_by_key(|(_, (rows, ..))| std::cmp::Reverse(*rows));
    let most = keys.into_iter().take(MOST_KEYS);
    let watched = most.map(|(key, (_, row, transaction))| WatchedKey {
        key,
        row,
        transaction,
        history: History::default(),
    });
    watched.collect()
}

/// Keys that rules remove for this row unconditionally. An answer marked stale may be served, and a movement may be
/// too small.
fn removed_keys(row: &OutboxRow, rules: &Rules) -> Vec<Key> {
    if row.entry.purpose != Purpose::Change || !row.entry.keys.is_empty() {
        return Vec::new();
    }
    let matches = rules.match_change(&row.change(), None).into_iter();
    let removing = matches.filter(|matched| matched.rule.action != Action::MarkStale);
    let planned = removing.flat_map(|matched| matched.targets);
    let unconditional = planned.filter(|planned| planned.if_moved.is_none());
    let keys = unconditional.filter_map(|planned| planned.target.key().cloned());
    keys.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Clean = [Option<bool>; CHECK_OFFSETS.len()];

    fn ratios(changes: &[Clean]) -> SloRatios {
        let mut ratios = SloRatios::default();
        changes.iter().for_each(|change| ratios.count(change));
        ratios
    }

    proptest! {
        /// A change whose checks were all made in time is clean after its last stale one.
        #[test]
        fn a_change_is_clean_once_no_later_check_is_stale(checks in prop::collection::vec(any::<[bool; CHECK_OFFSETS.len()]>(), 1..20)) {
            let changes: Vec<Clean> = checks.iter().map(|checks| checks.map(Some)).collect();
            let ratios = ratios(&changes);
            for ((_, check), (clean, of)) in SLO_WINDOWS.iter().zip(ratios.clean) {
                let exact = checks.iter().filter(|checks| checks[*check..].iter().all(|clean| *clean)).count();
                prop_assert_eq!((clean, of), (exact as u64, checks.len() as u64));
            }
            prop_assert!(ratios.clean.is_sorted());
        }

        /// Checks that were not made never make a change look better.
        #[test]
        fn a_missing_check_is_no_proof(checks: [bool; CHECK_OFFSETS.len()], made: [bool; CHECK_OFFSETS.len()]) {
            let all = ratios(&[checks.map(Some)]);
            let some = ratios(&[std::array::from_fn(|n| made[n].then_some(checks[n]))]);
            for (n, ((_, check), (clean, of))) in SLO_WINDOWS.iter().zip(some.clean).enumerate() {
                prop_assert!(clean <= of && of <= 1);
                prop_assert!(clean == 0 || made[*check] && checks[*check]);
                let stale_was_seen = (*check..CHECK_OFFSETS.len()).any(|n| made[n] && !checks[n]);
                prop_assert!(!stale_was_seen || (clean, of) == (0, 1) && all.clean[n] == (0, 1));
            }
        }
    }
}
