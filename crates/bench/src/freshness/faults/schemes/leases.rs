//! Leases: a miss is given a lease, a fill needs it, and a removal takes it away with the value
//! (Nishtala and others, "Scaling Memcache at Facebook", 2013). What the load had seen is not asked.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Change, Loader, TTL_SECONDS, Wire};
use crate::freshness::faults::ledger::{Read, Source};
use crate::redis::Reply;

const LEASE_MS: &str = "10000";
/// `KEYS` lease, value; `ARGV` token, value, seconds to live. 1 when the lease stood.
const FILL: &str = "\
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
return 1";

pub struct Leases {
    pub wire: Wire,
    loader: Loader,
    refused: AtomicU64,
}

impl Leases {
    pub fn new(port: u16, loader: Loader) -> Self {
        Self {
            wire: Wire::new(port),
            loader,
            refused: AtomicU64::default(),
        }
    }

    pub async fn read(&self, row: usize) -> anyhow::Result<Read> {
        let (value, lease) = names(row);
        let found = self.wire.ask(&["GET", &value]).await;
        if let Ok(found @ Reply::Bulk(_)) = &found {
            let version = found.text().parse()?;
            return Ok(Read {
                version,
                source: Source::Cache,
            });
        }
        let token = format!("{:032x}", fastrand::u128(..));
        let take = ["SET", &lease, &token, "NX", "PX", LEASE_MS];
        let mine = match found {
            Ok(_) => matches!(self.wire.ask(&take).await, Ok(Reply::Status(_))),
            Err(_) => false,
        };
        let (_, version) = self.loader.load(row).await?;
        if mine {
            let (text, ttl) = (version.to_string(), TTL_SECONDS.to_string());
            let fill = ["EVAL", FILL, "2", &lease, &value, &token, &text, &ttl];
            if let Ok(Reply::Int(0)) = self.wire.ask(&fill).await {
                self.refused.fetch_add(1, Relaxed);
            }
        }
        Ok(Read {
            version,
            source: Source::Loader,
        })
    }

    pub async fn removed(&self, change: &Change) {
        let (value, lease) = names(change.row);
        self.wire.tell(&["DEL", &value, &lease]).await;
    }

    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

fn names(row: usize) -> (String, String) {
    (format!("leases:{row}"), format!("leases:{row}:token"))
}
