//! Tests of reading through the cache: single flight, early renewal, budget, breaker and L1.
//! No reader gets a value that a removal made wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use oddsd_cache::{
    Cache, CacheError, CacheLevel, CacheRead, CacheReadState, CacheSettings, InvalidationTargets,
    LoadedValue, Policy, READ_BUDGET, ReadError, Reader,
};
use oddsd_core::key::{Namespace, Tag};
use oddsd_core::model::DbSnapshot;
use tokio::sync::Notify;

use crate::cache::{TTL, begin_epoch, key, open, open_redis, put};
use oddsd_testkit::redis::RedisServer;
use oddsd_testkit::resp::RespReply;
use oddsd_testkit::upstash::{UpstashFault, UpstashStandIn};
use oddsd_testkit::{WAIT_LIMIT, eventually};

/// The snapshot of every loader, unless a test is about it.
const ALL: u64 = 1_000_000;

fn policy() -> Policy {
    Policy {
        jitter: 0.0,
        early: 0.0,
        load_within: WAIT_LIMIT,
        wait_for_others: WAIT_LIMIT,
        ..Policy::fresh_for(TTL)
    }
}

fn loaded(body: &str) -> LoadedValue {
    LoadedValue::new(body.to_owned(), DbSnapshot::from_commit_count(ALL))
}

async fn reads(reader: &Reader, name: &str, body: &'static str) -> CacheRead {
    let load = move || async move { Ok(loaded(body)) };
    reader
        .read(&key(name), &policy(), load)
        .await
        .expect("an answer")
}

fn is(served: &CacheRead, state: CacheReadState, body: &str) -> bool {
    served.state == state && &served.body()[..] == body.as_bytes()
}

async fn removed(reader: &Reader, name: &str, commits: u64) {
    let targets = InvalidationTargets {
        keys: vec![key(name)],
        ..InvalidationTargets::default()
    };
    let removed = reader
        .remove(&targets, &DbSnapshot::from_commit_count(commits))
        .await;
    removed.expect("removed");
}

/// A reader who waits for the cache however slow the machine is.
fn patient(cache: Cache) -> Reader {
    Reader::with_budget(Arc::new(cache), WAIT_LIMIT)
}

async fn in_process() -> Reader {
    patient(open(CacheSettings::default()).await)
}

async fn over_redis() -> (Reader, RedisServer) {
    let redis = RedisServer::start().await;
    let cache = open_redis(&redis.url()).await;
    cache.connected().await;
    begin_epoch(&cache).await;
    (patient(cache), redis)
}

/// A server that accepts connections and never answers.
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
async fn miss_loads_and_the_next_reader_hits() {
    let reader = in_process().await;
    let miss = reads(&reader, "k", "1").await;
    assert!(is(&miss, CacheReadState::Miss, "1"), "{miss:?}");
    let hit = reads(&reader, "k", "2").await;
    assert!(is(&hit, CacheReadState::Hit, "1"), "{hit:?}");
    assert!(hit.remaining() > TTL / 2 && hit.remaining() <= TTL);
    removed(&reader, "k", 1).await;
    let miss = reads(&reader, "k", "3").await;
    assert!(is(&miss, CacheReadState::Miss, "3"), "{miss:?}");
}

/// So many readers on several threads, spread over the readers of so many processes.
async fn cold_readers(processes: Vec<Reader>, readers: usize) -> usize {
    let count = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..readers)
        .map(|n| {
            let reader = processes[n % processes.len()].clone();
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let load = move || {
                    let count = Arc::clone(&count);
                    async move {
                        count.fetch_add(1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        Ok(loaded("1"))
                    }
                };
                reader
                    .read(&key("k"), &policy(), load)
                    .await
                    .expect("an answer")
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(&task.await.expect("no panic").body()[..], b"1");
    }
    count.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn single_flight_loads_once_for_fifty_readers() {
    assert_eq!(cold_readers(vec![in_process().await], 50).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn single_flight_loads_once_for_four_processes() {
    let (first, redis) = over_redis().await;
    let mut processes = vec![first];
    for _ in 1..4 {
        let cache = open_redis(&redis.url()).await;
        cache.connected().await;
        processes.push(patient(cache));
    }
    assert_eq!(cold_readers(processes, 1_000).await, 1);
}

/// Without a cache a load that began before a reader came is not valid for it, so readers that come
/// during the first load share a second one.
#[tokio::test]
async fn single_flight_loads_twice_without_a_cache() {
    let off = open(CacheSettings {
        enabled: false,
        ..CacheSettings::default()
    })
    .await;
    let loads = cold_readers(vec![Reader::new(Arc::new(off))], 50).await;
    assert!((1..=2).contains(&loads), "{loads}");
}

/// A reader whose load waits for a notification, and a second reader that waits for that load.
async fn leader_and_waiter(
    reader: &Reader,
    policy: Policy,
    go_on: &Arc<Notify>,
    end: fn() -> anyhow::Result<LoadedValue>,
) -> [tokio::task::JoinHandle<Result<CacheRead, ReadError>>; 2] {
    let loading = Arc::new(Notify::new());
    let leader = tokio::spawn({
        let (reader, loading, go_on) = (reader.clone(), Arc::clone(&loading), Arc::clone(go_on));
        let policy = policy.clone();
        async move {
            let load = move || {
                let (loading, go_on) = (Arc::clone(&loading), Arc::clone(&go_on));
                async move {
                    loading.notify_one();
                    go_on.notified().await;
                    end()
                }
            };
            reader.read(&key("k"), &policy, load).await
        }
    });
    loading.notified().await;
    let waiter = tokio::spawn({
        let reader = reader.clone();
        let load = || async { Ok(loaded("waiter")) };
        async move { reader.read(&key("k"), &policy, load).await }
    });
    // On one thread this lets the waiter reach its wait.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert!(!waiter.is_finished(), "the waiter waits");
    [leader, waiter]
}

#[tokio::test]
async fn failed_load_reaches_its_waiters_only() {
    let (reader, go_on) = (in_process().await, Arc::new(Notify::new()));
    let end = || Err(anyhow::anyhow!("the database is down"));
    let both = leader_and_waiter(&reader, policy(), &go_on, end).await;
    go_on.notify_one();
    for reader in both {
        let why = reader.await.expect("no panic").expect_err("an error");
        assert_eq!(why.to_string(), "the database is down");
    }
    let next = reads(&reader, "k", "next").await;
    assert!(
        is(&next, CacheReadState::Miss, "next"),
        "the lease was given back: {next:?}"
    );
}

#[tokio::test]
async fn panicking_load_is_an_error() {
    let (reader, go_on) = (in_process().await, Arc::new(Notify::new()));
    let end = || panic!("a bug in the loader");
    let both = leader_and_waiter(&reader, policy(), &go_on, end).await;
    go_on.notify_one();
    for reader in both {
        let why = reader.await.expect("no panic").expect_err("an error");
        assert!(matches!(why, ReadError::Panicked), "{why}");
    }
    let next = reads(&reader, "k", "next").await;
    assert!(is(&next, CacheReadState::Miss, "next"), "{next:?}");
}

#[tokio::test(start_paused = true)]
async fn hanging_load_ends_at_its_timeout() {
    let reader = in_process().await;
    let limit = Duration::from_secs(3);
    let policy = Policy {
        load_within: limit,
        ..policy()
    };
    let hang = || std::future::pending::<anyhow::Result<LoadedValue>>();
    let why = reader
        .read(&key("k"), &policy, hang)
        .await
        .expect_err("an error");
    assert!(
        matches!(why, ReadError::TookTooLong(after) if after == limit),
        "{why}"
    );
    let next = reads(&reader, "k", "next").await;
    assert!(is(&next, CacheReadState::Miss, "next"), "{next:?}");
}

#[tokio::test]
async fn cancelled_reader_does_not_cancel_the_load() {
    let (reader, go_on) = (in_process().await, Arc::new(Notify::new()));
    let end = || Ok(loaded("leader"));
    let [leader, waiter] = leader_and_waiter(&reader, policy(), &go_on, end).await;
    leader.abort();
    go_on.notify_one();
    let served = waiter.await.expect("no panic").expect("an answer");
    assert_eq!(&served.body()[..], b"leader", "its load goes on");
}

#[tokio::test]
async fn removal_during_a_load_voids_its_result() {
    let (reader, go_on) = (in_process().await, Arc::new(Notify::new()));
    let end = || Ok(LoadedValue::new("old", DbSnapshot::from_commit_count(0)));
    let [leader, waiter] = leader_and_waiter(&reader, policy(), &go_on, end).await;
    removed(&reader, "k", 1).await;
    // This one comes after the removal: it must not wait for the old load.
    let fresh = reads(&reader, "k", "new").await;
    assert!(is(&fresh, CacheReadState::Miss, "new"), "{fresh:?}");
    go_on.notify_one();
    let old = leader.await.expect("no panic").expect("an answer");
    assert_eq!(&old.body()[..], b"old", "it asked before the removal");
    let waited = waiter.await.expect("no panic").expect("an answer");
    assert!(is(&waited, CacheReadState::Hit, "new"), "{waited:?}");
    assert!(is(
        &reads(&reader, "k", "x").await,
        CacheReadState::Hit,
        "new"
    ));
    assert_eq!(reader.stats().refused_lease, 1);
}

/// A lagging snapshot: the fill lease is younger than the removal, the loaded value is older.
#[tokio::test]
async fn fence_refused_load_is_served_once_and_not_stored() {
    for (reader, _redis) in [(in_process().await, None), {
        let (reader, redis) = over_redis().await;
        (reader, Some(redis))
    }] {
        removed(&reader, "k", 7).await;
        let load = || async { Ok(LoadedValue::new("old", DbSnapshot::from_commit_count(6))) };
        let served = reader
            .read(&key("k"), &policy(), load)
            .await
            .expect("an answer");
        assert!(is(&served, CacheReadState::Miss, "old"), "{served:?}");
        assert_eq!(reader.stats().refused_late, 1);
        assert!(is(
            &reads(&reader, "k", "new").await,
            CacheReadState::Miss,
            "new"
        ));
        assert!(is(
            &reads(&reader, "k", "x").await,
            CacheReadState::Hit,
            "new"
        ));
    }
}

#[tokio::test]
async fn epoch_missing_bypasses_the_cache() {
    let redis = RedisServer::start().await;
    let cache = open_redis(&redis.url()).await;
    cache.connected().await;
    let reader = patient(cache);
    for body in ["1", "2"] {
        assert!(is(
            &reads(&reader, "k", body).await,
            CacheReadState::Bypass,
            body
        ));
    }
    begin_epoch(reader.cache()).await;
    assert!(is(
        &reads(&reader, "k", "3").await,
        CacheReadState::Miss,
        "3"
    ));
    assert!(is(
        &reads(&reader, "k", "x").await,
        CacheReadState::Hit,
        "3"
    ));
    // A new epoch: entries of the old one are not valid.
    begin_epoch(reader.cache()).await;
    assert!(is(
        &reads(&reader, "k", "4").await,
        CacheReadState::Miss,
        "4"
    ));
}

/// Answers that end at once, so that each read finds them past their time.
fn short_lived(longer: Duration) -> Policy {
    Policy {
        fresh: Duration::from_nanos(1),
        ..policy()
    }
    .while_revalidating(longer)
}

#[tokio::test]
async fn stale_answer_is_labelled_renewed_once_and_removable() {
    for (reader, _redis) in [(in_process().await, None), {
        let (reader, redis) = over_redis().await;
        (reader, Some(redis))
    }] {
        let counter = Arc::new(AtomicU64::new(0));
        let load = {
            let counter = Arc::clone(&counter);
            move || {
                let counter = Arc::clone(&counter);
                async move {
                    let n = counter.fetch_add(1, Ordering::SeqCst) + 1;
                    Ok(loaded(&n.to_string()))
                }
            }
        };
        let policy = short_lived(TTL);
        let miss = reader
            .read(&key("k"), &policy, load.clone())
            .await
            .expect("an answer");
        assert!(is(&miss, CacheReadState::Miss, "1"), "{miss:?}");
        let stale = reader
            .read(&key("k"), &policy, load.clone())
            .await
            .expect("an answer");
        assert_eq!(stale.state, CacheReadState::Stale);
        // The renewal comes by itself: later readers see its answer.
        eventually("the answer is renewed", async || {
            let served = reader.read(&key("k"), &policy, load.clone()).await;
            let served = served.expect("an answer");
            (served.body()[..] != b"1"[..]).then_some(()).ok_or(served)
        })
        .await;
        removed(&reader, "k", 1).await;
        let load = || async { Ok(loaded("after")) };
        let served = reader
            .read(&key("k"), &policy, load)
            .await
            .expect("an answer");
        assert_eq!(&served.body()[..], b"after", "never stale after a removal");
    }
}

#[tokio::test]
async fn failed_renewal_serves_the_last_answer_for_a_bounded_time() {
    let reader = in_process().await;
    let fails = || async { Err::<LoadedValue, _>(anyhow::anyhow!("down")) };
    let kept = Policy {
        fresh: Duration::from_nanos(1),
        ..policy()
    }
    .on_error(TTL);
    let load = || async { Ok(loaded("1")) };
    reader
        .read(&key("k"), &kept, load)
        .await
        .expect("an answer");
    let stale = reader
        .read(&key("k"), &kept, fails)
        .await
        .expect("the last answer");
    assert!(is(&stale, CacheReadState::Stale, "1"), "{stale:?}");
    removed(&reader, "k", 1).await;
    let why = reader
        .read(&key("k"), &kept, fails)
        .await
        .expect_err("removed is removed");
    assert_eq!(why.to_string(), "down");
}

#[tokio::test]
async fn negative_answer_is_stored_for_its_own_ttl() {
    let reader = in_process().await;
    let none = || async { Ok(LoadedValue::absent(DbSnapshot::from_commit_count(ALL))) };
    let policy = Policy {
        absent: Duration::from_secs(5),
        ..policy()
    };
    let served = reader
        .read(&key("k"), &policy, none)
        .await
        .expect("an answer");
    assert!(served.entry.absent && served.entry.ttl() <= Duration::from_secs(5));
    let again = reads(&reader, "k", "x").await;
    assert!(
        again.entry.absent && again.state == CacheReadState::Hit,
        "{again:?}"
    );
    removed(&reader, "k", 1).await;
    assert!(is(
        &reads(&reader, "k", "now there is").await,
        CacheReadState::Miss,
        "now there is"
    ));
}

#[tokio::test]
async fn hot_key_is_loaded_again_after_a_removal() {
    let (reader, _redis) = over_redis().await;
    let tag = Tag::from_text("t").expect("a tag");
    let policy = policy().tagged([tag.clone()]);
    // Each load has seen one commit more.
    let counter = Arc::new(AtomicU64::new(0));
    let load = {
        let counter = Arc::clone(&counter);
        move || {
            let n = counter.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                Ok(LoadedValue::new(
                    n.to_string(),
                    DbSnapshot::from_commit_count(n),
                ))
            }
        }
    };
    for _ in 0..20 {
        let read = reader.read(&key("k"), &policy, load.clone()).await;
        assert_eq!(&read.expect("an answer").body()[..], b"1");
    }
    let targets = InvalidationTargets {
        tags: vec![tag.clone()],
        ..InvalidationTargets::default()
    };
    let removed = reader
        .remove(&targets, &DbSnapshot::from_commit_count(2))
        .await;
    removed.expect("removed");
    eventually("it is loaded again", async || {
        let (key, tags) = (key("k"), std::slice::from_ref(&tag));
        let looked = reader.cache().get(&key, tags).await;
        let entry = looked.expect("an answer").entry;
        entry.map(drop).ok_or("no entry")
    })
    .await;
    assert_eq!(reader.stats().renewed, 1);
    assert_eq!(counter.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn l1_drops_removed_values_and_needs_a_heartbeat() {
    l1_in_namespace("").await;
}

#[tokio::test]
async fn l1_drops_removed_values_of_its_namespace() {
    l1_in_namespace("staging").await;
}

/// Two processes with an L1 each: a value removed by one is no longer served by the other.
async fn l1_in_namespace(namespace: &str) {
    let redis = RedisServer::start().await;
    let mut processes = Vec::new();
    for _ in 0..2 {
        let cache = open(CacheSettings {
            redis_url: Some(redis.url().into()),
            command_timeout: Duration::from_secs(10),
            l1_bytes: 1 << 20,
            namespace: Namespace::named(namespace).expect("a namespace"),
            ..CacheSettings::default()
        })
        .await;
        cache.connected().await;
        processes.push(patient(cache));
    }
    // A database of one number.
    let stored = Arc::new(AtomicU64::new(0));
    let load = {
        let stored = Arc::clone(&stored);
        move || {
            let commits = stored.load(Ordering::SeqCst);
            async move {
                Ok(LoadedValue::new(
                    commits.to_string(),
                    DbSnapshot::from_commit_count(commits),
                ))
            }
        }
    };
    let number = |served: &CacheRead| -> u64 {
        let text = String::from_utf8_lossy(served.body()).into_owned();
        text.parse().expect("a number")
    };
    let mut life = begin_epoch(processes[0].cache()).await;
    for n in 1..=4 {
        for reader in &processes {
            eventually("the first level serves the new value", async || {
                // Without heartbeats the first level is not used.
                let beaten = processes[0].cache().heartbeat(&mut life).await;
                assert_eq!(beaten, Ok(true));
                let served = reader.read(&key("k"), &policy(), load.clone()).await;
                let served = served.expect("an answer");
                let new = served.level == CacheLevel::L1 && number(&served) == n - 1;
                new.then_some(()).ok_or(served)
            })
            .await;
        }
        let remover = &processes[n as usize % 2];
        stored.store(n, Ordering::SeqCst);
        removed(remover, "k", n).await;
        let served = remover.read(&key("k"), &policy(), load.clone()).await;
        assert_eq!(
            number(&served.expect("an answer")),
            n,
            "it knows its own at once"
        );
    }
    // After a flush by another program, heartbeats fail, the epoch is missing, and no old value is
    // served.
    redis.command(&["FLUSHALL"]).await;
    let beaten = processes[0].cache().heartbeat(&mut life).await;
    assert_eq!(beaten, Ok(false), "another memory");
    for reader in &processes {
        eventually("the first level is dropped", async || {
            let served = reads(reader, "k", "9").await;
            (served.state == CacheReadState::Bypass)
                .then_some(())
                .ok_or(served)
        })
        .await;
    }
}

/// On a paused clock, so times are exact on any machine.
#[tokio::test(start_paused = true)]
async fn breaker_opens_when_the_cache_hangs() {
    let (cache, _server) = silent().await;
    let reader = Reader::new(Arc::new(cache));
    let mut costs = Vec::new();
    for _ in 0..200 {
        let asked = tokio::time::Instant::now();
        let served = reads(&reader, "k", "1").await;
        assert!(is(&served, CacheReadState::Bypass, "1"), "{served:?}");
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
        reads(&reader, "k", "1").await;
        probes += usize::from(!asked.elapsed().is_zero());
    }
    assert_eq!(probes, 1, "after its pause, one reader tries");
}

#[tokio::test]
async fn breaker_closes_when_the_cache_answers_again() {
    let redis = RedisServer::start().await;
    let cache = open(CacheSettings {
        redis_url: Some(redis.url().into()),
        command_timeout: Duration::from_secs(1),
        ..CacheSettings::default()
    })
    .await;
    cache.connected().await;
    begin_epoch(&cache).await;
    let cache = Arc::new(cache);
    let reader = Reader::new(Arc::clone(&cache));
    redis.pause();
    for _ in 0..20 {
        let served = reads(&reader, "k", "1").await;
        assert!(is(&served, CacheReadState::Bypass, "1"), "{served:?}");
    }
    redis.resume();
    eventually("the cache is used again", async || {
        let served = reads(&reader, "k", "1").await;
        (served.state != CacheReadState::Bypass)
            .then_some(())
            .ok_or(served)
    })
    .await;
    let reader = Reader::with_budget(cache, WAIT_LIMIT);
    // A reader that gave up may have left its fill lease; the removal takes it.
    removed(&reader, "k", 1).await;
    let miss = reads(&reader, "k", "2").await;
    assert!(is(&miss, CacheReadState::Miss, "2"), "{miss:?}");
    let hit = reads(&reader, "k", "3").await;
    assert!(is(&hit, CacheReadState::Hit, "2"), "{hit:?}");
}

#[tokio::test]
async fn unreachable_cache_is_bypassed() {
    let redis = RedisServer::start().await;
    redis.kill().await;
    let reader = Reader::new(Arc::new(open_redis(&redis.url()).await));
    for _ in 0..10 {
        let served = reads(&reader, "k", "1").await;
        assert!(is(&served, CacheReadState::Bypass, "1"), "{served:?}");
    }
}

#[tokio::test]
async fn full_cache_still_serves_stored_values() {
    let redis = RedisServer::start().await;
    let cache = open_redis(&redis.url()).await;
    begin_epoch(&cache).await;
    put(&cache, &key("kept"), b"kept").await;
    let reader = patient(cache);
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    for _ in 0..10 {
        let bypass = reads(&reader, "new", "1").await;
        assert!(is(&bypass, CacheReadState::Bypass, "1"), "{bypass:?}");
        let hit = reads(&reader, "kept", "x").await;
        assert!(is(&hit, CacheReadState::Hit, "kept"), "{hit:?}");
    }
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let miss = reads(&reader, "new", "2").await;
    assert!(is(&miss, CacheReadState::Miss, "2"), "{miss:?}");
}

#[tokio::test]
async fn disabled_cache_gets_no_commands() {
    let off = open(CacheSettings {
        enabled: false,
        ..CacheSettings::default()
    })
    .await;
    let reader = Reader::new(Arc::new(off));
    for body in ["1", "2"] {
        let served = reads(&reader, "k", body).await;
        assert!(is(&served, CacheReadState::Bypass, body), "{served:?}");
    }
}

#[tokio::test]
async fn oversized_value_is_served_and_not_stored() {
    let cache = open(CacheSettings {
        memory_bytes: 1_000_000,
        ..CacheSettings::default()
    })
    .await;
    let reader = patient(cache);
    for _ in 0..2 {
        let load = || async { Ok(loaded(&"x".repeat(300_000))) };
        let served = reader
            .read(&key("k"), &policy(), load)
            .await
            .expect("an answer");
        assert!(is(&served, CacheReadState::Miss, &"x".repeat(300_000)));
    }
}

/// The removal of `k` fails once `begin` has run, and works again after `end`.
async fn owed_removal_is_not_read_from_the_cache(
    reader: &Reader,
    begin: impl AsyncFnOnce(),
    end: impl AsyncFnOnce(),
) {
    reads(reader, "k", "1").await;
    reads(reader, "other", "1").await;
    begin().await;
    assert!(try_remove(reader, "k").await.is_err());
    let owed = reads(reader, "k", "2").await;
    assert!(is(&owed, CacheReadState::Bypass, "2"), "{owed:?}");
    end().await;
    eventually("what is not owed is a hit", async || {
        let other = reads(reader, "other", "1").await;
        if other.state == CacheReadState::Hit {
            Ok(())
        } else {
            Err(other)
        }
    })
    .await;
    let owed = reads(reader, "k", "3").await;
    assert!(is(&owed, CacheReadState::Bypass, "3"), "{owed:?}");
    eventually("the removal works", async || try_remove(reader, "k").await).await;
    let miss = reads(reader, "k", "4").await;
    assert!(is(&miss, CacheReadState::Miss, "4"), "{miss:?}");
    let hit = reads(reader, "k", "5").await;
    assert!(is(&hit, CacheReadState::Hit, "4"), "{hit:?}");
}

async fn try_remove(reader: &Reader, name: &str) -> Result<(), CacheError> {
    let targets = InvalidationTargets {
        keys: vec![key(name)],
        ..InvalidationTargets::default()
    };
    let snapshot = DbSnapshot::from_commit_count(5);
    let removed = reader.remove(&targets, &snapshot).await?;
    removed.first_error().map_or(Ok(()), |why| Err(why.clone()))
}

#[tokio::test]
async fn owed_removal_that_a_replica_refuses_is_not_read() {
    let (reader, redis) = over_redis().await;
    let begin = async || drop(redis.command(&["REPLICAOF", "127.0.0.1", "1"]).await);
    let end = async || drop(redis.command(&["REPLICAOF", "NO", "ONE"]).await);
    owed_removal_is_not_read_from_the_cache(&reader, begin, end).await;
}

#[tokio::test]
async fn owed_removal_without_the_right_to_unlink_is_not_read() {
    let (reader, redis) = over_redis().await;
    let begin = async || {
        drop(
            redis
                .command(&["ACL", "SETUSER", "default", "-unlink"])
                .await,
        )
    };
    let end = async || {
        drop(
            redis
                .command(&["ACL", "SETUSER", "default", "+unlink"])
                .await,
        )
    };
    owed_removal_is_not_read_from_the_cache(&reader, begin, end).await;
}

#[tokio::test]
async fn owed_removal_of_an_outage_is_not_read_after_it() {
    let redis = RedisServer::start().await;
    let cache = open(CacheSettings {
        redis_url: Some(redis.url().into()),
        command_timeout: Duration::from_millis(500),
        ..CacheSettings::default()
    })
    .await;
    cache.connected().await;
    begin_epoch(&cache).await;
    let reader = patient(cache);
    let end = async || redis.resume();
    owed_removal_is_not_read_from_the_cache(&reader, async || redis.pause(), end).await;
}

#[tokio::test]
async fn owed_removal_of_a_wrong_token_is_not_read_after_it() {
    let redis = RedisServer::start().await;
    let upstash = UpstashStandIn::start(redis.port(), "token").await;
    let cache = open(CacheSettings {
        upstash_url: Some(upstash.url()),
        upstash_token: Some("token".to_owned().into()),
        ..CacheSettings::default()
    })
    .await;
    begin_epoch(&cache).await;
    let reader = patient(cache);
    let begin = async || upstash.fail(UpstashFault::Unauthorized);
    let end = async || upstash.fail(None);
    owed_removal_is_not_read_from_the_cache(&reader, begin, end).await;
}

/// The cache accepts the fill of a load from before the change, because it refused the removal.
#[tokio::test]
async fn owed_removal_voids_a_load_that_others_wait_for() {
    let (reader, redis) = over_redis().await;
    let (began, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = tokio::spawn({
        let (reader, began, go_on) = (reader.clone(), Arc::clone(&began), Arc::clone(&go_on));
        async move {
            let load = move || {
                let (began, go_on) = (Arc::clone(&began), Arc::clone(&go_on));
                async move {
                    began.notify_one();
                    go_on.notified().await;
                    Ok(loaded("1"))
                }
            };
            reader
                .read(&key("k"), &policy(), load)
                .await
                .expect("an answer")
        }
    });
    began.notified().await;
    redis
        .command(&["ACL", "SETUSER", "default", "-unlink"])
        .await;
    assert!(try_remove(&reader, "k").await.is_err());
    let waiting = tokio::spawn({
        let reader = reader.clone();
        async move { reads(&reader, "k", "2").await }
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    go_on.notify_one();
    slow.await.expect("an answer");
    let waiting = waiting.await.expect("an answer");
    assert!(is(&waiting, CacheReadState::Bypass, "2"), "{waiting:?}");
}

/// Behind one name: open connections stay with the server that became a replica, new ones reach the primary.
#[tokio::test]
async fn cache_that_became_a_replica_is_left_for_the_primary() {
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    let primary = Arc::new(AtomicU64::new(old.port().into()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let name = tokio::spawn({
        let primary = Arc::clone(&primary);
        async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let port = primary.load(Ordering::SeqCst) as u16;
                tokio::spawn(async move {
                    let server = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
                    tokio::io::copy_bidirectional(&mut client, &mut server?).await
                });
            }
        }
    });
    let cache = open_redis(&format!("redis://127.0.0.1:{port}")).await;
    cache.connected().await;
    begin_epoch(&cache).await;
    primary.store(new.port().into(), Ordering::SeqCst);
    let role = old
        .command(&["REPLICAOF", "127.0.0.1", &new.port().to_string()])
        .await;
    assert_eq!(role, RespReply::Status("OK".into()));
    let reader = patient(cache);
    eventually("the primary is found", async || {
        try_remove(&reader, "k").await
    })
    .await;
    name.abort();
}
