//! One daemon writes. This loop takes the lease, keeps it, and lets go of it; whoever writes is
//! fenced by the number that came with it, so a daemon that was paused and wakes up writes nothing.
//!
//! With each renewal goes what the daemon says of itself, and when each event was last checked:
//! that is how a quiet day reaches the database without a write a cycle.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::live::{Activity, Live};
use crate::store::{Acquired, Checks, Lease, Store, StoreError};

/// Renewals within one lease: two may fail before it is over.
const RENEWALS: u32 = 3;

pub struct Leader {
    pub store: Store,
    pub live: Live,
    pub holder: String,
    pub ttl: Duration,
    pub checks: Checks,
    /// Rung when a person's correction waits.
    pub corrected: Arc<Notify>,
    /// What the daemon says of itself, asked at each renewal.
    pub state: Box<dyn Fn() -> Value + Send + Sync>,
}

/// What one step came to.
enum Step {
    Held(Lease),
    Waiting,
}

impl Leader {
    /// Tells `lease` who leads until `stop`. Does not let go: the last cycle may still be writing
    /// (see [`Leader::let_go`]).
    pub async fn run(&self, lease: watch::Sender<Option<Lease>>, stop: CancellationToken) {
        let mut renewed_at = Instant::now();
        let mut standing_by = None;
        let mut failures = 0;
        loop {
            let held = lease.borrow().clone();
            // The lease counts from when the database heard us, which is after this.
            let asked_at = Instant::now();
            let wait = match self.step(held.as_ref(), renewed_at, &mut standing_by).await {
                Ok(Step::Held(new)) => {
                    renewed_at = asked_at;
                    if held.as_ref() != Some(&new) {
                        standing_by = None;
                        self.live.say(Activity::Leading {
                            holder: new.holder.clone(),
                            fence: new.epoch as u64,
                        });
                        lease.send_replace(Some(new));
                    }
                    self.ttl / RENEWALS
                }
                Ok(Step::Waiting) => {
                    lease.send_replace(None);
                    self.ttl / RENEWALS
                }
                Err(why) => {
                    let wait = self.ttl / RENEWALS / 2;
                    // While the lease is ours, the cycles meet the same failure and say it.
                    if held.is_none() {
                        failures += 1;
                        self.live.say(Activity::StoreFailed {
                            cycle: 0,
                            attempt: failures,
                            retry_ms: wait.as_millis() as u64,
                            error: why.to_string(),
                        });
                    }
                    wait
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn step(
        &self,
        held: Option<&Lease>,
        renewed_at: Instant,
        standing_by: &mut Option<String>,
    ) -> Result<Step, StoreError> {
        if let Some(held) = held {
            match self.renew(held).await {
                Ok(()) => return Ok(Step::Held(held.clone())),
                Err(StoreError::Fenced) => {}
                // Ours until it runs out: a commit would be fenced anyway, should that be wrong.
                Err(why) if renewed_at.elapsed() < self.ttl => return Err(why),
                Err(_) => return Ok(Step::Waiting),
            }
        }
        match self.store.acquire(&self.holder, self.ttl).await? {
            Acquired::Mine(lease) => {
                // The first word of a new leader: whoever asks for the status knows who it is.
                self.renew(&lease).await?;
                Ok(Step::Held(lease))
            }
            Acquired::HeldBy { holder, .. } => {
                if standing_by.as_ref() != Some(&holder) {
                    self.live.say(Activity::StandingBy {
                        holder: holder.clone(),
                    });
                    *standing_by = Some(holder);
                }
                Ok(Step::Waiting)
            }
        }
    }

    async fn renew(&self, lease: &Lease) -> Result<(), StoreError> {
        let checked: Vec<_> = {
            let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
            checks.drain().collect()
        };
        let outcome = self
            .store
            .renew(lease, self.ttl, &(self.state)(), &checked)
            .await;
        if let Ok(true) = outcome {
            self.corrected.notify_one();
        }
        if outcome.is_err() {
            // Newer times may have come meanwhile: those stay.
            let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
            for (row, at) in checked {
                checks.entry(row).or_insert(at);
            }
        }
        outcome.map(drop)
    }

    /// The last word, and the lease for whoever comes next.
    pub async fn let_go(&self, lease: &Lease) {
        let said = self.renew(lease).await;
        if let Err(why) = said.and(self.store.release(lease).await) {
            tracing::debug!(event = "lease.release_failed", error = %why, "the lease runs out by itself");
        }
    }
}
