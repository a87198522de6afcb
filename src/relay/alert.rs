//! The alert for too many removals a minute. The relay calls it after each settlement and at each interval.
//!
//! The state is in the database, so that several daemons together log one warning, and one line when it is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oddsd_store::{Store, StoreError};

const NAME: &str = "removals_per_minute";

#[derive(Clone, Debug)]
pub struct RateAlert {
    /// The most removals a minute that are still usual.
    threshold: u64,
    /// The state as this daemon last saw it.
    raised: Arc<AtomicBool>,
}

impl RateAlert {
    pub fn above(threshold: u64) -> Self {
        Self {
            threshold,
            // A daemon that is gone may have raised it.
            raised: Arc::new(AtomicBool::new(true)),
        }
    }

    /// As this daemon last saw it.
    pub(super) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }

    /// `last_minute`: the removals of the last minute, as the settlement counted them.
    pub(super) fn is_raised_by(&self, last_minute: u64) -> bool {
        last_minute > self.threshold && !self.is_raised()
    }

    pub(super) async fn raise(&self, store: &Store, last_minute: u64) -> Result<(), StoreError> {
        let is_new = store.raise_alert(NAME).await?;
        self.raised.store(true, Ordering::Relaxed);
        if is_new {
            tracing::warn!(
                event = "cache.removal_rate_high",
                per_minute = last_minute,
                threshold = self.threshold,
                "{last_minute} removals in the last minute, more than {}: `oddsd tail` lists them. This warning is not \
                 repeated until the rate is back to normal",
                self.threshold
            );
        }
        Ok(())
    }

    pub(super) async fn lower_if_over(&self, store: &Store) -> Result<(), StoreError> {
        let stats = store.removal_stats().await?;
        let last_minute = stats.per_minute.max(0) as u64;
        match store.is_alert_raised(NAME).await? {
            true if last_minute > self.threshold => return Ok(()),
            true => {
                if let Ok(true) = store.clear_alert(NAME).await {
                    tracing::info!(
                        event = "cache.removal_rate_normal",
                        per_minute = last_minute,
                        threshold = self.threshold,
                        "Removals are back to normal: {last_minute} in the last minute"
                    );
                }
            }
            false => {}
        }
        self.raised.store(false, Ordering::Relaxed);
        Ok(())
    }
}
