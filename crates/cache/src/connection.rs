//! The cache server behind a transport: its limits, its clock, whether it can be reached, and whose answers it keeps. The
//! transports report to it; it writes the two log lines that operators grep for, at most one a minute while it is down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::clock::ServerClock;
use super::command::Limits;
use super::error::CacheError;
use oddsd_core::key::Namespace;

/// The log line of a cache that stays down is repeated this often.
const REPEAT_AFTER: Duration = Duration::from_secs(60);

pub(super) struct ServerInfo {
    pub limits: &'static Limits,
    /// Host and port, never credentials.
    pub host: String,
    /// The time that an operation outside a request may take.
    pub command_timeout: Duration,
    pub clock: ServerClock,
    pub namespace: Namespace,
    /// Commands that the server answered.
    answered: AtomicU64,
    run: Mutex<Option<Arc<str>>>,
    /// The marks of the database: the current one is the last.
    databases: Mutex<Vec<Arc<str>>>,
    status: watch::Sender<ConnectionState>,
    throttle: Mutex<LogThrottle>,
}

#[derive(Clone, Debug)]
enum ConnectionState {
    Untried,
    Up,
    Down(CacheError),
}

impl ServerInfo {
    pub fn new(
        limits: &'static Limits,
        host: String,
        namespace: Namespace,
        command_timeout: Duration,
    ) -> Self {
        Self {
            limits,
            host,
            namespace,
            command_timeout,
            clock: ServerClock::default(),
            answered: AtomicU64::new(0),
            run: Mutex::default(),
            databases: Mutex::default(),
            status: watch::Sender::new(ConnectionState::Untried),
            throttle: Mutex::default(),
        }
    }

    /// Counts the commands that the server answered, with a result or an error: those that Upstash bills.
    pub fn count<T>(&self, replies: &[Result<T, CacheError>]) {
        let is_answered = |reply: &&Result<T, CacheError>| match reply {
            Ok(_) => true,
            Err(why) => why.is_answer(),
        };
        let answered = replies.iter().filter(is_answered).count();
        self.answered.fetch_add(answered as u64, Ordering::Relaxed);
    }

    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// The id of the server process; after a restart its memory may be another one.
    pub fn run(&self) -> Result<Arc<str>, CacheError> {
        let run = self.run.lock().clone();
        run.ok_or_else(|| self.failure())
    }

    pub fn set_run(&self, run: Option<Arc<str>>) {
        *self.run.lock() = run;
    }

    /// The mark of the database that this process reads, with which the ids of its epochs begin.
    pub fn database(&self) -> Result<Arc<str>, CacheError> {
        let mark = self.databases.lock().last().cloned();
        mark.ok_or_else(|| {
            CacheError::Down(format!("{}: no database is set for this cache", self.host))
        })
    }

    /// Returns whether it is another one than before.
    pub fn set_database(&self, mark: &str) -> bool {
        let mut known = self.databases.lock();
        if known.last().is_some_and(|current| **current == *mark) {
            return false;
        }
        known.retain(|earlier| **earlier != *mark);
        known.push(mark.into());
        true
    }

    /// Whether an epoch has a mark that this process never used.
    pub fn is_foreign(&self, epoch_id: &str) -> bool {
        let known = self.databases.lock();
        !known.iter().any(|mark| epoch_id.starts_with(&**mark))
    }

    pub fn set_up(&self) {
        let changed = self.status.send_if_modified(|status| {
            let changed = !matches!(status, ConnectionState::Up);
            *status = ConnectionState::Up;
            changed
        });
        if changed {
            self.throttle.lock().reset();
            tracing::info!(
                event = "cache.redis_connected",
                alias = "cache_redis_connected",
                host = self.host,
                "Redis cache invalidation connected: {}",
                self.host
            );
        }
    }

    pub fn set_down(&self, why: CacheError) {
        if let Some(suppressed) = self.throttle.lock().allow(Instant::now()) {
            tracing::warn!(
                event = "cache.redis_connection_failed",
                alias = "cache_redis_connection_failed",
                host = self.host,
                error = %why,
                suppressed_log_lines = suppressed,
                "Redis connection failed (cache invalidation queued): {why}"
            );
        }
        self.status.send_replace(ConnectionState::Down(why));
    }

    /// The error for a command that cannot be sent now.
    pub fn failure(&self) -> CacheError {
        match &*self.status.borrow() {
            ConnectionState::Down(why) => why.clone(),
            ConnectionState::Untried | ConnectionState::Up => CacheError::Down(format!(
                "not connected to {} (connecting goes on)",
                self.host
            )),
        }
    }

    /// The reason why a server that answers cannot be used; an operator must act.
    pub fn refusal(&self) -> Option<CacheError> {
        match &*self.status.borrow() {
            ConnectionState::Down(why @ CacheError::Refused(_)) => Some(why.clone()),
            _ => None,
        }
    }

    /// Waits until the first connection attempt has succeeded or failed.
    pub async fn first_attempt(&self) {
        let mut status = self.status.subscribe();
        let _ = status
            .wait_for(|status| !matches!(status, ConnectionState::Untried))
            .await;
    }

    pub async fn connected(&self) {
        let mut status = self.status.subscribe();
        let _ = status
            .wait_for(|status| matches!(status, ConnectionState::Up))
            .await;
    }
}

/// Collapses repeated log lines.
#[derive(Default)]
struct LogThrottle {
    logged_at: Option<Instant>,
    suppressed: u64,
}

impl LogThrottle {
    /// Returns the number of lines left out since the last one, or `None` while lines are left out.
    fn allow(&mut self, now: Instant) -> Option<u64> {
        if self.logged_at.is_some_and(|at| now < at + REPEAT_AFTER) {
            self.suppressed += 1;
            return None;
        }
        self.logged_at = Some(now);
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
    fn a_cache_that_stays_down_is_logged_once_a_minute_with_a_count() {
        let (mut throttle, start) = (LogThrottle::default(), Instant::now());
        assert_eq!(throttle.allow(start), Some(0));
        for second in 1..60 {
            assert_eq!(throttle.allow(start + Duration::from_secs(second)), None);
        }
        assert_eq!(throttle.allow(start + REPEAT_AFTER), Some(59));
        throttle.reset();
        assert_eq!(throttle.allow(start + REPEAT_AFTER), Some(0));
    }
}
