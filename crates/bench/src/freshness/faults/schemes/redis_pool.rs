//! The Redis client of the schemes that oddsd is compared with (`after_commit`, `stamps`, `leases`). It does what common
//! client libraries do: it pools connections, replaces broken ones, and gives up after a timeout.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;

use oddsd_cache::READ_BUDGET;
use oddsd_testkit::resp::{RespClient, RespReply};

/// The timeout of a removal: longer than that of a read, as in our cache.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(2);

pub struct RedisPool {
    port: u16,
    idle: Mutex<Vec<RespClient>>,
    failed_removals: AtomicU64,
}

impl RedisPool {
    pub fn new(port: u16) -> Self {
        Self {
            port,
            idle: Mutex::default(),
            failed_removals: AtomicU64::default(),
        }
    }

    /// Runs a reader's command; after the timeout the reader continues without the cache.
    pub async fn read(&self, args: &[&str]) -> anyhow::Result<RespReply> {
        tokio::time::timeout(READ_BUDGET, self.command(args))
            .await
            .context("no answer in time")?
    }

    /// Removes once; a failure is counted and not repeated.
    pub async fn remove(&self, args: &[&str]) {
        let answered = tokio::time::timeout(REMOVAL_TIMEOUT, self.command(args)).await;
        if !matches!(answered, Ok(Ok(_))) {
            self.failed_removals.fetch_add(1, Relaxed);
        }
    }

    async fn command(&self, args: &[&str]) -> anyhow::Result<RespReply> {
        let idle = self.idle.lock().pop();
        if let Some(connection) = idle
            && let Ok(reply) = self.command_on(connection, args).await
        {
            return checked(reply);
        }
        let fresh = RespClient::connect(self.port).await;
        if fresh.is_err() {
            // Redis is down, so the other idle connections are broken, too.
            self.idle.lock().clear();
        }
        checked(self.command_on(fresh?, args).await?)
    }

    /// Returns the connection to the pool after any reply; a broken one is dropped.
    async fn command_on(
        &self,
        mut connection: RespClient,
        args: &[&str],
    ) -> anyhow::Result<RespReply> {
        let reply = connection.command(args).await?;
        self.idle.lock().push(connection);
        Ok(reply)
    }

    pub fn failed_removals(&self) -> u64 {
        self.failed_removals.load(Relaxed)
    }
}

/// An error reply is not repeated: Redis answered.
fn checked(reply: RespReply) -> anyhow::Result<RespReply> {
    match reply {
        RespReply::Error(why) => anyhow::bail!("Redis replied with an error: {why}"),
        reply => Ok(reply),
    }
}
