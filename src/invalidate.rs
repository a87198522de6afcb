//! The relay: outbox to cache. One batch claims what is due, removes every answer it makes wrong,
//! and settles; the loop around it wakes at a poke (fast path) and looks by itself (safe path).
//!
//! It runs beside the cycle and never inside it. A row leaves the outbox only when all of its keys
//! are confirmed gone; until then it comes back, for ever, also after a restart.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::key::Key;
use crate::live::{Activity, Live};
use crate::rules;
use crate::store::{Claimed, Lease, Removal, Store, StoreError};

/// Rows taken at once: enough that a long outage coalesces into few removals.
const BATCH: i64 = 2_000;
/// A claimed row is due again after this, should we die with it in our hands.
const CLAIM_FOR: Duration = Duration::from_secs(10);
/// The safe path: how often the relay looks without having been poked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What the last pass may take of the daemon's goodbye.
const LAST_DRAIN: Duration = Duration::from_secs(8);
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// Low enough that readers see fresh prices soon after the cache is back.
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// Nobody can heal a refusal (password, rights) within seconds.
const REFUSED_RETRY: Duration = Duration::from_secs(30);
/// No cached answer of ours lives longer: the bound that the log promises while a removal is late.
pub const STALE_AT_MOST: Duration = Duration::from_secs(60);

/// What one batch came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Batch {
    /// Nothing is due.
    Empty,
    Removed {
        rows: usize,
        keys: usize,
    },
    /// The cache did not confirm; the rows are due again after `retry`.
    Failed {
        rows: usize,
        retry: Duration,
    },
}

#[derive(Clone)]
pub struct Relay {
    store: Store,
    cache: Arc<Cache>,
    live: Live,
    /// Whose claims these are.
    who: String,
    poke: Arc<Notify>,
}

impl Relay {
    pub fn new(
        store: Store,
        cache: Arc<Cache>,
        live: Live,
        who: String,
        poke: Arc<Notify>,
    ) -> Self {
        Self {
            store,
            cache,
            live,
            who,
            poke,
        }
    }

    /// Works until `stop`, then drains what the last cycle left. The database being away is no
    /// reason to end: the cycle says so already, and the rows are safe in it.
    ///
    /// A cache of this process alone is nobody else's: while another daemon leads, and its readers
    /// have what the rows make wrong, the rows are left to it.
    pub async fn run(self, lease: watch::Receiver<Option<Lease>>, stop: CancellationToken) {
        let ours = || self.cache.is_shared() || lease.borrow().is_some();
        while !stop.is_cancelled() {
            let more = ours() && said(self.batch().await);
            if more {
                continue;
            }
            tokio::select! {
                () = self.poke.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => {}
            }
        }
        if ours() {
            said(self.drain(LAST_DRAIN).await);
        }
    }

    /// Removes what is due until nothing is, or the cache does not confirm, or `deadline` is over.
    pub async fn drain(&self, deadline: Duration) -> Result<Batch, StoreError> {
        let started = Instant::now();
        let mut last = self.batch().await?;
        while matches!(last, Batch::Removed { .. }) && started.elapsed() < deadline {
            match self.batch().await? {
                Batch::Empty => break,
                next => last = next,
            }
        }
        Ok(last)
    }

    /// As `drain`, and waits for rows that are not due yet: an earlier run postponed them, or died
    /// with them in its hands. Says how many are left.
    pub async fn drain_all(&self, deadline: Duration) -> Result<i64, StoreError> {
        let started = Instant::now();
        loop {
            let last = self
                .drain(deadline.saturating_sub(started.elapsed()))
                .await?;
            let left = self.store.status().await?.outbox_pending;
            let failed = matches!(last, Batch::Failed { .. });
            if left == 0 || failed || started.elapsed() >= deadline {
                return Ok(left);
            }
            tokio::time::sleep(FIRST_RETRY).await;
        }
    }

    /// Claim, targets, remove, settle.
    pub async fn batch(&self) -> Result<Batch, StoreError> {
        let claimed = self.store.claim(&self.who, BATCH, CLAIM_FOR).await?;
        if claimed.is_empty() {
            return Ok(Batch::Empty);
        }
        let rows: Vec<i64> = claimed.iter().map(|row| row.id).collect();
        let keys: Vec<Key> = targets(&claimed).into_iter().collect();
        let started = Instant::now();
        match self.cache.remove(&keys).await {
            Ok(existed) => {
                let reason = reason(&claimed);
                let removal = self.removal(&claimed, &keys, reason, existed, started.elapsed());
                self.store
                    .settle(&rows, std::slice::from_ref(&removal))
                    .await?;
                if self.cache.backend() != "off" {
                    self.live.say(Activity::Invalidated {
                        cycle: removal.cycle.map(|cycle| cycle as u64),
                        rule: removal.rule,
                        backend: self.cache.backend(),
                        keys,
                        reason,
                        attempts: removal.attempts as u32,
                        took_ms: removal.took_ms as u64,
                        actor: None,
                    });
                }
                Ok(Batch::Removed {
                    rows: rows.len(),
                    keys: removal.keys.len(),
                })
            }
            Err(why) => {
                let attempt = most_attempts(&claimed);
                let retry = retry_after(attempt, why.is_retryable());
                self.store.postpone(&rows, retry, why.detail()).await?;
                self.live.say(Activity::InvalidateFailed {
                    cycle: newest_cycle(&claimed).map(|cycle| cycle as u64),
                    backend: self.cache.backend(),
                    keys: keys.len() as u64,
                    attempt: attempt as u32,
                    retry_ms: retry.as_millis() as u64,
                    stale_s: STALE_AT_MOST.as_secs(),
                    error: why.to_string(),
                });
                Ok(Batch::Failed {
                    rows: rows.len(),
                    retry,
                })
            }
        }
    }

    fn removal(
        &self,
        claimed: &[Claimed],
        keys: &[Key],
        reason: &str,
        existed: u64,
        took: Duration,
    ) -> Removal {
        let manual = claimed.iter().all(|row| !row.keys.is_empty());
        Removal {
            id: 0,
            at: Utc::now(),
            cycle: newest_cycle(claimed),
            rule: if manual {
                rules::MANUAL
            } else {
                rules::LIVE_ODDS
            }
            .into(),
            reason: reason.into(),
            keys: keys.iter().map(Key::to_string).collect(),
            existed: existed as i64,
            backend: self.cache.backend().into(),
            attempts: most_attempts(claimed),
            took_ms: took.as_millis() as i64,
        }
    }
}

/// Whether there may be more to do at once.
fn said(outcome: Result<Batch, StoreError>) -> bool {
    match outcome {
        Ok(batch) => matches!(batch, Batch::Removed { .. }),
        Err(why) => {
            tracing::debug!(event = "relay.store_failed", error = %why, "the outbox cannot be read");
            false
        }
    }
}

/// All keys that these rows make wrong, each once: this is where an outage coalesces.
fn targets(claimed: &[Claimed]) -> BTreeSet<Key> {
    let mut keys = BTreeSet::new();
    for row in claimed {
        keys.extend(row.keys.iter().cloned());
        if let Some(event) = &row.event {
            keys.extend(rules::targets(event));
        }
    }
    keys
}

fn reason(claimed: &[Claimed]) -> &'static str {
    let kinds = claimed.iter().flat_map(|row| row.kinds.iter().copied());
    rules::reason(&kinds.collect())
}

fn most_attempts(claimed: &[Claimed]) -> i32 {
    claimed.iter().map(|row| row.attempts).max().unwrap_or(1)
}

fn newest_cycle(claimed: &[Claimed]) -> Option<i64> {
    claimed.iter().filter_map(|row| row.cycle).max()
}

fn retry_after(attempt: i32, retryable: bool) -> Duration {
    let longest = if retryable {
        LONGEST_RETRY
    } else {
        REFUSED_RETRY
    };
    let doublings = attempt.saturating_sub(1).clamp(0, 16) as u32;
    let wait = if retryable {
        FIRST_RETRY * (1 << doublings)
    } else {
        longest
    };
    wait.min(longest).mul_f64(0.75 + fastrand::f64() / 4.0)
}
