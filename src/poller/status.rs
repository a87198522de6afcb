//! Status changes between polls: by the clock at their time, and by an operator's correction. The poller waits with
//! [`Poller::run_while_waiting`], which commits them as a cycle of the feed `clock`, without a fetch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::Poller;
use crate::clock::{Clock, SleepResult};
use crate::live::DaemonEvent;
use oddsd_core::diff::{Changes, status_transitions};
use oddsd_core::model::StatusSource;
use oddsd_store::{CycleMeta, StoreError, WriterLease};

/// The feed's name in the row of such a cycle.
const CLOCK: &str = "clock";

/// When the next status changes, and whether corrections may wait.
#[derive(Default)]
pub(super) struct TransitionTimer {
    /// `None`: not computed for the present state.
    next: Option<Option<DateTime<Utc>>>,
    /// False for a new leader, which has to read them first.
    corrections_known: bool,
    pub(super) correction: Arc<Notify>,
}

impl TransitionTimer {
    /// To be called when events have changed.
    pub(super) fn invalidate(&mut self) {
        self.next = None;
    }

    pub(super) fn reset(&mut self) {
        self.next = None;
        self.corrections_known = false;
    }
}

impl Poller {
    /// Waits for `over`, and updates statuses meanwhile.
    pub(super) async fn run_while_waiting<T>(
        &mut self,
        lease: &watch::Receiver<Option<WriterLease>>,
        stop: &CancellationToken,
        over: impl Future<Output = T>,
    ) -> T {
        let (mut lease, clock) = (lease.clone(), self.clock.clone());
        let correction = Arc::clone(&self.timer.correction);
        let mut over = std::pin::pin!(over);
        loop {
            let held = lease.borrow_and_update().clone();
            if let Some(held) = &held {
                self.discard_state_of_other_epoch(held);
            }
            let wait = held.as_ref().and_then(|_| self.until_next_transition());
            tokio::select! {
                biased;
                done = &mut over => return done,
                Ok(()) = lease.changed() => continue,
                () = correction.notified() => self.timer.corrections_known = false,
                () = sleep(&clock, wait, stop) => {}
            }
            if let Some(held) = &held {
                self.update_statuses(held, self.clock.now()).await;
            }
        }
    }

    /// `None`: no status changes by itself.
    fn until_next_transition(&mut self) -> Option<Duration> {
        if self.state.is_none() {
            return Some(match self.failures {
                0 => Duration::ZERO,
                _ => self.retry,
            });
        }
        if !self.timer.corrections_known {
            return Some(Duration::ZERO);
        }
        let at = self.next_transition()?;
        Some((at - self.clock.now()).to_std().unwrap_or_default())
    }

    fn next_transition(&mut self) -> Option<DateTime<Utc>> {
        let state = &self.state.as_ref()?.state;
        *self
            .timer
            .next
            .get_or_insert_with(|| state.next_transition_at())
    }

    /// Commits the transitions that are due at `now` and the corrections that wait.
    pub(super) async fn update_statuses(&mut self, lease: &WriterLease, now: DateTime<Utc>) {
        let due = self.state.is_none() || self.next_transition().is_some_and(|at| at <= now);
        if (due || !self.timer.corrections_known)
            && let Err(why) = self.commit_transitions(lease, now).await
        {
            self.state = None;
            self.timer.reset();
            self.report_store_failure(0, why);
        }
    }

    async fn commit_transitions(
        &mut self,
        lease: &WriterLease,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let mut state = self.load_state().await?;
        let corrections = match self.timer.corrections_known {
            true => Vec::new(),
            false => self.store.corrections().await?,
        };
        let corrections: Vec<_> = corrections
            .into_iter()
            .map(|c| (c.id, c.event, c.status))
            .collect();
        let mut changes = status_transitions(&state.state, &corrections, now);
        if !changes.is_empty() {
            let cycle = CycleMeta {
                id: state.next_cycle,
                feed: CLOCK.into(),
                races: changes.events.len() as i64,
                ..CycleMeta::default()
            };
            state.next_cycle += 1;
            let committed = self.store.commit(lease, &cycle, &mut changes).await?;
            self.notify_committed(committed.outbox, &state.state, &changes);
            self.publish_statuses(cycle.id, &changes);
            state.state.apply(changes);
            self.timer.invalidate();
        }
        self.timer.corrections_known = true;
        self.state = Some(state);
        Ok(())
    }

    /// Publishes how many known events came to each status; new events do not count.
    pub(super) fn publish_statuses(&self, cycle: i64, changes: &Changes) {
        let mut counts: BTreeMap<(&str, &str), (u64, _)> = BTreeMap::new();
        for change in &changes.events {
            if let Some((Some(_), status)) = change.status_transition() {
                let by: StatusSource = change.status_by;
                let count = counts.entry((status.as_str(), by.as_str()));
                count.or_insert((0, (status, by))).0 += 1;
            }
        }
        for (events, (status, by)) in counts.into_values() {
            self.live.publish(DaemonEvent::StatusChanged {
                cycle: cycle as u64,
                status,
                by,
                events,
            });
        }
    }
}

/// Pending for ever without a `wait`, and after `stop`: then `over` ends as well.
async fn sleep(clock: &Clock, wait: Option<Duration>, stop: &CancellationToken) {
    match wait {
        Some(wait) if clock.sleep(wait, stop).await == SleepResult::Elapsed => {}
        _ => std::future::pending().await,
    }
}
