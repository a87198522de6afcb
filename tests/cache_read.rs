//! Reading through the cache: one load for many readers, no reader harmed by a cache that is not
//! there, and nothing served that a removal made wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use oddsd::cache::{Cache, CacheSettings, READ_BUDGET, ReadState, Reader, Served};
use tokio::sync::Notify;

use crate::cache::{TTL, key, open, open_redis, put};
use crate::world::PATIENCE;
use crate::world::redis::RedisServer;

type Loaded = Result<(Vec<u8>, Duration), String>;

async fn loads(body: &str) -> Loaded {
    Ok((body.into(), TTL))
}

fn is(served: &Served, state: ReadState, body: &str) -> bool {
    served.state == state && &served.body[..] == body.as_bytes()
}

/// A reader who waits for the cache however slow the machine is.
fn patient(cache: Cache) -> Reader {
    Reader::with_budget(Arc::new(cache), PATIENCE)
}

async fn in_process() -> Arc<Reader> {
    Arc::new(patient(open(CacheSettings::default()).await))
}

/// A cache that accepts connections and never says a word.
async fn silent() -> (Cache, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("an address");
    let server = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    let cache = open(CacheSettings {
        upstash_url: Some(format!("http://{address}")),
        upstash_token: Some("t".to_owned().into()),
        ..CacheSettings::default()
    })
    .await;
    (cache, server)
}

#[tokio::test]
async fn a_miss_loads_and_the_next_reader_hits() {
    let reader = in_process().await;
    let miss = reader.read(&key("k"), || loads("1")).await.expect("loaded");
    assert!(is(&miss, ReadState::Miss, "1"), "{miss:?}");
    assert_eq!(miss.remaining, TTL);
    let hit = reader.read(&key("k"), || loads("2")).await.expect("a hit");
    assert!(is(&hit, ReadState::Hit, "1"), "{hit:?}");
    reader.cache().remove(&[key("k")]).await.expect("removed");
    let miss = reader.read(&key("k"), || loads("3")).await.expect("loaded");
    assert!(is(&miss, ReadState::Miss, "3"), "{miss:?}");
}

async fn fifty_cold_readers(reader: Arc<Reader>, loads_expected: usize) {
    let count = Arc::new(AtomicUsize::new(0));
    let readers: Vec<_> = (0..50)
        .map(|_| {
            let (reader, count) = (Arc::clone(&reader), Arc::clone(&count));
            tokio::spawn(async move {
                let load = || async {
                    count.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    loads("1").await
                };
                reader.read(&key("k"), load).await.expect("loaded")
            })
        })
        .collect();
    for reader in readers {
        assert_eq!(&reader.await.expect("no panic").body[..], b"1");
    }
    assert_eq!(count.load(Ordering::SeqCst), loads_expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_cold_readers_make_one_load_in_process() {
    fifty_cold_readers(in_process().await, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_cold_readers_make_one_load_over_redis() {
    let redis = RedisServer::start().await;
    let cache = open_redis(&redis.url()).await;
    cache.connected().await;
    fifty_cold_readers(Arc::new(patient(cache)), 1).await;
}

/// One thread, so that all fifty ask before the first load ends.
#[tokio::test]
async fn fifty_cold_readers_make_one_load_without_a_cache() {
    let off = open(CacheSettings {
        enabled: false,
        ..CacheSettings::default()
    })
    .await;
    fifty_cold_readers(Arc::new(Reader::new(Arc::new(off))), 1).await;
}

/// A reader whose load waits until it is told what to do, and a second one that waits for it.
async fn leader_and_waiter(
    reader: &Arc<Reader>,
    end: impl Future<Output = Loaded> + Send + 'static,
) -> (
    tokio::task::JoinHandle<Result<Served, String>>,
    tokio::task::JoinHandle<Result<Served, String>>,
) {
    let loading = Arc::new(Notify::new());
    let leader = tokio::spawn({
        let (reader, loading) = (Arc::clone(reader), Arc::clone(&loading));
        async move {
            let load = || async {
                loading.notify_one();
                end.await
            };
            reader.read(&key("k"), load).await
        }
    });
    loading.notified().await;
    let waiter = tokio::spawn({
        let reader = Arc::clone(reader);
        async move { reader.read(&key("k"), || loads("waiter")).await }
    });
    // In a test with one thread, this lets the waiter come to its place.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert!(!waiter.is_finished(), "the waiter waits");
    (leader, waiter)
}

#[tokio::test]
async fn a_load_that_fails_harms_only_its_own_request() {
    let reader = in_process().await;
    let fail = Arc::new(Notify::new());
    let end = {
        let fail = Arc::clone(&fail);
        async move {
            fail.notified().await;
            Err("the database is down".to_owned())
        }
    };
    let (leader, waiter) = leader_and_waiter(&reader, end).await;
    fail.notify_one();
    let error = leader.await.expect("no panic").expect_err("its own error");
    assert_eq!(error, "the database is down");
    let served = waiter.await.expect("no panic").expect("its own load");
    assert_eq!(&served.body[..], b"waiter");
}

#[tokio::test]
async fn a_load_that_panics_harms_only_its_own_request() {
    let reader = in_process().await;
    let fail = Arc::new(Notify::new());
    let end = {
        let fail = Arc::clone(&fail);
        async move {
            fail.notified().await;
            panic!("a bug in the loader")
        }
    };
    let (leader, waiter) = leader_and_waiter(&reader, end).await;
    fail.notify_one();
    assert!(leader.await.expect_err("it panicked").is_panic());
    let served = waiter.await.expect("no panic").expect("its own load");
    assert_eq!(&served.body[..], b"waiter");
}

#[tokio::test]
async fn a_reader_that_goes_away_harms_nobody() {
    let reader = in_process().await;
    let (leader, waiter) = leader_and_waiter(&reader, std::future::pending()).await;
    leader.abort();
    let served = waiter.await.expect("no panic").expect("its own load");
    assert_eq!(&served.body[..], b"waiter");
}

#[tokio::test]
async fn what_was_loaded_before_a_removal_is_not_served_after_it() {
    let reader = in_process().await;
    let go_on = Arc::new(Notify::new());
    let end = {
        let go_on = Arc::clone(&go_on);
        async move {
            go_on.notified().await;
            loads("old").await
        }
    };
    let (leader, waiter) = leader_and_waiter(&reader, end).await;
    reader.cache().remove(&[key("k")]).await.expect("removed");
    // This one comes after the removal: it must not wait for the old load.
    let fresh = reader
        .read(&key("k"), || loads("new"))
        .await
        .expect("loaded");
    assert!(is(&fresh, ReadState::Miss, "new"), "{fresh:?}");
    go_on.notify_one();
    let old = leader.await.expect("no panic").expect("loaded");
    assert_eq!(&old.body[..], b"old", "it asked before the removal");
    let waited = waiter.await.expect("no panic").expect("an answer");
    assert!(is(&waited, ReadState::Hit, "new"), "{waited:?}");
    let hit = reader.read(&key("k"), || loads("x")).await.expect("a hit");
    assert!(is(&hit, ReadState::Hit, "new"), "{hit:?}");
}

/// On a clock that only moves when everybody waits: exact, whatever the machine is doing.
#[tokio::test(start_paused = true)]
async fn a_hung_cache_costs_a_few_requests_their_budget_and_then_nothing() {
    let (cache, _server) = silent().await;
    let reader = Reader::new(Arc::new(cache));
    let mut costs = Vec::new();
    for _ in 0..200 {
        let asked = tokio::time::Instant::now();
        let served = reader.read(&key("k"), || loads("1")).await.expect("loaded");
        assert!(is(&served, ReadState::Bypass, "1"), "{served:?}");
        costs.push(asked.elapsed());
    }
    // Timers tick in whole milliseconds, so one may be late by one.
    let most = READ_BUDGET + Duration::from_millis(2);
    assert!(costs.iter().all(|cost| *cost <= most), "{costs:?}");
    let paid = costs.iter().filter(|cost| !cost.is_zero()).count();
    assert_eq!(paid, 3, "the breaker opens after three: {costs:?}");

    tokio::time::advance(Duration::from_secs(10)).await;
    let mut probes = 0;
    for _ in 0..20 {
        let asked = tokio::time::Instant::now();
        reader.read(&key("k"), || loads("1")).await.expect("loaded");
        probes += usize::from(!asked.elapsed().is_zero());
    }
    assert_eq!(probes, 1, "after its pause, one reader tries");
}

#[tokio::test]
async fn readers_return_to_a_cache_that_hung() {
    let redis = RedisServer::start().await;
    let cache = open(CacheSettings {
        redis_url: Some(redis.url().into()),
        command_timeout: Duration::from_secs(1),
        ..CacheSettings::default()
    })
    .await;
    cache.connected().await;
    let cache = Arc::new(cache);
    let reader = Reader::new(Arc::clone(&cache));
    redis.pause();
    for _ in 0..20 {
        let served = reader.read(&key("k"), || loads("1")).await.expect("loaded");
        assert!(is(&served, ReadState::Bypass, "1"), "{served:?}");
    }
    redis.resume();
    let returning = async {
        // Each turn talks to the cache, so this waits instead of spinning.
        loop {
            let served = reader.read(&key("k"), || loads("1")).await;
            if served.expect("loaded").state != ReadState::Bypass {
                break;
            }
            let _ = reader.cache().ping().await;
        }
    };
    tokio::time::timeout(PATIENCE, returning)
        .await
        .expect("it returns");
    let reader = Reader::with_budget(cache, PATIENCE);
    // A reader that gave up may have left its lease behind; it goes with the removal.
    let removed = reader.cache().remove(&[key("k")]).await;
    removed.expect("removed");
    let miss = reader.read(&key("k"), || loads("2")).await.expect("loaded");
    assert!(is(&miss, ReadState::Miss, "2"), "{miss:?}");
    let hit = reader.read(&key("k"), || loads("3")).await.expect("a hit");
    assert!(is(&hit, ReadState::Hit, "2"), "{hit:?}");
}

#[tokio::test]
async fn a_cache_that_is_down_is_passed_by() {
    let mut redis = RedisServer::start().await;
    redis.kill().await;
    let reader = Reader::new(Arc::new(open_redis(&redis.url()).await));
    for _ in 0..10 {
        let served = reader.read(&key("k"), || loads("1")).await.expect("loaded");
        assert!(is(&served, ReadState::Bypass, "1"), "{served:?}");
    }
}

#[tokio::test]
async fn a_full_cache_still_serves_what_it_has() {
    let redis = RedisServer::start().await;
    let cache = open_redis(&redis.url()).await;
    put(&cache, &key("kept"), b"kept").await;
    let reader = patient(cache);
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]).await;
    for _ in 0..10 {
        let bypass = reader
            .read(&key("new"), || loads("1"))
            .await
            .expect("loaded");
        assert!(is(&bypass, ReadState::Bypass, "1"), "{bypass:?}");
        let hit = reader
            .read(&key("kept"), || loads("x"))
            .await
            .expect("a hit");
        assert!(is(&hit, ReadState::Hit, "kept"), "{hit:?}");
    }
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let miss = reader
        .read(&key("new"), || loads("2"))
        .await
        .expect("loaded");
    assert!(is(&miss, ReadState::Miss, "2"), "{miss:?}");
}

#[tokio::test]
async fn a_cache_that_is_off_is_not_asked() {
    let off = open(CacheSettings {
        enabled: false,
        ..CacheSettings::default()
    })
    .await;
    let reader = Reader::new(Arc::new(off));
    for body in ["1", "2"] {
        let served = reader
            .read(&key("k"), || loads(body))
            .await
            .expect("loaded");
        assert!(is(&served, ReadState::Bypass, body), "{served:?}");
    }
}

#[tokio::test]
async fn a_value_over_the_limit_is_served_and_not_kept() {
    let cache = open(CacheSettings {
        memory_bytes: 1_000_000,
        ..CacheSettings::default()
    })
    .await;
    let reader = patient(cache);
    let large = "x".repeat(300_000);
    for _ in 0..2 {
        let served = reader
            .read(&key("k"), || loads(&large))
            .await
            .expect("loaded");
        assert!(is(&served, ReadState::Miss, &large));
    }
}
