//! What the auditor and the canary know, shared with whoever shows it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::Notify;

use super::canary::Singing;
use super::cause::Cause;
use super::fresh::Fresh;
use super::histogram::{Histogram, Times};
use super::offender::{Offender, Offenders};
use super::sample::{LOOKS, Rate, Samples, Shares};
use crate::rulebook::Rulebook;
use crate::store::Told;

/// The audit so far. Clones are the same.
#[derive(Clone)]
pub struct Audited(Arc<Inner>);

struct Inner {
    ledger: Mutex<Ledger>,
    /// Rung when the canary's removal was confirmed.
    removed: Notify,
}

pub(super) struct Ledger {
    pub fresh: Fresh,
    pub samples: Samples,
    pub offenders: Offenders,
    pub canary: Singing,
}

/// How long something took of late, at the middle and at the worst of a hundred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Took {
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    /// Since start.
    pub changes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CanaryReport {
    /// Since it last came through clean.
    pub age_seconds: f64,
    /// Since start.
    pub beats: u64,
}

/// What is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Feed to readable; `None` where the feed's times are not the wall's.
    pub freshness: Option<Took>,
    pub commit_to_readable: Took,
    /// Shares of the changes that were looked at; `None` of nothing.
    pub clean: BTreeMap<&'static str, Option<f64>>,
    /// Changes found stale so many milliseconds after their commit.
    pub stale_at_ms: BTreeMap<u64, u64>,
    pub looked_at: u64,
    pub not_looked_at: u64,
    /// Commits whose removal nobody told of here.
    pub unheard: u64,
    /// `None` while it does not sing: switched off, or another daemon leads.
    pub canary: Option<CanaryReport>,
    pub offenders_by_cause: BTreeMap<Cause, u64>,
    /// Newest first.
    pub offenders: Vec<Offender>,
}

impl Report {
    /// The same with few offenders.
    pub fn short(mut self) -> Self {
        self.offenders.truncate(5);
        self
    }
}

/// Totals since start, for whoever collects them.
pub struct Totals {
    /// `None` where the feed's times are not the wall's.
    pub freshness: Option<Histogram>,
    pub commit_to_readable: Histogram,
    pub shares: Shares,
    pub offenders: BTreeMap<Cause, u64>,
    pub canary_age: Option<Duration>,
}

impl Audited {
    /// `real_clock`: the feed's times are the wall's. `rules` say which answers a change makes wrong.
    pub fn new(rate: Rate, rules: Rulebook, real_clock: bool) -> Self {
        Self(Arc::new(Inner {
            ledger: Mutex::new(Ledger {
                fresh: Fresh::new(real_clock),
                samples: Samples::new(rate, rules),
                offenders: Offenders::default(),
                canary: Singing::default(),
            }),
            removed: Notify::new(),
        }))
    }

    pub fn report(&self, now: Instant) -> Report {
        let ledger = self.lock();
        let shares = ledger.samples.shares();
        let looks = LOOKS.iter().map(|look| look.as_millis() as u64);
        let fresh = &ledger.fresh;
        Report {
            freshness: fresh.real_clock.then(|| took(&fresh.feed, now)),
            commit_to_readable: took(&fresh.commit, now),
            clean: shares.told().collect(),
            stale_at_ms: looks.zip(shares.stale_at).collect(),
            looked_at: ledger.samples.taken,
            not_looked_at: ledger.samples.passed_over,
            unheard: fresh.unheard,
            canary: ledger.canary.age(now).map(|age| CanaryReport {
                age_seconds: age.as_millis() as f64 / 1000.0,
                beats: ledger.canary.beats,
            }),
            offenders_by_cause: ledger.offenders.counts(),
            offenders: ledger.offenders.told(),
        }
    }

    pub fn totals(&self, now: Instant) -> Totals {
        let ledger = self.lock();
        let fresh = &ledger.fresh;
        Totals {
            freshness: fresh.real_clock.then(|| fresh.feed.all.clone()),
            commit_to_readable: fresh.commit.all.clone(),
            shares: ledger.samples.shares(),
            offenders: ledger.offenders.counts(),
            canary_age: ledger.canary.age(now),
        }
    }

    pub(super) fn hear(&self, told: &Told) {
        let mut ledger = self.lock();
        match told {
            Told::Committed(commit) => {
                ledger.fresh.committed(commit);
                ledger.samples.take(commit);
            }
            Told::Removed(gone) => {
                ledger.fresh.removed(gone);
                if ledger.canary.removed(gone) {
                    self.0.removed.notify_one();
                }
            }
        }
    }

    /// Another daemon leads: what becomes of what was begun is not told here.
    pub(super) fn forget(&self) {
        let mut ledger = self.lock();
        ledger.fresh.forget();
        ledger.samples.forget();
    }

    pub(super) async fn canary_removed(&self) {
        self.0.removed.notified().await;
    }

    /// Never held over an await: everything under it is arithmetic.
    pub(super) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn took(times: &Times, now: Instant) -> Took {
    let of_late = times.of_late(now);
    let ms = |share| {
        let seconds = of_late.quantile(share);
        seconds.map(|seconds| (seconds * 1e6).round() / 1e3)
    };
    Took {
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
        changes: times.all.count(),
    }
}
