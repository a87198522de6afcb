//! The input and output of a read-through: what a loader returns, what a reader gets, and why there is no
//! answer. `Reader` and its callers use these types.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::entry::Entry;
use oddsd_core::model::DbSnapshot;

/// A loader, shared by the tasks that may run it.
pub(super) type Load = Arc<dyn Fn() -> LoadFuture + Send + Sync>;
type LoadFuture = Pin<Box<dyn Future<Output = anyhow::Result<LoadedValue>> + Send>>;

pub(super) fn boxed<F, Fut>(load: F) -> Load
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = anyhow::Result<LoadedValue>> + Send + 'static,
{
    Arc::new(move || Box::pin(load()))
}

/// A loaded value, with the database snapshot that it includes at least: taken before the data or
/// in the same statement, never after.
#[derive(Clone, Debug)]
pub struct LoadedValue {
    /// The answer.
    pub body: Bytes,
    /// The database snapshot.
    pub snapshot: DbSnapshot,
    /// There is no such thing: kept for a short time only.
    pub absent: bool,
    /// A shorter fresh time than the policy's, where the answer itself knows its end. Zero: not kept.
    pub fresh: Option<Duration>,
}

impl LoadedValue {
    /// A value, fresh for as long as the policy says.
    pub fn new(body: impl Into<Bytes>, snapshot: DbSnapshot) -> Self {
        Self {
            body: body.into(),
            snapshot,
            absent: false,
            fresh: None,
        }
    }

    /// The answer "there is none".
    pub fn absent(snapshot: DbSnapshot) -> Self {
        Self {
            absent: true,
            ..Self::new(Bytes::new(), snapshot)
        }
    }
}

/// The answer that a reader gets.
#[derive(Clone, Debug)]
pub struct CacheRead {
    /// The body and its times.
    pub entry: Arc<Entry>,
    /// Whether the cache had it.
    pub state: CacheReadState,
    /// Where it came from.
    pub level: CacheLevel,
}

impl CacheRead {
    /// The body of the answer.
    pub fn body(&self) -> &Bytes {
        &self.entry.body
    }

    /// How long it may still be served as fresh, from now on.
    pub fn remaining(&self) -> Duration {
        self.entry.fresh.saturating_sub(self.age())
    }

    /// The time since its load began.
    pub fn age(&self) -> Duration {
        self.entry.age(std::time::Instant::now())
    }
}

/// Whether the cache had the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheReadState {
    /// From the cache, and fresh.
    Hit,
    /// From the cache, past its fresh time, as the policy allows: while it is renewed, or because the renewal
    /// failed.
    Stale,
    /// Loaded: the cache had nothing.
    Miss,
    /// Loaded: the cache is off, did not answer, or its memory has no valid epoch.
    Bypass,
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheLevel {
    /// This process's memory.
    L1,
    /// The cache server.
    L2,
    /// The loader.
    Loader,
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The loader's own error.
    #[error("{0:#}")]
    Failed(Arc<anyhow::Error>),
    /// The loader panicked.
    #[error("the loader panicked; its own message is in the log")]
    Panicked,
    /// The loader exceeded the policy's time for a load.
    #[error("the loader had no answer within {} ms", .0.as_millis())]
    TookTooLong(Duration),
}
