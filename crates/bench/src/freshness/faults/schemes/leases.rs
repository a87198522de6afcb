//! Leases (Nishtala and others, "Scaling Memcache at Facebook", 2013): a miss gets a lease, a fill needs it, and a
//! removal deletes it with the value. The snapshot of the load is not checked. The run under faults compares ours with
//! it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::common::{CommittedChange, SlowLoader, TTL_SECONDS};
use super::redis_pool::RedisPool;
use crate::freshness::faults::commit_log::{ReadSource, VersionRead};
use oddsd_testkit::resp::RespReply;

const LEASE_MS: &str = "10000";
/// `KEYS` lease, value; `ARGV` token, value, seconds to live. Returns 1 if the lease was valid.
const FILL: &str = "\
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
return 1";

pub struct Leases {
    pub redis: RedisPool,
    loader: SlowLoader,
    refused_fills: AtomicU64,
}

impl Leases {
    pub fn new(port: u16, loader: SlowLoader) -> Self {
        Self {
            redis: RedisPool::new(port),
            loader,
            refused_fills: AtomicU64::default(),
        }
    }

    pub async fn read(&self, row: usize) -> anyhow::Result<VersionRead> {
        let (value, lease) = names(row);
        let found = self.redis.read(&["GET", &value]).await;
        if let Ok(found @ RespReply::Bulk(_)) = &found {
            let version = found.text().parse()?;
            return Ok(VersionRead {
                version,
                source: ReadSource::Cache,
            });
        }
        let token = format!("{:032x}", fastrand::u128(..));
        let acquire = ["SET", &lease, &token, "NX", "PX", LEASE_MS];
        let has_lease = match found {
            Ok(_) => matches!(self.redis.read(&acquire).await, Ok(RespReply::Status(_))),
            Err(_) => false,
        };
        let (_, version) = self.loader.load(row).await?;
        if has_lease {
            let (text, ttl) = (version.to_string(), TTL_SECONDS.to_string());
            let fill = ["EVAL", FILL, "2", &lease, &value, &token, &text, &ttl];
            if let Ok(RespReply::Int(0)) = self.redis.read(&fill).await {
                self.refused_fills.fetch_add(1, Relaxed);
            }
        }
        Ok(VersionRead {
            version,
            source: ReadSource::Loader,
        })
    }

    pub async fn remove(&self, change: &CommittedChange) {
        let (value, lease) = names(change.row);
        self.redis.remove(&["DEL", &value, &lease]).await;
    }

    pub fn refused_fills(&self) -> u64 {
        self.refused_fills.load(Relaxed)
    }
}

fn names(row: usize) -> (String, String) {
    (format!("leases:{row}"), format!("leases:{row}:token"))
}
