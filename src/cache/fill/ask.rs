//! Asking the cache: within the budget, past a breaker, and with what it says of its health.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::super::breaker::{Breaker, Turn};
use super::super::entry::Entry;
use super::super::{Cache, CacheError, Filled, Lease, Looked, Policy, Taken};
use super::Inner;
use crate::key::Key;

/// What a look into the cache showed.
pub(super) enum Look {
    Asked(Looked),
    NoCache,
}

impl Inner {
    pub(super) async fn look(&self, key: &Key, policy: &Policy, budget: &mut Duration) -> Look {
        if !self.may_ask(*budget) {
            return Look::NoCache;
        }
        let mut answer = self.look_once(key, policy, budget).await;
        if let Ok((_, took)) = &answer
            && self.pace.is_odd(*took)
        {
            // Whoever was made to wait may have been served before a removal that came earlier; the
            // next answer comes after all that waited.
            answer = self.look_once(key, policy, budget).await;
        }
        match answer.map(|(looked, _)| looked) {
            Ok(looked) => {
                self.worked();
                if looked.entry.is_some() {
                    tracing::debug!(event = "cache.hit", alias = "cache_hit", %key, "hit");
                }
                Look::Asked(looked)
            }
            Err(why) => {
                self.did_not_work(&why);
                tracing::debug!(event = "cache.bypass", alias = "cache_bypass", %key, reason = %why, "the loader answers");
                Look::NoCache
            }
        }
    }

    async fn look_once(
        &self,
        key: &Key,
        policy: &Policy,
        budget: &mut Duration,
    ) -> Result<(Looked, Duration), CacheError> {
        let asked = Instant::now();
        let look = self.cache.look_within(key, &policy.tags, *budget);
        let answer = within(*budget, look).await;
        let took = asked.elapsed();
        *budget = budget.saturating_sub(took);
        answer.map(|looked| (looked, took))
    }

    /// `None`: the cache did not answer.
    pub(super) async fn take(
        &self,
        key: &Key,
        policy: &Policy,
        looked: &Looked,
        budget: &mut Duration,
    ) -> Option<Taken> {
        if !self.may_ask(*budget) {
            return None;
        }
        let asked = Instant::now();
        let answer = self.take_within(key, policy, looked, *budget).await;
        *budget = budget.saturating_sub(asked.elapsed());
        match answer {
            Ok(taken) => {
                self.worked();
                Some(taken)
            }
            Err(why) => {
                self.did_not_work(&why);
                tracing::debug!(event = "cache.bypass", alias = "cache_bypass", %key, reason = %why, "the loader answers");
                None
            }
        }
    }

    /// A lease that comes too late for us is given back: others would wait for a fill that never comes.
    async fn take_within(
        &self,
        key: &Key,
        policy: &Policy,
        looked: &Looked,
        budget: Duration,
    ) -> Result<Taken, CacheError> {
        let (cache, key, tags) = (Arc::clone(&self.cache), key.clone(), policy.tags.clone());
        let looked = looked.clone();
        let mut asking = Box::pin(async move {
            let taken = cache.take(&key, &tags, &looked).await;
            (cache, key, taken)
        });
        match tokio::time::timeout(budget, asking.as_mut()).await {
            Ok((_, _, taken)) => taken,
            Err(_) => {
                tokio::spawn(async move {
                    if let (cache, key, Ok(Taken::Mine(lease))) = asking.await {
                        cache.release(&key, lease).await;
                    }
                });
                Err(late(budget))
            }
        }
    }

    /// Others need not wait for us; and whoever waits for our answer need not wait for this.
    fn let_go(&self, key: &Key, lease: Lease) {
        let (cache, key) = (Arc::clone(&self.cache), key.clone());
        tokio::spawn(async move { cache.release(&key, lease).await });
    }

    pub(super) async fn fill(
        &self,
        key: &Key,
        lease: Lease,
        entry: &Arc<Entry>,
        policy: &Policy,
        budget: &mut Duration,
    ) -> bool {
        if entry.ttl().is_zero() {
            self.cache.release(key, lease).await;
            return false;
        }
        if !self.may_ask(*budget) {
            self.let_go(key, lease);
            return false;
        }
        let fill =
            self.cache
                .fill_within(key, lease, Arc::clone(entry), policy.compress_from, *budget);
        match within(*budget, fill).await {
            Ok(Filled::Stored) => {
                self.worked();
                tracing::debug!(event = "cache.miss_stored", alias = "cache_miss_stored", %key, ttl_s = entry.ttl().as_secs(), "stored");
                true
            }
            Ok(refused) => {
                self.worked();
                self.tally.refused(refused);
                tracing::debug!(event = "cache.skip", alias = "cache_skip", %key, reason = ?refused, "served, not kept: it may be wrong by now");
                false
            }
            Err(why) => {
                self.did_not_work(&why);
                tracing::debug!(event = "cache.store_error", alias = "cache_store_error", %key, error = %why, "served, not kept");
                false
            }
        }
    }

    fn may_ask(&self, budget: Duration) -> bool {
        let off = matches!(*self.cache, Cache::Off);
        !off && !budget.is_zero() && self.breaker().allows(Instant::now().into_std())
    }

    fn worked(&self) {
        if self.breaker().succeeded() == Turn::Closed {
            tracing::info!(
                event = "cache.reads_resumed",
                host = self.cache.host(),
                "The cache answers again: readers use it"
            );
        }
    }

    fn did_not_work(&self, why: &CacheError) {
        match why {
            CacheError::Down { .. } | CacheError::Timeout { .. } | CacheError::Protocol { .. } => {}
            // It answered, and quickly: hits go on working next to a full memory.
            CacheError::Refused { .. } | CacheError::TooLarge { .. } => {
                self.worked();
                return;
            }
        }
        if self
            .breaker()
            .failed(Instant::now().into_std(), fastrand::f64())
            == Turn::Opened
        {
            tracing::warn!(
                event = "cache.reads_paused",
                host = self.cache.host(),
                error = %why,
                "The cache does not answer: reads go to the database until it does"
            );
        }
    }

    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The backends have deadlines of their own; this one holds whatever they do.
async fn within<T>(
    budget: Duration,
    command: impl Future<Output = Result<T, CacheError>>,
) -> Result<T, CacheError> {
    tokio::time::timeout(budget, command)
        .await
        .unwrap_or_else(|_| Err(late(budget)))
}

fn late(budget: Duration) -> CacheError {
    CacheError::Timeout {
        detail: format!("no answer within {} ms", budget.as_millis()),
    }
}
