//! Remove after commit: readers GET, load on a miss and SET; the worker deletes the key after the commit. It is the
//! most common scheme; the run under faults compares ours with it.

use super::common::{CommittedChange, SlowLoader, TTL_SECONDS};
use super::redis_pool::RedisPool;
use crate::freshness::faults::commit_log::{ReadSource, VersionRead};
use oddsd_testkit::resp::RespReply;

pub struct AfterCommit {
    pub redis: RedisPool,
    loader: SlowLoader,
}

impl AfterCommit {
    pub fn new(port: u16, loader: SlowLoader) -> Self {
        let redis = RedisPool::new(port);
        Self { redis, loader }
    }

    pub async fn read(&self, row: usize) -> anyhow::Result<VersionRead> {
        let name = name(row);
        let found = self.redis.read(&["GET", &name]).await;
        if let Ok(found @ RespReply::Bulk(_)) = &found {
            let version = found.text().parse()?;
            return Ok(VersionRead {
                version,
                source: ReadSource::Cache,
            });
        }
        let (_, version) = self.loader.load(row).await?;
        if found.is_ok() {
            let (text, ttl) = (version.to_string(), TTL_SECONDS.to_string());
            let _ = self.redis.read(&["SET", &name, &text, "EX", &ttl]).await;
        }
        Ok(VersionRead {
            version,
            source: ReadSource::Loader,
        })
    }

    pub async fn remove(&self, change: &CommittedChange) {
        self.redis.remove(&["DEL", &name(change.row)]).await;
    }
}

fn name(row: usize) -> String {
    format!("after:{row}")
}
