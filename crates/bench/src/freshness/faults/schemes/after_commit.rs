//! Remove after commit: readers GET, load on a miss and SET; the worker DELs when the change is
//! committed. Most programs do this.

use super::{Loader, TTL_SECONDS, Wire};
use crate::freshness::faults::ledger::{Read, Source};
use crate::freshness::faults::schemes::Change;
use crate::redis::Reply;

pub struct AfterCommit {
    pub wire: Wire,
    loader: Loader,
}

impl AfterCommit {
    pub fn new(port: u16, loader: Loader) -> Self {
        let wire = Wire::new(port);
        Self { wire, loader }
    }

    pub async fn read(&self, row: usize) -> anyhow::Result<Read> {
        let name = name(row);
        let found = self.wire.ask(&["GET", &name]).await;
        if let Ok(found @ Reply::Bulk(_)) = &found {
            let version = found.text().parse()?;
            return Ok(Read {
                version,
                source: Source::Cache,
            });
        }
        let (_, version) = self.loader.load(row).await?;
        if found.is_ok() {
            let (text, ttl) = (version.to_string(), TTL_SECONDS.to_string());
            let _ = self.wire.ask(&["SET", &name, &text, "EX", &ttl]).await;
        }
        Ok(Read {
            version,
            source: Source::Loader,
        })
    }

    pub async fn removed(&self, change: &Change) {
        self.wire.tell(&["DEL", &name(change.row)]).await;
    }
}

fn name(row: usize) -> String {
    format!("after:{row}")
}
