//! The fast path: what this process has just committed is removed without asking the database what
//! that was. The outbox rows are settled afterwards, many commits at once; until then they are the
//! safe path's, so a crash, a full queue or a cache that is away loses nothing.

use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Relay;
use super::batch::removal;
use crate::cache::{Cache, CacheError};
use crate::store::{Again, Claim, Removal, Rows, Store};

/// Commits that wait for the relay; more are left to the safe path.
const WAITING: usize = 1024;
/// Commits removed in one go: whatever is ready, no waiting for more.
const AT_ONCE: usize = 256;

/// The relay's end of the queue.
pub struct Fast {
    waiting: mpsc::Receiver<Claim>,
    done: Option<mpsc::UnboundedSender<Done>>,
}

struct Done {
    rows: Vec<i64>,
    removal: Option<Removal>,
    again: Option<Again>,
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
        let store = relay.store.clone();
        Settler(tokio::spawn(settle(store, done)))
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
        let started = Instant::now();
        match relay.remove(&rows, &view).await {
            Ok((targets, removed)) => {
                relay.audit(|| Rows::These(rows.iter().map(|row| row.id).collect()));
                let removal = removal(&rows, &targets, removed, relay.cache(), started.elapsed());
                let again = relay.again(&targets);
                relay.tell(&rows, targets, removal.as_ref());
                let rows = rows.iter().map(|row| row.id).collect();
                let done = Done {
                    rows,
                    removal,
                    again,
                };
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

async fn settle(store: Store, mut done: mpsc::UnboundedReceiver<Done>) {
    while let Some(first) = done.recv().await {
        let (mut rows, mut removals, mut again) = (first.rows, Vec::new(), first.again);
        removals.extend(first.removal);
        while let Ok(next) = done.try_recv() {
            rows.extend(next.rows);
            removals.extend(next.removal);
            match (&mut again, next.again) {
                (Some(again), Some(next)) => again.keys.extend(next.keys),
                (again, next) => *again = again.take().or(next),
            }
        }
        if let Some(again) = &mut again {
            again.keys.sort();
            again.keys.dedup();
        }
        if let Err(why) = store.settle(&rows, &removals, again).await {
            // They are removed once more by the safe path, which harms nobody.
            tracing::debug!(event = "relay.store_failed", error = %why, "removed, but not settled");
        }
    }
}
