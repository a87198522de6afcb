//! The epoch monitor: it proves that a cache's memory is the one that saw all removals. `app` runs it beside the
//! relay.
//!
//! At first contact, and whenever the memory is another one (after a flush, a restart, a restored copy), it voids
//! everything in the cache. Then it begins an epoch with a database snapshot taken after that. Until then readers
//! are answered from the database and fill nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::wakeups::Wakeups;
use oddsd_cache::{Cache, Epoch};
use oddsd_store::{Store, WriterLease};

/// The least pause between two attempts while the cache or the database is unreachable.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The time for the snapshot of a new epoch: without one nothing is cached, so a session that hangs is left soon.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(3);

pub struct EpochMonitor {
    pub store: Store,
    pub cache: Arc<Cache>,
    pub wakeups: Wakeups,
}

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochStatus {
    Current,
    /// A new epoch began.
    Begun,
    /// The cache or the database did not answer.
    Unknown,
}

impl EpochMonitor {
    /// Works until `stop`, while this daemon leads.
    pub async fn run(self, lease: watch::Receiver<Option<WriterLease>>, stop: CancellationToken) {
        let Some(every) = self.cache.heartbeat_interval() else {
            return stop.cancelled().await;
        };
        let (mut epoch, mut was_unknown) = (None, false);
        loop {
            let mut pause = every;
            if lease.borrow().is_none() {
                // The daemon that leads begins an epoch of its own.
                epoch = None;
            } else {
                let is_unknown = self.check(&mut epoch).await == EpochStatus::Unknown;
                if was_unknown && !is_unknown {
                    self.wakeups.cache_recovered.notify_one();
                }
                if is_unknown {
                    pause = every.max(RETRY_INTERVAL);
                }
                was_unknown = is_unknown;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wakeups.epoch_missing.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Sends a heartbeat. Where the epoch is unknown or another one, it begins a new epoch.
    pub async fn check(&self, epoch: &mut Option<Epoch>) -> EpochStatus {
        if let Some(known) = epoch {
            match self.cache.heartbeat(known).await {
                Ok(true) => return EpochStatus::Current,
                Ok(false) => *epoch = None,
                Err(_) => return EpochStatus::Unknown,
            }
        }
        match self.begin_epoch().await {
            Ok(begun) => {
                *epoch = Some(begun);
                tracing::info!(
                    event = "cache.epoch_started",
                    backend = self.cache.backend(),
                    host = self.cache.host(),
                    "The cache starts afresh: what it held before is not served"
                );
                EpochStatus::Begun
            }
            Err(why) => {
                tracing::debug!(event = "cache.epoch_failed", error = %why, "readers are answered from the database");
                EpochStatus::Unknown
            }
        }
    }

    async fn begin_epoch(&self) -> anyhow::Result<Epoch> {
        let epoch = self.cache.end_epoch().await?;
        // Taken after the end: the snapshot includes every removal that the old memory may have missed.
        let store = self.store.with_deadline(SNAPSHOT_DEADLINE);
        let snapshot = store.current_snapshot().await?;
        let has_begun = self.cache.begin_epoch(&epoch, &snapshot).await?;
        anyhow::ensure!(
            has_begun,
            "the cache lost its memory meanwhile, or another daemon begins an epoch"
        );
        Ok(epoch)
    }
}
