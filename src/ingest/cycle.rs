//! One cycle: fetch, diff, commit, poke; and what is said of it. A cycle that fails leaves nothing
//! half-done: before the commit nothing has happened, after it the outbox knows.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::{Cycle, Ingest, Pace, SECOND_LOOK};
use crate::diff::book::Book;
use crate::diff::{Changes, Differ, Guard, PriceChangeKind, Take};
use crate::feed::{Ask, FeedError};
use crate::live::Activity;
use crate::model::{Event, EventId, EventSnapshot, Look, PriceStatus, Slice};
use crate::rules::{Movement, Shown};
use crate::schedule::{Failure, Wait, Watched, backoff};
use crate::store::{Claim, CycleFacts, Lease, Loaded, Place, StoreError};

/// The safety net below the fingerprints.
const FULL_LOOK_EVERY: Duration = Duration::from_secs(10 * 60);
/// Price moves told to watchers a cycle: a glimpse, not the data.
const MOVES_TOLD: usize = 6;

impl Ingest {
    /// One look at the feed, and everything that follows from it. `pace` is only for saying when
    /// the next one comes; `once` has none.
    pub async fn cycle(
        &mut self,
        lease: &Lease,
        ask: &Ask,
        pace: Option<&Pace>,
        stop: &CancellationToken,
    ) -> Cycle {
        let mut loaded = match self.remember().await {
            Ok(loaded) => loaded,
            Err(why) => return self.store_failed(0, why),
        };
        let id = loaded.next_cycle;
        let asked_at = self.clock.now();
        let started = Instant::now();
        let full = *ask == Ask::Everything && self.full_look_is_due();
        let mut differ = Differ::new(&loaded.book);
        if full {
            differ = differ.reading_everything();
        }
        let mut compared = Timed::new(differ);
        let looked = tokio::select! {
            looked = self.feed.read(ask, asked_at, &mut compared) => looked,
            () = stop.cancelled() => {
                self.memory = Some(loaded);
                return Cycle::Stopped;
            }
        };
        let look = match looked {
            Ok(looked) => looked.look,
            Err(why) => {
                self.memory = Some(loaded);
                return self.fetch_failed(id, why);
            }
        };
        let took = started.elapsed();
        let guard = Guard {
            max_removed_fraction: self.settings.max_removed_fraction,
            first_look: self.first_look.as_ref(),
        };
        let (mut changes, compared) = compared.finish(look, &guard);
        let fetch_ms = (took - compared.min(took)).as_millis() as i64;
        let diff_ms = (started.elapsed() - took + compared).as_millis() as i64;
        loaded.next_cycle += 1;

        let extent = std::mem::take(&mut changes.extent);
        let facts = CycleFacts {
            id,
            feed: self.feed.name().into(),
            races: extent.events as i64,
            horses: extent.selections as i64,
            bookmakers: extent.bookmakers.iter().map(ToString::to_string).collect(),
            fetch_ms,
            diff_ms,
        };

        let started = Instant::now();
        let written = if changes.is_quiet() {
            None
        } else {
            match self.store.commit(lease, &facts, &mut changes).await {
                Ok(committed) => {
                    self.tell(committed.told, &loaded.book, &changes);
                    Some(committed.written)
                }
                Err(why) => return self.store_failed(id, why),
            }
        };
        let write_ms = started.elapsed().as_millis() as u64;

        // Committed, or nothing to commit: memory may move forward.
        self.failures = 0;
        let held_back = changes.held_back.take();
        let (counts, rows) = (
            changes.counts,
            changes.events.len() + changes.selections.len(),
        );
        let rejects = std::mem::take(&mut changes.rejects);
        self.tell_moves(id, &loaded, &changes);
        self.tell_statuses(id, &changes);
        if !changes.events.is_empty() {
            self.standing.unknown();
        }
        self.note_checked(&loaded, &changes);
        let as_of = changes.as_of;
        loaded.book.apply(changes);
        // A cron line and a recording have their own times; only the plan asks for each race's.
        if let Some(Pace::Adaptive(_)) = pace {
            let events = loaded.book.events.values();
            self.watched = events
                .filter_map(|stored| watched(&stored.event, stored.checked_at))
                .collect();
        }
        if *ask == Ask::Everything {
            self.whole_card_at = Some(as_of);
        }
        if full {
            self.full_look_at = Some(Instant::now());
        }
        self.memory = Some(loaded);

        if !rejects.is_empty() {
            tracing::warn!(
                event = "cycle.rows_rejected",
                cycle = id,
                rows = rejects.total(),
                reasons = %rejects,
                "{} rows of the answer were set aside; the rest was used", rejects.total()
            );
        }
        self.first_look = held_back.map(|held| {
            self.live.say(Activity::RefusedRemovals {
                cycle: id as u64,
                removals: held.prices as u64,
                open: held.open_prices as u64,
            });
            held.missing
        });
        let cycle = match written {
            None => Cycle::Unchanged(counts),
            Some(written) => Cycle::Committed(counts, written),
        };
        let next = pace
            .map(|pace| self.wait_after(&cycle, pace))
            .unwrap_or_default();
        self.live.say(Activity::CycleComplete {
            cycle: id as u64,
            counts,
            facts: rows as u64,
            races: facts.races as u64,
            horses: facts.horses as u64,
            bookmakers: facts.bookmakers.len() as u64,
            errors: counts.rejected,
            fetch_ms: fetch_ms as u64,
            diff_ms: diff_ms as u64,
            write_ms,
            next_s: next.as_secs_f64().ceil() as u64,
        });
        cycle
    }

    /// One whole look for an external cron: a passing failure is tried again, a short answer is
    /// looked at a second time, since the next run of this program knows nothing of this one.
    pub async fn look(&mut self, lease: &Lease, tries: u32, stop: &CancellationToken) -> Cycle {
        let cycle = self.looks(lease, tries, stop).await;
        if self.memory.is_some() {
            self.move_statuses(lease, self.clock.now()).await;
        }
        cycle
    }

    async fn looks(&mut self, lease: &Lease, tries: u32, stop: &CancellationToken) -> Cycle {
        for _ in 1..tries {
            let cycle = self.cycle(lease, &Ask::Everything, None, stop).await;
            let wait = match &cycle {
                Cycle::FetchFailed(why) if why.is_retryable() => self.retry,
                Cycle::StoreFailed(StoreError::Down(_) | StoreError::Failed(_)) => self.retry,
                Cycle::Unchanged(_) | Cycle::Committed(..) if self.first_look.is_some() => {
                    SECOND_LOOK
                }
                _ => return cycle,
            };
            if self.clock.sleep(wait, stop).await == Wait::Stopped {
                return cycle;
            }
        }
        self.cycle(lease, &Ask::Everything, None, stop).await
    }

    /// Skipping what did not change rests on fingerprints of texts; now and then everything is read
    /// and compared, whatever they say.
    fn full_look_is_due(&self) -> bool {
        self.full_look_at
            .is_none_or(|at| at.elapsed() >= FULL_LOOK_EVERY)
    }

    /// What is stored: from memory, or loaded.
    pub(super) async fn remember(&mut self) -> Result<Loaded, StoreError> {
        if let Some(loaded) = self.memory.take() {
            return Ok(loaded);
        }
        self.standing.unknown();
        self.store.load().await
    }

    fn fetch_failed(&mut self, cycle: i64, why: FeedError) -> Cycle {
        if why == FeedError::Ended {
            return Cycle::FetchFailed(why);
        }
        self.failures += 1;
        self.retry = backoff(failure(&why), self.failures, fastrand::f64());
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

    pub(super) fn store_failed(&mut self, cycle: i64, why: StoreError) -> Cycle {
        self.failures += 1;
        self.retry = backoff(Failure::Temporary, self.failures, fastrand::f64());
        self.live.say(Activity::StoreFailed {
            cycle: cycle as u64,
            attempt: self.failures,
            retry_ms: self.retry.as_millis() as u64,
            error: why.to_string(),
        });
        Cycle::StoreFailed(why)
    }

    fn note_checked(&self, loaded: &Loaded, changes: &Changes) {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        for id in &changes.checked {
            if let Some(stored) = loaded.book.events.get(id) {
                checks.insert(stored.row, changes.as_of);
            }
        }
        for change in &changes.events {
            checks.insert(change.row, changes.as_of);
        }
    }

    /// Pokes the relay, with what is known here of each event, so that it need not ask. Before memory moves
    /// on: a new event is in the changes, an old one in the book.
    pub(super) fn tell(&self, told: Option<Claim>, book: &Book, changes: &Changes) {
        let moved: HashMap<&EventId, &Event> = changes
            .events
            .iter()
            .map(|change| (&change.after.id, &change.after))
            .collect();
        let told = told.map(|mut told| {
            for row in &mut told.rows {
                let event = row.event.as_ref().and_then(|id| {
                    let stored = || Some(&book.events.get(id)?.event);
                    moved.get(id).copied().or_else(stored)
                });
                row.place = event.map(Place::of);
            }
            told
        });
        self.poke.committed(told, changes.as_of);
    }

    /// Before memory moves on: what moved is found by what it was.
    fn tell_moves(&self, cycle: i64, loaded: &Loaded, changes: &Changes) {
        let moves = changes.prices.iter().filter(|change| {
            matches!(
                change.kind,
                PriceChangeKind::Changed | PriceChangeKind::Withdrawn
            )
        });
        for change in moves.take(MOVES_TOLD) {
            let Some(key) = loaded.book.key_of(change) else {
                continue;
            };
            let gone = change.kind == PriceChangeKind::Withdrawn;
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
                to: (!gone).then_some(change.offer.decimal),
                percent: moved.percent(),
                significant: moved.is_over(Movement::SIGNIFICANT),
            });
        }
    }
}

/// Takes the time that comparing takes, which happens while the answer is still being read.
struct Timed<'a> {
    differ: Differ<'a>,
    spent: Duration,
}

impl<'a> Timed<'a> {
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

impl Take for Timed<'_> {
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

/// Races worth a look of their own.
fn watched(event: &Event, checked_at: DateTime<Utc>) -> Option<Watched> {
    (event.listed && !event.status.is_final()).then(|| Watched {
        id: event.id.clone(),
        off: event.starts_at,
        checked_at: Some(checked_at),
    })
}

/// What a failure means for the schedule.
pub fn failure(why: &FeedError) -> Failure {
    match why {
        FeedError::Unauthorized { .. } | FeedError::BadRequest { .. } => Failure::Unauthorized,
        FeedError::RateLimited { retry_after, .. } => Failure::RateLimited {
            retry_after: *retry_after,
        },
        _ => Failure::Temporary,
    }
}
