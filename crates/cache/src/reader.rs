//! Reading through the cache: look up, else load once for all readers who wait, then fill. The HTTP handlers and
//! the auditor call it.
//!
//! A request spends at most its budget (`READ_BUDGET`) on the cache in all; without an answer by then the loader
//! answers. Loads run in tasks of their own: a reader that goes away and a loader that panics or hangs affect no
//! other reader.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use super::answer::{CacheLevel, CacheRead, CacheReadState, Load, LoadedValue, ReadError, boxed};
use super::backend::Cache;
use super::entry::Entry;
use super::error::CacheError;
use super::guard::GuardedCache;
use super::hot_keys::HotKeys;
use super::lease::{FillLease, LeaseOutcome};
use super::lookup::Lookup;
use super::owed::OwedRemovals;
use super::policy::Policy;
use super::read_stats::Reads;
use super::removal::Removed;
use super::single_flight::{FlightLeader, FlightResult, LoadResult, SingleFlight};
use oddsd_core::key::{InvalidationTargets, Key};
use oddsd_core::model::DbSnapshot;

/// The time that one request may spend on the cache, all its commands together.
pub const READ_BUDGET: Duration = Duration::from_millis(50);

/// Lookups of one reader before it loads for itself: a removal during a lookup costs another one.
const MAX_LOOKUPS: usize = 4;

/// A removal that is not answered within this is owed: until it is confirmed, readers do not ask the cache for what it
/// names. Most take less than a millisecond.
const REMOVAL_MOMENT: Duration = Duration::from_millis(100);

/// The pause between two lookups for an entry that another process loads: doubled, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(25);

/// Reads through one cache; shared by all requests of the process, cheap to clone.
#[derive(Clone)]
pub struct Reader(Arc<ReaderInner>);

struct ReaderInner {
    guard: GuardedCache,
    budget: Duration,
    flights: Arc<SingleFlight>,
    hot: HotKeys,
    owed: OwedRemovals,
}

/// How a flight begins.
enum LoadStart {
    Load(Option<FillLease>),
    /// Another process holds the lease.
    Watch,
}

/// The outcome of waiting for another process.
enum WaitOutcome {
    Found(LoadResult),
    /// No other process loads it: load, and fill if there is a lease.
    Load(Option<FillLease>),
}

impl Reader {
    /// A reader with the default budget.
    pub fn new(cache: Arc<Cache>) -> Self {
        Self::with_budget(cache, READ_BUDGET)
    }

    /// As `new`, with another bound on the time that one request may spend on the cache.
    pub fn with_budget(cache: Arc<Cache>, budget: Duration) -> Self {
        Self(Arc::new(ReaderInner {
            guard: GuardedCache::new(cache),
            budget,
            flights: Arc::default(),
            hot: HotKeys::default(),
            owed: OwedRemovals::default(),
        }))
    }

    /// The cache that it reads through.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.0.guard.cache
    }

    /// Totals of this reader and its clones.
    pub fn stats(&self) -> Reads {
        self.0.guard.metrics.snapshot()
    }

    /// Returns the entry that this process would serve without asking a cache server.
    pub fn peek_l1(&self, key: &Key) -> Option<Arc<Entry>> {
        self.cache().get_l1(key, Instant::now())
    }

    /// Returns the cached answer, or loads it and stores it for the next reader. The only error is the loader's.
    ///
    /// The answer includes every change whose removal was confirmed before this call, on every backend and
    /// during every failure; unless it is labelled [`CacheReadState::Stale`], and a removal ends stale answers, too. What
    /// [`Reader::remove`] of this process could not remove is not read from the cache either.
    pub async fn read<F, Fut>(
        &self,
        key: &Key,
        policy: &Policy,
        load: F,
    ) -> Result<CacheRead, ReadError>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<LoadedValue>> + Send + 'static,
    {
        let now = Instant::now();
        if let Some(entry) = self.cache().get_l1(key, now)
            && !self.0.owed.covers(key, &policy.tags)
        {
            let age = entry.age(now);
            if age < entry.fresh && !entry.wants_renewal(age, policy.early, fastrand::f64) {
                self.0.guard.metrics.first_hits.add();
                // One read in 256 is recorded, for all of them.
                if fastrand::u8(..) == 0 {
                    let load = || boxed(load);
                    self.0.hot.record_reads(key, 256, policy, load);
                }
                return Ok(served(entry, CacheReadState::Hit, CacheLevel::L1));
            }
        }
        // Boxed, so that the future of a hit does not hold what a miss needs.
        Box::pin(self.read_through(key, policy, boxed(load))).await
    }

    /// Loads for a reader who asked for that; the cache is neither read nor filled.
    pub async fn bypass<F, Fut>(&self, policy: &Policy, load: F) -> Result<CacheRead, ReadError>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<LoadedValue>> + Send + 'static,
    {
        let began = Instant::now();
        let loaded = self.0.load(policy, &boxed(load)).await?;
        let entry = Arc::new(new_entry(loaded, policy, began, 0));
        Ok(self
            .0
            .counted(entry, CacheReadState::Bypass, CacheLevel::Loader))
    }

    async fn read_through(
        &self,
        key: &Key,
        policy: &Policy,
        load: Load,
    ) -> Result<CacheRead, ReadError> {
        let inner = &self.0;
        inner.hot.record_reads(key, 1, policy, || load.clone());
        let arrived = inner.flights.next_number();
        let (mut budget, mut fallback) = (inner.budget, None);
        for _ in 0..MAX_LOOKUPS {
            let is_owed = inner.owed.covers(key, &policy.tags);
            let lookup = match is_owed {
                true => None,
                false => inner.guard.get(key, policy, &mut budget).await,
            };
            let mut taken = None;
            if let Some(lookup) = &lookup {
                if let Some(entry) = &lookup.entry {
                    match self.decide(key, entry, lookup, policy, &load) {
                        Ok(served) => return Ok(served),
                        Err(expired) => fallback = Some(expired),
                    }
                }
                let acquired = inner.guard.acquire_lease(key, policy, lookup, &mut budget);
                taken = acquired.await;
            }
            let (state, start) = match taken {
                Some(LeaseOutcome::Superseded) => continue,
                Some(LeaseOutcome::Acquired(lease)) => {
                    (CacheReadState::Miss, LoadStart::Load(Some(lease)))
                }
                Some(LeaseOutcome::Held) => (CacheReadState::Miss, LoadStart::Watch),
                Some(LeaseOutcome::NoEpoch) | None => {
                    (CacheReadState::Bypass, LoadStart::Load(None))
                }
            };
            let flight = match &start {
                // The holder of a lease always loads.
                LoadStart::Load(Some(_)) => Ok(inner.flights.lead(key)),
                LoadStart::Load(None) | LoadStart::Watch => inner.flights.join_or_lead(key),
            };
            let result = match flight {
                Ok(leader) => {
                    let result = self.spawn_load(key, policy, &load, start, budget, leader);
                    result.wait().await
                }
                Err(follower) => follower.wait(arrived, !is_owed).await,
            };
            return match result {
                None => continue,
                Some(LoadResult::Failed(why)) => inner.fall_back(why, fallback),
                Some(LoadResult::Found { entry, .. }) => {
                    Ok(inner.counted(entry, CacheReadState::Hit, CacheLevel::L2))
                }
                Some(LoadResult::Loaded { entry, .. }) => {
                    Ok(inner.counted(entry, state, CacheLevel::Loader))
                }
            };
        }
        // A removal during each lookup: a load of this reader's own includes all of them.
        let leader = inner.flights.lead(key);
        let own = self.spawn_load(key, policy, &load, LoadStart::Load(None), budget, leader);
        match own.wait().await {
            Some(LoadResult::Loaded { entry, .. } | LoadResult::Found { entry, .. }) => {
                Ok(inner.counted(entry, CacheReadState::Bypass, CacheLevel::Loader))
            }
            Some(LoadResult::Failed(why)) => inner.fall_back(why, fallback),
            None => Err(ReadError::Panicked),
        }
    }

    /// Serves the stored entry if its times allow it, and refreshes it where that is due. `Err` returns it as the
    /// fallback for a failed load.
    fn decide(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
        lookup: &Lookup,
        policy: &Policy,
        load: &Load,
    ) -> Result<CacheRead, Arc<Entry>> {
        let age = entry.age(Instant::now());
        let state = if age < entry.fresh {
            if entry.wants_renewal(age, policy.early, fastrand::f64) {
                self.0.guard.metrics.early.add();
                self.refresh(key, lookup, policy, load);
            }
            CacheReadState::Hit
        } else if age < entry.fresh + entry.while_revalidating {
            self.refresh(key, lookup, policy, load);
            CacheReadState::Stale
        } else {
            return Err(Arc::clone(entry));
        };
        Ok(self.0.counted(Arc::clone(entry), state, CacheLevel::L2))
    }

    /// Loads in the background, unless a load is under way.
    fn refresh(&self, key: &Key, lookup: &Lookup, policy: &Policy, load: &Load) {
        let Ok(leader) = self.0.flights.join_or_lead(key) else {
            return;
        };
        let (inner, key, policy) = (Arc::clone(&self.0), key.clone(), policy.clone());
        let (load, lookup) = (load.clone(), lookup.clone());
        tokio::spawn(async move {
            let mut budget = inner.budget;
            let acquired = inner
                .guard
                .acquire_lease(&key, &policy, &lookup, &mut budget);
            if let Some(LeaseOutcome::Acquired(lease)) = acquired.await {
                let start = LoadStart::Load(Some(lease));
                let run = inner.run_load(&key, &policy, &load, start, budget, leader);
                run.await;
            }
        });
    }

    fn spawn_load(
        &self,
        key: &Key,
        policy: &Policy,
        load: &Load,
        start: LoadStart,
        budget: Duration,
        leader: FlightLeader,
    ) -> FlightResult {
        let result = leader.result();
        let (inner, key) = (Arc::clone(&self.0), key.clone());
        let (policy, load) = (policy.clone(), load.clone());
        tokio::spawn(async move {
            let run = inner.run_load(&key, &policy, &load, start, budget, leader);
            run.await;
        });
        result
    }

    /// Removes entries from every level, or marks them stale; `snapshot` has to include every change that makes
    /// them wrong. The keys that are read most are loaded again at once.
    pub async fn remove(
        &self,
        targets: &InvalidationTargets,
        snapshot: &DbSnapshot,
    ) -> Result<Removed, CacheError> {
        // Boxed: it is large, and moves from one wait to the other.
        let mut removing = Box::pin(self.cache().remove(targets, snapshot));
        let removed = match tokio::time::timeout(REMOVAL_MOMENT, removing.as_mut()).await {
            Ok(removed) => removed,
            Err(_) => {
                self.0.owed.add(targets.iter(), snapshot);
                removing.await
            }
        };
        let removed = removed.inspect_err(|_| self.0.owed.add(targets.iter(), snapshot))?;
        let failed = removed.failures(targets).map(|(target, _)| target);
        self.0.owed.add(failed, snapshot);
        let confirmed = removed.results(targets);
        let confirmed = confirmed.filter_map(|(target, result)| result.is_ok().then_some(target));
        self.0.owed.confirm(confirmed, snapshot);
        for (key, policy, load) in self.0.hot.take_removed(targets) {
            let reader = self.clone();
            self.0.guard.metrics.renewed.add();
            tokio::spawn(async move {
                let reload = Box::pin(reader.read_through(&key, &policy, load));
                reload.await.map(drop)
            });
        }
        Ok(removed)
    }
}

impl ReaderInner {
    /// Waits for another process or loads, fills, and reports the result to all readers of the flight.
    async fn run_load(
        &self,
        key: &Key,
        policy: &Policy,
        load: &Load,
        start: LoadStart,
        mut budget: Duration,
        leader: FlightLeader,
    ) {
        let lease = match start {
            LoadStart::Load(lease) => lease,
            // Rare, and its future is large.
            LoadStart::Watch => match Box::pin(self.wait_for_other(key, policy)).await {
                WaitOutcome::Found(found) => return leader.finish(found),
                WaitOutcome::Load(lease) => lease,
            },
        };
        let (number, began) = (leader.begin_load(), Instant::now());
        let loaded = match self.load(policy, load).await {
            Ok(loaded) => loaded,
            Err(why) => {
                tracing::debug!(event = "cache.load_failed", %key, error = %why, "the loader has no answer");
                leader.finish(LoadResult::Failed(why));
                if let Some(lease) = lease {
                    self.guard.cache.release(key, lease).await;
                }
                return;
            }
        };
        let version = lease.as_ref().map_or(0, FillLease::version);
        let entry = Arc::new(new_entry(loaded, policy, began, version));
        let mut is_stored = false;
        if let Some(lease) = lease {
            leader.begin_fill();
            let put = self.guard.put(key, lease, &entry, policy, &mut budget);
            is_stored = put.await;
        }
        leader.finish(LoadResult::Loaded {
            entry,
            load: number,
            is_stored,
        });
    }

    async fn load(&self, policy: &Policy, load: &Load) -> Result<LoadedValue, ReadError> {
        self.guard.metrics.loads.add();
        let loading = AssertUnwindSafe(async { load().await }).catch_unwind();
        let outcome = match tokio::time::timeout(policy.load_within, loading).await {
            Ok(Ok(Ok(loaded))) => Ok(loaded),
            Ok(Ok(Err(why))) => Err(ReadError::Failed(Arc::new(why))),
            Ok(Err(_)) => Err(ReadError::Panicked),
            Err(_) => Err(ReadError::TookTooLong(policy.load_within)),
        };
        if outcome.is_err() {
            self.guard.metrics.failures.add();
        }
        outcome
    }

    /// Looks up until another process has filled, gave up its lease, or took too long.
    async fn wait_for_other(&self, key: &Key, policy: &Policy) -> WaitOutcome {
        let (since, mut pause) = (tokio::time::Instant::now(), FIRST_PAUSE);
        while since.elapsed() < policy.wait_for_others {
            tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let number = self.flights.next_number();
            let lookup = self.guard.get(key, policy, &mut self.budget.clone()).await;
            let Some(lookup) = lookup else {
                return WaitOutcome::Load(None);
            };
            if let Some(entry) = &lookup.entry
                && entry.age(Instant::now()) < entry.fresh
            {
                let entry = Arc::clone(entry);
                return WaitOutcome::Found(LoadResult::Found {
                    entry,
                    lookup: number,
                });
            }
            let budget = &mut self.budget.clone();
            match self.guard.acquire_lease(key, policy, &lookup, budget).await {
                Some(LeaseOutcome::Acquired(lease)) => return WaitOutcome::Load(Some(lease)),
                Some(LeaseOutcome::Held | LeaseOutcome::Superseded) => {}
                Some(LeaseOutcome::NoEpoch) | None => return WaitOutcome::Load(None),
            }
        }
        WaitOutcome::Load(None)
    }

    /// Serves the stale entry after a failed load, if the policy allows it.
    fn fall_back(
        &self,
        why: ReadError,
        fallback: Option<Arc<Entry>>,
    ) -> Result<CacheRead, ReadError> {
        let may_serve =
            |entry: &Arc<Entry>| entry.age(Instant::now()) < entry.fresh + entry.on_error;
        match fallback.filter(may_serve) {
            Some(entry) => Ok(self.counted(entry, CacheReadState::Stale, CacheLevel::L2)),
            None => Err(why),
        }
    }

    fn counted(&self, entry: Arc<Entry>, state: CacheReadState, level: CacheLevel) -> CacheRead {
        self.guard.metrics.count(state);
        served(entry, state, level)
    }
}

fn served(entry: Arc<Entry>, state: CacheReadState, level: CacheLevel) -> CacheRead {
    CacheRead {
        entry,
        state,
        level,
    }
}

fn new_entry(loaded: LoadedValue, policy: &Policy, began: Instant, version: u128) -> Entry {
    let fresh = match loaded.absent {
        true => policy.absent,
        false => loaded.fresh.unwrap_or(policy.fresh).min(policy.fresh),
    };
    let stale_time = |time: Duration| {
        if loaded.absent || fresh.is_zero() {
            Duration::ZERO
        } else {
            time
        }
    };
    Entry {
        body: loaded.body,
        version,
        absent: loaded.absent,
        snapshot: loaded.snapshot,
        tags: policy.tags.clone(),
        stored_at: began,
        fresh: fresh.mul_f64(1.0 - policy.jitter.clamp(0.0, 0.5) * fastrand::f64()),
        while_revalidating: stale_time(policy.while_revalidating),
        on_error: stale_time(policy.on_error),
        load_time: began.elapsed(),
    }
}
