//! The rules of the cache protocol, as pure functions. The in-process cache applies those of fences. `shard` adds
//! leases and epochs, as a server keeps them: `model` tries every order of steps on it, and `conformance` holds the scripts
//! to it, on a real Redis, and the in-process cache. `docs/freshness.md` has the argument.

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod model;
#[cfg(test)]
mod shard;

use oddsd_core::model::DbSnapshot;

/// What the rules need of a database snapshot.
pub(super) trait Snapshot: Clone + Eq {
    /// Sees nothing.
    fn nothing() -> Self;
    /// Sees what either of the two saw.
    fn merge(&self, other: &Self) -> Self;
    fn includes(&self, other: &Self) -> bool;
}

impl Snapshot for DbSnapshot {
    fn nothing() -> Self {
        Self::from_commit_count(0)
    }

    fn merge(&self, other: &Self) -> Self {
        DbSnapshot::merge(self, other)
    }

    fn includes(&self, other: &Self) -> bool {
        DbSnapshot::includes(self, other)
    }
}

/// The fence of a key or tag after a removal. A missing one begins at the watermark, which includes this removal and
/// all earlier ones: the lost fence may have held any of them.
pub(super) fn raise_fence<S: Snapshot>(fence: Option<&S>, removal: &S, watermark: &S) -> S {
    fence.map_or_else(|| watermark.clone(), |fence| fence.merge(removal))
}

/// Whether a load with this snapshot includes everything that the removals behind a fence saw. A missing fence proves
/// nothing.
pub(super) fn passes_fence<S: Snapshot>(load: &S, fence: Option<&S>) -> bool {
    fence.is_some_and(|fence| load.includes(fence))
}
