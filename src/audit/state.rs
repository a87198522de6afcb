//! The state that auditor and canary share, and the [`AuditReport`] of it. `http` shows the report and the metrics; the
//! leader stores the report with its lease.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use tokio::sync::Notify;

use super::cause::Cause;
use super::fresh::FreshnessTracker;
use super::histogram::{Histogram, WindowedHistogram};
use super::sampler::{CHECK_OFFSETS, SampleRate, Sampler, SloRatios};
use super::stale::{StaleChange, StaleChangeLog};
use crate::rules_file::RulesHandle;
use oddsd_store::{AuditEvent, RowSet, SettledRows};

/// A handle to the audit state. Clones share it.
#[derive(Clone)]
pub struct AuditHandle(Arc<AuditShared>);

struct AuditShared {
    state: Mutex<AuditState>,
    /// Notified when the canary's removal was confirmed.
    canary_removed: Notify,
}

pub(super) struct AuditState {
    pub freshness: FreshnessTracker,
    pub sampler: Sampler,
    pub stale: StaleChangeLog,
    pub canary: CanaryState,
}

/// The canary's probes, as far as the report and the relay's events concern them.
#[derive(Default)]
pub(super) struct CanaryState {
    /// `None` while the canary does not run.
    pub since: Option<Instant>,
    pub clean_at: Option<Instant>,
    /// The outbox row whose removal it waits for.
    pub waits_for: Option<i64>,
    pub is_removed: bool,
    /// Probes that a reader was shown.
    pub beats: u64,
}

impl CanaryState {
    /// The time since a reader was last shown a probe; `None` while the canary does not run.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        let since = self.since?;
        let last = self.clean_at.map_or(since, |clean| clean.max(since));
        Some(now.saturating_duration_since(last))
    }

    /// True when the row that the canary waits for is among those.
    fn note_removed(&mut self, gone: &SettledRows) -> bool {
        let is_ours = match &gone.rows {
            RowSet::Ids(rows) => self.waits_for.is_some_and(|row| rows.contains(&row)),
            // A range may end before the row. The canary then queries the outbox itself.
            RowSet::Through(..) => false,
        };
        self.is_removed |= is_ours;
        is_ours
    }
}

/// Durations of the last minutes, and the number of all since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    /// Since start.
    pub changes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CanaryReport {
    /// Since a reader was last shown a probe.
    pub age_seconds: f64,
    /// Since start.
    pub beats: u64,
}

/// How fresh readers are. The field names are those of the API.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AuditReport {
    /// From the feed to readers; `None` where the feed's times are not those of the wall clock.
    pub freshness: Option<Percentiles>,
    pub commit_to_readable: Percentiles,
    /// The share of the checked changes that was clean within each time; `None` of no change.
    pub clean: BTreeMap<&'static str, Option<f64>>,
    /// How many changes were stale so many milliseconds after their commit.
    pub stale_at_ms: BTreeMap<u64, u64>,
    pub looked_at: u64,
    pub not_looked_at: u64,
    /// Commits whose removal was not reported here.
    pub unheard: u64,
    /// `None` while the canary does not run: switched off, or another daemon leads.
    pub canary: Option<CanaryReport>,
    pub offenders_by_cause: BTreeMap<Cause, u64>,
    /// Newest first.
    pub offenders: Vec<StaleChange>,
}

/// Totals since start, for the metrics.
pub struct AuditTotals {
    /// `None` where the feed's times are not those of the wall clock.
    pub freshness: Option<Histogram>,
    pub commit_to_readable: Histogram,
    pub ratios: SloRatios,
    pub offenders: BTreeMap<Cause, u64>,
    pub canary_age: Option<Duration>,
}

impl AuditHandle {
    /// `real_clock`: the feed's times are those of the wall clock. `rules` decide which answers a change makes
    /// wrong.
    pub fn new(rate: SampleRate, rules: RulesHandle, real_clock: bool) -> Self {
        Self(Arc::new(AuditShared {
            state: Mutex::new(AuditState {
                freshness: FreshnessTracker::new(real_clock),
                sampler: Sampler::new(rate, rules),
                stale: StaleChangeLog::default(),
                canary: CanaryState::default(),
            }),
            canary_removed: Notify::new(),
        }))
    }

    pub fn report(&self, now: Instant) -> AuditReport {
        let state = self.lock();
        let ratios = state.sampler.ratios();
        let offsets = CHECK_OFFSETS.iter().map(|at| at.as_millis() as u64);
        let freshness = &state.freshness;
        AuditReport {
            freshness: freshness
                .real_clock
                .then(|| percentiles(&freshness.feed, now)),
            commit_to_readable: percentiles(&freshness.commit, now),
            clean: ratios.clean_ratios().collect(),
            stale_at_ms: offsets.zip(ratios.stale_at).collect(),
            looked_at: state.sampler.sampled,
            not_looked_at: state.sampler.skipped,
            unheard: freshness.unconfirmed,
            canary: state.canary.age(now).map(|age| CanaryReport {
                age_seconds: age.as_millis() as f64 / 1000.0,
                beats: state.canary.beats,
            }),
            offenders_by_cause: state.stale.counts(),
            offenders: state.stale.newest_first(),
        }
    }

    pub fn totals(&self, now: Instant) -> AuditTotals {
        let state = self.lock();
        let freshness = &state.freshness;
        AuditTotals {
            freshness: freshness.real_clock.then(|| freshness.feed.all.clone()),
            commit_to_readable: freshness.commit.all.clone(),
            ratios: state.sampler.ratios(),
            offenders: state.stale.counts(),
            canary_age: state.canary.age(now),
        }
    }

    pub(super) fn apply(&self, event: &AuditEvent) {
        let mut state = self.lock();
        match event {
            AuditEvent::Committed(commit) => {
                state.freshness.committed(commit);
                state.sampler.sample(commit);
            }
            AuditEvent::Removed(gone) => {
                state.freshness.removed(gone);
                if state.canary.note_removed(gone) {
                    self.0.canary_removed.notify_one();
                }
            }
        }
    }

    /// Another daemon leads, whose removals are not reported here: open checks end.
    pub(super) fn reset(&self) {
        let mut state = self.lock();
        state.freshness.reset();
        state.sampler.reset();
    }

    pub(super) async fn wait_for_canary(&self) {
        self.0.canary_removed.notified().await;
    }

    /// Never held over an await: everything under it is arithmetic.
    pub(super) fn lock(&self) -> MutexGuard<'_, AuditState> {
        self.0.state.lock()
    }
}

fn percentiles(times: &WindowedHistogram, now: Instant) -> Percentiles {
    let recent = times.recent(now);
    let ms = |share| {
        let seconds = recent.quantile(share);
        seconds.map(|seconds| (seconds * 1e6).round() / 1e3)
    };
    Percentiles {
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
        changes: times.all.count(),
    }
}
