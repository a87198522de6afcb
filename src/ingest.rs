//! One cycle (fetch, diff, commit, poke) and the loop around it.
//!
//! What is stored is held in memory and moves forward only by what was committed. After any
//! database error the outcome of the last write is unknown: memory is thrown away, the stored rows
//! are loaded again, and the next diff is against them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::diff::{Changes, Guard, Missing, PriceChange, PriceChangeKind, diff};
use crate::feed::{Ask, Feed, FeedError, Fetched};
use crate::live::{Activity, Live};
use crate::model::{Counts, Event};
use crate::schedule::{Clock, Due, Failure, Plan, Ticker, Wait, Watched, backoff};
use crate::store::{CycleFacts, Lease, Loaded, Retention, Store, StoreError, Written};

/// How soon a suspiciously short answer is looked at again.
const SECOND_LOOK: Duration = Duration::from_secs(10);
const PRUNE_EVERY: Duration = Duration::from_secs(60 * 60);
/// Price moves told to watchers a cycle: a glimpse, not the data.
const MOVES_TOLD: usize = 6;

/// What one cycle came to.
#[derive(Debug)]
pub enum Cycle {
    Unchanged(Counts),
    Committed(Counts, Written),
    FetchFailed(FeedError),
    StoreFailed(StoreError),
    /// We were asked to stop before anything was written.
    Stopped,
}

/// When to look again.
pub enum Pace {
    Adaptive(Plan),
    Cron(Box<Ticker>),
    /// A recording: at this many times its own speed, or as fast as we can.
    AsRecorded {
        speed: Option<f64>,
    },
}

/// Last-checked times that the lease keeper writes down with its next renewal.
pub type Checks = Arc<Mutex<HashMap<i64, DateTime<Utc>>>>;

pub struct IngestSettings {
    /// See [`Guard`]; 1 believes every answer at once.
    pub max_removed_fraction: f64,
    pub retention: Retention,
}

pub struct Ingest {
    feed: Feed,
    store: Store,
    live: Live,
    clock: Clock,
    settings: IngestSettings,
    poke: Arc<Notify>,
    checks: Checks,
    memory: Option<Loaded>,
    /// Removals that the last short answer asked for.
    first_look: Option<Missing>,
    /// Known races, kept through failures: the off does not wait for our database.
    watched: Vec<Watched>,
    whole_card_at: Option<DateTime<Utc>>,
    failures: u32,
    pruned_at: Option<Instant>,
}

impl Ingest {
    pub fn new(
        feed: Feed,
        store: Store,
        live: Live,
        clock: Clock,
        settings: IngestSettings,
        poke: Arc<Notify>,
        checks: Checks,
    ) -> Self {
        Self {
            feed,
            store,
            live,
            clock,
            settings,
            poke,
            checks,
            memory: None,
            first_look: None,
            watched: Vec::new(),
            whole_card_at: None,
            failures: 0,
            pruned_at: None,
        }
    }

    /// Cycles while a lease is ours, until `stop` or the end of a recording. The only error is a
    /// recording's: what was not stored of it does not come again.
    pub async fn run(
        &mut self,
        mut lease: watch::Receiver<Option<Lease>>,
        mut pace: Pace,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let mut ask = Ask::Everything;
        if let Pace::Adaptive(plan) = &mut pace
            && !self.feed.has_one_race_calls()
        {
            plan.max_one_race_calls = 0;
        }
        loop {
            let Some(held) = leading(&mut lease, stop).await else {
                return Ok(());
            };
            if let Pace::Cron(ticker) = &mut pace
                && ticker.next(stop).await.is_none()
            {
                return Ok(());
            }
            let plan = if let Pace::Adaptive(plan) = &pace {
                Some(plan)
            } else {
                None
            };
            let cycle = self.cycle(&held, &ask, plan, stop).await;
            match (&cycle, &pace) {
                (Cycle::FetchFailed(FeedError::Ended) | Cycle::Stopped, _) => return Ok(()),
                (Cycle::StoreFailed(why), Pace::AsRecorded { .. }) => return Err(why.clone()),
                _ => {}
            }
            let wait = match &pace {
                Pace::Adaptive(plan) => self.wait_after(&cycle, plan),
                Pace::AsRecorded { speed } => self.recorded_wait(*speed),
                Pace::Cron(_) => Duration::ZERO,
            };
            if !matches!(pace, Pace::AsRecorded { .. }) {
                self.prune(&held).await;
            }
            if !wait.is_zero() && self.clock.sleep(wait, stop).await == Wait::Stopped {
                return Ok(());
            }
            // After a failure or a short answer the same question again, else whatever is due.
            let believed = matches!(cycle, Cycle::Unchanged(_) | Cycle::Committed(..))
                && self.first_look.is_none();
            if let (Pace::Adaptive(plan), true) = (&pace, believed) {
                match self.next_ask(plan, stop).await {
                    Some(due) => ask = due,
                    None => return Ok(()),
                }
            }
        }
    }

    /// How long the recording itself waited here, at this speed.
    fn recorded_wait(&mut self, speed: Option<f64>) -> Duration {
        let (Some(speed), Some(last), Feed::Replay(replay)) =
            (speed, self.whole_card_at, &mut self.feed)
        else {
            return Duration::ZERO;
        };
        let gap = replay
            .next_at()
            .and_then(|next| (next - last).to_std().ok())
            .unwrap_or_default();
        Duration::try_from_secs_f64(gap.as_secs_f64() / speed).unwrap_or_default()
    }

    /// Waits for the next question, should it not be due yet; `None` when asked to stop.
    async fn next_ask(&mut self, plan: &Plan, stop: &CancellationToken) -> Option<Ask> {
        loop {
            let now = self.clock.now();
            let until = match plan.due(now, &self.watched, self.whole_card_at) {
                Due::Races(ids) => return Some(Ask::Events(ids)),
                Due::Everything => return Some(Ask::Everything),
                Due::Nothing { until } => until,
            };
            let wait = (until - now).to_std().unwrap_or_default();
            if self.clock.sleep(wait, stop).await == Wait::Stopped {
                return None;
            }
        }
    }

    /// One look at the feed, and everything that follows from it. `plan` is only for saying when
    /// the next one comes.
    pub async fn cycle(
        &mut self,
        lease: &Lease,
        ask: &Ask,
        plan: Option<&Plan>,
        stop: &CancellationToken,
    ) -> Cycle {
        let mut loaded = match self.remember().await {
            Ok(loaded) => loaded,
            Err(why) => return self.store_failed(0, why),
        };
        let id = loaded.next_cycle;
        let asked_at = self.clock.now();
        let started = Instant::now();
        let fetched = tokio::select! {
            fetched = self.feed.fetch(ask, asked_at) => fetched,
            () = stop.cancelled() => {
                self.memory = Some(loaded);
                return Cycle::Stopped;
            }
        };
        let Fetched { snapshot, .. } = match fetched {
            Ok(fetched) => fetched,
            Err(why) => {
                self.memory = Some(loaded);
                return self.fetch_failed(id, why);
            }
        };
        let fetch_ms = started.elapsed().as_millis() as i64;

        let started = Instant::now();
        let guard = Guard {
            max_removed_fraction: self.settings.max_removed_fraction,
            first_look: self.first_look.as_ref(),
        };
        let mut changes = diff(&loaded.book, &snapshot, &guard);
        let diff_ms = started.elapsed().as_millis() as i64;
        loaded.next_cycle += 1;

        let bookmakers: BTreeSet<&str> = snapshot
            .bookmakers
            .iter()
            .map(|bookmaker| bookmaker.id.as_str())
            .collect();
        let facts = CycleFacts {
            id,
            feed: self.feed.name().into(),
            races: snapshot.events.len() as i64,
            horses: snapshot
                .events
                .iter()
                .map(|event| event.selections.len() as i64)
                .sum(),
            bookmakers: bookmakers.into_iter().map(Into::into).collect(),
            fetch_ms,
            diff_ms,
        };

        let started = Instant::now();
        let written = if changes.is_quiet() {
            None
        } else {
            match self.store.commit(lease, &facts, &changes).await {
                Ok(written) => {
                    self.poke.notify_one();
                    Some(written)
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
        self.tell_moves(id, &changes);
        self.note_checked(&loaded, &changes);
        loaded.book.apply(changes);
        if plan.is_some() {
            let events = loaded.book.events.values();
            self.watched = events
                .filter_map(|stored| watched(&stored.event, stored.checked_at))
                .collect();
        }
        if *ask == Ask::Everything {
            self.whole_card_at = Some(snapshot.as_of);
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
        let next = plan
            .map(|plan| self.wait_after(&cycle, plan))
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
        for _ in 1..tries {
            let cycle = self.cycle(lease, &Ask::Everything, None, stop).await;
            let wait = match &cycle {
                Cycle::FetchFailed(why) if why.is_retryable() => {
                    backoff(failure(why), self.failures, fastrand::f64())
                }
                Cycle::StoreFailed(StoreError::Down(_) | StoreError::Failed(_)) => {
                    backoff(Failure::Temporary, self.failures, fastrand::f64())
                }
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

    /// What is stored: from memory, or loaded.
    async fn remember(&mut self) -> Result<Loaded, StoreError> {
        match self.memory.take() {
            Some(loaded) => Ok(loaded),
            None => self.store.load().await,
        }
    }

    /// The next cycle loads what is stored.
    pub fn forget(&mut self) {
        self.memory = None;
    }

    fn fetch_failed(&mut self, cycle: i64, why: FeedError) -> Cycle {
        if why == FeedError::Ended {
            return Cycle::FetchFailed(why);
        }
        self.failures += 1;
        let retry = backoff(failure(&why), self.failures, 1.0);
        self.live.say(Activity::FetchFailed {
            cycle: cycle as u64,
            feed: self.feed.name().into(),
            failure: why.outcome(),
            needs_person: !why.is_retryable(),
            attempt: self.failures,
            retry_ms: retry.as_millis() as u64,
            error: why.to_string(),
        });
        Cycle::FetchFailed(why)
    }

    fn store_failed(&mut self, cycle: i64, why: StoreError) -> Cycle {
        self.failures += 1;
        self.live.say(Activity::StoreFailed {
            cycle: cycle as u64,
            attempt: self.failures,
            retry_ms: backoff(Failure::Temporary, self.failures, 1.0).as_millis() as u64,
            error: why.to_string(),
        });
        Cycle::StoreFailed(why)
    }

    fn wait_after(&self, cycle: &Cycle, plan: &Plan) -> Duration {
        let now = self.clock.now();
        match cycle {
            Cycle::FetchFailed(why) => backoff(failure(why), self.failures, fastrand::f64()),
            Cycle::StoreFailed(_) => backoff(Failure::Temporary, self.failures, fastrand::f64()),
            _ => {
                let due = match plan.due(now, &self.watched, self.whole_card_at) {
                    Due::Nothing { until } => (until - now).to_std().unwrap_or_default(),
                    Due::Races(_) | Due::Everything => Duration::ZERO,
                };
                if self.first_look.is_some() {
                    due.min(SECOND_LOOK)
                } else {
                    due
                }
            }
        }
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

    fn tell_moves(&self, cycle: i64, changes: &Changes) {
        let moves = changes.prices.iter().filter(|change| {
            matches!(
                change.kind,
                PriceChangeKind::Changed | PriceChangeKind::Withdrawn
            )
        });
        for PriceChange {
            event,
            key,
            kind,
            before,
            offer,
            ..
        } in moves.take(MOVES_TOLD)
        {
            self.live.say(Activity::PriceMoved {
                cycle: cycle as u64,
                event: event.clone(),
                selection: key.selection.clone(),
                bookmaker: key.bookmaker.clone(),
                from: before.as_ref().map(|offer| offer.decimal),
                to: (*kind != PriceChangeKind::Withdrawn).then_some(offer.decimal),
            });
        }
    }

    async fn prune(&mut self, lease: &Lease) {
        if self.pruned_at.is_some_and(|at| at.elapsed() < PRUNE_EVERY) {
            return;
        }
        let Some(loaded) = &mut self.memory else {
            return;
        };
        self.pruned_at = Some(Instant::now());
        match self
            .store
            .prune(lease, self.settings.retention, self.clock.now())
            .await
        {
            Ok(pruned) => {
                loaded.book.forget(&pruned.events);
                if pruned.events.len() as u64 + pruned.history + pruned.log > 0 {
                    tracing::info!(
                        event = "store.pruned",
                        events = pruned.events.len(),
                        history = pruned.history,
                        log = pruned.log,
                        "Retention took out {} finished events and {} history rows",
                        pruned.events.len(),
                        pruned.history
                    );
                }
            }
            Err(why) => {
                self.forget();
                tracing::warn!(event = "store.prune_failed", error = %why, "Retention failed; the next try is in an hour");
            }
        }
    }
}

/// Waits until this daemon holds the lease; `None` when asked to stop first.
async fn leading(
    lease: &mut watch::Receiver<Option<Lease>>,
    stop: &CancellationToken,
) -> Option<Lease> {
    loop {
        if stop.is_cancelled() {
            return None;
        }
        if let Some(held) = lease.borrow_and_update().clone() {
            return Some(held);
        }
        tokio::select! {
            changed = lease.changed() => changed.ok()?,
            () = stop.cancelled() => return None,
        }
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
