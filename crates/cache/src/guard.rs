//! Guarded access to the cache for one reader: within the time budget of the request, and behind the circuit
//! breaker. `Reader` uses it for every lookup, lease and fill.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::backend::Cache;
use super::breaker::{Breaker, BreakerTransition};
use super::entry::Entry;
use super::error::CacheError;
use super::latency::LatencyTracker;
use super::lease::{FillLease, LeaseOutcome, PutOutcome};
use super::lookup::Lookup;
use super::policy::Policy;
use super::read_stats::ReadMetrics;
use oddsd_core::key::Key;

pub(super) struct GuardedCache {
    pub cache: Arc<Cache>,
    pub metrics: ReadMetrics,
    breaker: Mutex<Breaker>,
    latency: LatencyTracker,
}

impl GuardedCache {
    pub fn new(cache: Arc<Cache>) -> Self {
        Self {
            cache,
            metrics: ReadMetrics::default(),
            breaker: Mutex::default(),
            latency: LatencyTracker::default(),
        }
    }

    /// `None`: the cache did not answer, or was not asked.
    pub async fn get(&self, key: &Key, policy: &Policy, budget: &mut Duration) -> Option<Lookup> {
        if !self.may_ask(*budget) {
            return None;
        }
        let mut answer = self.get_once(key, policy, budget).await;
        if let Ok((_, took)) = &answer
            && self.latency.is_outlier(*took)
        {
            // A delayed answer may be older than a removal that was confirmed meanwhile; the next one is
            // read after everything that delayed it.
            answer = self.get_once(key, policy, budget).await;
        }
        let lookup = self.record(key, answer.map(|(lookup, _)| lookup))?;
        if lookup.entry.is_some() {
            tracing::debug!(event = "cache.hit", alias = "cache_hit", %key, "hit");
        }
        Some(lookup)
    }

    async fn get_once(
        &self,
        key: &Key,
        policy: &Policy,
        budget: &mut Duration,
    ) -> Result<(Lookup, Duration), CacheError> {
        let asked = Instant::now();
        let get = self.cache.get_within(key, &policy.tags, *budget);
        let answer = within(*budget, get).await;
        let took = asked.elapsed();
        *budget = budget.saturating_sub(took);
        answer.map(|lookup| (lookup, took))
    }

    /// `None`: the cache did not answer, or was not asked.
    pub async fn acquire_lease(
        &self,
        key: &Key,
        policy: &Policy,
        lookup: &Lookup,
        budget: &mut Duration,
    ) -> Option<LeaseOutcome> {
        if !self.may_ask(*budget) {
            return None;
        }
        let asked = Instant::now();
        let answer = self.acquire_within(key, policy, lookup, *budget).await;
        *budget = budget.saturating_sub(asked.elapsed());
        self.record(key, answer)
    }

    /// Releases a lease that arrives after the budget: others would wait for a fill that never comes.
    async fn acquire_within(
        &self,
        key: &Key,
        policy: &Policy,
        lookup: &Lookup,
        budget: Duration,
    ) -> Result<LeaseOutcome, CacheError> {
        let (cache, key, tags) = (Arc::clone(&self.cache), key.clone(), policy.tags.clone());
        let lookup = lookup.clone();
        let mut asking = Box::pin(async move {
            let taken = cache.acquire_lease(&key, &tags, &lookup).await;
            (cache, key, taken)
        });
        match tokio::time::timeout(budget, asking.as_mut()).await {
            Ok((_, _, taken)) => taken,
            Err(_) => {
                tokio::spawn(async move {
                    if let (cache, key, Ok(LeaseOutcome::Acquired(lease))) = asking.await {
                        cache.release(&key, lease).await;
                    }
                });
                Err(late(budget))
            }
        }
    }

    /// Releases the lease in the background, so that the answer does not wait for it.
    fn release_later(&self, key: &Key, lease: FillLease) {
        let (cache, key) = (Arc::clone(&self.cache), key.clone());
        tokio::spawn(async move { cache.release(&key, lease).await });
    }

    /// Returns whether the entry is stored.
    pub async fn put(
        &self,
        key: &Key,
        lease: FillLease,
        entry: &Arc<Entry>,
        policy: &Policy,
        budget: &mut Duration,
    ) -> bool {
        if entry.ttl().is_zero() {
            self.cache.release(key, lease).await;
            return false;
        }
        if !self.may_ask(*budget) {
            self.release_later(key, lease);
            return false;
        }
        let (cache, entry) = (&self.cache, Arc::clone(entry));
        let ttl_s = entry.ttl().as_secs();
        let put = cache.put_within(key, lease, entry, policy.compress_from, *budget);
        match within(*budget, put).await {
            Ok(PutOutcome::Stored) => {
                self.record_success();
                tracing::debug!(event = "cache.miss_stored", alias = "cache_miss_stored", %key, ttl_s, "stored");
                true
            }
            Ok(refused) => {
                self.record_success();
                self.metrics.count_refused(refused);
                tracing::debug!(event = "cache.skip", alias = "cache_skip", %key, reason = ?refused, "served, not kept: it may be wrong by now");
                false
            }
            Err(why) => {
                self.record_failure(&why);
                tracing::debug!(event = "cache.store_error", alias = "cache_store_error", %key, error = %why, "served, not kept");
                false
            }
        }
    }

    fn may_ask(&self, budget: Duration) -> bool {
        let off = matches!(*self.cache, Cache::Off);
        !off && !budget.is_zero() && self.breaker.lock().allows(Instant::now().into_std())
    }

    /// Reports the outcome to the breaker. Returns the value; `None` after an error.
    fn record<T>(&self, key: &Key, answer: Result<T, CacheError>) -> Option<T> {
        match answer {
            Ok(value) => {
                self.record_success();
                Some(value)
            }
            Err(why) => {
                self.record_failure(&why);
                tracing::debug!(event = "cache.bypass", alias = "cache_bypass", %key, reason = %why, "the loader answers");
                None
            }
        }
    }

    fn record_success(&self) {
        if self.breaker.lock().record_success() == BreakerTransition::Closed {
            tracing::info!(
                event = "cache.reads_resumed",
                host = self.cache.host(),
                "The cache answers again: readers use it"
            );
        }
    }

    fn record_failure(&self, why: &CacheError) {
        // After a refusal the server answers, and fast: hits still work when its memory is full.
        if !why.is_retryable() {
            return self.record_success();
        }
        let (now, jitter) = (Instant::now().into_std(), fastrand::f64());
        if self.breaker.lock().record_failure(now, jitter) == BreakerTransition::Opened {
            tracing::warn!(
                event = "cache.reads_paused",
                host = self.cache.host(),
                error = %why,
                "The cache does not answer: reads go to the database until it does"
            );
        }
    }
}

/// The backends have deadlines of their own; this one does not depend on them.
async fn within<T>(
    budget: Duration,
    command: impl Future<Output = Result<T, CacheError>>,
) -> Result<T, CacheError> {
    tokio::time::timeout(budget, command)
        .await
        .unwrap_or_else(|_| Err(late(budget)))
}

fn late(budget: Duration) -> CacheError {
    CacheError::Timeout(format!("no answer within {} ms", budget.as_millis()))
}
