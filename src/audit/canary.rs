//! The canary: it writes a test row again and again, whose removal takes the same path as every removal, and then
//! reads it through the cache. `app` runs it beside the auditor.
//!
//! Only one probe is pending at a time, so that an outage leaves one row behind and not thousands.

use std::time::{Duration, Instant};

use chrono::Utc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cause::{AuditLevel, Cause};
use super::stale::StaleRead;
use super::state::AuditHandle;
use oddsd_cache::{CacheLevel, LoadedValue, Policy, Reader};
use oddsd_core::key::Key;
use oddsd_store::{CommitNotifier, Store, WriterLease};

/// Without a clean probe for this long, and for so many intervals, a warning is logged.
const MISSED_AFTER: Duration = Duration::from_secs(10);
const MISSED_INTERVALS: u32 = 3;
/// How often a pending probe is checked: another daemon's relay may have removed it, or it is late.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// The limit for one database query.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the probe's answer stays fresh in the cache.
const FRESH_FOR: Duration = Duration::from_secs(60);

pub struct Canary {
    store: Store,
    reader: Reader,
    notifier: CommitNotifier,
    every: Duration,
    handle: AuditHandle,
    next_at: Option<Instant>,
    pending: Option<PendingProbe>,
    is_missed: bool,
}

/// A probe whose removal has not been confirmed.
struct PendingProbe {
    beat: i64,
    row: i64,
    written_at: Instant,
    queried_at: Instant,
}

/// The result of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    NotDue,
    /// A new probe was written.
    Written,
    /// Its removal is not confirmed yet.
    Pending,
    /// A reader was shown it.
    Clean,
    /// A reader was shown an older one.
    Stale,
    /// The database or the loader did not answer.
    Unknown,
}

impl Canary {
    /// `every`: the interval of the probes, above zero.
    pub fn new(
        store: Store,
        reader: &Reader,
        notifier: CommitNotifier,
        every: Duration,
        handle: AuditHandle,
    ) -> Self {
        Self {
            store,
            // A reader of its own, so that its reads do not count as those of clients.
            reader: Reader::new(reader.cache().clone()),
            notifier,
            every,
            handle,
            next_at: None,
            pending: None,
            is_missed: false,
        }
    }

    /// Works until `stop`, while this daemon leads.
    pub async fn run(
        mut self,
        mut lease: watch::Receiver<Option<WriterLease>>,
        stop: CancellationToken,
    ) {
        while !stop.is_cancelled() {
            let leads = lease.borrow_and_update().is_some();
            match leads {
                true => drop(self.step(Instant::now()).await),
                false => self.stand_by(),
            }
            tokio::select! {
                () = tokio::time::sleep_until(self.next_step(Instant::now()).into()), if leads => {}
                () = self.handle.wait_for_canary(), if leads => {}
                changed = lease.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    }

    /// Writes a probe that is due at `now`, or checks the pending one.
    pub async fn step(&mut self, now: Instant) -> ProbeResult {
        self.handle.lock().canary.since.get_or_insert(now);
        let result = match self.pending.take() {
            Some(probe) => self.check(probe, now).await,
            None if self.next_at.is_some_and(|next| now < next) => ProbeResult::NotDue,
            None => self.write_probe(now).await,
        };
        self.log_missed(now);
        result
    }

    async fn write_probe(&mut self, now: Instant) -> ProbeResult {
        self.next_at = Some(now + self.every);
        let key = Key::canary();
        let write = self.store.write_canary(&key);
        // A timeout does not cancel the write itself, which runs in a task of its own.
        let Ok(Ok(written)) = tokio::time::timeout(STORE_TIMEOUT, write).await else {
            return ProbeResult::Unknown;
        };
        let row = written.outbox.as_ref().and_then(|claim| claim.rows.first());
        let row = row.map(|row| row.id);
        {
            let canary = &mut self.handle.lock().canary;
            (canary.waits_for, canary.is_removed) = (row, false);
        }
        // A row that only a claim can find has no number here, so this probe cannot be followed.
        self.pending = row.map(|row| PendingProbe {
            beat: written.beat,
            row,
            written_at: now,
            queried_at: now,
        });
        self.notifier.notify_commit(written.outbox, Utc::now());
        ProbeResult::Written
    }

    async fn check(&mut self, mut probe: PendingProbe, now: Instant) -> ProbeResult {
        if !self.is_removed(&mut probe, now).await {
            self.pending = Some(probe);
            return ProbeResult::Pending;
        }
        let (store, policy) = (self.store.clone(), Policy::fresh_for(FRESH_FOR));
        let load = move || {
            let store = store.clone();
            async move {
                let beat = store.last_canary().await?;
                Ok(LoadedValue::new(beat.value.to_string(), beat.snapshot))
            }
        };
        let Ok(served) = self.reader.read(&Key::canary(), &policy, load).await else {
            self.pending = Some(probe);
            return ProbeResult::Unknown;
        };
        let shown = std::str::from_utf8(served.body()).ok();
        let shown = shown.and_then(|beat| beat.parse::<i64>().ok());
        let mut state = self.handle.lock();
        if shown.is_some_and(|beat| beat >= probe.beat) {
            state.canary.clean_at = Some(now);
            state.canary.beats += 1;
            return ProbeResult::Clean;
        }
        let (level, cause) = match served.level {
            CacheLevel::L1 => (AuditLevel::First, Cause::FirstLevelGap),
            CacheLevel::L2 | CacheLevel::Loader => (AuditLevel::Second, Cause::Lost),
        };
        let age = now.saturating_duration_since(probe.written_at);
        state.stale.add(StaleRead {
            change: probe.row,
            cycle: None,
            committed_at: Utc::now() - age,
            key: Key::canary(),
            level: Some(level),
            cause,
            age,
        });
        ProbeResult::Stale
    }

    /// As the relay reported it. Without a report for a while the outbox is queried, because another daemon's relay
    /// may have removed it.
    async fn is_removed(&self, probe: &mut PendingProbe, now: Instant) -> bool {
        if self.handle.lock().canary.is_removed {
            return true;
        }
        if now.saturating_duration_since(probe.queried_at) < CHECK_INTERVAL {
            return false;
        }
        probe.queried_at = now;
        let query = tokio::time::timeout(STORE_TIMEOUT, self.store.is_pending(probe.row)).await;
        matches!(query, Ok(Ok(false)))
    }

    fn next_step(&self, now: Instant) -> Instant {
        match (&self.pending, self.next_at) {
            (None, Some(next)) => next.min(now + MISSED_AFTER),
            _ => now + CHECK_INTERVAL,
        }
    }

    fn stand_by(&mut self) {
        (self.next_at, self.pending, self.is_missed) = (None, None, false);
        let canary = &mut self.handle.lock().canary;
        (canary.since, canary.waits_for) = (None, None);
    }

    /// Logs once that no probe reaches readers, and once that they do again.
    fn log_missed(&mut self, now: Instant) {
        let age = self.handle.lock().canary.age(now).unwrap_or_default();
        let is_missed = age > MISSED_AFTER.max(self.every * MISSED_INTERVALS);
        if is_missed && !self.is_missed {
            tracing::warn!(
                event = "canary.missed",
                silent_s = age.as_secs(),
                "No change has been seen to reach readers for {} s: the database or the cache does not answer, or readers \
                 are shown old answers; `oddsd status` says more",
                age.as_secs()
            );
        }
        if self.is_missed && !is_missed {
            tracing::info!(event = "canary.recovered", "Changes reach readers again");
        }
        self.is_missed = is_missed;
    }
}
