//! The epoch monitor: it proves that a cache's memory is the one that saw all removals. `app` runs it beside the
//! relay.
//!
//! At first contact, and whenever the memory is another one (after a flush, a restart, a restored copy), it voids
//! everything in the cache. Then it begins an epoch with a database snapshot taken after that. Until then readers
//! are answered from the database and fill nothing.
//!
//! It also tells the cache which database this is, and leaves an epoch of another database alone while that one is used.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::wakeups::Wakeups;
use oddsd_cache::{Cache, Epoch};
use oddsd_store::{Store, WriterLease};

/// The least pause between two attempts while the cache or the database is unreachable.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The time for the snapshot of a new epoch: without one nothing is cached, so a session that hangs is left soon.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(3);

/// The least pause between two readings of the database's identity.
const IDENTITY_INTERVAL: Duration = Duration::from_secs(1);

/// An epoch of another database is ended when its heartbeats have been missing for this long: its daemon may be restarting.
const FOREIGN_SILENCE: Duration = Duration::from_secs(60);

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
    /// Another database uses the cache, or has used it just before.
    Foreign,
    /// The cache or the database did not answer.
    Unknown,
}

/// What the monitor knows of the cache's memory.
#[derive(Default)]
pub struct WatchedEpoch {
    /// The epoch that this daemon began, while it lasts.
    current: Option<Epoch>,
    foreign: Option<ForeignEpoch>,
}

/// An epoch of another database.
struct ForeignEpoch {
    /// As `Cache::foreign_epoch` returned them.
    records: String,
    changed_at: Instant,
    state: ForeignState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ForeignState {
    /// Found once.
    Found,
    /// Left behind, as far as can be seen: no heartbeat has come since.
    Silent,
    /// Its heartbeats were seen.
    Used,
}

impl WatchedEpoch {
    /// Takes note of a foreign epoch in the cache. Returns its state where that is a new one.
    fn observe(&mut self, found: Option<String>, now: Instant) -> Option<ForeignState> {
        let Some(foreign) = &mut self.foreign else {
            self.foreign = found.map(|records| ForeignEpoch {
                records,
                changed_at: now,
                state: ForeignState::Found,
            });
            return None;
        };
        let before = foreign.state;
        match found {
            Some(records) if records != foreign.records => {
                (foreign.records, foreign.changed_at) = (records, now);
                foreign.state = ForeignState::Used;
            }
            // Also after a flush: its daemon would begin the next epoch.
            _ if before == ForeignState::Found => foreign.state = ForeignState::Silent,
            _ => {}
        }
        (foreign.state != before).then_some(foreign.state)
    }

    /// Whether the cache is left to another database.
    fn is_foreign(&self, now: Instant) -> bool {
        let foreign = self.foreign.as_ref();
        foreign.is_some_and(|foreign| now < foreign.changed_at + FOREIGN_SILENCE)
    }
}

impl EpochMonitor {
    /// Works until `stop`. Epochs are begun while this daemon leads.
    pub async fn run(self, lease: watch::Receiver<Option<WriterLease>>, stop: CancellationToken) {
        let Some(every) = self.cache.heartbeat_interval() else {
            return stop.cancelled().await;
        };
        tokio::select! {
            () = self.follow_database() => {}
            () = self.keep_epoch(every, lease) => {}
            () = stop.cancelled() => {}
        }
    }

    /// Tells the cache which database this is, again after each session that was opened: a failover or a restore may
    /// have put another server behind the same address. Never ends.
    async fn follow_database(&self) {
        let store = self.store.with_deadline(SNAPSHOT_DEADLINE);
        let mut sessions = store.opened_sessions();
        loop {
            sessions.mark_unchanged();
            let identity = store.identity().await;
            if let Ok(identity) = &identity {
                self.cache.set_database(identity);
            }
            tokio::time::sleep(IDENTITY_INTERVAL).await;
            if identity.is_ok() && sessions.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn keep_epoch(&self, every: Duration, lease: watch::Receiver<Option<WriterLease>>) {
        let (mut watched, mut was_unknown) = (WatchedEpoch::default(), false);
        loop {
            let mut pause = every;
            if lease.borrow().is_none() {
                // The daemon that leads begins an epoch of its own.
                watched = WatchedEpoch::default();
            } else {
                let status = self.check(&mut watched).await;
                let is_unknown = status == EpochStatus::Unknown;
                if was_unknown && !is_unknown {
                    self.wakeups.cache_recovered.notify_one();
                }
                if is_unknown || status == EpochStatus::Foreign {
                    pause = every.max(RETRY_INTERVAL);
                }
                was_unknown = is_unknown;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wakeups.epoch_missing.notified() => {}
            }
        }
    }

    /// Sends a heartbeat. Where the epoch is unknown or another one, it begins a new epoch, unless another database uses the
    /// cache.
    pub async fn check(&self, watched: &mut WatchedEpoch) -> EpochStatus {
        if let Some(known) = &mut watched.current {
            match self.cache.heartbeat(known).await {
                Ok(true) => return EpochStatus::Current,
                Ok(false) => watched.current = None,
                Err(_) => return EpochStatus::Unknown,
            }
        }
        let Ok(found) = self.cache.foreign_epoch().await else {
            return EpochStatus::Unknown;
        };
        let now = Instant::now();
        let news = watched.observe(found, now);
        if watched.is_foreign(now) {
            self.log_foreign(news);
            return EpochStatus::Foreign;
        }
        match self.begin_epoch().await {
            Ok(begun) => {
                *watched = WatchedEpoch {
                    current: Some(begun),
                    foreign: None,
                };
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

    fn log_foreign(&self, news: Option<ForeignState>) {
        match news {
            Some(ForeignState::Used) => tracing::error!(
                event = "cache.foreign_database",
                backend = self.cache.backend(),
                host = self.cache.host(),
                "Another database uses this cache: no answer is read from it or kept in it. Give each database a cache of its own, \
                 or a CACHE_NAMESPACE if they share it on purpose"
            ),
            Some(ForeignState::Silent) => tracing::info!(
                event = "cache.epoch_waiting",
                backend = self.cache.backend(),
                host = self.cache.host(),
                seconds = FOREIGN_SILENCE.as_secs(),
                "The cache was last used with another database, or before this one's server was restarted: it is used once it has had no \
                 heartbeat for {} s",
                FOREIGN_SILENCE.as_secs()
            ),
            Some(ForeignState::Found) | None => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_epoch_is_left_alone_until_its_heartbeats_have_been_missing_for_a_minute() {
        let (mut watched, start) = (WatchedEpoch::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let found = |text: &str| Some(text.to_owned());
        assert_eq!(watched.observe(None, at(0)), None);
        assert!(!watched.is_foreign(at(0)));
        // Found, seen to be used, and logged once each.
        assert_eq!(watched.observe(found("beat 1"), at(1)), None);
        assert!(watched.is_foreign(at(1)));
        let silent = watched.observe(found("beat 1"), at(2));
        assert_eq!(silent, Some(ForeignState::Silent));
        let used = watched.observe(found("beat 2"), at(3));
        assert_eq!(used, Some(ForeignState::Used));
        assert_eq!(watched.observe(found("beat 3"), at(10)), None);
        // A flush, or a daemon that stops: it may be back soon.
        assert_eq!(watched.observe(None, at(20)), None);
        assert!(watched.is_foreign(at(69)));
        assert!(!watched.is_foreign(at(70)));
    }
}
