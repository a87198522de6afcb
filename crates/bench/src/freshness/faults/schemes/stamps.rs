//! Timestamps: a value has the wall-clock time of its load, a removal stores the time of its change, and the later
//! time wins. The clocks of two machines always differ. The run under faults compares ours with it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::common::{CommittedChange, PROCESSES, SlowLoader, TTL_SECONDS, wall_clock_ms};
use super::redis_pool::RedisPool;
use crate::freshness::faults::commit_log::{ReadSource, VersionRead};
use oddsd_testkit::resp::RespReply;

/// The offset of each reading process's clock from the writer's, in ms.
const SKEWS_MS: [i64; PROCESSES] = [200, -200, 0];
/// `KEYS` value; `ARGV` time, version (empty: removed), seconds to live. Returns 1 if it was newer.
const PUT: &str = "\
local old = redis.call('GET', KEYS[1])
if old and tonumber(string.match(old, '^%d+')) >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. ARGV[2], 'EX', ARGV[3])
return 1";

pub struct Stamps {
    pub redis: RedisPool,
    loader: SlowLoader,
    refused_fills: AtomicU64,
}

impl Stamps {
    pub fn new(port: u16, loader: SlowLoader) -> Self {
        Self {
            redis: RedisPool::new(port),
            loader,
            refused_fills: AtomicU64::default(),
        }
    }

    pub async fn read(&self, process: usize, row: usize) -> anyhow::Result<VersionRead> {
        let name = name(row);
        let found = self.redis.read(&["GET", &name]).await;
        if let Ok(found @ RespReply::Bulk(_)) = &found {
            let text = found.text();
            let version = text.split(':').nth(1).unwrap_or_default();
            if !version.is_empty() {
                let version = version.parse()?;
                return Ok(VersionRead {
                    version,
                    source: ReadSource::Cache,
                });
            }
        }
        // Taken before the load, so that the answer is at least as new.
        let at = wall_clock_ms().saturating_add_signed(SKEWS_MS[process % PROCESSES]);
        let (_, version) = self.loader.load(row).await?;
        if found.is_ok() {
            let (at, text, ttl) = (at.to_string(), version.to_string(), TTL_SECONDS.to_string());
            let put = ["EVAL", PUT, "1", &name, &at, &text, &ttl];
            if let Ok(RespReply::Int(0)) = self.redis.read(&put).await {
                self.refused_fills.fetch_add(1, Relaxed);
            }
        }
        Ok(VersionRead {
            version,
            source: ReadSource::Loader,
        })
    }

    pub async fn remove(&self, change: &CommittedChange) {
        let (at, ttl) = (change.at_ms.to_string(), TTL_SECONDS.to_string());
        let put = ["EVAL", PUT, "1", &name(change.row), &at, "", &ttl];
        self.redis.remove(&put).await;
    }

    pub fn refused_fills(&self) -> u64 {
        self.refused_fills.load(Relaxed)
    }
}

fn name(row: usize) -> String {
    format!("stamps:{row}")
}
