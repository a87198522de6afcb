//! Reading through the cache: look, else load once for everybody who waits, then fill.
//!
//! A request spends at most its budget ([`READ_BUDGET`]) on the cache in all, whatever the cache does; when it
//! is not there the loader answers. Loads run in tasks of their own: a reader who goes away, a loader
//! that panics or hangs harms nobody else.

mod ask;
mod fly;
mod served;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::breaker::Breaker;
use super::entry::Entry;
use super::flight::{Flight, Flights, Landing, Own, Verdict};
use super::hot::Hot;
use super::pace::Pace;
use super::reads::Tally;
use super::{Cache, CacheError, Looked, Policy, Removed, Taken, Targets};
use crate::key::Key;
use crate::model::View;
use ask::Look;
use fly::{Start, entry};

pub use super::reads::Reads;
pub use served::{Level, Loaded, ReadError, ReadState, Served};

/// What one request may spend on the cache, all its commands together.
pub const READ_BUDGET: Duration = Duration::from_millis(50);

/// How often a reader looks again before it loads for itself: each time it was overtaken by a removal.
const LOOKS: usize = 4;

/// Reads through one cache; shared by all requests of the process, cheap to clone.
#[derive(Clone)]
pub struct Reader(Arc<Inner>);

struct Inner {
    cache: Arc<Cache>,
    budget: Duration,
    breaker: Mutex<Breaker>,
    flights: Arc<Flights>,
    hot: Hot,
    tally: Tally,
    pace: Pace,
}

pub(super) type Load = Arc<dyn Fn() -> Loading + Send + Sync>;
type Loading = Pin<Box<dyn Future<Output = anyhow::Result<Loaded>> + Send>>;

impl Reader {
    pub fn new(cache: Arc<Cache>) -> Self {
        Self::with_budget(cache, READ_BUDGET)
    }

    /// As `new`, with another bound on what one request may spend on the cache.
    pub fn with_budget(cache: Arc<Cache>, budget: Duration) -> Self {
        Self(Arc::new(Inner {
            cache,
            budget,
            breaker: Mutex::default(),
            flights: Arc::default(),
            hot: Hot::default(),
            tally: Tally::default(),
            pace: Pace::default(),
        }))
    }

    pub fn cache(&self) -> &Arc<Cache> {
        &self.0.cache
    }

    pub fn reads(&self) -> Reads {
        self.0.tally.told()
    }

    /// What this process alone would serve, without asking anybody.
    pub fn peek_first(&self, key: &Key) -> Option<Arc<Entry>> {
        self.0.cache.first(key, std::time::Instant::now())
    }

    /// The cached answer, or what `load` says, stored for the next one. The only error is the loader's.
    ///
    /// The answer shows every change whose removal was confirmed before this call, on every backend
    /// and whatever else happens meanwhile; unless it is labelled [`ReadState::Stale`], which ends
    /// with a removal all the same.
    pub async fn read<F, Fut>(
        &self,
        key: &Key,
        policy: &Policy,
        load: F,
    ) -> Result<Served, ReadError>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<Loaded>> + Send + 'static,
    {
        let now = std::time::Instant::now();
        if let Some(entry) = self.0.cache.first(key, now) {
            let age = entry.age(now);
            if age < entry.fresh && !entry.wants_renewal(age, policy.early, fastrand::f64) {
                self.0.tally.first_hits.add();
                if fastrand::u8(..) == 0 {
                    self.0.hot.note(key, 256, policy, || boxed(load));
                }
                return Ok(Served {
                    entry,
                    state: ReadState::Hit,
                    level: Level::First,
                });
            }
        }
        // Apart, so that a hit does not carry what a miss needs.
        Box::pin(self.read_on(key, policy, boxed(load))).await
    }

    /// What `load` says now, for a reader who asked for that; the cache is neither asked nor filled.
    pub async fn bypass<F, Fut>(&self, policy: &Policy, load: F) -> Result<Served, ReadError>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<Loaded>> + Send + 'static,
    {
        let began = std::time::Instant::now();
        let loaded = self.0.load(policy, &boxed(load)).await?;
        self.0.tally.count(ReadState::Bypass);
        Ok(Served {
            entry: Arc::new(entry(loaded, policy, began, 0)),
            state: ReadState::Bypass,
            level: Level::Loader,
        })
    }

    async fn read_on(&self, key: &Key, policy: &Policy, load: Load) -> Result<Served, ReadError> {
        let inner = &self.0;
        inner.hot.note(key, 1, policy, || load.clone());
        let arrived = inner.flights.number();
        let (mut budget, mut fallback) = (inner.budget, None);
        for _ in 0..LOOKS {
            let looked = inner.look(key, policy, &mut budget).await;
            if let Look::Asked(looked) = &looked
                && let Some(entry) = &looked.entry
            {
                match self.judge(key, entry, looked, policy, &load) {
                    Ok(served) => return Ok(served),
                    Err(stale) => fallback = Some(stale),
                }
            }
            let taken = match &looked {
                Look::Asked(looked) => inner.take(key, policy, looked, &mut budget).await,
                Look::NoCache => None,
            };
            let state = match taken {
                Some(Taken::Overtaken) => continue,
                Some(Taken::Mine(_) | Taken::Held) => ReadState::Miss,
                Some(Taken::NoFloor) | None => ReadState::Bypass,
            };
            let flight = match taken {
                Some(Taken::Mine(lease)) => Ok(self.fly(
                    key,
                    policy,
                    &load,
                    Start::Load(Some(lease)),
                    budget,
                    inner.flights.lead(key),
                )),
                Some(Taken::Held) => match inner.flights.join_or_lead(key) {
                    Ok(flight) => Ok(self.fly(key, policy, &load, Start::Watch, budget, flight)),
                    Err(seat) => Err(seat),
                },
                Some(Taken::NoFloor | Taken::Overtaken) | None => {
                    match inner.flights.join_or_lead(key) {
                        Ok(flight) => {
                            Ok(self.fly(key, policy, &load, Start::Load(None), budget, flight))
                        }
                        Err(seat) => Err(seat),
                    }
                }
            };
            let landing = match flight {
                Ok(own) => own.landed().await,
                Err(seat) => seat.landed(arrived).await,
            };
            let served = match landing {
                None => continue,
                Some(Landing::Failed(why)) => return inner.after(why, fallback),
                Some(Landing::Found(entry, _)) => Served {
                    entry,
                    state: ReadState::Hit,
                    level: Level::Second,
                },
                Some(Landing::Loaded(entry, _, verdict)) => Served {
                    entry,
                    state: match verdict {
                        Verdict::Kept => state,
                        Verdict::NotKept if state == ReadState::Miss => ReadState::Miss,
                        Verdict::NotKept => ReadState::Bypass,
                    },
                    level: Level::Loader,
                },
            };
            inner.tally.count(served.state);
            return Ok(served);
        }
        // Overtaken by removals again and again: a load of our own is as new as we are.
        let flight = inner.flights.lead(key);
        let own = self.fly(key, policy, &load, Start::Load(None), budget, flight);
        match own.landed().await {
            Some(Landing::Loaded(entry, ..) | Landing::Found(entry, _)) => {
                inner.tally.count(ReadState::Bypass);
                Ok(Served {
                    entry,
                    state: ReadState::Bypass,
                    level: Level::Loader,
                })
            }
            Some(Landing::Failed(why)) => inner.after(why, fallback),
            None => Err(ReadError::Panicked),
        }
    }

    /// Serves what is there, if its time allows; else it is what is left should the load fail.
    fn judge(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
        looked: &Looked,
        policy: &Policy,
        load: &Load,
    ) -> Result<Served, Arc<Entry>> {
        let age = entry.age(std::time::Instant::now());
        let state = if age < entry.fresh {
            if entry.wants_renewal(age, policy.early, fastrand::f64) {
                self.0.tally.early.add();
                self.renew(key, looked, policy, load);
            }
            ReadState::Hit
        } else if age < entry.fresh + entry.while_revalidating {
            self.renew(key, looked, policy, load);
            ReadState::Stale
        } else {
            return Err(Arc::clone(entry));
        };
        self.0.tally.count(state);
        Ok(Served {
            entry: Arc::clone(entry),
            state,
            level: Level::Second,
        })
    }

    /// Loads in the background, unless somebody does already.
    fn renew(&self, key: &Key, looked: &Looked, policy: &Policy, load: &Load) {
        let Ok(flight) = self.0.flights.join_or_lead(key) else {
            return;
        };
        let (reader, key, policy, load) = (self.clone(), key.clone(), policy.clone(), load.clone());
        let looked = looked.clone();
        tokio::spawn(async move {
            let mut budget = reader.0.budget;
            let taken = reader.0.take(&key, &policy, &looked, &mut budget).await;
            if let Some(Taken::Mine(lease)) = taken {
                let start = Start::Load(Some(lease));
                reader
                    .0
                    .fly(&key, &policy, &load, start, budget, flight)
                    .await;
            }
        });
    }

    fn fly(
        &self,
        key: &Key,
        policy: &Policy,
        load: &Load,
        start: Start,
        budget: Duration,
        flight: Flight,
    ) -> Own {
        let own = flight.own();
        let (inner, key, policy, load) = (
            Arc::clone(&self.0),
            key.clone(),
            policy.clone(),
            load.clone(),
        );
        tokio::spawn(async move { inner.fly(&key, &policy, &load, start, budget, flight).await });
        own
    }

    /// Removes answers from every level, or marks them stale; `view` has to see every change that makes them wrong. What is
    /// read most is loaded again at once.
    pub async fn remove(&self, targets: &Targets, view: &View) -> Result<Removed, CacheError> {
        let removed = self.0.cache.remove(targets, view).await?;
        for (key, policy, load) in self.0.hot.cooled(targets) {
            let reader = self.clone();
            self.0.tally.renewed.add();
            tokio::spawn(async move { reader.read_on(&key, &policy, load).await.map(drop) });
        }
        Ok(removed)
    }
}

fn boxed<F, Fut>(load: F) -> Load
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = anyhow::Result<Loaded>> + Send + 'static,
{
    Arc::new(move || Box::pin(load()))
}
