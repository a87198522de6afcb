//! One load for everybody who waits: begun, watched, filled, and told to all.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;

use super::super::entry::Entry;
use super::super::flight::{Flight, Landing, Verdict};
use super::super::{Lease, Policy, Taken};
use super::ask::Look;
use super::{Inner, Level, Load, Loaded, ReadError, ReadState, Served};
use crate::key::Key;

/// How long to wait between two looks for what another process loads: doubled, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(25);

/// How a flight begins.
pub(super) enum Start {
    Load(Option<Lease>),
    /// Another process holds the lease.
    Watch,
}

/// What watching came to.
enum Watched {
    Found(Arc<Entry>, u64),
    /// Nobody else brings it: load, and fill where there is a lease.
    Lease(Option<Lease>),
}

impl Inner {
    pub(super) async fn fly(
        &self,
        key: &Key,
        policy: &Policy,
        load: &Load,
        start: Start,
        mut budget: Duration,
        flight: Flight,
    ) {
        let lease = match start {
            Start::Load(lease) => lease,
            Start::Watch => match self.watch(key, policy).await {
                Watched::Found(entry, look) => return flight.landed(Landing::Found(entry, look)),
                Watched::Lease(lease) => lease,
            },
        };
        let (number, began) = (flight.loading(), std::time::Instant::now());
        let outcome = self.load(policy, load).await;
        let loaded = match outcome {
            Ok(loaded) => loaded,
            Err(why) => {
                tracing::debug!(event = "cache.load_failed", %key, error = %why, "the loader has no answer");
                flight.landed(Landing::Failed(why));
                if let Some(lease) = lease {
                    self.cache.release(key, lease).await;
                }
                return;
            }
        };
        let stamp = lease.as_ref().map_or(0, Lease::stamp);
        let entry = Arc::new(entry(loaded, policy, began, stamp));
        let mut verdict = Verdict::NotKept;
        if let Some(lease) = lease {
            flight.filling();
            if self.fill(key, lease, &entry, policy, &mut budget).await {
                verdict = Verdict::Kept;
            }
        }
        flight.landed(Landing::Loaded(entry, number, verdict));
    }

    pub(super) async fn load(&self, policy: &Policy, load: &Load) -> Result<Loaded, ReadError> {
        self.tally.loads.add();
        let loading = AssertUnwindSafe(async { load().await }).catch_unwind();
        let outcome = match tokio::time::timeout(policy.load_within, loading).await {
            Ok(Ok(Ok(loaded))) => Ok(loaded),
            Ok(Ok(Err(why))) => Err(ReadError::Failed(Arc::new(why))),
            Ok(Err(_)) => Err(ReadError::Panicked),
            Err(_) => Err(ReadError::TookTooLong(policy.load_within)),
        };
        if outcome.is_err() {
            self.tally.failures.add();
        }
        outcome
    }

    /// Looks until another process has filled, or gave up, or took too long.
    async fn watch(&self, key: &Key, policy: &Policy) -> Watched {
        let (since, mut pause) = (Instant::now(), FIRST_PAUSE);
        while since.elapsed() < policy.wait_for_others {
            tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let number = self.flights.number();
            let looked = match self.look(key, policy, &mut self.budget.clone()).await {
                Look::Asked(looked) => looked,
                Look::NoCache => return Watched::Lease(None),
            };
            match &looked.entry {
                Some(entry) if entry.age(std::time::Instant::now()) < entry.fresh => {
                    return Watched::Found(Arc::clone(entry), number);
                }
                _ => {}
            }
            match self
                .take(key, policy, &looked, &mut self.budget.clone())
                .await
            {
                Some(Taken::Mine(lease)) => return Watched::Lease(Some(lease)),
                Some(Taken::Held | Taken::Overtaken) => {}
                Some(Taken::NoFloor) | None => return Watched::Lease(None),
            }
        }
        Watched::Lease(None)
    }

    /// What is left when a load failed.
    pub(super) fn after(
        &self,
        why: ReadError,
        fallback: Option<Arc<Entry>>,
    ) -> Result<Served, ReadError> {
        let still = |entry: &Arc<Entry>| {
            entry.age(std::time::Instant::now()) < entry.fresh + entry.on_error
        };
        match fallback.filter(still) {
            Some(entry) => {
                self.tally.count(ReadState::Stale);
                Ok(Served {
                    entry,
                    state: ReadState::Stale,
                    level: Level::Second,
                })
            }
            None => Err(why),
        }
    }
}

pub(super) fn entry(
    loaded: Loaded,
    policy: &Policy,
    began: std::time::Instant,
    stamp: u128,
) -> Entry {
    let whole = match loaded.absent {
        true => policy.absent,
        false => loaded.fresh.unwrap_or(policy.fresh).min(policy.fresh),
    };
    let longer = |time: Duration| {
        if loaded.absent || whole.is_zero() {
            Duration::ZERO
        } else {
            time
        }
    };
    Entry {
        body: loaded.body,
        stamp,
        absent: loaded.absent,
        view: loaded.view,
        tags: policy.tags.clone(),
        stored_at: began,
        fresh: whole.mul_f64(1.0 - policy.jitter.clamp(0.0, 0.5) * fastrand::f64()),
        while_revalidating: longer(policy.while_revalidating),
        on_error: longer(policy.on_error),
        load: began.elapsed(),
    }
}
