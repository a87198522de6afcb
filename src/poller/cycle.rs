//! One cycle of the poller: fetch, compare, commit, notify. A cycle that fails leaves nothing half-done: before the
//! commit nothing has changed, after it the outbox has the removals.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::{CycleOutcome, PollSchedule, Poller, WithheldRemovals};
use crate::live::DaemonEvent;
use oddsd_core::diff::stored_state::StoredState;
use oddsd_core::diff::{
    Changes, Differ, EventSink, MissingRows, PendingRemovals, PriceChangeKind, ShrinkGuard,
};
use oddsd_core::model::{Event, EventId, EventSnapshot, Fingerprint, PriceStatus, RejectedRows};
use oddsd_core::rules::{DisplayedPrice, PriceDelta};
use oddsd_core::schedule::{Backoff, FailureKind, NextPoll, TrackedRace};
use oddsd_feeds::{Feed, FeedError, FetchRequest};
use oddsd_store::{ClaimedBatch, CycleMeta, EventContext, InitialState, StoreError, WriterLease};

/// How often everything is parsed and compared whatever the fingerprints, in case a fingerprint is wrong.
const FULL_READ_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// Price moves of a cycle that are published for the live snapshot; the others are only counted.
const PUBLISHED_MOVES: usize = 6;

/// An answer of the feed, compared with the stored state.
struct Compared {
    changes: Changes,
    cycle: CycleMeta,
    /// Whether everything was read, whatever the fingerprints.
    full: bool,
    /// Whether a part of the answer failed, and the rest was used.
    failed_in_part: bool,
    /// When the answer was requested. In elapsed time; of a recorded answer, the recorded time.
    looked_at: Duration,
}

impl Poller {
    /// One poll of the feed and everything that follows from it. `schedule` decides when a short answer is fetched
    /// again, and the log states when the next poll is due; `once` has none.
    pub async fn run_cycle(
        &mut self,
        lease: &WriterLease,
        request: &FetchRequest,
        schedule: Option<&mut PollSchedule>,
        stop: &CancellationToken,
    ) -> CycleOutcome {
        let mut state = match self.load_state().await {
            Ok(state) => state,
            Err(why) => return self.report_store_failure(0, why),
        };
        let compared = tokio::select! {
            compared = self.fetch_and_compare(&state, request) => compared,
            () = stop.cancelled() => {
                self.state = Some(state);
                return CycleOutcome::Stopped;
            }
        };
        let Compared {
            mut changes,
            cycle,
            full,
            failed_in_part,
            looked_at,
        } = match compared {
            Ok(compared) => compared,
            Err(why) => {
                let cycle = state.next_cycle;
                self.state = Some(state);
                return self.report_fetch_failure(cycle, why);
            }
        };
        state.next_cycle += 1;

        let started = Instant::now();
        let mut written = None;
        if !changes.is_empty() {
            match self.store.commit(lease, &cycle, &mut changes).await {
                Ok(committed) => {
                    self.notify_committed(committed.outbox, &state.state, &changes);
                    written = Some(committed.written);
                }
                Err(why) => return self.report_store_failure(cycle.id, why),
            }
        }
        let write_ms = started.elapsed().as_millis() as u64;

        // Committed, or nothing to commit: now the state in memory may change.
        self.failures = 0;
        let withheld = changes.pending_removals.take();
        let rejects = std::mem::take(&mut changes.rejected);
        let counts = changes.counts;
        report_outside(cycle.id, changes.unlisted_outside);
        let facts = (changes.events.len() + changes.selections.len()) as u64;
        self.publish_moves(cycle.id, &state, &changes);
        self.publish_statuses(cycle.id, &changes);
        self.apply(state, changes, request, full);
        self.report_rejects(cycle.id, &rejects);
        self.withhold(cycle.id, withheld, looked_at, failed_in_part);
        let outcome = match written {
            None => CycleOutcome::Unchanged(counts),
            Some(written) => CycleOutcome::Committed(counts, written),
        };
        let now = self.read_clock();
        let next = match schedule {
            Some(PollSchedule::Live(scheduler)) => {
                if self.withheld.is_some() {
                    let wait = self.settings.recheck_removed_after;
                    scheduler.recheck_after(wait, request, now);
                }
                match scheduler.next(now, &self.tracked, self.whole_card_at) {
                    NextPoll::Now(_) => Duration::ZERO,
                    NextPoll::Wait(wait) => wait,
                }
            }
            // A recording has its own times, and `once` ends.
            Some(PollSchedule::AsRecorded { .. }) | None => Duration::ZERO,
        };
        self.live.publish(DaemonEvent::CycleComplete {
            cycle: cycle.id as u64,
            counts,
            facts,
            races: cycle.races as u64,
            horses: cycle.horses as u64,
            bookmakers: cycle.bookmakers.len() as u64,
            errors: counts.rejected,
            fetch_ms: cycle.fetch_ms as u64,
            diff_ms: cycle.diff_ms as u64,
            write_ms,
            next_s: next.as_secs_f64().ceil() as u64,
        });
        outcome
    }

    /// Fetches the feed. The answer is compared event by event while it arrives.
    async fn fetch_and_compare(
        &mut self,
        state: &InitialState,
        request: &FetchRequest,
    ) -> Result<Compared, FeedError> {
        let (asked_at, asked_after) = (self.clock.now(), self.read_clock().elapsed);
        let started = Instant::now();
        let mut differ = Differ::new(&state.state, state.next_cycle);
        let is_recording = matches!(self.feed, Feed::Replay(_));
        if is_recording {
            differ = differ.of_a_recording();
        }
        let is_due = |at: Instant| at.elapsed() >= FULL_READ_INTERVAL;
        let full = *request == FetchRequest::Everything && self.full_read_at.is_none_or(is_due);
        if full {
            differ = differ.without_skipping();
        }
        let mut sink = TimedSink {
            differ,
            spent: Duration::ZERO,
        };
        // Boxed: the futures of a feed nest too deep for the compiler's default recursion limit.
        let summary = Box::pin(self.feed.read(request, asked_at, &mut sink)).await?;
        let took = started.elapsed();
        let looked_at = match is_recording {
            true => recorded_time(summary.meta.as_of),
            false => asked_after,
        };
        let failed_in_part = self.feed.failed_in_part();
        let withheld = self
            .withheld
            .as_ref()
            .filter(|withheld| !failed_in_part && self.is_old_enough(withheld, looked_at));
        let guard = ShrinkGuard {
            max_removed_fraction: self.settings.max_removed_fraction,
            previous_missing: withheld.map(|withheld| &withheld.missing),
        };
        let TimedSink { mut differ, spent } = sink;
        // A recording may hold one of several feeds of its day.
        if *request == FetchRequest::Everything && !is_recording {
            differ = differ.unlisting_outside(self.feed.covered_everything());
        }
        let mut changes = differ.finish(summary.meta, &guard);
        let stats = std::mem::take(&mut changes.stats);
        let cycle = CycleMeta {
            id: state.next_cycle,
            feed: self.feed.name().into(),
            races: stats.events as i64,
            horses: stats.selections as i64,
            bookmakers: stats.bookmakers.iter().map(ToString::to_string).collect(),
            fetch_ms: (took - spent.min(took)).as_millis() as i64,
            diff_ms: (started.elapsed() - took + spent).as_millis() as i64,
        };
        Ok(Compared {
            changes,
            cycle,
            full,
            failed_in_part,
            looked_at,
        })
    }

    /// Applies the committed changes to the state in memory, and updates what depends on it.
    fn apply(
        &mut self,
        mut state: InitialState,
        changes: Changes,
        request: &FetchRequest,
        full: bool,
    ) {
        if !changes.events.is_empty() {
            self.timer.invalidate();
        }
        self.note_checked(&state, &changes);
        match request {
            FetchRequest::Everything => {
                self.whole_card_at = Some(changes.as_of);
                self.unanswered.clear();
            }
            FetchRequest::Events(ids) => {
                let asked = ids.iter().map(|id| (id.clone(), changes.as_of));
                self.unanswered.extend(asked);
                for id in &changes.checked {
                    self.unanswered.remove(id);
                }
            }
        }
        if full {
            self.full_read_at = Some(Instant::now());
        }
        state.state.apply(changes);
        self.track_races(&state.state);
        self.state = Some(state);
    }

    fn track_races(&mut self, state: &StoredState) {
        if self.tracks_races {
            let tracked = state.events.values().filter_map(|stored| {
                let unanswered = self.unanswered.get(&stored.event.id);
                track_race(&stored.event, *unanswered.unwrap_or(&stored.checked_at))
            });
            self.tracked = tracked.collect();
        }
    }

    /// One poll of the whole card for an external cron. A temporary failure is retried, and a short answer is
    /// fetched again, because the next run of this program has no memory of this one.
    pub async fn poll_once(
        &mut self,
        lease: &WriterLease,
        tries: u32,
        stop: &CancellationToken,
    ) -> CycleOutcome {
        let mut tries_left = tries.max(1);
        let cycle = loop {
            tries_left -= 1;
            let cycling = self.run_cycle(lease, &FetchRequest::Everything, None, stop);
            let cycle = cycling.await;
            let wait = match &cycle {
                _ if tries_left == 0 => break cycle,
                CycleOutcome::FetchFailed(why) if why.is_retryable() => self.retry,
                CycleOutcome::StoreFailed(StoreError::Down(_) | StoreError::Failed(_)) => {
                    self.retry
                }
                CycleOutcome::Unchanged(_) | CycleOutcome::Committed(..)
                    if self.withheld.is_some() =>
                {
                    self.settings.recheck_removed_after
                }
                _ => break cycle,
            };
            // Not `Clock::sleep`: a step of the wall clock does not shorten what the provider asked for.
            tokio::select! {
                () = tokio::time::sleep(self.clock.real_duration(wait)) => {}
                () = stop.cancelled() => break cycle,
            }
        };
        if self.state.is_some() {
            self.update_statuses(lease, self.clock.now()).await;
        }
        cycle
    }

    /// The stored state: from memory, or loaded from the database.
    pub(super) async fn load_state(&mut self) -> Result<InitialState, StoreError> {
        if let Some(state) = self.state.take() {
            return Ok(state);
        }
        self.timer.invalidate();
        let loaded = self.store.load().await?;
        // Known times of the last poll stay: those that are stored may be older.
        if self.tracked.is_empty() {
            self.track_races(&loaded.state);
        }
        Ok(loaded)
    }

    /// The delay after one more failure.
    fn next_retry(&mut self, failure: FailureKind) {
        self.failures += 1;
        let jitter = fastrand::f64();
        self.retry = Backoff::FEED.delay_within(self.interval, failure, self.failures, jitter);
    }

    fn report_fetch_failure(&mut self, cycle: i64, why: FeedError) -> CycleOutcome {
        if why == FeedError::Ended {
            return CycleOutcome::FetchFailed(why);
        }
        // A provider that fails is not believed when it says that much is gone.
        self.withheld = None;
        self.next_retry(classify_failure(&why));
        self.live.publish(DaemonEvent::FetchFailed {
            cycle: cycle as u64,
            feed: self.feed.name().into(),
            failure: why.outcome(),
            needs_operator: !why.is_retryable(),
            attempt: self.failures,
            retry_ms: self.retry.as_millis() as u64,
            error: why.to_string(),
        });
        CycleOutcome::FetchFailed(why)
    }

    pub(super) fn report_store_failure(&mut self, cycle: i64, why: StoreError) -> CycleOutcome {
        self.next_retry(FailureKind::Temporary);
        self.live.publish(DaemonEvent::StoreFailed {
            cycle: cycle as u64,
            attempt: self.failures,
            retry_ms: self.retry.as_millis() as u64,
            error: why.to_string(),
        });
        CycleOutcome::StoreFailed(why)
    }

    fn report_rejects(&self, cycle: i64, rejects: &RejectedRows) {
        if !rejects.is_empty() {
            tracing::warn!(
                event = "cycle.rows_rejected",
                cycle,
                rows = rejects.total(),
                reasons = %rejects,
                "{} rows of the answer were set aside; the rest was used", rejects.total()
            );
        }
    }

    /// Remembers the removals that the guard withheld, for the comparison with later answers.
    fn withhold(
        &mut self,
        cycle: i64,
        pending: Option<PendingRemovals>,
        looked_at: Duration,
        failed_in_part: bool,
    ) {
        let before = self.withheld.take();
        let Some(pending) = pending else {
            return;
        };
        self.live.publish(DaemonEvent::RefusedRemovals {
            cycle: cycle as u64,
            removals: pending.prices as u64,
            open: pending.open_prices as u64,
        });
        // An answer before the time adds nothing, and takes out what it contains.
        let waiting = before.filter(|before| !self.is_old_enough(before, looked_at));
        let waiting = waiting.map(|before| WithheldRemovals {
            missing: before.missing.intersection(&pending.missing),
            ..before
        });
        let waiting = waiting.filter(|waiting| !failed_in_part && !waiting.missing.is_empty());
        self.withheld = Some(waiting.unwrap_or_else(|| WithheldRemovals {
            missing: match failed_in_part {
                true => MissingRows::default(),
                false => pending.missing,
            },
            since: looked_at,
        }));
    }

    /// Whether an answer at `looked_at` may confirm them.
    fn is_old_enough(&self, withheld: &WithheldRemovals, looked_at: Duration) -> bool {
        looked_at.saturating_sub(withheld.since) >= self.settings.recheck_removed_after
    }

    fn note_checked(&self, state: &InitialState, changes: &Changes) {
        let mut checks = self.checks.lock();
        for id in &changes.checked {
            if let Some(stored) = state.state.events.get(id) {
                checks.insert(stored.row, changes.as_of);
            }
        }
        for change in &changes.events {
            checks.insert(change.row, changes.as_of);
        }
    }

    /// Notifies relay and auditor of a commit. Each row gets the context of its event, so that the relay need not
    /// read it. Call it before `apply`: a new event is in the changes, an old one in the state.
    pub(super) fn notify_committed(
        &self,
        batch: Option<ClaimedBatch>,
        state: &StoredState,
        changes: &Changes,
    ) {
        let changed = changes.events.iter().map(|change| &change.after);
        let changed: HashMap<&EventId, &Event> = changed.map(|event| (&event.id, event)).collect();
        let claim = batch.map(|mut claim| {
            for row in &mut claim.rows {
                let event = row.entry.event.as_ref().and_then(|id| {
                    let stored = || Some(&state.events.get(id)?.event);
                    changed.get(id).copied().or_else(stored)
                });
                row.context = event.map(EventContext::from_event);
            }
            claim
        });
        self.notifier.notify_commit(claim, changes.as_of);
    }

    /// Call it before `apply`, while the state still has the names of the prices.
    fn publish_moves(&self, cycle: i64, state: &InitialState, changes: &Changes) {
        let kinds = [PriceChangeKind::Changed, PriceChangeKind::Withdrawn];
        let moves = changes.prices.iter();
        let moves = moves.filter(|change| kinds.contains(&change.kind));
        for change in moves.take(PUBLISHED_MOVES) {
            let Some(key) = state.state.key_of(change) else {
                continue;
            };
            let is_withdrawn = change.kind == PriceChangeKind::Withdrawn;
            let shown = |decimal| DisplayedPrice {
                decimal,
                fractional: None,
                point: change.offer.point,
                open: true,
            };
            let now = (change.status == PriceStatus::Open).then(|| DisplayedPrice {
                fractional: change.offer.fractional,
                ..shown(change.offer.decimal)
            });
            let moved = PriceDelta::between(change.before.map(shown).as_ref(), now.as_ref());
            self.live.publish(DaemonEvent::PriceMoved {
                cycle: cycle as u64,
                event: change.event.clone(),
                selection: key.selection,
                bookmaker: key.bookmaker,
                from: change.before,
                to: (!is_withdrawn).then_some(change.offer.decimal),
                percent: moved.percent(),
                significant: moved.exceeds(PriceDelta::SIGNIFICANT),
            });
        }
    }
}

/// They are unlisted once, so the line comes once.
fn report_outside(cycle: i64, events: usize) {
    if events > 0 {
        tracing::warn!(
            event = "cycle.out_of_scope",
            cycle,
            events,
            "{events} events lie outside of what the feed is asked for (another region, league or feed): they are unlisted, \
             and their prices withdrawn"
        );
    }
}

/// Measures the time of the comparison, which happens while the answer is still arriving.
struct TimedSink<'a> {
    differ: Differ<'a>,
    spent: Duration,
}

impl EventSink for TimedSink<'_> {
    fn start(&mut self, as_of: DateTime<Utc>) {
        self.differ.start(as_of);
    }

    fn find_unchanged(&self, fingerprint: &Fingerprint) -> Option<EventId> {
        self.differ.find_unchanged(fingerprint)
    }

    fn mark_unchanged(&mut self, fingerprint: &Fingerprint) {
        self.differ.mark_unchanged(fingerprint);
    }

    fn push(&mut self, event: EventSnapshot, fingerprint: Option<Fingerprint>) {
        let started = Instant::now();
        self.differ.push(event, fingerprint);
        self.spent += started.elapsed();
    }
}

/// A race that is polled by its own time to the off; `None` when it is over or not listed.
pub fn track_race(event: &Event, checked_at: DateTime<Utc>) -> Option<TrackedRace> {
    (event.listed && !event.status.is_final()).then(|| TrackedRace {
        id: event.id.clone(),
        off: event.starts_at,
        checked_at: Some(checked_at),
    })
}

/// The time of a recorded answer, as the time since a fixed point.
fn recorded_time(at: DateTime<Utc>) -> Duration {
    (at - DateTime::UNIX_EPOCH).to_std().unwrap_or_default()
}

/// The kind of delay that a feed's failure needs.
pub fn classify_failure(why: &FeedError) -> FailureKind {
    match why {
        FeedError::Unauthorized { .. } | FeedError::BadRequest { .. } => FailureKind::Refused,
        FeedError::RateLimited { retry_after, .. } => FailureKind::RateLimited {
            retry_after: *retry_after,
        },
        _ => FailureKind::Temporary,
    }
}
