//! One cycle of the poller: fetch, compare, commit, notify. A cycle that fails leaves nothing half-done: before the
//! commit nothing has changed, after it the outbox has the removals.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::{Cycle, Ingest, Pace, RECHECK_AFTER};
use crate::clock::Wait;
use crate::live::Activity;
use oddsd_core::diff::book::Book;
use oddsd_core::diff::{Changes, Differ, Guard, HeldBack, PriceChangeKind, Take};
use oddsd_core::model::{Event, EventId, EventSnapshot, Look, PriceStatus, Rejects, Slice};
use oddsd_core::rules::{Movement, Shown};
use oddsd_core::schedule::{Backoff, FailureKind, TrackedRace};
use oddsd_feeds::{Ask, FeedError};
use oddsd_store::{Claim, CycleFacts, Lease, Loaded, Place, StoreError};

/// How often everything is parsed and compared whatever the fingerprints, in case a fingerprint is wrong.
const FULL_READ_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// Price moves of a cycle that are published for the live view; the others are only counted.
const PUBLISHED_MOVES: usize = 6;

/// An answer of the feed, compared with the stored state.
struct Compared {
    changes: Changes,
    cycle: CycleFacts,
    /// Whether everything was read, whatever the fingerprints.
    full: bool,
}

impl Ingest {
    /// One poll of the feed and everything that follows from it. `pace` is only for the log, which states when the
    /// next poll is due; `once` has none.
    pub async fn cycle(
        &mut self,
        lease: &Lease,
        ask: &Ask,
        pace: Option<&Pace>,
        stop: &CancellationToken,
    ) -> Cycle {
        let mut state = match self.load_state().await {
            Ok(state) => state,
            Err(why) => return self.report_store_failure(0, why),
        };
        let compared = tokio::select! {
            compared = self.fetch_and_compare(&state, ask) => compared,
            () = stop.cancelled() => {
                self.state = Some(state);
                return Cycle::Stopped;
            }
        };
        let Compared {
            mut changes,
            cycle,
            full,
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
        if !changes.is_quiet() {
            match self.store.commit(lease, &cycle, &mut changes).await {
                Ok(committed) => {
                    self.notify_committed(committed.told, &state.book, &changes);
                    written = Some(committed.written);
                }
                Err(why) => return self.report_store_failure(cycle.id, why),
            }
        }
        let write_ms = started.elapsed().as_millis() as u64;

        // Committed, or nothing to commit: the mirror may follow.
        self.failures = 0;
        let withheld = changes.held_back.take();
        let rejects = std::mem::take(&mut changes.rejects);
        let counts = changes.counts;
        let facts = (changes.events.len() + changes.selections.len()) as u64;
        self.publish_moves(cycle.id, &state, &changes);
        self.publish_statuses(cycle.id, &changes);
        self.apply(state, changes, ask, pace, full);
        self.report_rejects(cycle.id, &rejects);
        self.withhold(cycle.id, withheld);
        let outcome = match written {
            None => Cycle::Unchanged(counts),
            Some(written) => Cycle::Committed(counts, written),
        };
        let next = pace.map(|pace| self.wait_after(&outcome, pace));
        self.live.say(Activity::CycleComplete {
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
            next_s: next.unwrap_or_default().as_secs_f64().ceil() as u64,
        });
        outcome
    }

    /// Fetches the feed. The answer is compared event by event while it arrives.
    async fn fetch_and_compare(
        &mut self,
        state: &Loaded,
        ask: &Ask,
    ) -> Result<Compared, FeedError> {
        let asked_at = self.clock.now();
        let started = Instant::now();
        let mut differ = Differ::new(&state.book);
        let is_due = |at: Instant| at.elapsed() >= FULL_READ_INTERVAL;
        let full = *ask == Ask::Everything && self.full_read_at.is_none_or(is_due);
        if full {
            differ = differ.reading_everything();
        }
        let mut sink = TimedSink::new(differ);
        // Boxed: the futures of a feed nest too deep for the compiler's default recursion limit.
        let looked = Box::pin(self.feed.read(ask, asked_at, &mut sink)).await?;
        let took = started.elapsed();
        let guard = Guard {
            max_removed_fraction: self.settings.max_removed_fraction,
            first_look: self.withheld.as_ref(),
        };
        let (mut changes, comparing) = sink.finish(looked.look, &guard);
        let extent = std::mem::take(&mut changes.extent);
        let cycle = CycleFacts {
            id: state.next_cycle,
            feed: self.feed.name().into(),
            races: extent.events as i64,
            horses: extent.selections as i64,
            bookmakers: extent.bookmakers.iter().map(ToString::to_string).collect(),
            fetch_ms: (took - comparing.min(took)).as_millis() as i64,
            diff_ms: (started.elapsed() - took + comparing).as_millis() as i64,
        };
        Ok(Compared {
            changes,
            cycle,
            full,
        })
    }

    /// Brings the mirror and what depends on it to the committed changes.
    fn apply(
        &mut self,
        mut state: Loaded,
        changes: Changes,
        ask: &Ask,
        pace: Option<&Pace>,
        full: bool,
    ) {
        if !changes.events.is_empty() {
            self.timer.invalidate();
        }
        self.note_checked(&state, &changes);
        if *ask == Ask::Everything {
            self.whole_card_at = Some(changes.as_of);
        }
        if full {
            self.full_read_at = Some(Instant::now());
        }
        state.book.apply(changes);
        // A cron line and a recording have their own times; only the plan polls single races.
        if let Some(Pace::Adaptive(_)) = pace {
            let events = state.book.events.values();
            self.tracked = events
                .filter_map(|stored| tracked_race(&stored.event, stored.checked_at))
                .collect();
        }
        self.state = Some(state);
    }

    /// One poll of the whole card for an external cron. A temporary failure is retried, and a short answer is
    /// fetched again, because the next run of this program has no memory of this one.
    pub async fn look(&mut self, lease: &Lease, tries: u32, stop: &CancellationToken) -> Cycle {
        let mut tries_left = tries.max(1);
        let cycle = loop {
            tries_left -= 1;
            let cycle = self.cycle(lease, &Ask::Everything, None, stop).await;
            let wait = match &cycle {
                _ if tries_left == 0 => break cycle,
                Cycle::FetchFailed(why) if why.is_retryable() => self.retry,
                Cycle::StoreFailed(StoreError::Down(_) | StoreError::Failed(_)) => self.retry,
                Cycle::Unchanged(_) | Cycle::Committed(..) if self.withheld.is_some() => {
                    RECHECK_AFTER
                }
                _ => break cycle,
            };
            if self.clock.sleep(wait, stop).await == Wait::Stopped {
                break cycle;
            }
        };
        if self.state.is_some() {
            self.update_statuses(lease, self.clock.now()).await;
        }
        cycle
    }

    /// The stored state: from memory, or loaded from the database.
    pub(super) async fn load_state(&mut self) -> Result<Loaded, StoreError> {
        if let Some(state) = self.state.take() {
            return Ok(state);
        }
        self.timer.invalidate();
        self.store.load().await
    }

    fn report_fetch_failure(&mut self, cycle: i64, why: FeedError) -> Cycle {
        if why == FeedError::Ended {
            return Cycle::FetchFailed(why);
        }
        self.failures += 1;
        self.retry = Backoff::FEED.delay(failure(&why), self.failures, fastrand::f64());
        self.live.say(Activity::FetchFailed {
            cycle: cycle as u64,
            feed: self.feed.name().into(),
            failure: why.outcome(),
            needs_person: !why.is_retryable(),
            attempt: self.failures,
            retry_ms: self.retry.as_millis() as u64,
            error: why.to_string(),
        });
        Cycle::FetchFailed(why)
    }

    pub(super) fn report_store_failure(&mut self, cycle: i64, why: StoreError) -> Cycle {
        self.failures += 1;
        self.retry = Backoff::FEED.delay(FailureKind::Temporary, self.failures, fastrand::f64());
        self.live.say(Activity::StoreFailed {
            cycle: cycle as u64,
            attempt: self.failures,
            retry_ms: self.retry.as_millis() as u64,
            error: why.to_string(),
        });
        Cycle::StoreFailed(why)
    }

    fn report_rejects(&self, cycle: i64, rejects: &Rejects) {
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

    /// Remembers the removals that the guard withheld, for the comparison with the next answer.
    fn withhold(&mut self, cycle: i64, held_back: Option<HeldBack>) {
        self.withheld = held_back.map(|held| {
            self.live.say(Activity::RefusedRemovals {
                cycle: cycle as u64,
                removals: held.prices as u64,
                open: held.open_prices as u64,
            });
            held.missing
        });
    }

    fn note_checked(&self, state: &Loaded, changes: &Changes) {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        for id in &changes.checked {
            if let Some(stored) = state.book.events.get(id) {
                checks.insert(stored.row, changes.as_of);
            }
        }
        for change in &changes.events {
            checks.insert(change.row, changes.as_of);
        }
    }

    /// Notifies relay and auditor of a commit. Each row gets the context of its event, so that the relay need not
    /// read it. To be called before the mirror follows: a new event is in the changes, an old one in the mirror.
    pub(super) fn notify_committed(&self, told: Option<Claim>, book: &Book, changes: &Changes) {
        let changed: HashMap<&EventId, &Event> = changes
            .events
            .iter()
            .map(|change| (&change.after.id, &change.after))
            .collect();
        let claim = told.map(|mut claim| {
            for row in &mut claim.rows {
                let event = row.event.as_ref().and_then(|id| {
                    let stored = || Some(&book.events.get(id)?.event);
                    changed.get(id).copied().or_else(stored)
                });
                row.place = event.map(Place::of);
            }
            claim
        });
        self.notifier.committed(claim, changes.as_of);
    }

    /// To be called before the mirror follows, which still has the names of the prices.
    fn publish_moves(&self, cycle: i64, state: &Loaded, changes: &Changes) {
        let moves = changes.prices.iter().filter(|change| {
            matches!(
                change.kind,
                PriceChangeKind::Changed | PriceChangeKind::Withdrawn
            )
        });
        for change in moves.take(PUBLISHED_MOVES) {
            let Some(key) = state.book.key_of(change) else {
                continue;
            };
            let is_withdrawn = change.kind == PriceChangeKind::Withdrawn;
            let shown = |decimal| Shown {
                decimal,
                fractional: None,
                point: change.offer.point,
                open: true,
            };
            let now = (change.status == PriceStatus::Open).then(|| Shown {
                fractional: change.offer.fractional,
                ..shown(change.offer.decimal)
            });
            let moved = Movement::between(change.before.map(shown).as_ref(), now.as_ref());
            self.live.say(Activity::PriceMoved {
                cycle: cycle as u64,
                event: change.event.clone(),
                selection: key.selection,
                bookmaker: key.bookmaker,
                from: change.before,
                to: (!is_withdrawn).then_some(change.offer.decimal),
                percent: moved.percent(),
                significant: moved.is_over(Movement::SIGNIFICANT),
            });
        }
    }
}

/// Measures the time of the comparison, which happens while the answer is still arriving.
struct TimedSink<'a> {
    differ: Differ<'a>,
    spent: Duration,
}

impl<'a> TimedSink<'a> {
    fn new(differ: Differ<'a>) -> Self {
        Self {
            differ,
            spent: Duration::ZERO,
        }
    }

    fn finish(self, look: Look, guard: &Guard) -> (Changes, Duration) {
        (self.differ.finish(look, guard), self.spent)
    }
}

impl Take for TimedSink<'_> {
    fn begin(&mut self, as_of: DateTime<Utc>) {
        self.differ.begin(as_of);
    }

    fn knows(&self, slice: &Slice) -> Option<EventId> {
        self.differ.knows(slice)
    }

    fn same(&mut self, slice: &Slice) {
        self.differ.same(slice);
    }

    fn take(&mut self, event: EventSnapshot, slice: Option<Slice>) {
        let started = Instant::now();
        self.differ.take(event, slice);
        self.spent += started.elapsed();
    }
}

/// A race that is polled by its own time to the off; `None` when it is over or not listed.
fn tracked_race(event: &Event, checked_at: DateTime<Utc>) -> Option<TrackedRace> {
    (event.listed && !event.status.is_final()).then(|| TrackedRace {
        id: event.id.clone(),
        off: event.starts_at,
        checked_at: Some(checked_at),
    })
}

/// The kind of delay that a feed's failure needs.
pub fn failure(why: &FeedError) -> FailureKind {
    match why {
        FeedError::Unauthorized { .. } | FeedError::BadRequest { .. } => FailureKind::Refused,
        FeedError::RateLimited { retry_after, .. } => FailureKind::RateLimited {
            retry_after: *retry_after,
        },
        _ => FailureKind::Temporary,
    }
}
