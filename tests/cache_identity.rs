//! Tests of one cache server that several databases reach: the answers of one never reach the readers of another.

use std::sync::Arc;

use oddsd::relay::{EpochMonitor, EpochStatus, WatchedEpoch};
use oddsd_cache::{
    Cache, CacheReadState, CacheSettings, InvalidationTargets, LoadedValue, Policy, Reader,
};
use oddsd_core::key::{Namespace, Tag};
use oddsd_store::Store;

use crate::cache::{CacheBackend, TOKEN, TTL, key, open, open_redis, open_upstash};
use crate::store::fixture::{self, DatabaseBackend, TestDatabase};
use crate::store::on_every_backend;
use oddsd_testkit::postgres::{self, PostgresServer};
use oddsd_testkit::redis::RedisServer;
use oddsd_testkit::resp::RespReply;
use oddsd_testkit::{WAIT_LIMIT, eventually};

on_every_backend!(
    second_database_leaves_the_cache_to_the_first,
    copy_of_a_database_is_another_one,
    every_cache_server_is_left_to_the_first,
    namespaces_share_a_server,
    database_that_changes_begins_a_new_epoch,
);

/// What a daemon has of one database: readers of the cache, and the monitor of its epoch.
struct Daemon {
    reader: Reader,
    monitor: EpochMonitor,
    watched: WatchedEpoch,
    /// What its database holds.
    body: &'static str,
}

impl Daemon {
    async fn start(body: &'static str, store: &Store, redis: &RedisServer) -> Self {
        let cache = open_redis(&redis.url()).await;
        Self::with_cache(body, store, cache).await
    }

    async fn with_cache(body: &'static str, store: &Store, cache: Cache) -> Self {
        cache.set_database(&store.identity().await.expect("an identity"));
        cache.connected().await;
        let cache = Arc::new(cache);
        Self {
            reader: Reader::with_budget(Arc::clone(&cache), WAIT_LIMIT),
            monitor: EpochMonitor {
                store: store.clone(),
                cache,
                wakeups: Default::default(),
            },
            watched: WatchedEpoch::default(),
            body,
        }
    }

    fn cache(&self) -> &Cache {
        self.reader.cache()
    }

    /// What the monitor does in each of its turns.
    async fn check(&mut self) -> EpochStatus {
        self.monitor.check(&mut self.watched).await
    }

    /// Reads twice. Each answer has to be the own one.
    async fn read(&self) -> [CacheReadState; 2] {
        let mut states = [CacheReadState::Bypass; 2];
        for state in &mut states {
            let (store, body) = (self.monitor.store.clone(), self.body);
            let load = move || {
                let store = store.clone();
                async move { Ok(LoadedValue::new(body, store.current_snapshot().await?)) }
            };
            let policy = Policy::fresh_for(TTL).tagged([tag()]);
            let read = self.reader.read(&key("k"), &policy, load).await;
            let read = read.expect("an answer");
            assert_eq!(read.body(), self.body, "{:?}", read.state);
            *state = read.state;
        }
        states
    }

    async fn expect_hits(&self) {
        let states = self.read().await;
        assert_eq!(states[1], CacheReadState::Hit, "{} {states:?}", self.body);
    }

    async fn expect_bypasses(&self) {
        assert_eq!(self.read().await, [CacheReadState::Bypass; 2]);
    }

    /// Removes the key and the tag, and returns whether there is an epoch.
    async fn remove(&self) -> bool {
        let targets = InvalidationTargets {
            keys: vec![key("k")],
            tags: vec![tag()],
            ..InvalidationTargets::default()
        };
        let snapshot = self.monitor.store.current_snapshot().await;
        let snapshot = snapshot.expect("a snapshot");
        let removed = self.reader.remove(&targets, &snapshot).await;
        let removed = removed.expect("removed");
        assert_eq!(removed.first_error(), None);
        !removed.no_epoch
    }
}

fn tag() -> Tag {
    Tag::from_text("t").expect("a tag")
}

/// The second daemon comes to a cache that the first one uses. Neither is served what the other one kept, and what the
/// second does changes nothing for the first.
async fn keep_apart(first: &Store, second: &Store) {
    let redis = RedisServer::start().await;
    let mut first = Daemon::start("first", first, &redis).await;
    // Removals in a cache without an epoch belong to no database.
    assert!(!first.remove().await);
    assert_eq!(first.check().await, EpochStatus::Begun);
    first.expect_hits().await;

    let mut second = Daemon::start("second", second, &redis).await;
    for _ in 0..3 {
        assert_eq!(second.check().await, EpochStatus::Foreign);
        second.expect_bypasses().await;
        assert_eq!(first.check().await, EpochStatus::Current);
    }
    let records = async || {
        let names = redis.command(&["KEYS", "oddsd:*"]).await;
        let RespReply::Array(mut names) = names else {
            panic!("{names:?}")
        };
        names.sort_by_key(|name| format!("{name:?}"));
        let mut records = Vec::new();
        for name in names {
            let RespReply::Bulk(name) = name else {
                panic!("{name:?}")
            };
            let name = String::from_utf8(name).expect("text");
            let record = redis.command(&["GET", &name]).await;
            records.push((name, record));
        }
        records
    };
    let before = records().await;
    redis.command(&["SET", "k", "of another program"]).await;
    assert!(!second.remove().await);
    let left = redis.command(&["EXISTS", "k"]).await;
    assert_eq!(
        left,
        RespReply::Int(0),
        "the key that rules name is removed"
    );
    assert_eq!(records().await, before, "and nothing else");
    assert!(first.remove().await);
    first.expect_hits().await;
    second.expect_bypasses().await;

    // An epoch that the first is about to begin is its own as well.
    let next = first.cache().end_epoch().await.expect("ended");
    assert_eq!(second.check().await, EpochStatus::Foreign);
    assert!(!second.remove().await);
    let snapshot = first.monitor.store.current_snapshot().await;
    let snapshot = snapshot.expect("a snapshot");
    let begun = first.cache().begin_epoch(&next, &snapshot).await;
    assert_eq!(begun, Ok(true));
    // The first one's monitor did not know of it, as after another daemon took over.
    assert_eq!(first.check().await, EpochStatus::Begun);
    first.expect_hits().await;

    // After a flush the cache is still left to the first.
    redis.command(&["FLUSHALL"]).await;
    assert_eq!(second.check().await, EpochStatus::Foreign);
    second.expect_bypasses().await;
    assert_eq!(first.check().await, EpochStatus::Begun);
    first.expect_hits().await;
}

async fn second_database_leaves_the_cache_to_the_first(backend: DatabaseBackend) {
    let here = backend.migrated().await;
    for other in [DatabaseBackend::Postgres, DatabaseBackend::Sqlite] {
        let other = other.migrated().await;
        keep_apart(&here.store, &other.store).await;
        keep_apart(&other.store, &here.store).await;
    }
}

/// A copy has the same id, tables and rows, and the same numbers of transactions.
async fn copy(database: &TestDatabase) -> Store {
    let url = match database.backend {
        DatabaseBackend::Postgres => {
            let (server, name) = database.url.rsplit_once('/').expect("a URL");
            // A template must not be in use.
            database.store.close().await;
            let mut admin = postgres::connect(&postgres::server_url()).await;
            let create = format!("CREATE DATABASE {name}_copy TEMPLATE {name}");
            let create = sqlx::raw_sql(sqlx::AssertSqlSafe(create));
            create.execute(&mut admin).await.expect("a copy");
            format!("{server}/{name}_copy")
        }
        DatabaseBackend::Sqlite => {
            let (_, file) = database.url.split_once(':').expect("a URL");
            database.query(&format!("VACUUM INTO '{file}.copy'")).await;
            format!("sqlite:{file}.copy")
        }
    };
    fixture::open(&url).await
}

async fn copy_of_a_database_is_another_one(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let copy = copy(&database).await;
    let original = database.another().await;
    let known = original.identity().await.expect("an identity");
    let again = database.another().await.identity().await;
    assert_eq!(again.as_ref(), Ok(&known), "of another process");
    let copied = copy.identity().await.expect("an identity");
    assert_ne!(copied, known);
    let id_of = |identity: &str| identity.split(' ').next().map(str::to_owned);
    assert_eq!(id_of(&copied), id_of(&known), "the id is copied");
    assert!(id_of(&known).is_some_and(|id| id.len() >= 32), "{known}");
    keep_apart(&original, &copy).await;
    keep_apart(&copy, &original).await;
}

async fn every_cache_server_is_left_to_the_first(backend: DatabaseBackend) {
    let (one, other) = (backend.migrated().await, backend.migrated().await);
    for servers in [CacheBackend::cluster().await, CacheBackend::upstash().await] {
        let open = async || match (&servers.cluster, &servers.upstash) {
            (Some(cluster), _) => open_redis(&cluster.url()).await,
            (None, Some(upstash)) => open_upstash(upstash, TOKEN).await,
            (None, None) => panic!("no server"),
        };
        // It begins with an epoch of neither of them.
        servers.flush().await;
        let mut first = Daemon::with_cache("first", &one.store, open().await).await;
        assert_eq!(first.check().await, EpochStatus::Begun);
        first.expect_hits().await;
        let mut second = Daemon::with_cache("second", &other.store, open().await).await;
        assert_eq!(second.check().await, EpochStatus::Foreign);
        second.expect_bypasses().await;
        servers.raw(&["SET", "k", "of another program"]).await;
        assert!(!second.remove().await);
        let left = servers.raw(&["EXISTS", "k"]).await;
        assert_eq!(left, Some(RespReply::Int(0)));
        assert_eq!(first.check().await, EpochStatus::Current);
        assert_eq!(first.read().await, [CacheReadState::Hit; 2]);
    }
}

async fn namespaces_share_a_server(backend: DatabaseBackend) {
    let (live, staging) = (backend.migrated().await, backend.migrated().await);
    let redis = RedisServer::start().await;
    let mut live = Daemon::start("live", &live.store, &redis).await;
    let cache = open(CacheSettings {
        redis_url: Some(redis.url().into()),
        namespace: Namespace::named("staging").expect("a namespace"),
        command_timeout: WAIT_LIMIT,
        ..CacheSettings::default()
    })
    .await;
    let mut staging = Daemon::with_cache("staging", &staging.store, cache).await;
    for _ in 0..2 {
        for daemon in [&mut live, &mut staging] {
            let status = daemon.check().await;
            assert!(matches!(status, EpochStatus::Begun | EpochStatus::Current));
            daemon.expect_hits().await;
        }
    }
    // A removal ends the own entry, and the key of other programs.
    redis.command(&["SET", "k", "of another program"]).await;
    assert!(staging.remove().await);
    assert_eq!(redis.command(&["EXISTS", "k"]).await, RespReply::Int(0));
    assert_eq!(live.read().await, [CacheReadState::Hit; 2]);
    assert_eq!(staging.read().await[0], CacheReadState::Miss);
}

/// As after a failover: another server answers behind the same address.
async fn database_that_changes_begins_a_new_epoch(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let redis = RedisServer::start().await;
    let mut daemon = Daemon::start("old answer", &database.store, &redis).await;
    assert_eq!(daemon.check().await, EpochStatus::Begun);
    daemon.expect_hits().await;
    daemon.cache().set_database("the promoted standby");
    daemon.body = "new answer";
    daemon.expect_bypasses().await;
    assert!(!daemon.remove().await);
    // Its own epoch from before needs no wait.
    assert_eq!(daemon.check().await, EpochStatus::Begun);
    assert_eq!(daemon.check().await, EpochStatus::Current);
    assert_eq!(
        daemon.read().await,
        [CacheReadState::Miss, CacheReadState::Hit]
    );
}

#[tokio::test]
async fn restart_of_the_database_server_is_noticed_by_its_new_sessions() {
    let mut server = PostgresServer::start().expect("a server");
    let store = fixture::open(&server.url).await;
    store.migrate(false).await.expect("migrated");
    let before = store.identity().await.expect("an identity");
    assert_eq!(store.identity().await, Ok(before.clone()));
    let mut sessions = store.opened_sessions();
    sessions.mark_unchanged();
    server.restart().expect("started again");
    let after = eventually("the server answers", async || store.identity().await).await;
    assert_ne!(after, before);
    assert_eq!(sessions.has_changed().ok(), Some(true));
}
