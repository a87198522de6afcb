//! Tests that every cache backend must pass: in process, Redis, Redis cluster, Upstash.
//! They hold the cache's contract: fill leases, fences, epochs, removals.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use oddsd_cache::{
    Bytes, Cache, CacheSettings, Entry, Epoch, FillLease, InvalidationTargets, LeaseOutcome,
    PutOutcome,
};
use oddsd_core::key::{Key, Tag};
use oddsd_core::model::DbSnapshot;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use oddsd_testkit::redis::{RedisCluster, RedisServer};
use oddsd_testkit::resp::RespReply;
use oddsd_testkit::upstash::UpstashStandIn;

pub const TTL: Duration = Duration::from_secs(3600);
pub const TOKEN: &str = "canary-token";
/// The identity of the database that the tests' loaders stand for.
const DATABASE: &str = "tests";

pub fn key(name: &str) -> Key {
    Key::from_user_input(name).expect("a key")
}

pub async fn open(settings: CacheSettings) -> Cache {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cache = Cache::open(&settings).await.expect("settings that work");
    cache.set_database(DATABASE);
    cache
}

pub async fn open_redis(url: &str) -> Cache {
    open(CacheSettings {
        redis_url: Some(url.to_owned().into()),
        command_timeout: Duration::from_secs(10),
        ..CacheSettings::default()
    })
    .await
}

pub async fn open_upstash(upstash: &UpstashStandIn, token: &str) -> Cache {
    open(CacheSettings {
        upstash_url: Some(upstash.url()),
        upstash_token: Some(token.to_owned().into()),
        command_timeout: Duration::from_secs(10),
        ..CacheSettings::default()
    })
    .await
}

/// A cache, and the servers behind it.
pub struct CacheBackend {
    pub cache: Cache,
    pub redis: Option<RedisServer>,
    pub cluster: Option<RedisCluster>,
    pub upstash: Option<UpstashStandIn>,
}

impl CacheBackend {
    fn new(cache: Cache) -> Self {
        Self {
            cache,
            redis: None,
            cluster: None,
            upstash: None,
        }
    }

    pub async fn memory() -> Self {
        Self::new(open(CacheSettings::default()).await)
    }

    pub async fn redis() -> Self {
        let redis = RedisServer::start().await;
        let cache = open_redis(&redis.url()).await;
        cache.connected().await;
        begin_epoch(&cache).await;
        Self {
            redis: Some(redis),
            ..Self::new(cache)
        }
    }

    pub async fn cluster() -> Self {
        let cluster = RedisServer::cluster().await;
        let cache = open_redis(&cluster.url()).await;
        cache.connected().await;
        begin_epoch(&cache).await;
        Self {
            cluster: Some(cluster),
            ..Self::new(cache)
        }
    }

    pub async fn upstash() -> Self {
        let redis = RedisServer::start().await;
        let upstash = UpstashStandIn::start(redis.port(), TOKEN).await;
        let cache = open_upstash(&upstash, TOKEN).await;
        begin_epoch(&cache).await;
        Self {
            redis: Some(redis),
            upstash: Some(upstash),
            ..Self::new(cache)
        }
    }

    /// A raw command of another program; `None` where there is no server.
    pub async fn raw(&self, args: &[&str]) -> Option<RespReply> {
        if let Some(redis) = &self.redis {
            return Some(redis.command(args).await);
        }
        for node in &self.cluster.as_ref()?.nodes {
            match node.command(args).await {
                RespReply::Error(moved) if moved.starts_with("MOVED") => {}
                reply => return Some(reply),
            }
        }
        panic!("every node says MOVED")
    }

    /// How the keys of this backend are spread.
    pub fn buckets(&self) -> u16 {
        if self.cluster.is_some() { 32 } else { 1 }
    }

    pub async fn flush(&self) {
        let one = self.redis.iter();
        let nodes = self.cluster.iter().flat_map(|cluster| &cluster.nodes);
        for server in one.chain(nodes) {
            server.command(&["FLUSHALL"]).await;
        }
    }
}

/// A loader's entry whose snapshot includes the first `commits` commits.
pub fn entry(body: &[u8], commits: u64) -> Arc<Entry> {
    Arc::new(Entry {
        body: Bytes::copy_from_slice(body),
        version: 0,
        absent: false,
        snapshot: DbSnapshot::from_commit_count(commits),
        tags: Vec::new(),
        stored_at: Instant::now(),
        fresh: TTL,
        while_revalidating: Duration::ZERO,
        on_error: Duration::ZERO,
        load_time: Duration::ZERO,
    })
}

/// Begins an epoch, as the leader does.
pub async fn begin_epoch(cache: &Cache) -> Epoch {
    let epoch = cache.end_epoch().await.expect("ended");
    let snapshot = DbSnapshot::from_commit_count(0);
    let begun = cache.begin_epoch(&epoch, &snapshot).await;
    assert_eq!(begun, Ok(true));
    epoch
}

/// Looks the key up and asks for its fill lease.
pub async fn take(cache: &Cache, key: &Key) -> LeaseOutcome {
    take_tagged(cache, key, &[]).await
}

async fn take_tagged(cache: &Cache, key: &Key, tags: &[Tag]) -> LeaseOutcome {
    let looked = cache.get(key, tags).await.expect("an answer");
    cache
        .acquire_lease(key, tags, &looked)
        .await
        .expect("an answer")
}

pub async fn lease(cache: &Cache, key: &Key) -> Option<FillLease> {
    match take(cache, key).await {
        LeaseOutcome::Acquired(lease) => Some(lease),
        LeaseOutcome::Held => None,
        other => panic!("no lease for {key}: {other:?}"),
    }
}

pub async fn fill(
    cache: &Cache,
    key: &Key,
    lease: FillLease,
    body: &[u8],
    commits: u64,
) -> PutOutcome {
    let entry = Arc::new(Entry {
        version: lease.version(),
        ..Entry::clone(&entry(body, commits))
    });
    let filled = cache.put_if_valid(key, lease, entry, 1 << 20).await;
    filled.expect("an answer")
}

/// Fills as a reader whose snapshot includes every commit.
pub async fn put(cache: &Cache, key: &Key, body: &[u8]) {
    let lease = lease(cache, key).await.expect("a lease");
    assert_eq!(
        fill(cache, key, lease, body, 1_000_000).await,
        PutOutcome::Stored
    );
}

pub async fn body(cache: &Cache, key: &Key) -> Option<Vec<u8>> {
    let found = cache.get(key, &[]).await.expect("an answer");
    found.entry.map(|entry| entry.body.to_vec())
}

/// Removes keys because of the first `commits` commits; returns how many existed.
pub async fn remove(cache: &Cache, keys: &[Key], commits: u64) -> u64 {
    let targets = InvalidationTargets {
        keys: keys.to_vec(),
        ..InvalidationTargets::default()
    };
    let removed = cache
        .remove(&targets, &DbSnapshot::from_commit_count(commits))
        .await;
    let removed = removed.expect("removed");
    assert_eq!(removed.first_error(), None);
    removed.existing_entries()
}

macro_rules! on_every_backend {
    ($($case:ident)*) => {
        mod in_process { $(#[tokio::test] async fn $case() { super::$case(super::CacheBackend::memory().await).await })* }
        mod redis { $(#[tokio::test] async fn $case() { super::$case(super::CacheBackend::redis().await).await })* }
        mod redis_cluster { $(#[tokio::test] async fn $case() { super::$case(super::CacheBackend::cluster().await).await })* }
        mod upstash { $(#[tokio::test] async fn $case() { super::$case(super::CacheBackend::upstash().await).await })* }
    };
}

pub(crate) use on_every_backend;

on_every_backend! {
    filled_value_is_served_until_removed
    fill_lease_is_given_to_one_reader
    fill_lease_is_not_given_for_a_key_filled_meanwhile
    removal_voids_a_fill_in_flight
    flush_voids_a_fill_in_flight_and_needs_a_new_epoch
    fence_refuses_a_fill_that_does_not_include_the_change
    fence_holds_when_removals_come_late_twice_or_reordered
    fence_of_an_ended_epoch_is_replaced_by_a_removal
    removed_tag_stays_removed_when_its_fence_is_lost
    keys_of_every_kind_are_separate_and_removable
    values_of_any_bytes_and_size_round_trip
    removal_of_ten_thousand_keys_takes_few_round_trips
    unmanaged_value_is_removed_and_never_served
    fence_serves_no_old_value_in_any_interleaving
}

async fn filled_value_is_served_until_removed(backend: CacheBackend) {
    let (cache, key) = (&backend.cache, Key::races_by_stage());
    assert_eq!(cache.ping().await, Ok(()));
    put(cache, &key, b"{\"races\":1}").await;
    let entry = cache.get(&key, &[]).await.expect("an answer");
    let entry = entry.entry.expect("a hit");
    assert_eq!(&entry.body[..], b"{\"races\":1}");
    let age = entry.age(Instant::now());
    assert!(age < TTL / 2, "{age:?}");
    if let Some(left) = backend
        .raw(&["PTTL", &key.value_key(key.shard(backend.buckets()))])
        .await
    {
        assert!(matches!(left, RespReply::Int(ms) if ms > 0), "{left:?}");
    }
    let one = std::slice::from_ref(&key);
    assert_eq!(remove(cache, one, 1).await, 1);
    assert_eq!(remove(cache, one, 1).await, 0);
    assert_eq!(remove(cache, &[], 1).await, 0);
    assert_eq!(body(cache, &key).await, None);
}

async fn fill_lease_is_given_to_one_reader(backend: CacheBackend) {
    let (cache, key) = (&backend.cache, key("k"));
    let first = lease(cache, &key).await.expect("the first takes it");
    assert!(lease(cache, &key).await.is_none());
    assert_eq!(fill(cache, &key, first, b"1", 1).await, PutOutcome::Stored);
    assert_eq!(body(cache, &key).await.as_deref(), Some(&b"1"[..]));
}

async fn fill_lease_is_not_given_for_a_key_filled_meanwhile(backend: CacheBackend) {
    let (cache, key) = (&backend.cache, key("k"));
    let looked = cache.get(&key, &[]).await.expect("an answer");
    put(cache, &key, b"1").await;
    let taken = cache.acquire_lease(&key, &[], &looked).await;
    assert!(matches!(taken, Ok(LeaseOutcome::Superseded)), "{taken:?}");
    // A reader that saw the entry may renew it, once.
    let looked = cache.get(&key, &[]).await.expect("an answer");
    let Ok(LeaseOutcome::Acquired(renewal)) = cache.acquire_lease(&key, &[], &looked).await else {
        panic!("no lease");
    };
    assert_eq!(
        fill(cache, &key, renewal, b"2", 9).await,
        PutOutcome::Stored
    );
    let taken = cache.acquire_lease(&key, &[], &looked).await;
    assert!(matches!(taken, Ok(LeaseOutcome::Superseded)), "{taken:?}");
}

async fn removal_voids_a_fill_in_flight(backend: CacheBackend) {
    let (cache, key) = (&backend.cache, key("k"));
    let old = lease(cache, &key).await.expect("a lease");
    remove(cache, std::slice::from_ref(&key), 1).await;
    assert_eq!(
        fill(cache, &key, old, b"old", 0).await,
        PutOutcome::LeaseEnded
    );
    let new = lease(cache, &key).await.expect("free again");
    assert_eq!(fill(cache, &key, new, b"new", 1).await, PutOutcome::Stored);
    assert_eq!(body(cache, &key).await.as_deref(), Some(&b"new"[..]));
}

async fn flush_voids_a_fill_in_flight_and_needs_a_new_epoch(backend: CacheBackend) {
    if backend.cache.backend() == "memory" {
        return; // Nobody else can flush it.
    }
    let (cache, key) = (&backend.cache, key("k"));
    let mut life = begin_epoch(cache).await;
    assert_eq!(cache.heartbeat(&mut life).await, Ok(true));
    let old = lease(cache, &key).await.expect("a lease");
    backend.flush().await;
    assert_eq!(
        fill(cache, &key, old, b"old", 0).await,
        PutOutcome::LeaseEnded
    );
    assert!(matches!(take(cache, &key).await, LeaseOutcome::NoEpoch));
    let targets = InvalidationTargets {
        keys: vec![key.clone()],
        ..InvalidationTargets::default()
    };
    let removed = cache
        .remove(&targets, &DbSnapshot::from_commit_count(7))
        .await;
    assert!(removed.expect("removed").no_epoch);
    assert_eq!(
        cache.heartbeat(&mut life).await,
        Ok(false),
        "another memory"
    );
    // An epoch begins only in the memory in which the last one was ended for it.
    let late = DbSnapshot::from_commit_count(3);
    assert_eq!(cache.begin_epoch(&life, &late).await, Ok(false));
    let mut life = cache.end_epoch().await.expect("ended");
    let removed = cache
        .remove(&targets, &DbSnapshot::from_commit_count(7))
        .await;
    assert!(removed.expect("removed").no_epoch);
    assert_eq!(cache.begin_epoch(&life, &late).await, Ok(true));
    assert_eq!(cache.heartbeat(&mut life).await, Ok(true));
    assert_eq!(cache.heartbeat(&mut life).await, Ok(true));
    // The removal before the epoch counts as well.
    let stale = lease(cache, &key).await.expect("a lease");
    assert_eq!(
        fill(cache, &key, stale, b"old", 6).await,
        PutOutcome::TooEarly
    );
    let fresh = lease(cache, &key).await.expect("a lease");
    assert_eq!(
        fill(cache, &key, fresh, b"new", 7).await,
        PutOutcome::Stored
    );
}

/// The lease was taken after the removal, but the loader's snapshot is older.
async fn fence_refuses_a_fill_that_does_not_include_the_change(backend: CacheBackend) {
    let (cache, key) = (&backend.cache, key("k"));
    let view = |text: &str| DbSnapshot::parse(text).expect("a view");
    let removal = |text: &str| {
        let targets = InvalidationTargets {
            keys: vec![key.clone()],
            ..InvalidationTargets::default()
        };
        let view = view(text);
        async move { cache.remove(&targets, &view).await.expect("removed") }
    };
    let try_with = |text: &str| {
        let entry = Arc::new(Entry {
            snapshot: view(text),
            ..Entry::clone(&entry(b"x", 0))
        });
        let key = key.clone();
        async move {
            let lease = lease(cache, &key).await.expect("a lease");
            cache
                .put_if_valid(&key, lease, entry, 1 << 20)
                .await
                .expect("an answer")
        }
    };
    // Transaction 12 committed while the older 10 was still running.
    removal("10:13:10").await;
    assert_eq!(try_with("10:12:10").await, PutOutcome::TooEarly);
    assert_eq!(try_with("10:20:10,12").await, PutOutcome::TooEarly);
    assert_eq!(try_with("10:20:10").await, PutOutcome::Stored);
    // Now 10 commits, and the removal of the tenth arrives alone: the highest id alone would not show
    // the ninth.
    removal("11:11:").await;
    assert_eq!(body(cache, &key).await, None);
    assert_eq!(try_with("10:20:10").await, PutOutcome::TooEarly);
    // Either fence alone would let this one pass.
    assert_eq!(try_with("11:12:").await, PutOutcome::TooEarly);
    assert_eq!(try_with("20:20:").await, PutOutcome::Stored);
}

async fn fence_holds_when_removals_come_late_twice_or_reordered(backend: CacheBackend) {
    let (cache, key) = (&backend.cache, key("k"));
    let one = std::slice::from_ref(&key);
    remove(cache, one, 5).await;
    put(cache, &key, b"seen all").await;
    // An older removal arrives after it: it removes the answer, and the fence stays.
    remove(cache, one, 2).await;
    remove(cache, one, 2).await;
    let late = lease(cache, &key).await.expect("a lease");
    assert_eq!(
        fill(cache, &key, late, b"old", 4).await,
        PutOutcome::TooEarly
    );
    let fresh = lease(cache, &key).await.expect("a lease");
    assert_eq!(
        fill(cache, &key, fresh, b"new", 5).await,
        PutOutcome::Stored
    );
}

/// Without an epoch fences are written under the id 0, with which the id of an ended epoch may begin.
async fn fence_of_an_ended_epoch_is_replaced_by_a_removal(backend: CacheBackend) {
    if backend.cache.backend() == "memory" {
        return; // It has no epochs.
    }
    let (cache, key) = (&backend.cache, key("k"));
    let shard = key.shard(backend.buckets());
    let fence = key.fence_key(shard);
    let set = backend.raw(&["SET", &fence, "0123456789abcdef 9:9:"]).await;
    assert_eq!(set, Some(RespReply::Status("OK".into())));
    let ended = backend.raw(&["DEL", &shard.epoch_key()]).await;
    assert_eq!(ended, Some(RespReply::Int(1)));
    let targets = InvalidationTargets {
        keys: vec![key.clone()],
        ..InvalidationTargets::default()
    };
    let removal = DbSnapshot::from_commit_count(7);
    let removed = cache.remove(&targets, &removal).await.expect("removed");
    assert_eq!(removed.first_error(), None);
    assert!(removed.no_epoch);
    let stored = backend
        .raw(&["GET", &fence])
        .await
        .map(|reply| reply.text());
    assert_eq!(stored, Some(format!("0 {removal}")));
}

async fn removed_tag_stays_removed_when_its_fence_is_lost(backend: CacheBackend) {
    let cache = &backend.cache;
    let tag = |name: &str| Tag::from_text(name).expect("a tag");
    let (red, blue) = (tag("red"), tag("blue: * {x}"));
    let put = async |name: &str, tags: &[&Tag], commits: u64| {
        let tags: Vec<Tag> = tags.iter().copied().cloned().collect();
        let entry = Arc::new(Entry {
            tags: tags.clone(),
            ..Entry::clone(&entry(name.as_bytes(), commits))
        });
        let LeaseOutcome::Acquired(lease) = take_tagged(cache, &key(name), &tags).await else {
            panic!("no lease on {name}");
        };
        cache
            .put_if_valid(&key(name), lease, entry, 1 << 20)
            .await
            .expect("an answer")
    };
    let there = async |name: &str, tags: &[&Tag]| {
        let tags: Vec<Tag> = tags.iter().copied().cloned().collect();
        cache
            .get(&key(name), &tags)
            .await
            .expect("an answer")
            .entry
            .is_some()
    };
    for n in 0..20 {
        assert_eq!(
            put(&format!("red {n}"), &[&red], 3).await,
            PutOutcome::Stored
        );
    }
    assert_eq!(put("both", &[&red, &blue], 3).await, PutOutcome::Stored);
    assert_eq!(put("blue", &[&blue], 3).await, PutOutcome::Stored);
    assert!(there("both", &[&red, &blue]).await && there("red 7", &[&red]).await);
    let targets = InvalidationTargets {
        tags: vec![red.clone()],
        ..InvalidationTargets::default()
    };
    cache
        .remove(&targets, &DbSnapshot::from_commit_count(4))
        .await
        .expect("removed");
    for n in 0..20 {
        assert!(!there(&format!("red {n}"), &[&red]).await, "red {n}");
    }
    assert!(!there("both", &[&red, &blue]).await);
    assert!(
        there("blue", &[&blue]).await,
        "another tag is none of its business"
    );
    // A value whose snapshot excludes the change is not filled under the tag.
    put("red 1", &[&red], 3).await;
    assert!(!there("red 1", &[&red]).await);
    if backend.cache.backend() == "memory" {
        return; // Its fences cannot be lost alone.
    }
    // The fence is lost: the new one begins with a snapshot that includes every removal.
    let fence = red.fence_key(red.shard(backend.buckets()));
    assert_eq!(backend.raw(&["DEL", &fence]).await, Some(RespReply::Int(1)));
    assert!(!there("red 2", &[&red]).await);
    put("red 3", &[&red], 3).await;
    assert!(!there("red 3", &[&red]).await && !there("red 2", &[&red]).await);
    assert_eq!(put("red 4", &[&red], 4).await, PutOutcome::Stored);
    assert!(there("red 4", &[&red]).await);
}

async fn keys_of_every_kind_are_separate_and_removable(backend: CacheBackend) {
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
    let every_byte: Vec<u8> = (0..=255).collect();
    let mut keys: Vec<Key> = names.iter().map(|name| key(name)).collect();
    keys.push(Key::from_bytes(&every_byte).expect("a key"));
    for key in &keys {
        put(cache, key, key.as_str().as_bytes()).await;
        // Another program's value under the unmanaged key.
        backend.raw(&["SET", key.as_str(), "theirs"]).await;
    }
    for key in &keys {
        assert_eq!(
            body(cache, key).await.as_deref(),
            Some(key.as_str().as_bytes())
        );
    }
    let each = if cache.backend() == "memory" { 1 } else { 2 };
    assert_eq!(remove(cache, &keys, 1).await, keys.len() as u64 * each);
    for key in &keys {
        assert_eq!(body(cache, key).await, None);
        if let Some(reply) = backend.raw(&["EXISTS", key.as_str()]).await {
            assert_eq!(reply, RespReply::Int(0), "{key}");
        }
    }
}

async fn values_of_any_bytes_and_size_round_trip(backend: CacheBackend) {
    let cache = &backend.cache;
    let escapes: String = (0u8..128)
        .map(char::from)
        .chain("ü€🐎\u{2028}".chars())
        .collect();
    let large = escapes.repeat(8_000).into_bytes();
    let bytes: Vec<u8> = (0..=255).collect();
    for compress_from in [0, 1 << 30] {
        for (name, body_in) in [("large", &large), ("bytes", &bytes)] {
            let key = key(&format!("{name} {compress_from}"));
            let lease = lease(cache, &key).await.expect("a lease");
            let filled = cache
                .put_if_valid(&key, lease, entry(body_in, 1), compress_from)
                .await;
            assert_eq!(filled, Ok(PutOutcome::Stored));
            let found = body(cache, &key).await.expect("a hit");
            assert!(found == *body_in, "{key}: {} bytes came back", found.len());
        }
    }
}

async fn removal_of_ten_thousand_keys_takes_few_round_trips(backend: CacheBackend) {
    let cache = &backend.cache;
    let keys: Vec<Key> = (0..10_000)
        .map(|n| key(&format!("event:{n}:prices:v1")))
        .collect();
    for key in keys.iter().step_by(500) {
        put(cache, key, b"x").await;
    }
    let before = backend.upstash.as_ref().map(|u| u.requests());
    assert_eq!(remove(cache, &keys, 1).await, 20);
    if let (Some(upstash), Some(requests)) = (&backend.upstash, before) {
        assert_eq!(upstash.requests() - requests, 1, "one pipeline");
    }
    for key in keys.iter().step_by(500) {
        assert_eq!(body(cache, key).await, None);
    }
}

async fn unmanaged_value_is_removed_and_never_served(backend: CacheBackend) {
    let (cache, key) = (&backend.cache, Key::races_by_stage());
    if backend
        .raw(&["SET", key.as_str(), "theirs"])
        .await
        .is_none()
    {
        return; // In process there are no other programs.
    }
    assert_eq!(body(cache, &key).await, None, "nobody proved it");
    put(cache, &key, b"ours").await;
    let theirs = backend.raw(&["GET", key.as_str()]).await;
    assert_eq!(
        theirs,
        Some(RespReply::Bulk(b"theirs".to_vec())),
        "nor is it touched"
    );
    assert_eq!(remove(cache, std::slice::from_ref(&key), 1).await, 2);
    backend.raw(&["SET", key.as_str(), "filled late"]).await;
    let again = cache.remove_unmanaged(std::slice::from_ref(&key)).await;
    assert_eq!(again, Ok(1), "the second removal is for them");
    assert_eq!(
        backend.raw(&["GET", key.as_str()]).await,
        Some(RespReply::Nil)
    );
}

/// An event around one key.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Reader n takes its next step: look up, acquire the lease, load, fill.
    Reader(usize),
    /// Writer n takes its next step: begin, commit, and a removal at any later time.
    Writer(usize),
    /// The last removal is delivered once more.
    Again,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0usize..2).prop_map(Step::Reader),
        4 => (0usize..2).prop_map(Step::Writer),
        1 => Just(Step::Again),
    ];
    prop::collection::vec(step, 1..60)
}

enum ReaderAt {
    Start,
    Missed,
    Leased(FillLease),
    Loaded(FillLease, u64, DbSnapshot),
}

#[derive(Clone)]
enum WriterAt {
    Start,
    Began(u64),
    Committed(u64, DbSnapshot),
}

/// A database of one row, as Postgres would keep it.
struct Database {
    next: u64,
    running: Vec<u64>,
    /// The transaction that wrote the row last.
    value: u64,
}

impl Database {
    fn view(&self) -> DbSnapshot {
        let xmin = self.running.first().unwrap_or(&self.next);
        let list: Vec<String> = self.running.iter().map(u64::to_string).collect();
        DbSnapshot::parse(&format!("{xmin}:{}:{}", self.next, list.join(","))).expect("a view")
    }
}

/// Two readers and two writers in any order of {look, lease, load, fill} and {begin, commit, remove}:
/// no reader is served a value loaded before a commit whose removal was confirmed, and in the end the
/// last read is the newest value.
async fn fence_serves_no_old_value_in_any_interleaving(backend: CacheBackend) {
    let cache = &backend.cache;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let rounds = if cache.backend() == "memory" {
        2_000
    } else {
        60
    };
    for round in 0..rounds {
        let steps = steps().new_tree(&mut runner).expect("steps").current();
        let key = key(&format!("round:{round}"));
        // Ids go on from round to round, as those of one database do.
        let base = 1_000 * (round + 1);
        let mut db = Database {
            next: base + 1,
            running: Vec::new(),
            value: base,
        };
        // The removed values, in the order of commits.
        let (mut commits, mut order) = (HashMap::from([(base, 0u64)]), 0u64);
        let (mut gone, mut last) = (0u64, None);
        let mut readers = [ReaderAt::Start, ReaderAt::Start];
        let mut writers = [WriterAt::Start, WriterAt::Start];
        let settle = (0..8).map(|n| Step::Writer(n % 2));
        for step in steps.iter().copied().chain(settle) {
            let targets = InvalidationTargets {
                keys: vec![key.clone()],
                ..InvalidationTargets::default()
            };
            match step {
                Step::Writer(n) => {
                    writers[n] = match writers[n].clone() {
                        WriterAt::Start => {
                            db.next += 1;
                            db.running.push(db.next - 1);
                            WriterAt::Began(db.next - 1)
                        }
                        WriterAt::Began(id) => {
                            let before = db.view();
                            db.running.retain(|running| *running != id);
                            db.value = id;
                            order += 1;
                            commits.insert(id, order);
                            // The committer's own snapshot.
                            WriterAt::Committed(id, before.with_tx(id).expect("few in between"))
                        }
                        WriterAt::Committed(id, view) => {
                            cache.remove(&targets, &view).await.expect("removed");
                            gone = gone.max(commits[&id]);
                            last = Some(view);
                            WriterAt::Start
                        }
                    }
                }
                Step::Again => {
                    if let Some(view) = &last {
                        cache.remove(&targets, view).await.expect("removed");
                    }
                }
                Step::Reader(n) => {
                    readers[n] = match std::mem::replace(&mut readers[n], ReaderAt::Start) {
                        ReaderAt::Start => match body(cache, &key).await {
                            None => ReaderAt::Missed,
                            Some(body) => {
                                let served: u64 =
                                    String::from_utf8_lossy(&body).parse().expect("a number");
                                assert!(
                                    commits[&served] >= gone,
                                    "served {served} after a removal that it had not seen: {steps:?}"
                                );
                                ReaderAt::Start
                            }
                        },
                        ReaderAt::Missed => match lease(cache, &key).await {
                            Some(lease) => ReaderAt::Leased(lease),
                            None => ReaderAt::Start,
                        },
                        ReaderAt::Leased(lease) => {
                            // The snapshot belongs to the load.
                            ReaderAt::Loaded(lease, db.value, db.view())
                        }
                        ReaderAt::Loaded(lease, value, view) => {
                            let entry = Arc::new(Entry {
                                snapshot: view,
                                ..Entry::clone(&entry(value.to_string().as_bytes(), 0))
                            });
                            let filled = cache.put_if_valid(&key, lease, entry, 1 << 20).await;
                            filled.expect("an answer");
                            ReaderAt::Start
                        }
                    };
                }
            }
        }
        let quiet = writers.iter().all(|at| matches!(at, WriterAt::Start));
        if let (true, Some(body)) = (quiet, body(cache, &key).await) {
            let served = String::from_utf8_lossy(&body).into_owned();
            assert_eq!(served, db.value.to_string(), "the last read: {steps:?}");
        }
    }
}

/// The same property with parallel threads, in the orders that occur.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fence_serves_no_old_value_to_parallel_readers() {
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
                    match cache.get(&key, &[]).await.expect("an answer").entry {
                        Some(entry) => {
                            let bytes = entry.body[..].try_into().expect("eight bytes");
                            let served = u64::from_be_bytes(bytes);
                            assert!(
                                served >= oldest,
                                "served {served} after {oldest} was removed"
                            );
                            hits += 1;
                        }
                        None => match take(&cache, &key).await {
                            LeaseOutcome::Acquired(lease) => {
                                let seen = stored.load(SeqCst);
                                fill(&cache, &key, lease, &seen.to_be_bytes(), seen).await;
                            }
                            _ => tokio::task::yield_now().await,
                        },
                    }
                }
                hits
            })
        })
        .collect();
    let key = key("k");
    while readers.iter().any(|reader| !reader.is_finished()) {
        let newest = stored.fetch_add(1, SeqCst) + 1;
        remove(&cache, std::slice::from_ref(&key), newest).await;
        removed.store(newest, SeqCst);
        tokio::task::yield_now().await;
    }
    for reader in readers {
        assert!(reader.await.expect("no stale read") > 0);
    }
    assert!(stored.load(SeqCst) > 100, "the writer came to its turn");
}

/// The official clients check the stand-in.
#[tokio::test(flavor = "multi_thread")]
async fn upstash_stand_in_satisfies_the_official_clients() {
    const NAME: &str = "upstash_stand_in_satisfies_the_official_clients";
    let python = std::env::var_os("ODDSD_TEST_PYTHON");
    let modules = std::env::var_os("ODDSD_TEST_NODE_MODULES");
    let (Some(python), Some(modules)) = (python, modules) else {
        oddsd_testkit::recordings::not_run(NAME, "no clients; ./test installs them");
        return;
    };
    let redis = RedisServer::start().await;
    let upstash = UpstashStandIn::start(redis.port(), TOKEN).await;
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/upstash_clients");
    let clients = [
        (python, format!("{scripts}/client.py")),
        ("node".into(), format!("{scripts}/client.mjs")),
    ];
    let mut sent = BTreeSet::new();
    for (program, script) in clients {
        redis.command(&["FLUSHALL"]).await;
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
        let headers = upstash.common_headers();
        sent = match sent.is_empty() {
            true => headers,
            false => &sent & &headers,
        };
    }
    assert!(upstash.billed() > 20);

    let cache = open_upstash(&upstash, TOKEN).await;
    for _ in 0..2 {
        assert_eq!(cache.ping().await, Ok(()));
    }
    let ours = upstash.common_headers();
    // An option of the clients, which oddsd does not need: its values are text.
    sent.remove("upstash-encoding");
    // The HTTP library's own: the connection stays open by default, and answers are not compressed.
    for name in ["connection", "accept-encoding"] {
        sent.remove(name);
    }
    assert!(sent.len() > 5, "{sent:?}");
    let missing: Vec<_> = sent.difference(&ours).collect();
    assert!(missing.is_empty(), "{missing:?} of {sent:?}, sent {ours:?}");
}
