//! The direct path of the relay: it removes what this process has just committed, without reading it back from the
//! database. Committers send to it through [`direct_channel`]; [`Relay::run`](super::Relay::run) receives.
//!
//! The outbox rows are settled afterwards, many commits at once. Until then the polling path can claim them, so
//! that a crash, a full queue or an unreachable cache loses nothing.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Relay;
use oddsd_store::{BatchOutcome, ClaimedBatch};

/// Commits that wait for the relay; the polling path takes those that find the queue full.
const QUEUE: usize = 1024;
/// The most commits removed together. Only those that are ready are taken.
const AT_ONCE: usize = 256;

/// Rows whose removal the cache answered, and what the outbox has to store.
type RemovedRows = (Vec<i64>, BatchOutcome);

/// The receiving end of the queue.
pub struct DirectPath {
    commits: mpsc::Receiver<ClaimedBatch>,
    removed: Option<mpsc::UnboundedSender<RemovedRows>>,
}

/// The queue from committers to the relay.
pub fn direct_channel() -> (mpsc::Sender<ClaimedBatch>, DirectPath) {
    let (sender, commits) = mpsc::channel(QUEUE);
    let removed = None;
    (sender, DirectPath { commits, removed })
}

/// Rows that the direct path has removed and not settled yet.
#[derive(Clone, Debug, Default)]
pub struct InFlight(Arc<Mutex<HashSet<i64>>>);

impl InFlight {
    pub(super) fn contains(&self, row: i64) -> bool {
        self.0.lock().contains(&row)
    }

    fn add(&self, rows: &[i64]) {
        self.0.lock().extend(rows);
    }

    fn remove(&self, rows: &[i64]) {
        let mut in_flight = self.0.lock();
        for row in rows {
            in_flight.remove(row);
        }
    }
}

impl DirectPath {
    /// Starts the task that settles what is removed. Once this end is dropped, the task ends after the last removal
    /// is settled or given up.
    pub(super) fn start_settler(&mut self, relay: &Relay) -> JoinHandle<()> {
        let (sender, removed) = mpsc::unbounded_channel();
        self.removed = Some(sender);
        tokio::spawn(settle(relay.clone(), removed))
    }

    /// Removes the commits that wait now, if any, so that the next claim does not return them.
    pub(super) async fn remove_waiting(&mut self, relay: &Relay) {
        if !self.commits.is_empty() {
            self.remove_next(relay).await;
        }
    }

    /// Waits for a commit and removes the answers that it and all others in the queue make wrong. Pending for ever
    /// once no committer is left.
    pub(super) async fn remove_next(&mut self, relay: &Relay) {
        let Some(ClaimedBatch {
            mut rows,
            mut snapshot,
        }) = self.commits.recv().await
        else {
            return std::future::pending().await;
        };
        for _ in 1..AT_ONCE {
            let Ok(next) = self.commits.try_recv() else {
                break;
            };
            rows.extend(next.rows);
            snapshot = snapshot.merge(&next.snapshot);
        }
        match relay.remove(&rows, &snapshot, None).await {
            Ok(outcome) => {
                let rows: Vec<i64> = rows.iter().map(|row| row.id).collect();
                relay.in_flight.add(&rows);
                if let Some(removed) = &self.removed {
                    let _ = removed.send((rows, outcome));
                }
            }
            Err(why) => {
                let (backend, rows) = (relay.cache().backend(), rows.len());
                tracing::debug!(event = "relay.fast_path_failed", backend, rows, error = %why, "the polling path retries and logs it");
                relay.wakeups.outbox.notify_one();
            }
        }
    }
}

async fn settle(relay: Relay, mut removed: mpsc::UnboundedReceiver<RemovedRows>) {
    while let Some((mut rows, mut outcome)) = removed.recv().await {
        while let Ok((next_rows, next)) = removed.try_recv() {
            rows.extend(next_rows);
            outcome.merge(next);
        }
        let settled = relay.store.settle(&rows, outcome).await;
        // Rows that could not be settled are claimed and removed once more, which is harmless.
        relay.in_flight.remove(&rows);
        match settled {
            Ok(last_minute) => relay.raise_alert(last_minute).await,
            Err(why) => {
                tracing::debug!(event = "relay.store_failed", error = %why, "removed, but not settled");
            }
        }
    }
}
