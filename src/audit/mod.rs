//! The auditor: after a change it reads, at each cache level, the answers that readers would be served, and measures
//! how fresh they were. `app` runs it beside the relay; API and metrics show its [`AuditReport`].
//!
//! It queries the database only about what looks stale. The canary (`canary`) writes a test row through the whole
//! path again and again, so that a failure is noticed also without traffic.

mod canary;
mod cause;
mod fresh;
mod histogram;
mod sampler;
mod stale;
mod state;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::relay::DatabaseWaits;
use oddsd_cache::{Entry, Reader};
use oddsd_core::key::Key;
use oddsd_store::{AuditEvent, Store, WriterLease};

pub use canary::{Canary, ProbeResult};
pub use cause::{AuditLevel, Cause};
use cause::{LevelState, Observation};
pub use histogram::{BOUNDS, Histogram};
use sampler::WatchedKey;
pub use sampler::{CHECK_OFFSETS, SLO_WINDOWS, SampleRate, SloRatios};
pub use stale::StaleChange;
pub use state::{AuditHandle, AuditReport, AuditTotals, CanaryReport, Percentiles};

/// Commits and removals that wait for the auditor; those that find the queue full are not audited.
const QUEUE: usize = 8 * 1024;
/// The limit for one cache lookup and one database query. After a timeout the server is not asked again in the
/// same step.
pub const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// Database queries in one step; the keys beyond them are checked again at their next offset.
const MAX_QUERIES: usize = 64;

/// The queue from committers and relay to the auditor.
pub fn channel() -> (mpsc::Sender<AuditEvent>, mpsc::Receiver<AuditEvent>) {
    mpsc::channel(QUEUE)
}

pub struct Auditor {
    pub store: Store,
    pub reader: Reader,
    /// The relay's waits, which make removals late.
    pub database_waits: DatabaseWaits,
    pub events: mpsc::Receiver<AuditEvent>,
    pub handle: AuditHandle,
    /// [`PROBE_TIMEOUT`].
    pub timeout: Duration,
}

/// The result of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditOutcome {
    /// Changes whose answers were read.
    pub checked: usize,
    /// Those of them that were stale at some level.
    pub stale: usize,
    /// Database queries.
    pub queries: usize,
}

impl Auditor {
    /// Works until `stop`, while this daemon leads.
    pub async fn run(
        mut self,
        lease: watch::Receiver<Option<WriterLease>>,
        stop: CancellationToken,
    ) {
        while !stop.is_cancelled() {
            let due = self.handle.lock().sampler.next_due();
            let at = due.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(at.into()), if due.is_some() => {}
                event = self.events.recv() => match event {
                    Some(event) => self.handle.apply(&event),
                    None => return,
                },
            }
            let leads = lease.borrow().is_some();
            match leads {
                true => drop(self.step(Instant::now()).await),
                false => self.stand_by(),
            }
        }
    }

    /// Applies the events that wait, and makes the checks that are due at `now`.
    pub async fn step(&mut self, now: Instant) -> AuditOutcome {
        self.apply_waiting();
        let due = self.handle.lock().sampler.due(now);
        let (mut outcome, mut session) = (AuditOutcome::default(), ProbeSession::new(&*self));
        for check in due {
            let mut observations = Vec::with_capacity(check.keys.len());
            for key in &check.keys {
                observations.push(session.observe(key).await);
            }
            let mut state = self.handle.lock();
            let stale = state.sampler.record(&check, &observations, now);
            outcome.checked += 1;
            outcome.stale += usize::from(!stale.is_empty());
            stale.into_iter().for_each(|read| state.stale.add(read));
        }
        outcome.queries = session.queries;
        outcome
    }

    fn apply_waiting(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.handle.apply(&event);
        }
    }

    fn stand_by(&mut self) {
        self.apply_waiting();
        self.handle.reset();
    }
}

/// The entries of both levels under one key.
struct LevelSnapshot {
    first: Option<Arc<Entry>>,
    /// `Err`: the cache did not answer.
    second: Result<Option<Arc<Entry>>, ()>,
}

/// The reads of one step: each key is looked up once, each row queried once.
struct ProbeSession<'a> {
    auditor: &'a Auditor,
    snapshots: HashMap<Key, LevelSnapshot>,
    pending: HashMap<i64, Option<bool>>,
    cache_answers: bool,
    store_answers: bool,
    queries: usize,
}

impl<'a> ProbeSession<'a> {
    fn new(auditor: &'a Auditor) -> Self {
        Self {
            auditor,
            snapshots: HashMap::new(),
            pending: HashMap::new(),
            cache_answers: true,
            store_answers: true,
            queries: 0,
        }
    }

    async fn observe(&mut self, watched: &WatchedKey) -> Observation {
        if !self.snapshots.contains_key(&watched.key) {
            let snapshot = self.read(&watched.key).await;
            self.snapshots.insert(watched.key.clone(), snapshot);
        }
        let mut observation = self.snapshots[&watched.key].compare(watched.transaction);
        if !observation.looks_stale() {
            return observation;
        }
        observation.relay_waits = self.auditor.database_waits.is_waiting();
        observation.pending = self.is_pending(watched.row).await;
        if observation.pending != Some(false) || observation.second == LevelState::Unreachable {
            return observation;
        }
        // The row left the outbox, perhaps since the lookup. An answer that is still stale has no excuse; one that
        // is gone was late.
        let snapshot = self.read(&watched.key).await;
        let again = snapshot.compare(watched.transaction);
        self.snapshots.insert(watched.key.clone(), snapshot);
        match again.is_stale() {
            true => Observation {
                pending: Some(false),
                ..again
            },
            false => Observation {
                pending: Some(true),
                ..observation
            },
        }
    }

    async fn read(&mut self, key: &Key) -> LevelSnapshot {
        // The first level before the second, which fills it.
        let auditor = self.auditor;
        let first = auditor.reader.peek_l1(key);
        let mut second = Err(());
        if self.cache_answers {
            let lookup = auditor.reader.cache().get(key, &[]);
            if let Ok(Ok(found)) = tokio::time::timeout(auditor.timeout, lookup).await {
                second = Ok(found.entry);
            }
            self.cache_answers = second.is_ok();
        }
        LevelSnapshot { first, second }
    }

    /// `None`: unknown, because the database did not answer or the queries are used up.
    async fn is_pending(&mut self, row: i64) -> Option<bool> {
        if let Some(known) = self.pending.get(&row) {
            return *known;
        }
        if !self.store_answers || self.queries >= MAX_QUERIES {
            return None;
        }
        self.queries += 1;
        let query = self.auditor.store.is_pending(row);
        let answer = tokio::time::timeout(self.auditor.timeout, query).await;
        let pending = answer.ok().and_then(Result::ok);
        self.store_answers = pending.is_some();
        self.pending.insert(row, pending);
        pending
    }
}

impl LevelSnapshot {
    fn compare(&self, transaction: u64) -> Observation {
        Observation {
            first: LevelState::of(self.first.as_deref(), transaction),
            second: match &self.second {
                Ok(entry) => LevelState::of(entry.as_deref(), transaction),
                Err(()) => LevelState::Unreachable,
            },
            pending: None,
            relay_waits: false,
        }
    }
}
