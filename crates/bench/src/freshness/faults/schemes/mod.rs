//! Four ways to keep an answer in a cache. All of them read the same rows by the same statement, are
//! held up by the same lag, and are told of the same changes at the same moments.

mod after_commit;
mod leases;
mod ours;
mod stamps;
mod wire;

use std::sync::{Arc, Mutex, PoisonError};

use super::course::{self, Course};
use super::ledger::Read;
use crate::postgres::{Answers, Wrote};
use oddsd_core::key::Key;
use oddsd_core::model::DbSnapshot;
use oddsd_store::ClaimedBatch;

use after_commit::AfterCommit;
use leases::Leases;
pub use ours::{Ours, key};
use stamps::Stamps;
use wire::Wire;

/// Processes that read; the first one of ours is the daemon itself.
pub const PROCESSES: usize = 3;
/// No scheme removes an answer for its age within this, so that freshness is not its age's doing.
const TTL_SECONDS: u64 = 60;

/// A change that readers have to be told.
pub struct Change {
    pub row: usize,
    pub version: u64,
    /// The writer's wall clock after the commit, ms.
    pub at_ms: u64,
    pub key: Key,
    /// What whoever looks after the commit has seen, and the outbox row; `None` where somebody has to ask.
    pub told: Option<ClaimedBatch>,
}

impl Change {
    pub fn new(row: usize, key: Key, wrote: &Wrote) -> Self {
        Self {
            row,
            version: wrote.version,
            at_ms: wire::wall_ms(),
            told: ours::claim(&key, wrote),
            key,
        }
    }
}

/// Reads a row, and is held up before it gives back what it read.
pub struct Loader {
    answers: Arc<Answers>,
    dice: Mutex<fastrand::Rng>,
}

impl Loader {
    pub fn new(answers: Arc<Answers>, course: &Course, whose: u64) -> Self {
        Self {
            answers,
            dice: Mutex::new(course.dice(whose)),
        }
    }

    pub async fn load(&self, row: usize) -> anyhow::Result<(DbSnapshot, u64)> {
        let loaded = self.answers.load(row).await?;
        self.lag().await;
        Ok(loaded)
    }

    async fn lag(&self) {
        let lag = course::lag(&mut self.dice.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::time::sleep(lag).await;
    }
}

pub enum Scheme {
    Ours(Ours),
    /// The key is deleted after the commit.
    AfterCommit(AfterCommit),
    /// The newer wall-clock time wins.
    Stamps(Stamps),
    /// A fill needs the lease that its miss was given, and a removal ends it.
    Leases(Leases),
}

impl Scheme {
    pub fn after_commit(port: u16, loader: Loader) -> Self {
        Self::AfterCommit(AfterCommit::new(port, loader))
    }

    pub fn stamps(port: u16, loader: Loader) -> Self {
        Self::Stamps(Stamps::new(port, loader))
    }

    pub fn leases(port: u16, loader: Loader) -> Self {
        Self::Leases(Leases::new(port, loader))
    }

    pub async fn read(&self, process: usize, row: usize) -> anyhow::Result<Read> {
        match self {
            Self::Ours(ours) => ours.read(process, row).await,
            Self::AfterCommit(scheme) => scheme.read(row).await,
            Self::Stamps(scheme) => scheme.read(process, row).await,
            Self::Leases(scheme) => scheme.read(row).await,
        }
    }

    /// `again`: it was told before, and comes once more, late.
    pub async fn removed(&self, change: &Change, again: bool) {
        match self {
            Self::Ours(ours) => ours.removed(change, again).await,
            Self::AfterCommit(scheme) => scheme.removed(change).await,
            Self::Stamps(scheme) => scheme.removed(change).await,
            Self::Leases(scheme) => scheme.removed(change).await,
        }
    }

    /// Fills that were not taken.
    pub fn refused(&self) -> u64 {
        match self {
            Self::Ours(ours) => ours.refused(),
            Self::AfterCommit(_) => 0,
            Self::Stamps(scheme) => scheme.refused(),
            Self::Leases(scheme) => scheme.refused(),
        }
    }

    /// Removals that failed and that nobody repeats.
    pub fn forgotten(&self) -> u64 {
        match self {
            Self::Ours(_) => 0,
            Self::AfterCommit(AfterCommit { wire, .. })
            | Self::Stamps(Stamps { wire, .. })
            | Self::Leases(Leases { wire, .. }) => wire.forgotten(),
        }
    }
}
