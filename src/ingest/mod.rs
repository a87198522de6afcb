//! One cycle (fetch, diff, commit, poke) and the loop around it.
//!
//! What is stored is held in memory and moves forward only by what was committed. After any
//! database error the outcome of the last write is unknown: memory is thrown away, the stored rows
//! are loaded again, and the next diff is against them.

mod cycle;
mod standing;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::diff::Missing;
use crate::feed::{Ask, Feed, FeedError};
use crate::live::Live;
use crate::model::Counts;
use crate::schedule::{Clock, Due, Plan, Ticker, Wait, Watched};
use crate::store::{Checks, Lease, Loaded, Poke, Retention, Store, StoreError, Written};

pub use cycle::failure;
use standing::Standing;

/// How soon a suspiciously short answer is looked at again.
const SECOND_LOOK: Duration = Duration::from_secs(10);
const PRUNE_EVERY: Duration = Duration::from_secs(60 * 60);

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
    poke: Poke,
    checks: Checks,
    memory: Option<Loaded>,
    /// Removals that the last short answer asked for.
    first_look: Option<Missing>,
    /// Known races, kept through failures: the off does not wait for our database.
    watched: Vec<Watched>,
    whole_card_at: Option<DateTime<Utc>>,
    /// When everything was last read and compared.
    full_look_at: Option<Instant>,
    failures: u32,
    /// The wait that the last failure was told with.
    retry: Duration,
    pruned_at: Option<Instant>,
    pulse: Arc<Pulse>,
    standing: Standing,
    /// Of the lease under which memory was loaded.
    epoch: Option<i64>,
}

/// Since when the loop has been at work on one cycle.
#[derive(Debug, Default)]
pub struct Pulse(Mutex<Option<Instant>>);

impl Pulse {
    fn begin(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// `None` while the loop only waits.
    pub fn busy_for(&self) -> Option<Duration> {
        let began = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        began.map(|began| began.elapsed())
    }
}

impl Ingest {
    pub fn new(
        feed: Feed,
        store: Store,
        live: Live,
        clock: Clock,
        settings: IngestSettings,
        poke: Poke,
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
            full_look_at: None,
            failures: 0,
            retry: Duration::ZERO,
            pruned_at: None,
            pulse: Arc::default(),
            standing: Standing::default(),
            epoch: None,
        }
    }

    pub fn feed_name(&self) -> &'static str {
        self.feed.name()
    }

    /// For whoever wants to know that the loop gets on.
    pub fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    /// Cycles while a lease is ours, until `stop` or the end of a recording. The only error is a
    /// recording's: what was not stored of it does not come again.
    pub async fn run(
        &mut self,
        mut lease: watch::Receiver<Option<Lease>>,
        mut pace: Pace,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        if let Pace::Adaptive(plan) = &mut pace
            && !self.feed.has_one_race_calls()
        {
            plan.max_one_race_calls = 0;
        }
        let mut ask = Ask::Everything;
        let mut again = false;
        loop {
            // The tick first: while another daemon leads, missed ones collapse into this one.
            if let Pace::Cron(ticker) = &mut pace
                && !again
                && self
                    .meanwhile(&lease, stop, ticker.next(stop))
                    .await
                    .is_none()
            {
                return Ok(());
            }
            let Some(held) = leading(&mut lease, stop).await else {
                return Ok(());
            };
            if self.take_over(&held) {
                ask = Ask::Everything;
            }
            self.pulse.begin();
            let cycle = self.cycle(&held, &ask, Some(&pace), stop).await;
            match (&cycle, &pace) {
                (Cycle::FetchFailed(FeedError::Ended) | Cycle::Stopped, _) => return Ok(()),
                (Cycle::StoreFailed(why), Pace::AsRecorded { .. }) => return Err(why.clone()),
                _ => {}
            }
            // A recording has its own time.
            let now = match &pace {
                Pace::AsRecorded { .. } => self.whole_card_at,
                Pace::Adaptive(_) | Pace::Cron(_) => Some(self.clock.now()),
            };
            if let (Some(now), Some(_)) = (now, &self.memory) {
                self.move_statuses(&held, now).await;
            }
            again = self.again_after(&cycle).is_some();
            let wait = match &pace {
                Pace::AsRecorded { speed } => self.recorded_wait(*speed),
                // The ticker waits by itself.
                Pace::Cron(_) if !again => Duration::ZERO,
                Pace::Adaptive(_) | Pace::Cron(_) => self.wait_after(&cycle, &pace),
            };
            if !matches!(pace, Pace::AsRecorded { .. }) {
                self.prune(&held).await;
            }
            self.pulse.end();
            if !wait.is_zero() {
                let clock = self.clock.clone();
                let over = clock.sleep(wait, stop);
                let ended = match pace {
                    Pace::AsRecorded { .. } => over.await,
                    _ => self.meanwhile(&lease, stop, over).await,
                };
                if ended == Wait::Stopped {
                    return Ok(());
                }
            }
            // A short answer is asked for again as it was; else whatever is due by now.
            if let (Pace::Adaptive(plan), None) = (&pace, &self.first_look) {
                match self.next_ask(plan, &lease, stop).await {
                    Some(due) => ask = due,
                    None => return Ok(()),
                }
            }
        }
    }

    /// True when we have not led under this lease: another daemon may have written meanwhile, and nothing that
    /// we remember counts.
    fn take_over(&mut self, held: &Lease) -> bool {
        let new = self.epoch.replace(held.epoch) != Some(held.epoch);
        if new {
            self.begin_anew();
        }
        new
    }

    fn begin_anew(&mut self) {
        self.memory = None;
        self.standing.begin_anew();
        self.first_look = None;
        self.whole_card_at = None;
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
    async fn next_ask(
        &mut self,
        plan: &Plan,
        lease: &watch::Receiver<Option<Lease>>,
        stop: &CancellationToken,
    ) -> Option<Ask> {
        let clock = self.clock.clone();
        loop {
            let now = self.clock.now();
            let until = match plan.due(now, &self.watched, self.whole_card_at) {
                Due::Races(ids) => return Some(Ask::Events(ids)),
                Due::Everything => return Some(Ask::Everything),
                Due::Nothing { until } => until,
            };
            let wait = (until - now).to_std().unwrap_or_default();
            let over = clock.sleep(wait, stop);
            if self.meanwhile(lease, stop, over).await == Wait::Stopped {
                return None;
            }
        }
    }

    /// When a failed look is tried again, or a short answer looked at a second time.
    fn again_after(&self, cycle: &Cycle) -> Option<Duration> {
        match cycle {
            Cycle::FetchFailed(_) | Cycle::StoreFailed(_) => Some(self.retry),
            _ => self.first_look.as_ref().map(|_| SECOND_LOOK),
        }
    }

    /// How long until the next look.
    fn wait_after(&self, cycle: &Cycle, pace: &Pace) -> Duration {
        let now = self.clock.now();
        let due = match pace {
            Pace::Adaptive(_) if matches!(cycle, Cycle::FetchFailed(_) | Cycle::StoreFailed(_)) => {
                None
            }
            Pace::Adaptive(plan) => match plan.due(now, &self.watched, self.whole_card_at) {
                Due::Nothing { until } => Some(until),
                Due::Races(_) | Due::Everything => Some(now),
            },
            Pace::Cron(ticker) => ticker.expected(),
            Pace::AsRecorded { .. } => return Duration::ZERO,
        };
        let due = due.map(|due| (due - now).to_std().unwrap_or_default());
        let waits = due.into_iter().chain(self.again_after(cycle));
        waits.min().unwrap_or_default()
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
                self.standing.unknown();
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
                self.memory = None;
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
