//! The poller: it fetches the feed, compares the answer with the stored state and commits the difference. `app` runs
//! it; `oddsd once` and the benchmarks call single cycles.
//!
//! The stored state is kept in memory and changes only by what was committed. After any database error the
//! outcome of the last write is unknown: it is discarded and loaded again, and the next cycle compares with
//! that.

mod cycle;
mod status;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, SleepResult, WALL_CHECK_INTERVAL};
use crate::live::EventBus;
use oddsd_core::diff::MissingRows;
use oddsd_core::model::{CycleCounts, EventId};
use oddsd_core::schedule::{ClockReading, NextPoll, PollRule, PollScheduler, TrackedRace};
use oddsd_feeds::{Feed, FeedError, FetchRequest};
use oddsd_store::{
    CommitNotifier, InitialState, LastChecked, Retention, Store, StoreError, WriteCounts,
    WriterLease,
};

pub use cycle::{classify_failure, track_race};
use status::TransitionTimer;

const PRUNE_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// The result of one cycle.
#[derive(Debug)]
pub enum CycleOutcome {
    Unchanged(CycleCounts),
    Committed(CycleCounts, WriteCounts),
    FetchFailed(FeedError),
    StoreFailed(StoreError),
    /// A stop was requested before anything was written.
    Stopped,
}

impl CycleOutcome {
    fn is_failed(&self) -> bool {
        matches!(self, Self::FetchFailed(_) | Self::StoreFailed(_))
    }
}

/// How the feed is polled.
pub enum PollSchedule {
    Live(PollScheduler),
    /// A recording: at this many times its own speed, or without a pause.
    AsRecorded {
        speed: Option<f64>,
    },
}

impl PollSchedule {
    /// A live feed, polled by this rule.
    pub fn live(rule: PollRule) -> Self {
        Self::Live(PollScheduler::new(rule))
    }

    fn is_recorded(&self) -> bool {
        matches!(self, Self::AsRecorded { .. })
    }
}

pub struct PollerSettings {
    /// See [`ShrinkGuard`](oddsd_core::diff::ShrinkGuard). With 1 no removal is withheld.
    pub max_removed_fraction: f64,
    /// A short answer is fetched again after this time, and confirmed by no answer sooner.
    pub recheck_removed_after: Duration,
    pub retention: Retention,
}

pub struct Poller {
    feed: Feed,
    store: Store,
    live: EventBus,
    clock: Clock,
    settings: PollerSettings,
    notifier: CommitNotifier,
    checks: LastChecked,
    /// The stored state in memory; `None`: it has to be loaded.
    state: Option<InitialState>,
    /// Removals that short answers implied and that were withheld.
    withheld: Option<WithheldRemovals>,
    /// Only the plan polls single races; a cron line and a recording have their own times.
    tracks_races: bool,
    /// Known races, kept through failures: a race starts whether or not the database answers.
    tracked: Vec<TrackedRace>,
    /// Races that were requested alone and not answered, and when. The next whole card ends the list.
    unanswered: HashMap<EventId, DateTime<Utc>>,
    whole_card_at: Option<DateTime<Utc>>,
    /// When everything was last parsed and compared, whatever the fingerprints.
    full_read_at: Option<Instant>,
    failures: u32,
    /// The delay that the last failure was logged with.
    retry: Duration,
    /// The time within which the schedule polls: a temporary failure is retried within it.
    interval: Duration,
    pruned_at: Option<Instant>,
    liveness: Arc<LivenessProbe>,
    timer: TransitionTimer,
    /// Epoch of the lease under which the state was loaded.
    epoch: Option<i64>,
    started: tokio::time::Instant,
}

/// Rows that every answer has lacked since the first of them, without a failed fetch between.
struct WithheldRemovals {
    missing: MissingRows,
    /// When the first answer was requested. In elapsed time; of a recorded answer, the recorded time.
    since: Duration,
}

/// The start of the cycle that the poller works on.
#[derive(Debug, Default)]
pub struct LivenessProbe(Mutex<Option<Instant>>);

impl LivenessProbe {
    fn set(&self, began: Option<Instant>) {
        *self.0.lock() = began;
    }

    /// `None` while the poller only waits.
    pub fn busy_for(&self) -> Option<Duration> {
        self.0.lock().map(|began| began.elapsed())
    }
}

impl Poller {
    pub fn new(
        feed: Feed,
        store: Store,
        live: EventBus,
        clock: Clock,
        settings: PollerSettings,
        notifier: CommitNotifier,
        checks: LastChecked,
    ) -> Self {
        Self {
            feed,
            store,
            live,
            clock,
            settings,
            notifier,
            checks,
            state: None,
            withheld: None,
            tracks_races: false,
            tracked: Vec::new(),
            unanswered: HashMap::new(),
            whole_card_at: None,
            full_read_at: None,
            failures: 0,
            retry: Duration::ZERO,
            interval: Duration::MAX,
            pruned_at: None,
            liveness: Arc::default(),
            timer: TransitionTimer::default(),
            epoch: None,
            started: tokio::time::Instant::now(),
        }
    }

    /// Sets the wake-up that signals a waiting correction. Without it none is signalled.
    pub fn with_correction_wakeup(mut self, correction: Arc<Notify>) -> Self {
        self.timer.correction = correction;
        self
    }

    pub fn feed_name(&self) -> &'static str {
        self.feed.name()
    }

    pub fn liveness(&self) -> Arc<LivenessProbe> {
        Arc::clone(&self.liveness)
    }

    /// Polls while this daemon leads, until `stop` or the end of a recording. The only error is that of a recording
    /// whose rows could not be stored, because its answers cannot be fetched again.
    pub async fn run(
        &mut self,
        mut lease: watch::Receiver<Option<WriterLease>>,
        mut schedule: PollSchedule,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        if let PollSchedule::Live(scheduler) = &mut schedule
            && let PollRule::Adaptive(plan) = &mut scheduler.rule
        {
            self.tracks_races = true;
            if !self.feed.has_single_event_calls() {
                plan.max_one_race_calls = 0;
            }
        }
        loop {
            // Waits for the poll first and then for the lease, so that polls that are missed on standby become one.
            let Some(mut request) = self.wait_until_due(&mut schedule, &lease, stop).await else {
                return Ok(());
            };
            let Some(held) = wait_to_lead(&mut lease, stop).await else {
                return Ok(());
            };
            if self.discard_state_of_other_epoch(&held) {
                request = FetchRequest::Everything;
            }
            match self.step(&held, &request, &mut schedule, stop).await {
                CycleOutcome::FetchFailed(FeedError::Ended) | CycleOutcome::Stopped => {
                    return Ok(());
                }
                CycleOutcome::StoreFailed(why) if schedule.is_recorded() => return Err(why),
                _ => {}
            }
        }
    }

    /// One cycle, and the work that is due after it: status transitions and retention.
    async fn step(
        &mut self,
        lease: &WriterLease,
        request: &FetchRequest,
        schedule: &mut PollSchedule,
        stop: &CancellationToken,
    ) -> CycleOutcome {
        self.liveness.set(Some(Instant::now()));
        if let PollSchedule::Live(scheduler) = schedule {
            scheduler.begin_cycle(self.read_clock());
        }
        let cycle = self.run_cycle(lease, request, Some(schedule), stop).await;
        if let PollSchedule::Live(scheduler) = schedule
            && cycle.is_failed()
        {
            scheduler.retry_after(self.retry, self.read_clock());
        }
        let run_ends = match &cycle {
            CycleOutcome::FetchFailed(FeedError::Ended) | CycleOutcome::Stopped => true,
            CycleOutcome::StoreFailed(_) => schedule.is_recorded(),
            _ => false,
        };
        if !run_ends {
            // In a recording, the time is that of its answers.
            let now = match schedule.is_recorded() {
                true => self.whole_card_at,
                false => Some(self.clock.now()),
            };
            if let (Some(now), Some(_)) = (now, &self.state) {
                self.update_statuses(lease, now).await;
            }
            if !schedule.is_recorded() {
                self.prune(lease).await;
            }
        }
        self.liveness.set(None);
        cycle
    }

    /// Waits until the next poll is due and returns its request; `None` after `stop`.
    async fn wait_until_due(
        &mut self,
        schedule: &mut PollSchedule,
        lease: &watch::Receiver<Option<WriterLease>>,
        stop: &CancellationToken,
    ) -> Option<FetchRequest> {
        let clock = self.clock.clone();
        let scheduler = match schedule {
            PollSchedule::Live(scheduler) => scheduler,
            PollSchedule::AsRecorded { speed } => {
                let gap = self.recorded_gap(*speed);
                let ended = clock.sleep(gap, stop).await;
                return (ended == SleepResult::Elapsed).then_some(FetchRequest::Everything);
            }
        };
        loop {
            let now = self.read_clock();
            self.interval = scheduler.interval(now.wall, &self.tracked);
            let wait = match scheduler.next(now, &self.tracked, self.whole_card_at) {
                NextPoll::Now(request) => return Some(request),
                NextPoll::Wait(wait) => wait.min(WALL_CHECK_INTERVAL),
            };
            let sleep = clock.sleep(wait, stop);
            if self.run_while_waiting(lease, stop, sleep).await == SleepResult::Stopped {
                return None;
            }
        }
    }

    fn read_clock(&self) -> ClockReading {
        ClockReading {
            wall: self.clock.now(),
            elapsed: self.clock.elapsed_since(self.started),
        }
    }

    /// Discards the state at the first call under a lease, because another daemon may have written before. True if it
    /// did.
    fn discard_state_of_other_epoch(&mut self, held: &WriterLease) -> bool {
        let is_new = self.epoch.replace(held.epoch) != Some(held.epoch);
        if is_new {
            self.state = None;
            self.timer.reset();
            self.withheld = None;
            self.whole_card_at = None;
        }
        is_new
    }

    /// The time to the recording's next answer, at this speed.
    fn recorded_gap(&mut self, speed: Option<f64>) -> Duration {
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

    /// Applies retention, at most once in [`PRUNE_INTERVAL`].
    async fn prune(&mut self, lease: &WriterLease) {
        if self
            .pruned_at
            .is_some_and(|at| at.elapsed() < PRUNE_INTERVAL)
        {
            return;
        }
        let Some(state) = &mut self.state else {
            return;
        };
        self.pruned_at = Some(Instant::now());
        let (keep, now) = (self.settings.retention, self.clock.now());
        match self.store.prune(lease, keep, now).await {
            Ok(pruned) => {
                state.state.remove_events(&pruned.events);
                self.timer.invalidate();
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
                self.state = None;
                tracing::warn!(event = "store.prune_failed", error = %why, "Retention failed; the next try is in an hour");
            }
        }
    }
}

/// Waits until this daemon holds the lease; `None` when `stop` comes first.
async fn wait_to_lead(
    lease: &mut watch::Receiver<Option<WriterLease>>,
    stop: &CancellationToken,
) -> Option<WriterLease> {
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        held = lease.wait_for(Option::is_some) => held.ok()?.clone(),
    }
}
