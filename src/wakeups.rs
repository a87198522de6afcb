//! The wake-ups that the services of one process send each other. `app` makes one set; each service holds a clone.

use std::sync::Arc;

use tokio::sync::Notify;

/// Each is a permit of one: a wake-up that finds no waiter is kept for the next wait. None of them carries data, and
/// none is needed for correctness: each service also checks by itself from time to time.
#[derive(Clone, Debug, Default)]
pub struct Wakeups {
    /// The outbox has a row to claim. Sent by each committer, received by the relay.
    pub outbox: Arc<Notify>,
    /// A removal found a cache without an epoch. Sent by the relay, received by the epoch monitor.
    pub epoch_missing: Arc<Notify>,
    /// A cache that was away answers again. Sent by the epoch monitor, received by the relay.
    pub cache_recovered: Arc<Notify>,
    /// An operator's status correction waits. Sent by the leader election, received by the poller.
    pub correction: Arc<Notify>,
}
