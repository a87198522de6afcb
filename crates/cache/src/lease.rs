//! The records of a fenced fill: the fill lease, the outcomes of acquiring and using it, and the epoch
//! of a cache's memory. Every backend returns them; callers hand them back unchanged.

use std::time::{Duration, Instant};

use super::local::Generations;

/// A lease outlives any load that a reader waits for; a reader that died with one delays the next
/// fill by no more than this.
pub(super) const LEASE_TTL: Duration = Duration::from_secs(10);

/// A fence may expire or be evicted at any time: the next lease begins it again at the watermark.
pub(super) const FENCE_TTL: Duration = Duration::from_secs(3600);

/// An entry whose tag has no fence counts as removed.
pub(super) const TAG_FENCE_TTL: Duration = Duration::from_secs(48 * 3600);

/// No entry lives longer.
pub(super) const LONGEST_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// The outcome of asking for the lease of a missing key.
#[derive(Debug)]
pub enum LeaseOutcome {
    /// This reader has the lease: load the value, and fill with it.
    Acquired(FillLease),
    /// Another reader holds the lease.
    Held,
    /// The stored value changed since the lookup: look up again.
    Superseded,
    /// The cache's memory has no valid epoch: load the value, and do not fill.
    NoEpoch,
}

/// The right to fill one key, until a removal, a flush or the lease's time (10 s) ends it.
#[derive(Debug)]
pub struct FillLease(pub(super) LeaseState);

impl FillLease {
    /// The version of the entry that this lease fills.
    pub fn version(&self) -> u128 {
        match &self.0 {
            LeaseState::InProcess(lease) => lease.token,
            LeaseState::Remote(lease) => lease.token,
        }
    }
}

#[derive(Debug)]
pub(super) enum LeaseState {
    InProcess(LocalLease),
    Remote(RemoteLease),
}

/// A lease of the in-process cache, with the generations at the time when it was given.
#[derive(Debug)]
pub(super) struct LocalLease {
    pub token: u128,
    pub generations: Generations,
}

/// A lease that a cache server gave.
#[derive(Debug)]
pub(super) struct RemoteLease {
    /// Random: only its uniqueness matters.
    pub token: u128,
    /// The epoch record at the time of the lease: `epoch-id run`.
    pub epoch: String,
    /// The server's clock when the lease was given.
    pub server_ms: u64,
    /// The same moment by the local clock.
    pub acquired_at: Instant,
}

impl RemoteLease {
    /// The token as the scripts compare it.
    pub fn token_text(&self) -> String {
        format!("{:032x}", self.token)
    }

    /// The server's clock now.
    pub fn server_ms_now(&self) -> u64 {
        self.server_ms + self.acquired_at.elapsed().as_millis() as u64
    }

    /// The id of the epoch, without the server run.
    pub fn epoch_id(&self) -> &str {
        self.epoch.split(' ').next().unwrap_or_default()
    }
}

/// The outcome of a fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The entry is stored.
    Stored,
    /// A removal or a flush ended the lease, or it has expired.
    LeaseEnded,
    /// The load's database snapshot does not include everything that the key's removals saw.
    TooEarly,
    /// The epoch that gave the lease has ended.
    EpochEnded,
}

/// One epoch of a cache's memory: its id, which begins with the mark of the database, the server run it began on, and its
/// heartbeat counter.
#[derive(Clone, Debug)]
pub struct Epoch {
    /// `epoch-id run`, as it is stored.
    pub(super) record: String,
    pub(super) heartbeat: u64,
}

impl Epoch {
    /// `database` is its mark.
    pub(super) fn new(run: &str, database: &str) -> Self {
        Self {
            record: format!("{database}{:08x} {run}", fastrand::u32(1..)),
            heartbeat: 0,
        }
    }

    pub(super) fn id(&self) -> &str {
        self.record.split(' ').next().unwrap_or_default()
    }

    /// The server run that the epoch began on.
    pub(super) fn run(&self) -> Option<&str> {
        self.record.split(' ').nth(1)
    }
}
