//! Whether the cache server can be reached, as people see it: the two log lines that they grep for,
//! said once per turn and then at most once a minute, and the reason of the last failure.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::CacheError;

/// A cache that stays down says so this often.
const REPEAT_AFTER: Duration = Duration::from_secs(60);

pub(super) struct Link {
    host: String,
    status: watch::Sender<Status>,
    quiet: Mutex<Quiet>,
}

#[derive(Clone, Debug)]
enum Status {
    Untried,
    Up,
    Down(CacheError),
}

impl Link {
    pub fn new(host: String) -> Self {
        Self {
            host,
            status: watch::Sender::new(Status::Untried),
            quiet: Mutex::default(),
        }
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn up(&self) {
        let turned = self.status.send_if_modified(|status| {
            let turned = !matches!(status, Status::Up);
            *status = Status::Up;
            turned
        });
        if turned {
            self.quiet().reset();
            tracing::info!(
                event = "cache.redis_connected",
                alias = "cache_redis_connected",
                host = self.host,
                "Redis cache invalidation connected: {}",
                self.host
            );
        }
    }

    pub fn down(&self, why: CacheError) {
        if let Some(suppressed) = self.quiet().speak(Instant::now()) {
            tracing::warn!(
                event = "cache.redis_connection_failed",
                alias = "cache_redis_connection_failed",
                host = self.host,
                error = %why,
                suppressed_log_lines = suppressed,
                "Redis connection failed (cache invalidation queued): {why}"
            );
        }
        self.status.send_replace(Status::Down(why));
    }

    /// Why a command cannot be sent now.
    pub fn failure(&self) -> CacheError {
        match &*self.status.borrow() {
            Status::Down(why) => why.clone(),
            Status::Untried | Status::Up => CacheError::Down {
                detail: format!("not connected to {} (connecting goes on)", self.host),
            },
        }
    }

    /// Waits until the first attempt has ended, well or badly.
    pub async fn tried(&self) {
        let mut status = self.status.subscribe();
        let _ = status
            .wait_for(|status| !matches!(status, Status::Untried))
            .await;
    }

    pub async fn connected(&self) {
        let mut status = self.status.subscribe();
        let _ = status.wait_for(|status| matches!(status, Status::Up)).await;
    }

    fn quiet(&self) -> std::sync::MutexGuard<'_, Quiet> {
        self.quiet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Collapses repeated log lines.
#[derive(Default)]
struct Quiet {
    spoke_at: Option<Instant>,
    suppressed: u64,
}

impl Quiet {
    /// `Some(lines left out since the last one)` when it is time to say it.
    fn speak(&mut self, now: Instant) -> Option<u64> {
        if self.spoke_at.is_some_and(|at| now < at + REPEAT_AFTER) {
            self.suppressed += 1;
            return None;
        }
        self.spoke_at = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }

    fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_stays_down_says_so_once_a_minute_with_a_count() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        assert_eq!(quiet.speak(start), Some(0));
        for second in 1..60 {
            assert_eq!(quiet.speak(start + Duration::from_secs(second)), None);
        }
        assert_eq!(quiet.speak(start + REPEAT_AFTER), Some(59));
        quiet.reset();
        assert_eq!(quiet.speak(start + REPEAT_AFTER), Some(0));
    }
}
