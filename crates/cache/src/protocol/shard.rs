//! The memory of one shard on a server, and the rules that its scripts keep, each an atomic step. `model` and
//! `conformance` use it; the daemon runs the scripts (`script`).

use std::collections::BTreeMap;

use super::super::lease::PutOutcome;
use super::{Snapshot, passes_fence, raise_fence};

/// A record and the epoch that it belongs to. In another epoch it counts as missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct OfEpoch<T> {
    pub epoch: u64,
    pub record: T,
}

impl<T> OfEpoch<T> {
    pub fn in_epoch(&self, epoch: u64) -> Option<&T> {
        (self.epoch == epoch).then_some(&self.record)
    }
}

/// Of an epoch that no memory has: records that are written while there is none belong to it.
pub(super) const NO_EPOCH: u64 = 0;

/// The mark of the database that an epoch is of: its id begins with it.
pub(super) fn database_of(epoch: u64) -> u64 {
    epoch >> 32
}

/// The life of a memory, on one run of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct EpochRecord {
    pub id: u64,
    pub run: u64,
}

/// The run of the server that a reader is connected to, and the mark of the database that it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Client {
    pub run: u64,
    pub database: u64,
}

impl Client {
    fn may_use(self, epoch: &EpochRecord) -> bool {
        epoch.run == self.run && database_of(epoch.id) == self.database
    }
}

/// An entry, as far as the rules look at it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct StoredEntry<N, S> {
    /// The token of the lease that filled it.
    pub version: u64,
    pub snapshot: S,
    pub tags: Vec<N>,
    pub is_stale: bool,
}

/// The targets of a removal.
pub(super) struct Targets<'a, N> {
    pub keys: &'a [N],
    pub mark_stale: &'a [N],
    pub tags: &'a [N],
}

/// The answer to a reader who asks for the lease of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum LeaseAnswer {
    /// With the id of the epoch.
    Acquired(u64),
    Held,
    Superseded,
    NoEpoch,
}

/// The records of one shard, in the memory of a server. `N` names keys and tags, `S` is a database snapshot. Each
/// operation is one atomic script.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ShardMemory<N: Ord, S> {
    pub epoch: Option<EpochRecord>,
    /// The join of the snapshots of all removals of the epoch, and of the snapshot with which it began. While there is
    /// no epoch, it belongs to the one that is about to begin.
    pub watermark: Option<OfEpoch<S>>,
    pub heartbeat: Option<u64>,
    pub fences: BTreeMap<N, OfEpoch<S>>,
    /// The tokens of the readers who load.
    pub leases: BTreeMap<N, OfEpoch<u64>>,
    pub entries: BTreeMap<N, OfEpoch<StoredEntry<N, S>>>,
}

impl<N: Ord, S> Default for ShardMemory<N, S> {
    fn default() -> Self {
        Self {
            epoch: None,
            watermark: None,
            heartbeat: None,
            fences: BTreeMap::new(),
            leases: BTreeMap::new(),
            entries: BTreeMap::new(),
        }
    }
}

impl<N: Ord + Clone, S: Snapshot> ShardMemory<N, S> {
    /// The epoch, if the watermark that vouches for it is there.
    fn proven_epoch(&self) -> Option<EpochRecord> {
        let epoch = self.epoch?;
        let watermark = self.watermark.as_ref()?;
        (watermark.epoch == epoch.id).then_some(epoch)
    }

    /// The entry that this reader is served.
    pub fn lookup(&self, key: &N, by: Client) -> Option<&StoredEntry<N, S>> {
        let epoch = self.epoch.filter(|epoch| by.may_use(epoch))?;
        let entry = self.entries.get(key)?.in_epoch(epoch.id)?;
        let includes_fence = |tag: &N| {
            let fence = self.fences.get(tag);
            passes_fence(
                &entry.snapshot,
                fence.and_then(|fence| fence.in_epoch(epoch.id)),
            )
        };
        entry.tags.iter().all(includes_fence).then_some(entry)
    }

    /// `seen` is the version of the entry that the reader's lookup found, valid or not.
    pub fn acquire_lease(
        &mut self,
        key: &N,
        tags: &[N],
        token: u64,
        by: Client,
        seen: Option<u64>,
    ) -> LeaseAnswer {
        let Some(epoch) = self.proven_epoch().filter(|epoch| by.may_use(epoch)) else {
            return LeaseAnswer::NoEpoch;
        };
        if self.entries.get(key).map(|entry| entry.record.version) != seen {
            return LeaseAnswer::Superseded;
        }
        for name in std::iter::once(key).chain(tags) {
            let fence = self.fences.get(name);
            if fence.is_none_or(|fence| fence.epoch != epoch.id) {
                let watermark = self.watermark.clone().expect("the epoch is proven");
                self.fences.insert(name.clone(), watermark);
            }
        }
        let held = self.leases.get(key);
        if held.is_some_and(|lease| lease.epoch == epoch.id) {
            return LeaseAnswer::Held;
        }
        let lease = OfEpoch {
            epoch: epoch.id,
            record: token,
        };
        self.leases.insert(key.clone(), lease);
        LeaseAnswer::Acquired(epoch.id)
    }

    /// Fills with an entry whose version is the token of the lease, which was given in `epoch`.
    pub fn put_if_valid(
        &mut self,
        key: &N,
        epoch: EpochRecord,
        entry: StoredEntry<N, S>,
    ) -> PutOutcome {
        let lease = OfEpoch {
            epoch: epoch.id,
            record: entry.version,
        };
        if self.leases.get(key) != Some(&lease) {
            return PutOutcome::LeaseEnded;
        }
        self.leases.remove(key);
        if self.epoch != Some(epoch) {
            return PutOutcome::EpochEnded;
        }
        let fence = self.fences.get(key);
        let fence = fence.and_then(|fence| fence.in_epoch(epoch.id));
        if !passes_fence(&entry.snapshot, fence) {
            return PutOutcome::TooEarly;
        }
        let entry = OfEpoch {
            epoch: epoch.id,
            record: entry,
        };
        self.entries.insert(key.clone(), entry);
        PutOutcome::Stored
    }

    /// Returns whether there is an epoch of this database. In one of another database, or one that is about to begin,
    /// nothing is touched: its snapshots cannot be compared with this one.
    pub fn remove(&mut self, targets: &Targets<'_, N>, removal: &S, database: u64) -> bool {
        let epoch = self.epoch.map(|epoch| epoch.id);
        let owner = epoch.or(self.watermark.as_ref().map(|watermark| watermark.epoch));
        if owner.is_some_and(|id| id != NO_EPOCH && database_of(id) != database) {
            return false;
        }
        // The lost watermark may have held any removal, and a new one does not vouch for them.
        self.epoch = self.proven_epoch();
        let epoch = self.epoch.map_or(NO_EPOCH, |epoch| epoch.id);
        let watermark = match self.watermark.take() {
            Some(watermark) => OfEpoch {
                epoch: watermark.epoch,
                record: watermark.record.merge(removal),
            },
            None => OfEpoch {
                epoch: NO_EPOCH,
                record: removal.clone(),
            },
        };
        let named = targets.keys.iter().chain(targets.mark_stale);
        for name in named.clone().chain(targets.tags) {
            let fence = self.fences.get(name);
            let fence = fence.and_then(|fence| fence.in_epoch(epoch));
            let record = raise_fence(fence, removal, &watermark.record);
            self.fences.insert(name.clone(), OfEpoch { epoch, record });
        }
        self.watermark = Some(watermark);
        for key in named {
            self.leases.remove(key);
        }
        for key in targets.keys {
            self.entries.remove(key);
        }
        for key in targets.mark_stale {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.record.is_stale = true;
            }
        }
        self.epoch.is_some()
    }

    /// Ends the epoch, for the one with this id to begin. What is removed from now on is in the watermark of that one.
    pub fn end_epoch(&mut self, next: u64) {
        self.epoch = None;
        self.heartbeat = None;
        self.watermark = Some(OfEpoch {
            epoch: next,
            record: S::nothing(),
        });
    }

    /// Begins an epoch with a snapshot of the database that was taken after the last one ended for it. Returns false if
    /// the watermark since then is lost, or belongs to an epoch that another daemon is about to begin.
    pub fn begin_epoch(&mut self, epoch: EpochRecord, snapshot: &S, heartbeat: u64) -> bool {
        let Some(watermark) = &mut self.watermark else {
            return false;
        };
        if watermark.epoch != epoch.id {
            return false;
        }
        watermark.record = watermark.record.merge(snapshot);
        self.heartbeat = Some(heartbeat);
        self.epoch = Some(epoch);
        true
    }

    /// Returns false if this is not the memory of the last heartbeat: emptied, restored from an old copy, or without
    /// the record that proves the epoch. The next heartbeat may be stored already, when its reply was lost.
    pub fn beat(&mut self, epoch: EpochRecord, last: u64, next: u64) -> bool {
        let is_known = self.heartbeat == Some(last) || self.heartbeat == Some(next);
        if !is_known || self.proven_epoch() != Some(epoch) {
            return false;
        }
        self.heartbeat = Some(next);
        true
    }
}
