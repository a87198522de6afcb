//! The invalidation engine: rules from a file, changes of every kind, each database backend and a real Redis. A test
//! reports or commits a change, drains the relay and checks which keys are gone.

mod actions;
mod builtin_rules;
mod hung_database;
mod movement;
mod partial_failure;
mod rate_alert;
mod removal_log;
mod reports;
mod rules_reload;

use std::path::PathBuf;
use std::sync::Arc;

use oddsd::clock::Clock;
use oddsd::http::{self, AppState};
use oddsd::relay::{EpochMonitor, EpochStatus, Relay, RelayOutcome, WatchedEpoch};
use oddsd::rules_file::{RulesHandle, RulesWatcher};
use oddsd_cache::Cache;
use oddsd_core::key::Key;
use oddsd_core::model::{ChangeKind, ExternalChange};
use oddsd_store::Removal;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cache::open_redis;
use crate::store::fixture::{DatabaseBackend, TestDatabase};
use crate::store::{log_page, on_every_backend};
use oddsd_testkit::redis::RedisServer;
use oddsd_testkit::resp::RespReply;
use oddsd_testkit::{WAIT_LIMIT, eventually};

/// A database, a Redis and a relay between them, with rules from a file.
struct Engine {
    home: TestDatabase,
    redis: RedisServer,
    relay: Relay,
    watcher: RulesWatcher,
    /// The rules file.
    rules: PathBuf,
    _folder: tempfile::TempDir,
}

impl Engine {
    /// Without a file: the built-in rules.
    async fn start(backend: DatabaseBackend) -> Self {
        Self::by(backend, "rules.toml", None).await
    }

    async fn with(backend: DatabaseBackend, rules: &str) -> Self {
        Self::by(backend, "rules.toml", Some(rules)).await
    }

    async fn by(backend: DatabaseBackend, name: &str, text: Option<&str>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let rules = folder.path().join(name);
        if let Some(text) = text {
            std::fs::write(&rules, text).expect("written");
        }
        let (book, watcher) = RulesHandle::open(&rules, None).unwrap_or_else(|why| panic!("{why}"));
        let (home, redis) = (backend.migrated().await, RedisServer::start().await);
        let cache = Arc::new(open_redis(&redis.url()).await);
        cache.connected().await;
        let relay = Relay::without_observers(home.store.clone(), cache, book, "ann".into());
        Self {
            home,
            redis,
            relay,
            watcher,
            rules,
            _folder: folder,
        }
    }

    fn cache(&self) -> &Arc<Cache> {
        self.relay.reader.cache()
    }

    /// Begins an epoch: from here on the cache keeps answers.
    async fn begin_epoch(&self) {
        let monitor = EpochMonitor {
            store: self.home.store.clone(),
            cache: Arc::clone(self.cache()),
            wakeups: self.relay.wakeups.clone(),
        };
        let mut epoch = WatchedEpoch::default();
        eventually("an epoch", async || match monitor.check(&mut epoch).await {
            EpochStatus::Begun => Ok(()),
            status => Err(status),
        })
        .await;
    }

    /// Stores a change as another program would report it to `POST /v1/changes`.
    async fn report(&self, change: Value) {
        let kind = change["change"].as_str().and_then(ChangeKind::parse);
        let mut detail = change.as_object().expect("an object").clone();
        detail.remove("change");
        let event = detail.remove("event_id");
        let reported = ExternalChange {
            kind: kind.expect("a kind"),
            event: event.map(|id| id.as_str().expect("an id").into()),
            detail: Value::Object(detail).to_string(),
        };
        let stored = self.home.store.report_changes(&[reported]).await;
        stored.expect("stored");
    }

    /// Removes all that is due.
    async fn drain(&self) {
        let done = self
            .relay
            .drain(WAIT_LIMIT)
            .await
            .expect("the database answers");
        assert!(!matches!(done, RelayOutcome::Failed { .. }), "{done:?}");
    }

    /// Makes all rows of the outbox due.
    async fn make_all_due(&self) {
        self.home
            .write("UPDATE oddsd.outbox SET due_at = created_at")
            .await;
    }

    /// Stores keys of another program.
    async fn put(&self, names: &[&str]) {
        for name in names {
            let put = self.redis.command(&["SET", name, "theirs"]).await;
            assert_eq!(put, RespReply::Status("OK".into()), "{name}");
        }
    }

    /// The keys of these that still exist.
    async fn left<'a>(&self, names: &[&'a str]) -> Vec<&'a str> {
        let mut left = Vec::new();
        for name in names {
            if self.redis.command(&["EXISTS", name]).await == RespReply::Int(1) {
                left.push(*name);
            }
        }
        left
    }

    /// The removal log, oldest first.
    async fn log(&self) -> Vec<Removal> {
        let log = self.home.store.removals(&log_page(0, 1_000)).await;
        log.expect("a log")
    }

    /// The targets removed since the last call.
    async fn gone(&self, known: &mut usize) -> Vec<String> {
        let log = self.log().await;
        let new = log[*known..].iter();
        let mut gone: Vec<String> = new.flat_map(|line| line.keys.iter().cloned()).collect();
        *known = log.len();
        gone.sort();
        gone
    }

    /// Serves the read API.
    async fn serve_api(&mut self) -> ApiServer {
        let (warm, keys) = tokio::sync::mpsc::channel::<Key>(64);
        self.relay.warm_queue = Some(warm);
        let stop = CancellationToken::new();
        let face = Arc::new(AppState {
            store: self.home.store.clone(),
            reader: self.relay.reader.clone(),
            rules: self.relay.rules.clone(),
            events: self.relay.live.clone(),
            clock: Clock::Real,
            skew: Default::default(),
            simulated: false,
            audit: None,
            outbox_gauge: Default::default(),
            report_token: None,
            relay_wakeup: Arc::clone(&self.relay.wakeups.outbox),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        tokio::spawn(http::warm(Arc::clone(&face), keys, stop.clone()));
        tokio::spawn(http::serve(listener, face, stop.clone()));
        ApiServer {
            url,
            _serving: stop.drop_guard(),
        }
    }
}

struct ApiServer {
    url: String,
    _serving: DropGuard,
}
