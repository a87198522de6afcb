//! Compares a feed's snapshot with the stored state: the one place that decides what a change is.
//! The poller passes events to a [`Differ`]; stores write the resulting [`Changes`].
//!
//! Observations are ordered by the number of the cycle that requested them, and never by a wall clock of ours, which
//! may be wrong and be set back. Cycles are numbered when the request is sent, under the lease: the number decides
//! between two snapshots, also about absence. The feed's own time, where it gives one (`Price::observed_at`), orders
//! the values of one price. A snapshot requested earlier than the last one changes nothing, and neither does a price
//! with an older feed time than the stored one. Only recordings, whose times are data, are ordered by
//! `Snapshot::as_of`.
//!
//! Events arrive one by one, so that memory grows with the changes and not with the answer. An event whose text has
//! the fingerprint that it was stored from is not even parsed: [`EventSink::find_unchanged`]. Any change from elsewhere clears
//! that fingerprint.

mod changes;
mod differ;
mod doubt;
mod matching;
mod outbox;
mod sink;
pub mod stored_state;
mod transitions;
mod validate;

use crate::model::{Snapshot, SnapshotMeta};
pub use changes::{
    Changes, EventChange, ExcludedRows, MissingRows, PendingRemovals, PriceChange, PriceChangeKind,
    RefreshedPrices, SelectionChange, ShrinkGuard, SnapshotStats, StoredBookmaker,
};
pub use differ::Differ;
pub use outbox::{OutboxEntry, Purpose};
pub use sink::{CollectingSink, EventSink};
use stored_state::StoredState;
pub use stored_state::{DanglingReference, StateBuilder, StoredPriceRow};
pub use transitions::{StatusCorrection, status_transitions};

/// Compares the stored state with a complete snapshot that cycle number `cycle` requested.
pub fn compute_changes(
    state: &StoredState,
    cycle: i64,
    observed: &Snapshot,
    guard: &ShrinkGuard,
) -> Changes {
    let mut differ = Differ::new(state, cycle);
    differ.start(observed.as_of);
    for event in &observed.events {
        differ.compare(event, None);
    }
    let meta = SnapshotMeta {
        source: observed.source.clone(),
        as_of: observed.as_of,
        scope: observed.scope.clone(),
        in_doubt: observed.in_doubt.clone(),
        bookmakers: observed.bookmakers.clone(),
        rejected: observed.rejected.clone(),
    };
    differ.finish(meta, guard)
}

#[cfg(test)]
mod tests;
