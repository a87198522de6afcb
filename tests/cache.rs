//! What every cache promises, told on each backend: in process, Redis, a Redis cluster, Upstash.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use oddsd::cache::{Cache, CacheSettings, Lease, Lookup, NO_EXPIRY};
use oddsd::key::Key;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use crate::world::redis::{RedisCluster, RedisServer};
use crate::world::resp::Reply;
use crate::world::upstash::Upstash;

pub const TTL: Duration = Duration::from_secs(3600);
const TOKEN: &str = "canary-token";

pub fn key(name: &str) -> Key {
    Key::from_person(name).expect("a key")
}

pub async fn open(settings: CacheSettings) -> Cache {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Cache::open(&settings).await.expect("settings that work")
}

pub async fn open_redis(url: &str) -> Cache {
    open(CacheSettings {
        redis_url: Some(url.to_owned().into()),
        command_timeout: Duration::from_secs(10),
        ..CacheSettings::default()
    })
    .await
}

pub async fn open_upstash(upstash: &Upstash, token: &str) -> Cache {
    open(CacheSettings {
        upstash_url: Some(upstash.url()),
        upstash_token: Some(token.to_owned().into()),
        command_timeout: Duration::from_secs(10),
        ..CacheSettings::default()
    })
    .await
}

/// A cache, and the servers behind it.
struct Backend {
    cache: Cache,
    redis: Option<RedisServer>,
    cluster: Option<RedisCluster>,
    upstash: Option<Upstash>,
}

impl Backend {
    fn new(cache: Cache) -> Self {
        Self {
            cache,
            redis: None,
            cluster: None,
            upstash: None,
        }
    }

    async fn memory() -> Self {
        Self::new(open(CacheSettings::default()).await)
    }

    async fn redis() -> Self {
        let redis = RedisServer::start().await;
        let cache = open_redis(&redis.url()).await;
        cache.connected().await;
        Self {
            redis: Some(redis),
            ..Self::new(cache)
        }
    }

    async fn cluster() -> Self {
        let cluster = RedisServer::cluster().await;
        let cache = open_redis(&cluster.url()).await;
        cache.connected().await;
        Self {
            cluster: Some(cluster),
            ..Self::new(cache)
        }
    }

    async fn upstash() -> Self {
        let redis = RedisServer::start().await;
        let upstash = Upstash::start(redis.port(), TOKEN).await;
        let cache = open_upstash(&upstash, TOKEN).await;
        Self {
            redis: Some(redis),
            upstash: Some(upstash),
            ..Self::new(cache)
        }
    }

    /// What another program would do; `None` where there is no server.
    async fn raw(&self, args: &[&str]) -> Option<Reply> {
        if let Some(redis) = &self.redis {
            return Some(redis.cli(args).await);
        }
        for node in &self.cluster.as_ref()?.nodes {
            match node.cli(args).await {
                Reply::Error(moved) if moved.starts_with("MOVED") => {}
                reply => return Some(reply),
            }
        }
        panic!("every node says MOVED")
    }

    async fn flush(&self) {
        let one = self.redis.iter();
        let nodes = self.cluster.iter().flat_map(|cluster| &cluster.nodes);
        for server in one.chain(nodes) {
            server.cli(&["FLUSHALL"]).await;
        }
    }
}

pub async fn lease(cache: &Cache, key: &Key) -> Option<Lease> {
    match cache.get(key).await.expect("an answer") {
        Lookup::Miss { lease } => lease,
        Lookup::Hit { body, .. } => panic!("a hit on {key}: {body:?}"),
    }
}

pub async fn put(cache: &Cache, key: &Key, body: &[u8]) {
    let lease = lease(cache, key).await.expect("a lease");
    assert_eq!(cache.fill(key, &lease, body, TTL).await, Ok(true));
}

pub async fn body(cache: &Cache, key: &Key) -> Option<Vec<u8>> {
    match cache.get(key).await.expect("an answer") {
        Lookup::Miss { .. } => None,
        Lookup::Hit { body, .. } => Some(body.to_vec()),
    }
}

macro_rules! on_every_backend {
    ($($story:ident)*) => {
        mod in_process { $(#[tokio::test] async fn $story() { super::$story(super::Backend::memory().await).await })* }
        mod redis { $(#[tokio::test] async fn $story() { super::$story(super::Backend::redis().await).await })* }
        mod redis_cluster { $(#[tokio::test] async fn $story() { super::$story(super::Backend::cluster().await).await })* }
        mod upstash { $(#[tokio::test] async fn $story() { super::$story(super::Backend::upstash().await).await })* }
    };
}

on_every_backend! {
    a_filled_value_is_served_until_it_is_removed
    only_one_reader_may_fill
    a_removal_voids_the_fill_in_flight
    a_flush_voids_the_fill_in_flight
    keys_of_every_kind_are_kept_apart_and_removed
    large_bodies_and_escapes_come_back_byte_for_byte
    ten_thousand_keys_are_removed_in_few_round_trips
    values_that_other_programs_store_are_served_and_removed
    no_order_of_events_leaves_an_old_value
}

async fn a_filled_value_is_served_until_it_is_removed(backend: Backend) {
    let (cache, key) = (&backend.cache, Key::races_by_stage());
    assert_eq!(cache.ping().await, Ok(()));
    put(cache, &key, b"{\"races\":1}").await;
    match cache.get(&key).await {
        Ok(Lookup::Hit { body, remaining }) => {
            assert_eq!(&body[..], b"{\"races\":1}");
            assert!(remaining <= TTL && remaining > TTL / 2, "{remaining:?}");
        }
        other => panic!("no hit: {other:?}"),
    }
    if let Some(stored) = backend.raw(&["GET", key.as_str()]).await {
        assert_eq!(stored, Reply::Bulk(b"{\"races\":1}".to_vec()));
    }
    assert_eq!(cache.remove(std::slice::from_ref(&key)).await, Ok(1));
    assert_eq!(cache.remove(std::slice::from_ref(&key)).await, Ok(0));
    assert_eq!(cache.remove(&[]).await, Ok(0));
    assert_eq!(body(cache, &key).await, None);
}

async fn only_one_reader_may_fill(backend: Backend) {
    let (cache, key) = (&backend.cache, key("k"));
    let first = lease(cache, &key).await.expect("the first takes it");
    assert_eq!(lease(cache, &key).await, None);
    assert_eq!(cache.fill(&key, &first, b"1", TTL).await, Ok(true));
    assert_eq!(
        cache.fill(&key, &first, b"2", TTL).await,
        Ok(false),
        "a lease fills once"
    );
    assert_eq!(body(cache, &key).await.as_deref(), Some(&b"1"[..]));
}

async fn a_removal_voids_the_fill_in_flight(backend: Backend) {
    let (cache, key) = (&backend.cache, key("k"));
    let old = lease(cache, &key).await.expect("a lease");
    cache
        .remove(std::slice::from_ref(&key))
        .await
        .expect("removed");
    assert_eq!(cache.fill(&key, &old, b"old", TTL).await, Ok(false));
    let new = lease(cache, &key).await.expect("free again");
    assert_eq!(cache.fill(&key, &old, b"old", TTL).await, Ok(false));
    assert_eq!(cache.fill(&key, &new, b"new", TTL).await, Ok(true));
    assert_eq!(body(cache, &key).await.as_deref(), Some(&b"new"[..]));
}

async fn a_flush_voids_the_fill_in_flight(backend: Backend) {
    if backend.cache.backend() == "memory" {
        return; // Nobody else can flush it.
    }
    let (cache, key) = (&backend.cache, key("k"));
    let old = lease(cache, &key).await.expect("a lease");
    backend.flush().await;
    assert_eq!(cache.fill(&key, &old, b"old", TTL).await, Ok(false));
}

async fn keys_of_every_kind_are_kept_apart_and_removed(backend: Backend) {
    let cache = &backend.cache;
    let long = "k".repeat(30_000);
    let names = [
        "a b",
        "a*b",
        "a?b",
        "[z]",
        "\\",
        "\"'",
        "a{b}c",
        "}x{",
        "{}",
        "{a",
        "a}",
        "ключ",
        "🐎",
        "%00",
        "lease:{k}",
        "a:b",
        &long,
    ];
    let keys: Vec<Key> = names.iter().map(|name| key(name)).collect();
    let mut kept = 0;
    for (name, key) in names.iter().zip(&keys) {
        // On a cluster, a key with braces of its own is never kept, only removed.
        if let Some(lease) = lease(cache, key).await {
            let filled = cache.fill(key, &lease, name.as_bytes(), TTL).await;
            assert_eq!(filled, Ok(true), "{name}");
        } else {
            assert!(name.contains(['{', '}']), "{name}");
            backend.raw(&["SET", name, name]).await.expect("a server");
        }
        kept += 1;
    }
    for (name, key) in names.iter().zip(&keys) {
        if let Some(body) = body(cache, key).await {
            assert_eq!(body, name.as_bytes());
        }
        if let Some(stored) = backend.raw(&["GET", name]).await {
            assert_eq!(stored.text(), *name);
        }
    }
    assert_eq!(cache.remove(&keys).await, Ok(kept));
    for name in names {
        if let Some(reply) = backend.raw(&["EXISTS", name]).await {
            assert_eq!(reply, Reply::Int(0), "{name}");
        }
    }
}

async fn large_bodies_and_escapes_come_back_byte_for_byte(backend: Backend) {
    let cache = &backend.cache;
    let escapes: String = (0u8..128)
        .map(char::from)
        .chain("ü€🐎\u{2028}".chars())
        .collect();
    let large = escapes.repeat(8_000);
    assert!(large.len() > 1_000_000 && cache.can_keep(large.as_bytes()));
    put(cache, &key("large"), large.as_bytes()).await;
    let found = body(cache, &key("large")).await.expect("a hit");
    assert!(found == large.as_bytes(), "{} bytes came back", found.len());

    let bytes: Vec<u8> = (0..=255).collect();
    let can_keep = cache.can_keep(&bytes);
    assert_eq!(
        can_keep,
        cache.backend() != "upstash",
        "REST carries text only"
    );
    if can_keep {
        put(cache, &key("bytes"), &bytes).await;
        assert_eq!(body(cache, &key("bytes")).await, Some(bytes));
    }
}

async fn ten_thousand_keys_are_removed_in_few_round_trips(backend: Backend) {
    let cache = &backend.cache;
    let keys: Vec<Key> = (0..10_000)
        .map(|n| key(&format!("event:{n}:prices:v1")))
        .collect();
    for key in keys.iter().step_by(500) {
        put(cache, key, b"x").await;
    }
    let before = backend.upstash.as_ref().map(|u| (u.requests(), u.billed()));
    assert_eq!(cache.remove(&keys).await, Ok(20));
    if let (Some(upstash), Some((requests, billed))) = (&backend.upstash, before) {
        assert_eq!(upstash.requests() - requests, 1);
        assert_eq!(upstash.billed() - billed, 1);
    }
    if backend.cluster.is_none()
        && backend.upstash.is_none()
        && let Some(stats) = backend.raw(&["INFO", "commandstats"]).await
    {
        let calls = stats.text();
        assert!(calls.contains("cmdstat_unlink:calls=20,"), "{calls}");
    }
}

async fn values_that_other_programs_store_are_served_and_removed(backend: Backend) {
    let (cache, key) = (&backend.cache, Key::races_by_stage());
    if backend
        .raw(&["SET", key.as_str(), "theirs"])
        .await
        .is_none()
    {
        return; // In process there are no other programs.
    }
    match cache.get(&key).await {
        Ok(Lookup::Hit { body, remaining }) => {
            assert_eq!((&body[..], remaining), (&b"theirs"[..], NO_EXPIRY));
        }
        other => panic!("no hit: {other:?}"),
    }
    assert_eq!(cache.remove(std::slice::from_ref(&key)).await, Ok(1));
    put(cache, &key, b"ours").await;
    backend.raw(&["DEL", key.as_str()]).await;
    assert_eq!(body(cache, &key).await, None);
}

/// What can happen around one key, in any order.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Reader n does its next thing: look, load, fill.
    Reader(usize),
    /// The writer commits a new value and has not removed the key yet.
    Commit,
    Remove,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0usize..3).prop_map(Step::Reader),
        1 => Just(Step::Commit),
        2 => Just(Step::Remove),
    ];
    prop::collection::vec(step, 1..60)
}

enum ReaderAt {
    Start,
    Missed(Option<Lease>),
    Loaded(Option<Lease>, u64),
}

/// After a commit and its removal nobody is served what was loaded before it, whatever readers were
/// doing meanwhile.
async fn no_order_of_events_leaves_an_old_value(backend: Backend) {
    let cache = &backend.cache;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for round in 0..60 {
        let steps = steps().new_tree(&mut runner).expect("steps").current();
        let key = key(&format!("round:{round}"));
        let (mut stored, mut removed) = (1u64, 1u64);
        let mut readers = [ReaderAt::Start, ReaderAt::Start, ReaderAt::Start];
        for step in &steps {
            match *step {
                Step::Commit => stored += 1,
                Step::Remove => {
                    cache
                        .remove(std::slice::from_ref(&key))
                        .await
                        .expect("removed");
                    removed = stored;
                }
                Step::Reader(n) => {
                    readers[n] = match std::mem::replace(&mut readers[n], ReaderAt::Start) {
                        ReaderAt::Start => match cache.get(&key).await.expect("an answer") {
                            Lookup::Miss { lease } => ReaderAt::Missed(lease),
                            Lookup::Hit { body, .. } => {
                                let served: u64 =
                                    String::from_utf8_lossy(&body).parse().expect("a number");
                                assert!(
                                    served >= removed,
                                    "served {served} after the removal of {removed}: {steps:?}"
                                );
                                ReaderAt::Start
                            }
                        },
                        ReaderAt::Missed(lease) => ReaderAt::Loaded(lease, stored),
                        ReaderAt::Loaded(Some(lease), value) => {
                            let body = value.to_string();
                            let fill = cache.fill(&key, &lease, body.as_bytes(), TTL);
                            fill.await.expect("an answer");
                            ReaderAt::Start
                        }
                        ReaderAt::Loaded(None, _) => ReaderAt::Start,
                    };
                }
            }
        }
    }
}

/// The same law with real threads, where the orders are those that the machine finds.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_million_reads_race_with_removals_in_process() {
    const READERS: u64 = 4;
    const READS: u64 = 250_000;
    let cache = Arc::new(open(CacheSettings::default()).await);
    let (stored, removed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let (cache, stored, removed) = (cache.clone(), stored.clone(), removed.clone());
            tokio::spawn(async move {
                let (key, mut hits) = (key("k"), 0);
                for _ in 0..READS {
                    let oldest = removed.load(SeqCst);
                    match cache.get(&key).await.expect("an answer") {
                        Lookup::Hit { body, .. } => {
                            let bytes = body[..].try_into().expect("eight bytes");
                            let served = u64::from_be_bytes(bytes);
                            assert!(
                                served >= oldest,
                                "served {served} after {oldest} was removed"
                            );
                            hits += 1;
                        }
                        Lookup::Miss { lease: Some(lease) } => {
                            let loaded = stored.load(SeqCst).to_be_bytes();
                            let fill = cache.fill(&key, &lease, &loaded, TTL).await;
                            fill.expect("an answer");
                        }
                        Lookup::Miss { lease: None } => tokio::task::yield_now().await,
                    }
                }
                hits
            })
        })
        .collect();
    let key = key("k");
    while readers.iter().any(|reader| !reader.is_finished()) {
        let newest = stored.fetch_add(1, SeqCst) + 1;
        cache
            .remove(std::slice::from_ref(&key))
            .await
            .expect("removed");
        removed.store(newest, SeqCst);
        tokio::task::yield_now().await;
    }
    for reader in readers {
        assert!(reader.await.expect("no stale read") > 0);
    }
    assert!(stored.load(SeqCst) > 100, "the writer came to its turn");
}

/// The stand-in is only worth something if the provider's own clients are content with it.
#[tokio::test(flavor = "multi_thread")]
async fn upstash_stand_in_satisfies_the_real_clients() {
    const NAME: &str = "upstash_stand_in_satisfies_the_real_clients";
    let python = std::env::var_os("ODDSD_TEST_PYTHON");
    let modules = std::env::var_os("ODDSD_TEST_NODE_MODULES");
    let (Some(python), Some(modules)) = (python, modules) else {
        let strict = ["CI", "ODDSD_TEST_STRICT"]
            .iter()
            .any(|name| std::env::var_os(name).is_some());
        assert!(
            !strict,
            "ODDSD_TEST_PYTHON and ODDSD_TEST_NODE_MODULES are not set: run ./test"
        );
        crate::world::recordings::not_run(NAME, "no clients; ./test installs them");
        return;
    };
    let redis = RedisServer::start().await;
    let upstash = Upstash::start(redis.port(), TOKEN).await;
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/upstash_clients");
    let clients = [
        (python, format!("{scripts}/client.py")),
        ("node".into(), format!("{scripts}/client.mjs")),
    ];
    for (program, script) in clients {
        redis.cli(&["FLUSHALL"]).await;
        let output = tokio::process::Command::new(program)
            .arg(&script)
            .env("UPSTASH_REDIS_REST_URL", upstash.url())
            .env("UPSTASH_REDIS_REST_TOKEN", TOKEN)
            .env("ODDSD_TEST_NODE_MODULES", &modules)
            .env("UPSTASH_DISABLE_TELEMETRY", "1")
            .env_remove("HTTP_PROXY")
            .env_remove("http_proxy")
            .kill_on_drop(true)
            .output()
            .await
            .expect("run the client");
        assert!(
            output.status.success(),
            "{script}:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert!(upstash.billed() > 20);
}
