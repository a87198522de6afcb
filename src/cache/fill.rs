//! Reading through the cache: look, else load once for everybody who waits, then fill.
//!
//! A request spends at most its budget ([`READ_BUDGET`]) on the cache in all, whatever the cache does; when it is
//! not there the loader answers. A value that was loaded before a removal is never handed to a
//! reader of this process who came after it, as long as the cache can tell.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::breaker::{Breaker, Turn};
use super::flight::{Flight, Flights, Landed, Loaded, Part, Verdict};
use super::{Bytes, Cache, CacheError, Lease, Lookup};
use crate::key::Key;

/// What one request may spend on the cache, all its commands together.
pub const READ_BUDGET: Duration = Duration::from_millis(50);

/// How often a reader waits for somebody else's load before it loads for itself.
const WAITS: usize = 3;

/// Reads through one cache; shared by all requests of the process.
pub struct Reader {
    cache: Arc<Cache>,
    budget: Duration,
    breaker: Mutex<Breaker>,
    flights: Flights,
}

#[derive(Clone, Debug)]
pub struct Served {
    pub body: Bytes,
    pub state: ReadState,
    /// How long this body may still be served; for a fresh load its whole time to live.
    pub remaining: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadState {
    /// From the cache.
    Hit,
    /// Loaded: the cache was asked and had nothing.
    Miss,
    /// Loaded: the cache is off, did not answer, or refused.
    Bypass,
}

/// What a look into the cache showed.
enum Look {
    Hit(Served),
    Miss(Option<Lease>),
    NoCache,
}

impl Reader {
    pub fn new(cache: Arc<Cache>) -> Self {
        Self::with_budget(cache, READ_BUDGET)
    }

    /// As `new`, with another bound on what one request may spend on the cache.
    pub fn with_budget(cache: Arc<Cache>, budget: Duration) -> Self {
        Self {
            cache,
            budget,
            breaker: Mutex::default(),
            flights: Flights::default(),
        }
    }

    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// The cached body, or what `load` says (a body and its time to live), stored for the next one.
    /// The only error is the loader's own.
    pub async fn read<F, Fut, E>(&self, key: &Key, load: F) -> Result<Served, E>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<(Vec<u8>, Duration), E>>,
    {
        let mut budget = self.budget;
        for _ in 0..WAITS {
            let looking = self.flights.look(key);
            let look = self.look(key, &mut budget).await;
            let (mut lease, mut state) = (None, ReadState::Miss);
            let part = match look {
                Look::Hit(served) => return Ok(served),
                Look::Miss(Some(ours)) => {
                    lease = Some(ours);
                    let flight = self.flights.lead(key);
                    drop(looking);
                    Part::Lead(flight)
                }
                Look::Miss(None) => {
                    let asked = Instant::now();
                    let part = self.flights.join_after(looking, budget).await;
                    budget = budget.saturating_sub(asked.elapsed());
                    part
                }
                Look::NoCache => {
                    state = ReadState::Bypass;
                    drop(looking);
                    self.flights.join(key)
                }
            };
            let flight = match part {
                Part::Lead(flight) => flight,
                Part::Wait(waiter) => match waiter.landed(budget).await {
                    Landed::Answer(loaded) => return Ok(loaded.served(state)),
                    Landed::LookAgain => continue,
                    Landed::LoadYourself => break,
                },
            };
            if lease.is_none() && state == ReadState::Miss {
                // Somebody held the lease when we looked, and nobody here does now: they are done,
                // or in another process.
                match self.look(key, &mut budget).await {
                    Look::Hit(served) => return Ok(served),
                    Look::Miss(fresh) => lease = fresh,
                    Look::NoCache => state = ReadState::Bypass,
                }
            }
            return self
                .lead(flight, key, lease, state, &mut budget, load)
                .await;
        }
        let (body, ttl) = load().await?;
        let loaded = Loaded {
            body: body.into(),
            ttl,
        };
        Ok(loaded.served(ReadState::Bypass))
    }

    async fn lead<F, Fut, E>(
        &self,
        flight: Flight<'_>,
        key: &Key,
        lease: Option<Lease>,
        mut state: ReadState,
        budget: &mut Duration,
        load: F,
    ) -> Result<Served, E>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<(Vec<u8>, Duration), E>>,
    {
        let (body, ttl) = match load().await {
            Ok(answer) => answer,
            Err(failure) => {
                flight.failed();
                return Err(failure);
            }
        };
        let loaded = Loaded {
            body: body.into(),
            ttl,
        };
        flight.loaded(loaded.clone());
        let mut verdict = Verdict::Unknown;
        if let Some(lease) = lease {
            match self.fill(key, &lease, &loaded, budget).await {
                Some(answer) => verdict = answer,
                None => state = ReadState::Bypass,
            }
        }
        flight.settled(loaded.clone(), verdict);
        Ok(loaded.served(state))
    }

    async fn look(&self, key: &Key, budget: &mut Duration) -> Look {
        if !self.may_ask(*budget) {
            return Look::NoCache;
        }
        let asked = Instant::now();
        let answer = within(*budget, self.cache.get_within(key, *budget)).await;
        *budget = budget.saturating_sub(asked.elapsed());
        match answer {
            Ok(Lookup::Hit { body, remaining }) => {
                self.worked();
                tracing::debug!(event = "cache_hit", %key, remaining_s = remaining.as_secs(), "hit");
                Look::Hit(Served {
                    body,
                    state: ReadState::Hit,
                    remaining,
                })
            }
            Ok(Lookup::Miss { lease }) => {
                self.worked();
                Look::Miss(lease)
            }
            Err(why) => {
                self.did_not_work(&why);
                tracing::debug!(event = "cache_bypass", %key, reason = %why, "the loader answers");
                Look::NoCache
            }
        }
    }

    /// `None`: it could not be stored.
    async fn fill(
        &self,
        key: &Key,
        lease: &Lease,
        loaded: &Loaded,
        budget: &mut Duration,
    ) -> Option<Verdict> {
        let Loaded { body, ttl } = loaded;
        if ttl.is_zero() {
            return Some(Verdict::Unknown);
        }
        if !self.cache.can_keep(body) {
            tracing::debug!(event = "cache_skip", %key, reason = "too large, or not text", "served, not kept");
            return Some(Verdict::Unknown);
        }
        if !self.may_ask(*budget) {
            return None;
        }
        let asked = Instant::now();
        let fill = self.cache.fill_within(key, lease, body, *ttl, *budget);
        let answer = within(*budget, fill).await;
        *budget = budget.saturating_sub(asked.elapsed());
        match answer {
            Ok(true) => {
                self.worked();
                tracing::debug!(event = "cache_miss_stored", %key, ttl_s = ttl.as_secs(), "stored");
                Some(Verdict::Current)
            }
            Ok(false) => {
                self.worked();
                Some(Verdict::Voided)
            }
            Err(why) => {
                self.did_not_work(&why);
                tracing::debug!(event = "cache_store_error", %key, error = %why, "served, not kept");
                None
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

impl Loaded {
    fn served(self, state: ReadState) -> Served {
        Served {
            body: self.body,
            state,
            remaining: self.ttl,
        }
    }
}

/// The backends have deadlines of their own; this one holds whatever they do.
async fn within<T>(
    budget: Duration,
    command: impl Future<Output = Result<T, CacheError>>,
) -> Result<T, CacheError> {
    tokio::time::timeout(budget, command)
        .await
        .unwrap_or_else(|_| {
            Err(CacheError::Timeout {
                detail: format!("no answer within {} ms", budget.as_millis()),
            })
        })
}
