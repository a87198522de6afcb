//! Leader election: one daemon writes, the others stand by. `app` runs [`Leader`], which acquires the lease, renews
//! it and publishes it to the services; each commit is fenced by the lease's epoch, so that a daemon that was
//! paused and resumes writes nothing.
//!
//! Each renewal stores the daemon's state and the times at which events were last checked. So a day without
//! changes reaches the database without one write for each cycle.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, ClockSkew};
use crate::live::{DaemonEvent, EventBus};
use oddsd_store::{AcquireResult, LastChecked, Store, StoreError, WriterLease};

/// Renewals within one lease: two may fail before it expires.
const RENEWALS: u32 = 3;

pub struct Leader {
    pub store: Store,
    pub live: EventBus,
    pub holder: String,
    pub ttl: Duration,
    pub checks: LastChecked,
    pub correction: Arc<Notify>,
    pub clock: Clock,
    pub skew: Arc<ClockSkew>,
    /// The daemon's state as JSON, read at each renewal.
    pub state: Box<dyn Fn() -> Value + Send + Sync>,
}

impl Leader {
    /// Publishes in `lease` whether this daemon leads, until `stop`. It does not release the lease then, because
    /// the last cycle may still be writing: see [`Leader::release`].
    pub async fn run(&self, lease: watch::Sender<Option<WriterLease>>, stop: CancellationToken) {
        let mut renewed_at = Instant::now();
        let mut other_holder = None;
        let mut failures = 0;
        loop {
            let held = lease.borrow().clone();
            // The database counts the lease from the moment of the statement, which is later.
            let started_at = Instant::now();
            let mut wait = self.ttl / RENEWALS;
            let stepping = self.step(held.as_ref(), renewed_at, &mut other_holder);
            match stepping.await {
                Ok(Some(new)) => {
                    renewed_at = started_at;
                    if held.as_ref() != Some(&new) {
                        other_holder = None;
                        self.live.publish(DaemonEvent::Leading {
                            holder: new.holder.clone(),
                            fence: new.epoch as u64,
                        });
                        lease.send_replace(Some(new));
                    }
                }
                Ok(None) => drop(lease.send_replace(None)),
                Err(why) => {
                    wait /= 2;
                    // While this daemon leads, the poller meets the same failure and logs it.
                    if held.is_none() {
                        failures += 1;
                        self.live.publish(DaemonEvent::StoreFailed {
                            cycle: 0,
                            attempt: failures,
                            retry_ms: wait.as_millis() as u64,
                            error: why.to_string(),
                        });
                    }
                }
            }
            let next_step = tokio::time::Instant::now() + wait;
            let measuring = tokio::time::timeout_at(next_step, Box::pin(self.measure_skew()));
            tokio::select! {
                _ = async { tokio::join!(measuring, tokio::time::sleep_until(next_step)) } => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Compares the clocks. A database that does not answer is reported elsewhere.
    async fn measure_skew(&self) {
        if self.clock.is_simulated() {
            return;
        }
        let sent = self.clock.now();
        if let Ok(theirs) = self.store.server_time().await {
            self.skew.record(sent, self.clock.now(), theirs);
        }
    }

    /// Renews a lease that is `held`, else tries to acquire one. `None`: another daemon holds it.
    async fn step(
        &self,
        held: Option<&WriterLease>,
        renewed_at: Instant,
        other_holder: &mut Option<String>,
    ) -> Result<Option<WriterLease>, StoreError> {
        if let Some(held) = held {
            match self.renew(held).await {
                Ok(()) => return Ok(Some(held.clone())),
                Err(StoreError::Fenced) => {}
                // The lease is valid until it expires. Should that be wrong, a commit is fenced anyway.
                Err(why) if renewed_at.elapsed() < self.ttl => return Err(why),
                Err(_) => return Ok(None),
            }
        }
        match self.store.acquire_lease(&self.holder, self.ttl).await? {
            AcquireResult::Granted(lease) => {
                // At once, so that `oddsd status` shows the new leader's state.
                self.renew(&lease).await?;
                Ok(Some(lease))
            }
            AcquireResult::HeldBy { holder, .. } => {
                if other_holder.as_ref() != Some(&holder) {
                    self.live.publish(DaemonEvent::Standby {
                        holder: holder.clone(),
                    });
                    *other_holder = Some(holder);
                }
                Ok(None)
            }
        }
    }

    async fn renew(&self, lease: &WriterLease) -> Result<(), StoreError> {
        let checked: Vec<_> = self.checks.lock().drain().collect();
        let state = (self.state)();
        let renewing = self.store.renew_lease(lease, self.ttl, &state, &checked);
        let is_correction_waiting = renewing.await.inspect_err(|_| {
            // A cycle may have added newer times meanwhile: those stay.
            let mut checks = self.checks.lock();
            for (row, at) in &checked {
                checks.entry(*row).or_insert(*at);
            }
        })?;
        if is_correction_waiting {
            self.correction.notify_one();
        }
        Ok(())
    }

    /// Stores the final state and frees the lease for another daemon.
    pub async fn release(&self, lease: &WriterLease) {
        let renewed = self.renew(lease).await;
        if let Err(why) = renewed.and(self.store.release_lease(lease).await) {
            tracing::debug!(event = "lease.release_failed", error = %why, "the lease expires by itself");
        }
    }
}
