//! Timestamps: a value carries the wall-clock time of its load, a removal leaves that of its change, and
//! nothing older replaces anything newer. The clocks of two machines never agree.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::wire::wall_ms;
use super::{Change, Loader, PROCESSES, TTL_SECONDS, Wire};
use crate::freshness::faults::ledger::{Read, Source};
use crate::redis::Reply;

/// How far the clock of each process that reads is ahead of the writer's, ms.
const SKEWS_MS: [i64; PROCESSES] = [200, -200, 0];
/// `KEYS` value; `ARGV` time, version (empty: removed), seconds to live. 1 when it was newer.
const PUT: &str = "\
local old = redis.call('GET', KEYS[1])
if old and tonumber(string.match(old, '^%d+')) >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. ARGV[2], 'EX', ARGV[3])
return 1";

pub struct Stamps {
    pub wire: Wire,
    loader: Loader,
    refused: AtomicU64,
}

impl Stamps {
    pub fn new(port: u16, loader: Loader) -> Self {
        Self {
            wire: Wire::new(port),
            loader,
            refused: AtomicU64::default(),
        }
    }

    pub async fn read(&self, process: usize, row: usize) -> anyhow::Result<Read> {
        let name = name(row);
        let found = self.wire.ask(&["GET", &name]).await;
        if let Ok(found @ Reply::Bulk(_)) = &found {
            let text = found.text();
            let version = text.split(':').nth(1).unwrap_or_default();
            if !version.is_empty() {
                let version = version.parse()?;
                return Ok(Read {
                    version,
                    source: Source::Cache,
                });
            }
        }
        // Before the load: the answer is at least as new.
        let at = wall_ms().saturating_add_signed(SKEWS_MS[process % PROCESSES]);
        let (_, version) = self.loader.load(row).await?;
        if found.is_ok() {
            let (at, text, ttl) = (at.to_string(), version.to_string(), TTL_SECONDS.to_string());
            let put = ["EVAL", PUT, "1", &name, &at, &text, &ttl];
            if let Ok(Reply::Int(0)) = self.wire.ask(&put).await {
                self.refused.fetch_add(1, Relaxed);
            }
        }
        Ok(Read {
            version,
            source: Source::Loader,
        })
    }

    pub async fn removed(&self, change: &Change) {
        let (at, ttl) = (change.at_ms.to_string(), TTL_SECONDS.to_string());
        let put = ["EVAL", PUT, "1", &name(change.row), &at, "", &ttl];
        self.wire.tell(&put).await;
    }

    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

fn name(row: usize) -> String {
    format!("stamps:{row}")
}
