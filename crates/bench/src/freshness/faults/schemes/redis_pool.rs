//! The Redis client of the other schemes, with the behaviour of a usual library: it keeps connections, replaces broken
//! ones, and has a timeout.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;

use oddsd_cache::READ_BUDGET;
use oddsd_testkit::resp::{RespClient, RespReply};

/// Longer than a read's, as in our cache.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(2);

pub struct RedisPool {
    port: u16,
    idle: Mutex<Vec<RespClient>>,
    forgotten: AtomicU64,
}

impl RedisPool {
    pub fn new(port: u16) -> Self {
        Self {
            port,
            idle: Mutex::default(),
            forgotten: AtomicU64::default(),
        }
    }

    /// A reader's command; after the timeout the reader continues without the cache.
    pub async fn read(&self, args: &[&str]) -> anyhow::Result<RespReply> {
        tokio::time::timeout(READ_BUDGET, self.command(args))
            .await
            .context("no answer in time")?
    }

    /// A worker's removal; it is not repeated after a failure.
    pub async fn remove(&self, args: &[&str]) {
        let answered = tokio::time::timeout(REMOVAL_TIMEOUT, self.command(args)).await;
        if !matches!(answered, Ok(Ok(_))) {
            self.forgotten.fetch_add(1, Relaxed);
        }
    }

    async fn command(&self, args: &[&str]) -> anyhow::Result<RespReply> {
        let idle = self.idle.lock().pop();
        if let Some(connection) = idle
            && let Ok(reply) = self.command_on(connection, args).await
        {
            return Ok(reply);
        }
        // If Redis is down, the other idle connections are broken, too.
        let fresh = RespClient::connect(self.port).await;
        if fresh.is_err() {
            self.idle.lock().clear();
        }
        self.command_on(fresh?, args).await
    }

    async fn command_on(
        &self,
        mut connection: RespClient,
        args: &[&str],
    ) -> anyhow::Result<RespReply> {
        let reply = connection.command(args).await?;
        if let RespReply::Error(why) = &reply {
            anyhow::bail!("the private Redis answered {why}");
        }
        self.idle.lock().push(connection);
        Ok(reply)
    }

    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Relaxed)
    }
}
