//! Four schemes that cache an answer. All read the same rows with the same statement and the same delay, and receive
//! the same changes at the same moments. The run under faults compares them.

mod after_commit;
mod common;
mod leases;
mod ours;
mod redis_pool;
mod stamps;

use std::sync::Arc;

use self::after_commit::AfterCommit;
use self::leases::Leases;
use self::stamps::Stamps;
use super::commit_log::VersionRead;

pub use self::common::{CommittedChange, PROCESSES, SlowLoader, answer_key};
pub use self::ours::Ours;

pub enum Scheme {
    Ours(Arc<Ours>),
    /// The key is deleted after the commit.
    AfterCommit(AfterCommit),
    /// The later wall-clock time wins.
    Stamps(Stamps),
    /// A fill needs the lease of its miss, and a removal ends the lease.
    Leases(Leases),
}

impl Scheme {
    pub fn after_commit(port: u16, loader: SlowLoader) -> Self {
        Self::AfterCommit(AfterCommit::new(port, loader))
    }

    pub fn stamps(port: u16, loader: SlowLoader) -> Self {
        Self::Stamps(Stamps::new(port, loader))
    }

    pub fn leases(port: u16, loader: SlowLoader) -> Self {
        Self::Leases(Leases::new(port, loader))
    }

    pub async fn read(&self, process: usize, row: usize) -> anyhow::Result<VersionRead> {
        match self {
            Self::Ours(ours) => ours.read(process, row).await,
            Self::AfterCommit(scheme) => scheme.read(row).await,
            Self::Stamps(scheme) => scheme.read(process, row).await,
            Self::Leases(scheme) => scheme.read(row).await,
        }
    }

    /// Delivers a change; `again` is the late second delivery of the same one.
    pub async fn remove(&self, change: &CommittedChange, again: bool) {
        match self {
            Self::Ours(ours) => ours.remove(change, again).await,
            Self::AfterCommit(scheme) => scheme.remove(change).await,
            Self::Stamps(scheme) => scheme.remove(change).await,
            Self::Leases(scheme) => scheme.remove(change).await,
        }
    }

    /// Fills that the cache refused.
    pub fn refused_fills(&self) -> u64 {
        match self {
            Self::Ours(ours) => ours.refused_fills(),
            Self::AfterCommit(_) => 0,
            Self::Stamps(scheme) => scheme.refused_fills(),
            Self::Leases(scheme) => scheme.refused_fills(),
        }
    }

    /// Removals that failed and are not repeated.
    pub fn failed_removals(&self) -> u64 {
        match self {
            Self::Ours(_) => 0,
            Self::AfterCommit(AfterCommit { redis, .. })
            | Self::Stamps(Stamps { redis, .. })
            | Self::Leases(Leases { redis, .. }) => redis.failed_removals(),
        }
    }
}
