//! Tests of stale marks: a marked answer is served while one load renews it, on every backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use oddsd_cache::{
    Cache, CacheLevel, CacheRead, CacheReadState, CacheSettings, Entry, InvalidationTargets,
    LeaseOutcome, LoadedValue, Policy, PutOutcome, Reader, Removed,
};
use oddsd_core::model::DbSnapshot;

use crate::cache::{
    CacheBackend, TTL, begin_epoch, body, entry, fill, key, lease, on_every_backend, open,
};
use oddsd_testkit::redis::RedisServer;
use oddsd_testkit::resp::RespReply;
use oddsd_testkit::{WAIT_LIMIT, eventually};

fn marking(name: &str) -> InvalidationTargets {
    InvalidationTargets {
        mark_stale: vec![key(name)],
        ..InvalidationTargets::default()
    }
}

async fn remove(cache: &Cache, targets: &InvalidationTargets, commits: u64) -> Removed {
    let removed = cache
        .remove(targets, &DbSnapshot::from_commit_count(commits))
        .await;
    removed.expect("an answer")
}

on_every_backend! {
    stale_mark_keeps_the_answer_and_refuses_older_loads
    stale_answer_is_served_at_once_and_renewed_by_one_load
}

async fn stale_mark_keeps_the_answer_and_refuses_older_loads(backend: CacheBackend) {
    let (cache, key) = (&backend.cache, key("k"));
    let theirs = backend.raw(&["SET", key.as_str(), "theirs"]).await;
    let longer = |body: &[u8], commits| {
        Arc::new(Entry {
            while_revalidating: TTL,
            ..Entry::clone(&entry(body, commits))
        })
    };
    let first = lease(cache, &key).await.expect("a lease");
    let filled = cache
        .put_if_valid(&key, first, longer(b"old", 1), 1 << 20)
        .await;
    assert_eq!(filled, Ok(PutOutcome::Stored));
    let looked = cache.get(&key, &[]).await.expect("an answer");
    let Ok(LeaseOutcome::Acquired(early)) = cache.acquire_lease(&key, &[], &looked).await else {
        panic!("no lease");
    };
    let there = 1 + u64::from(theirs.is_some());
    let removed = remove(cache, &marking("k"), 5).await;
    assert_eq!(removed.stale, [Ok(there)]);
    if let Some(theirs) = backend.raw(&["EXISTS", key.as_str()]).await {
        assert_eq!(theirs, RespReply::Int(0), "nobody can mark it");
    }
    let looked = cache.get(&key, &[]).await.expect("an answer");
    let marked = looked.entry.clone().expect("it stays");
    assert_eq!(&marked.body[..], b"old");
    assert_eq!(marked.fresh, Duration::ZERO);
    let age = marked.age(Instant::now());
    assert!(age < marked.while_revalidating, "{marked:?}");
    // The fill lease is void, and a load that excludes the change is refused.
    let filled = cache
        .put_if_valid(&key, early, longer(b"older", 4), 1 << 20)
        .await;
    assert_eq!(filled, Ok(PutOutcome::LeaseEnded));
    for (commits, shown) in [(4, PutOutcome::TooEarly), (5, PutOutcome::Stored)] {
        let Ok(LeaseOutcome::Acquired(renewal)) = cache.acquire_lease(&key, &[], &looked).await
        else {
            panic!("no lease");
        };
        let filled = cache.put_if_valid(&key, renewal, longer(b"new", commits), 1 << 20);
        assert_eq!(filled.await, Ok(shown));
    }
    let renewed = cache.get(&key, &[]).await.expect("an answer").entry;
    let renewed = renewed.expect("a hit");
    assert_eq!((&renewed.body[..], renewed.fresh), (&b"new"[..], TTL));
    // A mark on an entry without a stale time makes it a miss, and a mark on a missing entry does
    // nothing.
    let removed = remove(cache, &marking("nothing"), 5).await;
    assert_eq!(removed.stale, [Ok(0)]);
    assert_eq!(body(cache, &crate::cache::key("nothing")).await, None);
    let first = lease(cache, &crate::cache::key("short")).await;
    let first = first.expect("a lease");
    fill(cache, &crate::cache::key("short"), first, b"short", 9).await;
    remove(cache, &marking("short"), 9).await;
    let short = cache.get(&crate::cache::key("short"), &[]).await;
    let short = short.expect("an answer").entry;
    assert!(short.is_none_or(|entry| entry.ttl().is_zero()));
}

fn policy() -> Policy {
    Policy {
        jitter: 0.0,
        early: 0.0,
        load_within: WAIT_LIMIT,
        wait_for_others: WAIT_LIMIT,
        ..Policy::fresh_for(TTL)
    }
}

/// Each load returns its number.
fn counted(loads: &Arc<AtomicU64>) -> impl Fn() -> Loading + Clone + Send + Sync + 'static {
    let loads = Arc::clone(loads);
    move || {
        let number = loads.fetch_add(1, SeqCst) + 1;
        std::future::ready(Ok(LoadedValue::new(
            number.to_string(),
            DbSnapshot::from_commit_count(1_000),
        )))
    }
}

type Loading = std::future::Ready<anyhow::Result<LoadedValue>>;

fn is(served: &CacheRead, state: CacheReadState, body: &str) -> bool {
    served.state == state && &served.body()[..] == body.as_bytes()
}

async fn stale_answer_is_served_at_once_and_renewed_by_one_load(backend: CacheBackend) {
    let CacheBackend {
        cache,
        redis: _redis,
        cluster: _cluster,
        upstash: _upstash,
    } = backend;
    let reader = Reader::with_budget(Arc::new(cache), WAIT_LIMIT);
    for (name, after) in [("longer", TTL), ("never longer", Duration::ZERO)] {
        let (name_key, policy) = (key(name), policy().while_revalidating(after));
        let loads = Arc::new(AtomicU64::new(0));
        let read = async || {
            let served = reader.read(&name_key, &policy, counted(&loads)).await;
            served.expect("an answer")
        };
        assert!(is(&read().await, CacheReadState::Miss, "1"));
        assert!(is(&read().await, CacheReadState::Hit, "1"));
        let marked = reader
            .remove(&marking(name), &DbSnapshot::from_commit_count(7))
            .await;
        assert_eq!(marked.expect("marked").stale, [Ok(1)]);
        let first = read().await;
        if after.is_zero() {
            assert!(is(&first, CacheReadState::Miss, "2"), "{first:?}");
        } else {
            assert!(is(&first, CacheReadState::Stale, "1"), "{first:?}");
        }
        eventually("the answer is renewed", async || {
            let served = read().await;
            if is(&served, CacheReadState::Hit, "2") {
                return Ok(());
            }
            assert!(is(&served, CacheReadState::Stale, "1"), "{served:?}");
            Err(served)
        })
        .await;
        assert_eq!(loads.load(SeqCst), 2, "one load renews it");
    }
}

/// A stale mark of one process reaches the L1 of another.
#[tokio::test]
async fn l1_of_another_process_honours_a_stale_mark() {
    let redis = RedisServer::start().await;
    let mut readers = Vec::new();
    for _ in 0..2 {
        let cache = open(CacheSettings {
            redis_url: Some(redis.url().into()),
            command_timeout: Duration::from_secs(10),
            l1_bytes: 1 << 20,
            ..CacheSettings::default()
        })
        .await;
        cache.connected().await;
        readers.push(Reader::with_budget(Arc::new(cache), WAIT_LIMIT));
    }
    let mut life = begin_epoch(readers[0].cache()).await;
    let loads = Arc::new(AtomicU64::new(0));
    let (k, policy) = (key("k"), policy().while_revalidating(TTL));
    let mut until = async |reader: &Reader, level: CacheLevel, body: &str| {
        eventually("the level serves the value", async || {
            // Without heartbeats the first level is not used.
            let beaten = readers[0].cache().heartbeat(&mut life).await;
            assert_eq!(beaten, Ok(true));
            let served = reader.read(&k, &policy, counted(&loads)).await;
            let served = served.expect("an answer");
            if served.level == level && &served.body()[..] == body.as_bytes() {
                return Ok(served.state);
            }
            Err(served)
        })
        .await
    };
    for reader in &readers {
        assert_eq!(
            until(reader, CacheLevel::L1, "1").await,
            CacheReadState::Hit
        );
    }
    let marked = readers[0]
        .remove(&marking("k"), &DbSnapshot::from_commit_count(7))
        .await;
    assert_eq!(marked.expect("marked").existing_entries(), 1);
    for reader in &readers {
        assert_eq!(
            until(reader, CacheLevel::L1, "2").await,
            CacheReadState::Hit
        );
    }
}
