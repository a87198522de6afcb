//! The outbox relay: it removes the cached answers that committed changes made wrong. `app` runs it beside the
//! poller; `oddsd once` and `oddsd invalidate` call [`Relay::drain`].
//!
//! There are two paths. The direct path (`direct`) removes what this process has just committed. The polling path
//! claims due rows from the outbox ([`Relay::step`]), and so finds everything that the direct path missed: after a
//! crash, with a full queue, from other programs. A row leaves the outbox only when the cache has confirmed all of
//! its targets; until then it is retried, also after a restart.

mod alert;
mod database;
mod direct;
mod epoch;
mod plan;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::live::{DaemonEvent, EventBus};
use crate::rules_file::RulesHandle;
use crate::wakeups::Wakeups;
use oddsd_cache::{Cache, CacheError, Reader, Removed};
use oddsd_core::key::Key;
use oddsd_core::model::DbSnapshot;
use oddsd_core::rules::RuleTarget;
use oddsd_core::schedule::{Backoff, FailureKind};
use oddsd_store::{
    AuditEvent, BatchOutcome, OutboxRow, Purpose, RowSet, SettledRows, Store, StoreError,
    WriterLease,
};

pub use alert::RateAlert;
pub use database::DatabaseWaits;
pub use direct::{DirectPath, InFlight, direct_channel};
pub use epoch::{EpochMonitor, EpochStatus, WatchedEpoch};
use plan::{FailedTargets, InvalidationPlan, RemovalContext};

/// Rows claimed at once. After a full batch the whole backlog is read, coalesced by the database.
const BATCH: i64 = 2_000;
/// Changes of a backlog that are removed together, and the most rows that they are read from. Memory holds the
/// changes, not the rows.
const FIRST_PAGE: i64 = 10_000;
const LARGEST_PAGE: i64 = 100_000;
/// A claimed row is due again after this, in case this process dies before it settles the row.
const CLAIM_FOR: Duration = Duration::from_secs(10);
/// How often the outbox is claimed without a wake-up.
const CLAIM_INTERVAL: Duration = Duration::from_secs(1);
/// The share of the shutdown time that the last drain may take.
const LAST_DRAIN: Duration = Duration::from_secs(6);
/// A removal that fails for longer than this is logged as an error, at this interval.
const ESCALATE_AFTER: Duration = Duration::from_secs(60);
/// The longest life of an answer of our own: the bound that the log states while a removal is late.
const STALE_AT_MOST: Duration = Duration::from_secs(60);

/// The result of one step.
#[derive(Debug, PartialEq, Eq)]
pub enum RelayOutcome {
    /// No row is due.
    Idle,
    Removed {
        rows: usize,
        targets: usize,
    },
    /// The cache did not confirm; the rows are due again after `retry`.
    Failed {
        rows: usize,
        retry: Duration,
    },
}

#[derive(Clone)]
pub struct Relay {
    pub store: Store,
    pub reader: Reader,
    /// Which targets a change makes wrong.
    pub rules: RulesHandle,
    pub live: EventBus,
    /// The name under which rows are claimed.
    pub holder: String,
    pub wakeups: Wakeups,
    /// Receives the rows that were removed.
    pub audit_events: Option<mpsc::Sender<AuditEvent>>,
    /// Receives the keys to load again. A key lost to a full queue is loaded by its next reader.
    pub warm_queue: Option<mpsc::Sender<Key>>,
    pub alert: RateAlert,
    /// Rows that one of the two paths works on; the other leaves them alone.
    pub in_flight: InFlight,
    /// The statements that wait for the database.
    pub database_waits: DatabaseWaits,
    /// Keys are removed a second time after this, for programs that fill the cache on their own. Zero: never.
    pub second_removal_after: Duration,
}

impl Relay {
    /// A relay for a command that ends: without auditor, warming and second removals.
    pub fn without_observers(
        store: Store,
        cache: Arc<Cache>,
        rules: RulesHandle,
        holder: String,
    ) -> Self {
        Self {
            store,
            reader: Reader::new(cache),
            rules,
            live: EventBus::new(),
            holder,
            wakeups: Wakeups::default(),
            audit_events: None,
            warm_queue: None,
            alert: RateAlert::above(u64::MAX),
            in_flight: InFlight::default(),
            database_waits: DatabaseWaits::default(),
            second_removal_after: Duration::ZERO,
        }
    }

    /// Works until `stop`, then drains the rows of the last cycle. An unreachable database does not end it: the
    /// poller logs that, and the rows stay in the outbox.
    ///
    /// The two paths run side by side: a database that does not answer the polling path does not delay the direct one.
    pub async fn run(
        self,
        direct: DirectPath,
        lease: watch::Receiver<Option<WriterLease>>,
        stop: CancellationToken,
    ) {
        tokio::join!(
            Box::pin(direct.run(&self, &stop)),
            Box::pin(self.poll_outbox(&lease, &stop))
        );
        if self.may_claim(&lease) {
            logged(self.drain(LAST_DRAIN).await);
        }
    }

    /// A cache inside this process is read only through this process. While another daemon leads, whose cache holds
    /// the answers, the rows are left to that daemon.
    fn may_claim(&self, lease: &watch::Receiver<Option<WriterLease>>) -> bool {
        self.cache().is_shared() || lease.borrow().is_some()
    }

    /// Claims rows when one is announced, and at an interval, until `stop`.
    async fn poll_outbox(
        &self,
        lease: &watch::Receiver<Option<WriterLease>>,
        stop: &CancellationToken,
    ) {
        let mut failing_since = None;
        let mut claims = tokio::time::interval(CLAIM_INTERVAL);
        claims.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = claims.tick() => drop(logged(self.lower_alert().await)),
                () = self.wakeups.outbox.notified() => {}
            }
            while self.may_claim(lease) && !stop.is_cancelled() {
                match logged(self.step().await) {
                    Some(RelayOutcome::Removed { .. }) => failing_since = None,
                    Some(RelayOutcome::Failed { retry, .. }) => {
                        self.escalate(failing_since.get_or_insert_with(Instant::now));
                        self.wait_for_retry(retry, stop).await;
                    }
                    Some(RelayOutcome::Idle) | None => break,
                }
            }
        }
    }

    /// Rows that failed cannot be removed before `retry` is over, or the cache is back.
    async fn wait_for_retry(&self, retry: Duration, stop: &CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = tokio::time::sleep(retry) => {}
            () = self.wakeups.cache_recovered.notified() => {
                // The backlog includes rows that are not due yet.
                logged(Box::pin(self.remove_backlog()).await);
            }
        }
    }

    /// Removes what is due until no row is, the cache does not confirm, or `deadline` is over.
    pub async fn drain(&self, deadline: Duration) -> Result<RelayOutcome, StoreError> {
        let started = Instant::now();
        let mut last = self.step().await?;
        while matches!(last, RelayOutcome::Removed { .. }) && started.elapsed() < deadline {
            match self.step().await? {
                RelayOutcome::Idle => break,
                next => last = next,
            }
        }
        Ok(last)
    }

    /// As `drain`, and waits for rows that are not due yet: an earlier run postponed them, or died after it
    /// claimed them. Returns how many are left.
    pub async fn drain_all(&self, deadline: Duration) -> Result<i64, StoreError> {
        let pause = Backoff::REMOVAL.first;
        let started = Instant::now();
        let mut removed = false;
        loop {
            let remaining = deadline.saturating_sub(started.elapsed());
            let last = self.drain(remaining).await?;
            let left = self.store.status().await?.outbox_pending;
            let failed = matches!(last, RelayOutcome::Failed { .. });
            removed |= matches!(last, RelayOutcome::Removed { .. });
            if left == 0
                && removed
                && let Some(delay) = self.second_removal_delay()
            {
                // No other process may be there when the second removals are due.
                tokio::time::sleep(delay + pause).await;
                self.drain(deadline).await?;
                removed = false;
            }
            if left == 0 || failed || started.elapsed() >= deadline {
                return Ok(left);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Claims a batch of due rows, removes the answers that they make wrong, and settles the rows. After a full
    /// batch it does the same with the whole backlog.
    pub async fn step(&self) -> Result<RelayOutcome, StoreError> {
        let claiming =
            |store: Store| async move { store.claim(&self.holder, BATCH, CLAIM_FOR).await };
        let mut claim = self.ask(claiming).await?;
        let is_full = claim.rows.len() as i64 == BATCH;
        let taken = self.in_flight.take(&mut claim.rows);
        if claim.rows.is_empty() {
            // The direct path works on the others.
            return match is_full {
                true => Box::pin(self.remove_backlog()).await,
                false => Ok(RelayOutcome::Idle),
            };
        }
        let rows = &taken.ids;
        let outcome = match self.remove(&claim.rows, &claim.snapshot, None).await {
            Ok(outcome) => outcome,
            Err(why) => {
                let retry = self.report_failure(&claim.rows, &why);
                let postponing = |store: Store| async move {
                    store.postpone(rows, retry, &why.to_string()).await
                };
                self.ask(postponing).await?;
                return Ok(RelayOutcome::Failed {
                    rows: rows.len(),
                    retry,
                });
            }
        };
        let targets = outcome.target_count;
        self.settle(rows, outcome).await?;
        match rows.len() as i64 == BATCH {
            true => Box::pin(self.remove_backlog()).await,
            false => Ok(RelayOutcome::Removed {
                rows: rows.len(),
                targets,
            }),
        }
    }

    /// Removes all rows of the outbox, the oldest first, coalesced, due or not.
    async fn remove_backlog(&self) -> Result<RelayOutcome, StoreError> {
        let mut page = FIRST_PAGE;
        loop {
            let mut backlog = self.store.read_backlog(page).await?;
            for change in &mut backlog.changes {
                // A claim counts the attempt; these rows were not claimed.
                change.entry.attempts += 1;
            }
            if backlog.changes.is_empty() {
                return Ok(RelayOutcome::Idle);
            }
            let changes = backlog.changes.len() as i64;
            let rows = RowSet::Through(backlog.through, backlog.snapshot.clone());
            let removing = self.remove(&backlog.changes, &backlog.snapshot, Some(rows));
            let outcome = match removing.await {
                Ok(outcome) => outcome,
                Err(why) => {
                    return Ok(RelayOutcome::Failed {
                        rows: backlog.rows as usize,
                        retry: self.report_failure(&backlog.changes, &why),
                    });
                }
            };
            let targets = outcome.target_count;
            let settling = self.store.settle_backlog(&backlog, outcome);
            let (settled, last_minute) = settling.await?;
            self.raise_alert(last_minute).await?;
            if settled < page as u64 / 2 {
                return Ok(RelayOutcome::Removed {
                    rows: settled as usize,
                    targets,
                });
            }
            // The number of rows that contain so many changes, at the same ratio as in this page.
            page = (page * FIRST_PAGE / changes).clamp(FIRST_PAGE, LARGEST_PAGE);
        }
    }

    /// Removes the targets that these rows make wrong, and reports it to log, auditor and warming. An error means
    /// that the cache as a whole did not answer; single targets that it refused are in the outcome.
    /// `backlog`: the rows as a range, where they have no numbers of their own.
    async fn remove(
        &self,
        rows: &[OutboxRow],
        snapshot: &DbSnapshot,
        backlog: Option<RowSet>,
    ) -> Result<BatchOutcome, CacheError> {
        let rules = self.rules.current();
        let plan = InvalidationPlan::build(rows, &rules, self).await;
        for fault in &plan.faults {
            self.live.publish(DaemonEvent::TargetFailed {
                version: rules.version().to_string(),
                error: fault.to_string(),
            });
        }
        let started = Instant::now();
        let removed = match plan.targets.is_empty() {
            true => Removed::default(),
            false => self.reader.remove(&plan.targets, snapshot).await?,
        };
        if !plan.second_removals.is_empty() {
            // For other programs' keys; our own readers need none. Afterwards: if it fails, our readers know what is owed.
            let removing = self.cache().remove_unmanaged(&plan.second_removals);
            removing.await?;
        }
        if removed.no_epoch {
            self.wakeups.epoch_missing.notify_one();
        }
        let took = started.elapsed();
        let failed = plan.failed(&removed);
        self.notify_auditor(&plan, &failed, rows, backlog);
        if let Some(warm) = &self.warm_queue {
            for key in &plan.warm {
                let _ = warm.try_send(key.clone());
            }
        }
        self.report_removal(&plan, &removed, &failed, took);
        let mut outcome = plan.into_settlement(&RemovalContext {
            removed: &removed,
            failed: &failed,
            backend: self.cache().backend(),
            took,
            second_removal_delay: self.second_removal_delay(),
        });
        if self.is_cache_off() {
            // Nothing was removed, so nothing is logged or counted.
            outcome.removals.clear();
        }
        Ok(outcome)
    }

    /// Reports the rows of which no target is left. A part of a backlog cannot be named, so one that failed in
    /// part is not reported.
    fn notify_auditor(
        &self,
        plan: &InvalidationPlan,
        failed: &FailedTargets,
        rows: &[OutboxRow],
        backlog: Option<RowSet>,
    ) {
        let Some(auditor) = &self.audit_events else {
            return;
        };
        let left = plan.rows_left(failed);
        let gone = match backlog {
            Some(_) if !left.is_empty() => return,
            Some(backlog) => backlog,
            None => {
                let gone = rows.iter().map(|row| row.id);
                RowSet::Ids(gone.filter(|row| !left.contains(row)).collect())
            }
        };
        let _ = auditor.try_send(AuditEvent::Removed(SettledRows::settled_now(gone)));
    }

    /// The delay of second removals; `None`: there are none. Only a shared cache has readers in other programs.
    fn second_removal_delay(&self) -> Option<Duration> {
        let is_shared = matches!(**self.cache(), Cache::Remote(_));
        (is_shared && !self.second_removal_after.is_zero()).then_some(self.second_removal_after)
    }

    /// Runs a statement that is short, and has little time.
    async fn ask<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        statement: impl FnOnce(Store) -> F,
    ) -> Result<T, StoreError> {
        self.database_waits.ask(&self.store, statement).await
    }

    /// Stores the outcome of a batch, and raises the alert if it is one removal too many.
    async fn settle(&self, rows: &[i64], outcome: BatchOutcome) -> Result<(), StoreError> {
        let settling = |store: Store| async move { store.settle(rows, outcome).await };
        let last_minute = self.ask(settling).await?;
        self.raise_alert(last_minute).await
    }

    async fn raise_alert(&self, last_minute: u64) -> Result<(), StoreError> {
        if self.alert.is_raised_by(last_minute) {
            let raising = |store: Store| async move { self.alert.raise(&store, last_minute).await };
            self.ask(raising).await?;
        }
        Ok(())
    }

    async fn lower_alert(&self) -> Result<(), StoreError> {
        if self.alert.is_raised() {
            let lowering = |store: Store| async move { self.alert.lower_if_over(&store).await };
            self.ask(lowering).await?;
        }
        Ok(())
    }

    fn report_removal(
        &self,
        plan: &InvalidationPlan,
        removed: &Removed,
        failed: &FailedTargets,
        took: Duration,
    ) {
        if plan.is_unlogged() || self.is_cache_off() {
            return;
        }
        if let Some(why) = failed.values().next() {
            let retry = retry_delay(plan.attempts(), why);
            self.publish_failure(plan.cycle(), failed.len(), plan.attempts(), retry, why);
        }
        if failed.len() == plan.targets.len() {
            return;
        }
        let is_confirmed = |target: &RuleTarget| !failed.contains_key(target);
        let (keys, tags) = plan.confirmed_targets(is_confirmed);
        self.live.publish(DaemonEvent::Invalidated {
            cycle: plan.cycle(),
            rule: plan.rules(),
            backend: self.cache().backend(),
            keys,
            tags,
            reason: plan.reason(),
            attempts: plan.attempts() as u32,
            took_ms: took.as_millis() as u64,
            removals: plan.count_confirmed(is_confirmed),
            deleted: removed.existing_entries(),
        });
    }

    /// Logs that the cache as a whole did not answer; returns the delay of the next attempt.
    fn report_failure(&self, rows: &[OutboxRow], why: &CacheError) -> Duration {
        let attempt = rows.iter().map(|row| row.entry.attempts).max().unwrap_or(1);
        let retry = retry_delay(attempt, why);
        // The canary logs its own failures.
        if rows.iter().any(|row| row.entry.purpose != Purpose::Canary) {
            let cycle = rows.iter().filter_map(|row| row.entry.cycle).max();
            let cycle = cycle.map(|cycle| cycle as u64);
            self.publish_failure(cycle, rows.len(), attempt, retry, why);
        }
        retry
    }

    fn publish_failure(
        &self,
        cycle: Option<u64>,
        waiting: usize,
        attempt: i32,
        retry: Duration,
        why: &CacheError,
    ) {
        self.live.publish(DaemonEvent::InvalidateFailed {
            cycle,
            backend: self.cache().backend(),
            keys: waiting as u64,
            attempt: attempt as u32,
            retry_ms: retry.as_millis() as u64,
            stale_s: STALE_AT_MOST.as_secs(),
            error: why.to_string(),
        });
    }

    /// Repeated warnings suffice for an hour of a cache's maintenance, but not for a wrong password.
    fn escalate(&self, since: &mut Instant) {
        if since.elapsed() < ESCALATE_AFTER {
            return;
        }
        *since = Instant::now();
        tracing::error!(
            event = "cache.invalidate_stuck",
            backend = self.cache().backend(),
            host = self.cache().host(),
            "Removals have failed for over {} s: readers of other programs see old prices until the cache answers. \
             Nothing is lost; `oddsd status` shows how many wait and why",
            ESCALATE_AFTER.as_secs()
        );
    }

    fn is_cache_off(&self) -> bool {
        matches!(**self.cache(), Cache::Off)
    }

    fn cache(&self) -> &Arc<Cache> {
        self.reader.cache()
    }
}

/// The delay before a removal is tried again after `attempt` attempts.
fn retry_delay(attempt: i32, why: &CacheError) -> Duration {
    let failure = match why.is_retryable() {
        true => FailureKind::Temporary,
        false => FailureKind::Refused,
    };
    Backoff::REMOVAL.delay(failure, attempt.max(0) as u32, fastrand::f64())
}

/// The poller logs an unreachable database as a warning, so here it is a detail.
fn logged<T>(outcome: Result<T, StoreError>) -> Option<T> {
    outcome
        .inspect_err(|why| {
            tracing::debug!(event = "relay.store_failed", error = %why, "the outbox cannot be read");
        })
        .ok()
}
