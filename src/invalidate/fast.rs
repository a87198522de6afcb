//! The fast path: what this process has just committed is removed without asking the database what
//! that was. The outbox rows are settled afterwards, many commits at once; until then they are the
//! safe path's, so a crash, a full queue or a cache that is away loses nothing.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Relay;
use crate::cache::{Cache, CacheError};
use crate::store::{Claim, Settlement};

/// Commits that wait for the relay; more are left to the safe path.
const WAITING: usize = 1024;
/// Commits removed in one go: whatever is ready, no waiting for more.
const AT_ONCE: usize = 256;

/// The relay's end of the queue.
pub struct Fast {
    waiting: mpsc::Receiver<Claim>,
    done: Option<mpsc::UnboundedSender<Done>>,
}

/// Rows that were removed by the fast path and wait to be settled.
#[derive(Clone, Debug, Default)]
pub struct InFlight(Arc<Mutex<HashSet<i64>>>);

impl InFlight {
    fn add(&self, rows: &[i64]) {
        self.lock().extend(rows);
    }

    fn forget(&self, rows: &[i64]) {
        let mut held = self.lock();
        for row in rows {
            held.remove(row);
        }
    }

    pub(super) fn contains(&self, row: i64) -> bool {
        self.lock().contains(&row)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Done {
    rows: Vec<i64>,
    settlement: Settlement,
}

/// The queue from whoever commits to the relay.
pub fn hand_over() -> (mpsc::Sender<Claim>, Fast) {
    let (sender, waiting) = mpsc::channel(WAITING);
    let fast = Fast {
        waiting,
        done: None,
    };
    (sender, fast)
}

/// The task that settles what was removed.
pub(super) struct Settler(JoinHandle<()>);

impl Settler {
    /// Waits until all of it is settled, or was given up.
    pub async fn ended(self) {
        let _ = self.0.await;
    }
}

impl Fast {
    pub(super) fn settler(&mut self, relay: &Relay) -> Settler {
        let (sender, done) = mpsc::unbounded_channel();
        self.done = Some(sender);
        Settler(tokio::spawn(settle(relay.clone(), done)))
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Waits for commits, and removes what all that are ready make wrong. Never ends when nobody can
    /// commit any more.
    pub(super) async fn removed(&mut self, relay: &Relay) {
        let Some(first) = self.waiting.recv().await else {
            return std::future::pending().await;
        };
        let (mut rows, mut view) = (first.rows, first.view);
        for _ in 1..AT_ONCE {
            let Ok(next) = self.waiting.try_recv() else {
                break;
            };
            rows.extend(next.rows);
            view = view.join(&next.view);
        }
        match relay.work(&rows, &view, None).await {
            Ok(worked) => {
                let done = Done {
                    rows: rows.iter().map(|row| row.id).collect(),
                    settlement: worked.settlement,
                };
                relay.done.add(&done.rows);
                if let Some(sender) = &self.done {
                    let _ = sender.send(done);
                }
            }
            // The safe path has the rows: it waits, says so, and tries again.
            Err(why) => left_to_the_safe_path(relay, &why, rows.len()),
        }
    }
}

fn left_to_the_safe_path(relay: &Relay, why: &CacheError, rows: usize) {
    let cache: &Cache = relay.cache();
    tracing::debug!(event = "relay.fast_path_failed", backend = cache.backend(), rows, error = %why, "the safe path takes over");
    relay.poke.notify_one();
}

async fn settle(relay: Relay, mut done: mpsc::UnboundedReceiver<Done>) {
    while let Some(first) = done.recv().await {
        let Done {
            mut rows,
            mut settlement,
        } = first;
        while let Ok(next) = done.try_recv() {
            rows.extend(next.rows);
            settlement.join(next.settlement);
        }
        let settled = relay.store.settle(&rows, settlement).await;
        // Those that could not be settled come back to whoever claims them.
        relay.done.forget(&rows);
        match settled {
            Ok(lately) => relay.alarm.note(&relay.store, lately).await,
            // They are removed once more by the safe path, which harms nobody.
            Err(why) => {
                tracing::debug!(event = "relay.store_failed", error = %why, "removed, but not settled");
            }
        }
    }
}
