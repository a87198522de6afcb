//! Too many removals a minute are one warning, whoever of the daemons sees it, and one line when it is
//! over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::store::Store;

const NAME: &str = "removals_per_minute";

#[derive(Clone, Debug)]
pub struct Alarm {
    /// Removals a minute that are still ordinary.
    threshold: u64,
    /// As far as this daemon knows.
    raised: Arc<AtomicBool>,
}

impl Alarm {
    pub fn at(threshold: u64) -> Self {
        Self {
            threshold,
            // It may have been raised by a daemon that is gone.
            raised: Arc::new(AtomicBool::new(true)),
        }
    }

    /// After removals were written down: how many the last minute had.
    pub(super) async fn note(&self, store: &Store, lately: u64) {
        if lately <= self.threshold || self.raised.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Ok(true) = store.raise_alarm(NAME).await {
            tracing::warn!(
                event = "cache.removal_rate_high",
                per_minute = lately,
                threshold = self.threshold,
                "{lately} removals in the last minute, more than {}: `oddsd tail` shows for what. This is said once, until it is \
                 back to normal",
                self.threshold
            );
        }
    }

    /// Now and then: is it over?
    pub(super) async fn look(&self, store: &Store) {
        if !self.raised.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stats) = store.removal_stats().await else {
            return;
        };
        let lately = stats.per_minute.max(0) as u64;
        match store.is_alarmed(NAME).await {
            Ok(true) if lately > self.threshold => return,
            Ok(true) => {
                if let Ok(true) = store.lower_alarm(NAME).await {
                    tracing::info!(
                        event = "cache.removal_rate_normal",
                        per_minute = lately,
                        threshold = self.threshold,
                        "Removals are back to normal: {lately} in the last minute"
                    );
                }
            }
            Ok(false) => {}
            Err(_) => return,
        }
        self.raised.store(false, Ordering::Relaxed);
    }
}
