//! The subscription to Redis client tracking, broadcasting by prefix, on a connection of its own. It
//! feeds the L1; the Redis transport starts it when an L1 is configured.

use std::sync::Arc;
use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::{ClientLike, EventInterface, TrackingInterface};
use fred::types::RespVersion;
use fred::types::config::Config;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::error::CacheError;
use super::super::l1::L1Cache;
use super::{connect, convert};
use oddsd_core::key::{Namespace, TrackedKey};

pub(super) struct TrackingSubscriber {
    pub l1: Arc<L1Cache>,
    /// The outcome of the last subscription; `None` before the first.
    pub outcome: watch::Receiver<Option<Result<(), CacheError>>>,
    pub client: Client,
    task: JoinHandle<()>,
}

impl TrackingSubscriber {
    pub fn start(
        mut config: Config,
        namespace: Namespace,
        command_timeout: Duration,
        max_bytes: u64,
    ) -> anyhow::Result<Self> {
        config.version = RespVersion::RESP3;
        let client = connect::client(config, command_timeout)?;
        let l1 = Arc::new(L1Cache::new(max_bytes, namespace));
        let (sender, outcome) = watch::channel(None);
        let task = tokio::spawn({
            let (client, l1) = (client.clone(), Arc::clone(&l1));
            async move { subscribe(client, &l1, &sender).await }
        });
        Ok(Self {
            l1,
            outcome,
            client,
            task,
        })
    }
}

impl Drop for TrackingSubscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn subscribe(
    client: Client,
    l1: &L1Cache,
    outcome: &watch::Sender<Option<Result<(), CacheError>>>,
) {
    let (mut failures, mut connects) = (client.error_rx(), client.reconnect_rx());
    let mut messages = client.invalidation_rx();
    // Held: the library's task ends with this one.
    let _connection = connect::Connection(client.connect());
    loop {
        tokio::select! {
            biased;
            failure = failures.recv() => match failure {
                Ok(_) | Err(RecvError::Lagged(_)) => {
                    // Messages of the lost connection that are still queued are out of date.
                    messages = client.invalidation_rx();
                    l1.reset();
                }
                Err(RecvError::Closed) => return l1.reset(),
            },
            connect = connects.recv() => {
                l1.reset();
                if matches!(connect, Err(RecvError::Closed)) {
                    return;
                }
                let prefixes = TrackedKey::prefixes(&l1.namespace);
                let tracking = client.start_tracking(prefixes, true, false, false, false).await;
                // Changes before this moment were not tracked.
                l1.reset();
                let tracking = tracking.map_err(|error| convert::map_error("the first level", &error));
                if let Err(why) = &tracking {
                    tracing::warn!(event = "cache.first_level_off", error = %why, "The first level is not used: Redis does not tell us what changes");
                }
                outcome.send_replace(Some(tracking));
            }
            message = messages.recv() => match message {
                // An empty list: the whole memory was flushed.
                Ok(message) if message.keys.is_empty() => l1.local.remove_all(),
                Ok(message) => message.keys.iter().for_each(|name| l1.apply_change(name.as_bytes())),
                Err(RecvError::Lagged(_)) => l1.reset(),
                Err(RecvError::Closed) => return l1.reset(),
            },
        }
    }
}
