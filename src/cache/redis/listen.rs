//! The first level in front of Redis, and the connection on which the server tells it what changed
//! (client tracking, broadcasting by prefix). It is only used while the beats of the floor keep
//! coming over that connection: silence, a gap or a new connection empties it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use fred::interfaces::{ClientLike, EventInterface, TrackingInterface};
use fred::types::RespVersion;
use fred::types::config::Config;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;

use super::super::entry::Entry;
use super::super::shelf::{Marks, Shelf};
use super::super::{CacheError, Targets};
use super::connect;
use crate::key::{Heard, Key, Tag};

/// Beats come every 25 ms; after this much silence nothing of the first level is served. With a removal
/// that was on its way for 150 ms before, an old answer is still no older than a quarter of a second.
const SILENCE: Duration = Duration::from_millis(70);
/// Nothing was heard on this connection yet.
const NEVER: i64 = i64::MIN;

pub(super) struct Listener {
    ear: Arc<Ear>,
    task: JoinHandle<()>,
}

struct Ear {
    shelf: Shelf,
    /// When a beat came last, in ms since `start`.
    beaten: AtomicI64,
    /// The same, of the last one that came soon after another: after a silence, what changed meanwhile
    /// is told together with the first beat, in no order.
    heard: AtomicI64,
    start: Instant,
}

impl Listener {
    pub fn start(
        mut config: Config,
        command_timeout: Duration,
        max_bytes: u64,
    ) -> anyhow::Result<Self> {
        config.version = RespVersion::RESP3;
        let client = connect::client(config, command_timeout)?;
        let ear = Arc::new(Ear {
            shelf: Shelf::new(max_bytes),
            beaten: AtomicI64::new(NEVER),
            heard: AtomicI64::new(NEVER),
            start: Instant::now(),
        });
        let task = tokio::spawn({
            let ear = Arc::clone(&ear);
            async move { listen(client, &ear).await }
        });
        Ok(Self { ear, task })
    }

    pub fn get(&self, key: &Key, now: Instant) -> Option<Arc<Entry>> {
        let silent_since = match self.ear.heard.load(Ordering::Acquire) {
            NEVER => return None,
            ms => Duration::from_millis(ms as u64),
        };
        let silence = now
            .saturating_duration_since(self.ear.start)
            .saturating_sub(silent_since);
        (silence < SILENCE)
            .then(|| self.ear.shelf.hot(key))
            .flatten()
    }

    pub fn marks(&self, key: &Key, tags: &[Tag]) -> Marks {
        self.ear.shelf.marks(key, tags)
    }

    pub fn keep(&self, key: &Key, entry: Arc<Entry>, marks: Marks) {
        // What is too large for it stays where it is.
        self.ear.shelf.keep(key, entry, marks);
    }

    pub fn remove(&self, targets: &Targets) {
        for key in targets.keys.iter().chain(&targets.stale) {
            self.ear.shelf.remove(key);
        }
        for tag in &targets.tags {
            self.ear.shelf.remove_tag(tag);
        }
    }

    pub fn remove_all(&self) {
        self.ear.shelf.remove_all();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ear {
    fn hears(&self, name: &[u8]) {
        match std::str::from_utf8(name).ok().and_then(Heard::name) {
            Some(Heard::Key(key)) => {
                // Stored keys are keys.
                if let Some(key) = Key::from_person(key) {
                    self.shelf.remove(&key);
                }
            }
            Some(Heard::Tag(tag)) => self.shelf.remove_tag(&Tag::stored(tag)),
            Some(Heard::Floor) => self.shelf.remove_all(),
            Some(Heard::Beat) => {
                let ms = self.start.elapsed().as_millis() as i64;
                let before = self.beaten.swap(ms, Ordering::AcqRel);
                if ms.saturating_sub(before) < SILENCE.as_millis() as i64 {
                    self.heard.store(ms, Ordering::Release);
                }
            }
            None => {}
        }
    }

    /// What was heard so far vouches for nothing any more.
    fn deaf(&self) {
        self.beaten.store(NEVER, Ordering::Release);
        self.heard.store(NEVER, Ordering::Release);
        self.shelf.remove_all();
    }
}

async fn listen(client: fred::clients::Client, ear: &Ear) {
    let (mut failures, mut connects) = (client.error_rx(), client.reconnect_rx());
    let mut news = client.invalidation_rx();
    // Held: the library's task ends with us.
    let _connection = connect::Connection(client.connect());
    loop {
        tokio::select! {
            biased;
            failure = failures.recv() => match failure {
                Ok(_) | Err(RecvError::Lagged(_)) => {
                    // What the lost connection still had to say is of the past.
                    news = client.invalidation_rx();
                    ear.deaf();
                }
                Err(RecvError::Closed) => return ear.deaf(),
            },
            connect = connects.recv() => {
                ear.deaf();
                if matches!(connect, Err(RecvError::Closed)) {
                    return;
                }
                let prefixes = Heard::PREFIXES.map(String::from).to_vec();
                let tracking = client.start_tracking(prefixes, true, false, false, false).await;
                // What was kept until now was not watched over.
                ear.deaf();
                if let Err(error) = tracking {
                    let why: CacheError = super::explain("the first level", &error);
                    tracing::warn!(event = "cache.first_level_off", error = %why, "The first level is not used: Redis does not tell us what changes");
                }
            }
            told = news.recv() => match told {
                // An empty list: the whole memory was flushed.
                Ok(told) if told.keys.is_empty() => ear.shelf.remove_all(),
                Ok(told) => told.keys.iter().for_each(|name| ear.hears(name.as_bytes())),
                Err(RecvError::Lagged(_)) => ear.deaf(),
                Err(RecvError::Closed) => return ear.deaf(),
            },
        }
    }
}
