//! The fenced cache: one set of operations over Redis, Upstash and this process's own memory. The daemon's
//! relay, readers and HTTP API use it, and so can other programs.
//!
//! A reader that misses acquires a *lease*, loads together with the database snapshot that its load saw, and
//! *fills*. The fill is refused unless the lease is still valid (a removal, a flush and an eviction end it) and the
//! snapshot includes the key's *fence*, the join of the snapshots of its removals. `docs/freshness.md` has the
//! argument.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use oddsd_cache::{
//!     Cache, CacheReadState, CacheSettings, InvalidationTargets, LoadedValue, Policy, Reader,
//! };
//! use oddsd_core::key::Key;
//! use oddsd_core::model::DbSnapshot;
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let cache = Cache::open(&CacheSettings::default()).await?;
//! let reader = Reader::new(Arc::new(cache));
//! let key = Key::races_by_stage();
//! let policy = Policy::fresh_for(Duration::from_secs(30));
//!
//! // The first read loads; commit 1 is what its load saw. The second one is a hit.
//! let load = || async { Ok(LoadedValue::new("3.5", DbSnapshot::from_commit_count(1))) };
//! assert_eq!(reader.read(&key, &policy, load).await?.state, CacheReadState::Miss);
//! assert_eq!(reader.read(&key, &policy, load).await?.state, CacheReadState::Hit);
//!
//! // Commit 2 changes the price. After its removal is confirmed, no reader gets the old one.
//! let targets = InvalidationTargets { keys: vec![key.clone()], ..InvalidationTargets::default() };
//! reader.remove(&targets, &DbSnapshot::from_commit_count(2)).await?;
//! let load = || async { Ok(LoadedValue::new("3.25", DbSnapshot::from_commit_count(2))) };
//! let read = reader.read(&key, &policy, load).await?;
//! assert_eq!((read.state, read.body().as_ref()), (CacheReadState::Miss, b"3.25".as_ref()));
//! # anyhow::Ok(())
//! # })?;
//! # anyhow::Ok(())
//! ```

#![warn(missing_docs)]

mod answer;
mod backend;
mod breaker;
mod clock;
mod command;
mod connection;
mod entry;
mod error;
mod guard;
mod hot_keys;
mod in_process;
#[cfg(test)]
mod interleavings;
mod l1;
mod latency;
mod lease;
mod local;
mod lookup;
mod owed;
mod policy;
mod protocol;
mod read_stats;
mod reader;
mod redis;
mod remote;
mod removal;
mod script;
mod single_flight;
mod sync;
mod transport;
mod unmanaged;
mod upstash;

pub use answer::{CacheLevel, CacheRead, CacheReadState, LoadedValue, ReadError};
pub use backend::{Cache, CacheSettings};
pub use bytes::Bytes;
pub use entry::Entry;
pub use error::CacheError;
pub use in_process::InProcessCache;
pub use lease::{Epoch, FillLease, LeaseOutcome, PutOutcome};
pub use lookup::Lookup;
pub use policy::Policy;
pub use read_stats::Reads;
pub use reader::{READ_BUDGET, Reader};
pub use remote::RemoteCache;
pub use removal::Removed;
pub use unmanaged::ScanResult;

pub use oddsd_core::key::{InvalidationTarget, InvalidationTargets};
