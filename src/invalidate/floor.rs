//! Vouches for the cache's memory. At first contact, and whenever the memory is not the one it was (a
//! flush, a restart, an old copy that came back), everything in it is void; then a floor is laid with
//! a view of the database that was taken after that. Until then readers are answered from the
//! database, and fill nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Life};
use crate::store::{Lease, Store};

/// Between two attempts while the cache or the database is away.
const TRY_AGAIN: Duration = Duration::from_millis(100);

pub struct FloorKeeper {
    pub store: Store,
    pub cache: Arc<Cache>,
    /// Rung by a removal that found no floor.
    pub no_floor: Arc<Notify>,
    /// Rung for the relay when a cache that was away answers again.
    pub back: Arc<Notify>,
}

/// What one look at the floor came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floor {
    Stands,
    /// A new one was laid.
    Laid,
    /// The cache or the database did not answer.
    Unknown,
}

impl FloorKeeper {
    /// Works until `stop`, while this daemon leads.
    pub async fn run(self, lease: watch::Receiver<Option<Lease>>, stop: CancellationToken) {
        let Some(every) = self.cache.beat_every() else {
            return stop.cancelled().await;
        };
        let (mut life, mut away) = (None, false);
        loop {
            let mut pause = every;
            if lease.borrow().is_none() {
                // Whoever leads now lays a floor of their own.
                life = None;
            } else {
                let unknown = self.keep(&mut life).await == Floor::Unknown;
                if away && !unknown {
                    self.back.notify_one();
                }
                if unknown {
                    pause = every.max(TRY_AGAIN);
                }
                away = unknown;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.no_floor.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// One beat; where it finds another memory, or none was known, a new floor.
    pub async fn keep(&self, life: &mut Option<Life>) -> Floor {
        if let Some(known) = life {
            match self.cache.beat(known).await {
                Ok(true) => return Floor::Stands,
                Ok(false) => *life = None,
                // Unknown: the next beat tells.
                Err(_) => return Floor::Unknown,
            }
        }
        match self.lay().await {
            Ok(laid) => {
                *life = Some(laid);
                tracing::info!(
                    event = "cache.epoch_started",
                    backend = self.cache.backend(),
                    host = self.cache.host(),
                    "The cache starts afresh: what it held before is not served"
                );
                Floor::Laid
            }
            Err(why) => {
                tracing::debug!(event = "cache.epoch_failed", error = %why, "readers are answered from the database");
                Floor::Unknown
            }
        }
    }

    async fn lay(&self) -> anyhow::Result<Life> {
        self.cache.void().await?;
        let view = self.store.view().await?;
        Ok(self.cache.found(&view).await?)
    }
}
