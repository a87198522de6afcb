//! The direct path of the relay: it removes what this process has just committed, without reading it back from the
//! database. Committers send to it through [`direct_channel`]; [`Relay::run`](super::Relay::run) receives.
//!
//! It never waits for the database. Changes for which a rule needs stored prices take a lane of their own, in their
//! order; the outbox rows are settled afterwards, many commits at once. Until then the polling path can claim them,
//! so that a crash, a full queue or an unreachable cache loses nothing.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::plan::needs_database;
use super::{Relay, logged};
use oddsd_core::model::DbSnapshot;
use oddsd_store::{BatchOutcome, ClaimedBatch, OutboxRow};

/// Commits that wait for the relay; the polling path takes those that find the queue full.
const QUEUE: usize = 1024;
/// The most commits removed together. Only those that are ready are taken.
const AT_ONCE: usize = 256;

/// Rows whose removal the cache answered, and what the outbox has to store.
type RemovedRows = (TakenRows, BatchOutcome);

/// The receiving end of the queue.
pub struct DirectPath {
    commits: mpsc::Receiver<ClaimedBatch>,
}

/// The queue from committers to the relay.
pub fn direct_channel() -> (mpsc::Sender<ClaimedBatch>, DirectPath) {
    let (sender, commits) = mpsc::channel(QUEUE);
    (sender, DirectPath { commits })
}

/// Rows that one of the two paths removes now, or has removed and not settled yet.
#[derive(Clone, Debug, Default)]
pub struct InFlight(Arc<Mutex<HashSet<i64>>>);

impl InFlight {
    /// Takes the rows for one path. Rows that the other one has are left out.
    pub(super) fn take(&self, rows: &mut Vec<OutboxRow>) -> TakenRows {
        let mut in_flight = self.0.lock();
        rows.retain(|row| in_flight.insert(row.id));
        TakenRows {
            ids: rows.iter().map(|row| row.id).collect(),
            in_flight: self.clone(),
        }
    }
}

/// Rows that one path has taken, until this is dropped.
pub(super) struct TakenRows {
    pub ids: Vec<i64>,
    in_flight: InFlight,
}

impl TakenRows {
    fn merge(&mut self, mut next: Self) {
        self.ids.append(&mut next.ids);
    }
}

impl Drop for TakenRows {
    fn drop(&mut self) {
        let mut in_flight = self.in_flight.0.lock();
        for row in &self.ids {
            in_flight.remove(row);
        }
    }
}

/// Commits that are removed together.
struct TakenBatch {
    rows: Vec<OutboxRow>,
    snapshot: DbSnapshot,
    taken: TakenRows,
}

impl TakenBatch {
    fn take(relay: &Relay, mut rows: Vec<OutboxRow>, snapshot: DbSnapshot) -> Self {
        Self {
            taken: relay.in_flight.take(&mut rows),
            rows,
            snapshot,
        }
    }

    fn merge(&mut self, next: Self) {
        self.rows.extend(next.rows);
        self.snapshot = self.snapshot.merge(&next.snapshot);
        self.taken.merge(next.taken);
    }
}

impl DirectPath {
    /// Removes commits until `stop`, and settles what is removed.
    pub(super) async fn run(self, relay: &Relay, stop: &CancellationToken) {
        let Self { mut commits } = self;
        // Each lane owns its senders, so that what is behind it ends after it.
        let (removed, settling) = mpsc::unbounded_channel();
        let (conditional, mut waiting) = mpsc::channel::<TakenBatch>(QUEUE);
        let also_removed = removed.clone();
        let unconditional_lane = async move {
            while let Some(ClaimedBatch {
                mut rows,
                mut snapshot,
            }) = next(&mut commits, stop).await
            {
                for _ in 1..AT_ONCE {
                    let Ok(next) = commits.try_recv() else {
                        break;
                    };
                    rows.extend(next.rows);
                    snapshot = snapshot.merge(&next.snapshot);
                }
                let rules = relay.rules.current();
                let rows = rows.into_iter();
                let (later, now) = rows.partition(|row| needs_database(row, &rules));
                let later = TakenBatch::take(relay, later, snapshot.clone());
                let now = TakenBatch::take(relay, now, snapshot);
                if !later.rows.is_empty() && conditional.try_send(later).is_err() {
                    relay.wakeups.outbox.notify_one();
                }
                remove(relay, now, &removed).await;
            }
        };
        let conditional_lane = async move {
            while let Some(mut batch) = next(&mut waiting, stop).await {
                while let Ok(next) = waiting.try_recv() {
                    batch.merge(next);
                }
                remove(relay, batch, &also_removed).await;
            }
        };
        tokio::join!(
            Box::pin(unconditional_lane),
            Box::pin(conditional_lane),
            Box::pin(settle(relay, settling))
        );
    }
}

/// `None` after `stop`, or when no sender is left.
async fn next<T>(queue: &mut mpsc::Receiver<T>, stop: &CancellationToken) -> Option<T> {
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        next = queue.recv() => next,
    }
}

async fn remove(relay: &Relay, batch: TakenBatch, removed: &mpsc::UnboundedSender<RemovedRows>) {
    let TakenBatch {
        rows,
        snapshot,
        taken,
    } = batch;
    if rows.is_empty() {
        return;
    }
    match relay.remove(&rows, &snapshot, None).await {
        Ok(outcome) => drop(removed.send((taken, outcome))),
        Err(why) => {
            drop(taken);
            let (backend, rows) = (relay.cache().backend(), rows.len());
            tracing::debug!(event = "relay.fast_path_failed", backend, rows, error = %why, "the polling path retries and logs it");
            relay.wakeups.outbox.notify_one();
        }
    }
}

async fn settle(relay: &Relay, mut removed: mpsc::UnboundedReceiver<RemovedRows>) {
    while let Some((mut taken, mut outcome)) = removed.recv().await {
        while let Ok((more, next)) = removed.try_recv() {
            taken.merge(more);
            outcome.merge(next);
        }
        // Rows that could not be settled are claimed and removed once more, which is harmless.
        logged(relay.settle(&taken.ids, outcome).await);
    }
}
