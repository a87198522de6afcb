//! How the other schemes talk to Redis: as a client library does that keeps its connections, makes a
//! new one when one has broken, and gives up in time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;

use crate::redis::{Reply, Resp};
use oddsd_cache::READ_BUDGET;

/// A removal may take longer than a read: the same as ours.
const REMOVAL: Duration = Duration::from_secs(2);

pub struct Wire {
    port: u16,
    idle: Mutex<Vec<Resp>>,
    forgotten: AtomicU64,
}

impl Wire {
    pub fn new(port: u16) -> Self {
        Self {
            port,
            idle: Mutex::default(),
            forgotten: AtomicU64::default(),
        }
    }

    /// A reader's command: one that the cache has no time for is one without a cache.
    pub async fn ask(&self, args: &[&str]) -> anyhow::Result<Reply> {
        tokio::time::timeout(READ_BUDGET, self.answer(args))
            .await
            .context("no answer in time")?
    }

    /// A worker's command: when it fails it has failed.
    pub async fn tell(&self, args: &[&str]) {
        let answered = tokio::time::timeout(REMOVAL, self.answer(args)).await;
        if !matches!(answered, Ok(Ok(_))) {
            self.forgotten.fetch_add(1, Relaxed);
        }
    }

    async fn answer(&self, args: &[&str]) -> anyhow::Result<Reply> {
        let kept = self.idle().pop();
        if let Some(connection) = kept
            && let Ok(reply) = self.on(connection, args).await
        {
            return Ok(reply);
        }
        // The others are as old.
        let fresh = Resp::connect(self.port).await;
        if fresh.is_err() {
            self.idle().clear();
        }
        self.on(fresh?, args).await
    }

    async fn on(&self, mut connection: Resp, args: &[&str]) -> anyhow::Result<Reply> {
        let reply = connection.command(args).await?;
        if let Reply::Error(why) = &reply {
            anyhow::bail!("the private Redis said {why}");
        }
        self.idle().push(connection);
        Ok(reply)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Resp>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Relaxed)
    }
}

pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as u64
}
