//! What we know of the server that answers us: which run of it, and its clock. Forgotten with every
//! lost connection, because the one that answers next may have another memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::ClientLike;
use fred::types::InfoKind;

use super::super::call::Call;
use super::super::clock::ServerClock;
use super::{CLUSTER_RUN, send};

const NOW: &str = "local now = redis.call('TIME') return now[1] * 1000 + math.floor(now[2] / 1000)";

pub(super) struct Known {
    is_cluster: bool,
    run: Mutex<Option<Arc<str>>>,
    pub clock: ServerClock,
}

impl Known {
    pub fn new(is_cluster: bool) -> Self {
        Self {
            is_cluster,
            run: Mutex::default(),
            clock: ServerClock::default(),
        }
    }

    pub fn run(&self) -> Option<Arc<str>> {
        self.lock().clone()
    }

    pub fn forget(&self) {
        *self.lock() = None;
    }

    pub async fn learn(&self, client: &Client) -> Result<(), Error> {
        let run = match self.is_cluster {
            true => CLUSTER_RUN.into(),
            false => {
                let info: String = client.info(Some(InfoKind::Server)).await?;
                let run = info.lines().find_map(|line| line.strip_prefix("run_id:"));
                // A server that does not say is told from itself by its beats alone.
                run.map_or("unsaid", str::trim).into()
            }
        };
        if let Ok(ms) = send::<u64>(client, &Call::script(NOW, [""; 0], [""; 0])).await {
            self.clock.heard(ms, Instant::now());
        }
        *self.lock() = Some(run);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<str>>> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
