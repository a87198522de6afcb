//! Tests of removal by tag and by prefix, for the cache's own keys and for unmanaged keys of other
//! programs, on every backend.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use oddsd_cache::{
    Bytes, Cache, CacheError, CacheSettings, Entry, InvalidationTarget, InvalidationTargets,
    LeaseOutcome, PutOutcome, Removed,
};
use oddsd_core::key::{Key, Tag};
use oddsd_core::model::{DbSnapshot, EventId};

use crate::cache::{
    CacheBackend, TTL, begin_epoch, body, entry, key, on_every_backend, open, open_redis, put,
};
use oddsd_testkit::eventually;
use oddsd_testkit::redis::RedisServer;
use oddsd_testkit::resp::RespReply;

fn tag(name: &str) -> Tag {
    Tag::from_text(name).expect("a tag")
}

fn family(prefix: &str) -> Tag {
    Tag::prefix_tag(prefix).expect("a family")
}

fn tagged(tags: &[&Tag]) -> InvalidationTargets {
    InvalidationTargets {
        tags: tags.iter().copied().cloned().collect(),
        ..InvalidationTargets::default()
    }
}

async fn remove(cache: &Cache, targets: &InvalidationTargets, commits: u64) -> Removed {
    let removed = cache
        .remove(targets, &DbSnapshot::from_commit_count(commits))
        .await;
    removed.expect("an answer")
}

/// Puts as another program does, with the documented script.
async fn put_plain(cache: &Cache, name: &str, tags: &[Tag]) {
    let body = Bytes::from_static(b"theirs");
    let put = cache.put_unmanaged(&key(name), &body, TTL, tags).await;
    put.expect("put");
}

on_every_backend! {
    tag_removal_takes_the_unmanaged_keys_under_it
    pattern_removal_takes_exactly_its_prefix
    tag_removal_finds_keys_put_during_the_last_one
    tag_removal_takes_every_one_of_many_members
    scan_takes_its_prefix_literally_and_reports_its_limit
}

async fn tag_removal_takes_the_unmanaged_keys_under_it(backend: CacheBackend) {
    let cache = &backend.cache;
    let (red, blue) = (tag("red"), tag("blue: * {x}"));
    put_plain(cache, "a", std::slice::from_ref(&red)).await;
    put_plain(cache, "b [*] {b}", &[red.clone(), blue.clone()]).await;
    put_plain(cache, "c", std::slice::from_ref(&blue)).await;
    put_plain(cache, "none", &[]).await;
    let Some(found) = backend.raw(&["GET", "b [*] {b}"]).await else {
        let removed = remove(cache, &tagged(&[&red]), 1).await;
        assert_eq!(removed.tags, [Ok(0)], "in process nobody else is there");
        return;
    };
    assert_eq!(found, RespReply::Bulk(b"theirs".to_vec()));
    for name in ["a", "none"] {
        let left = backend.raw(&["PTTL", name]).await;
        let ms = TTL.as_millis() as i64;
        assert!(
            matches!(left, Some(RespReply::Int(left)) if left > 0 && left <= ms),
            "{left:?}"
        );
    }
    // The cache's own answer under the tag is removed as well, by the fence.
    let removed = remove(cache, &tagged(&[&red, &tag("green")]), 1).await;
    assert_eq!(removed.tags, [Ok(2), Ok(0)]);
    let there = async |name: &str| backend.raw(&["EXISTS", name]).await == Some(RespReply::Int(1));
    assert!(!there("a").await && !there("b [*] {b}").await);
    assert!(there("c").await && there("none").await);
    // Keys put again are found again, and so are keys that another tag still lists.
    put_plain(cache, "a", std::slice::from_ref(&red)).await;
    assert_eq!(
        cache.remove_tag_members(&[red.clone(), blue.clone()]).await,
        Ok(2)
    );
    assert!(!there("a").await && !there("c").await && there("none").await);
    let removed = remove(cache, &tagged(&[&red, &blue]), 2).await;
    assert_eq!(removed.existing_entries(), 0);
    // Expired members leave the list, and the list ends with its last member.
    if backend.cluster.is_none() {
        let list = red.members_key(red.shard(backend.buckets()));
        backend.raw(&["ZADD", &list, "1", "long gone"]).await;
        put_plain(cache, "a", std::slice::from_ref(&red)).await;
        let members = backend.raw(&["ZRANGE", &list, "0", "-1"]).await;
        let only = RespReply::Array(vec![RespReply::Bulk(b"a".to_vec())]);
        assert_eq!(members, Some(only));
        let left = backend.raw(&["PTTL", &list]).await;
        let most = TTL.as_millis() as i64 + 1;
        assert!(
            matches!(left, Some(RespReply::Int(left)) if left > 0 && left <= most),
            "{left:?}"
        );
    }
}

async fn pattern_removal_takes_exactly_its_prefix(backend: CacheBackend) {
    let cache = &backend.cache;
    let shared = cache.backend() != "memory";
    let names = [
        ("sidebar:7:12:p1", true),
        ("sidebar:7:12:p2:x", true),
        ("sidebar:7:120:p1", false),
        ("sidebar:7:1", false),
        ("sidebar:70:12:p1", false),
        ("side*:7:12:p1", false),
    ];
    for (name, _) in names {
        let key = key(name);
        let tags = key.prefix_tags();
        let looked = cache.get(&key, &tags).await.expect("an answer");
        let Ok(LeaseOutcome::Acquired(lease)) = cache.acquire_lease(&key, &tags, &looked).await
        else {
            panic!("no lease on {name}");
        };
        let ours = Arc::new(Entry {
            tags: tags.clone(),
            ..Entry::clone(&entry(b"ours", 1))
        });
        let filled = cache.put_if_valid(&key, lease, ours, 1 << 20).await;
        assert_eq!(filled, Ok(PutOutcome::Stored));
        put_plain(cache, name, &tags).await;
    }
    let left = async |targets: &InvalidationTargets, commits: u64| {
        let removed = remove(cache, targets, commits).await;
        let mut left = Vec::new();
        for (name, _) in names {
            let ours = cache.get(&key(name), &key(name).prefix_tags()).await;
            let ours = ours.expect("an answer").entry.is_some();
            let theirs = backend.raw(&["EXISTS", name]).await;
            assert!(
                theirs.is_none_or(|theirs| theirs == RespReply::Int(i64::from(ours))),
                "{name}"
            );
            if ours {
                left.push(name);
            }
        }
        (removed.existing_entries(), left)
    };
    let (gone, kept) = left(&tagged(&[&family("sidebar:7:12:")]), 2).await;
    assert_eq!(gone, if shared { 2 } else { 0 });
    let expected: Vec<&str> = names
        .iter()
        .filter(|(_, goes)| !goes)
        .map(|n| n.0)
        .collect();
    assert_eq!(kept, expected);
    let (_, kept) = left(&tagged(&[&family("sidebar:7:")]), 3).await;
    assert_eq!(kept, ["sidebar:70:12:p1", "side*:7:12:p1"]);
    let (_, kept) = left(&tagged(&[&family("sidebar:")]), 4).await;
    assert_eq!(kept, ["side*:7:12:p1"]);
}

/// Two writers and one remover in parallel.
async fn tag_removal_finds_keys_put_during_the_last_one(backend: CacheBackend) {
    const PUTS: u64 = 150;
    let tags = [tag("race"), family("race:")];
    let cache = &backend.cache;
    let putting = async |who: u64| {
        for n in 0..PUTS {
            let ours = &tags[..1 + (n % 2) as usize];
            put_plain(cache, &format!("race:{who}:{}", n % 7), ours).await;
        }
    };
    let removing = async {
        for n in 0..PUTS {
            remove(cache, &tagged(&[&tags[(n % 2) as usize]]), n).await;
        }
    };
    futures_util::join!(putting(0), putting(1), removing);
    // `race` has all of them.
    remove(cache, &tagged(&[&tags[0]]), PUTS).await;
    for who in 0..2 {
        for n in 0..7 {
            let left = backend.raw(&["EXISTS", &format!("race:{who}:{n}")]).await;
            assert!(
                left.is_none_or(|left| left == RespReply::Int(0)),
                "{who} {n}"
            );
        }
    }
    assert_eq!(cache.remove_tag_members(&tags).await, Ok(0));
}

/// More members than are read at once.
async fn tag_removal_takes_every_one_of_many_members(backend: CacheBackend) {
    const MEMBERS: u64 = 40_000;
    const LATEST: &str = "9000000000000000";
    let (cache, many) = (&backend.cache, tag("many"));
    let list = many.members_key(many.shard(backend.buckets()));
    let fill =
        format!("for n = 1, {MEMBERS} do redis.call('ZADD', KEYS[1], {LATEST}, 'many:' .. n) end");
    if backend.raw(&["EVAL", &fill, "1", &list]).await.is_none() {
        return; // In process there is no list.
    }
    let there = [1, 2, MEMBERS / 2, MEMBERS - 1, MEMBERS];
    for n in there {
        backend.raw(&["SET", &format!("many:{n}"), "theirs"]).await;
    }
    let removed = remove(cache, &tagged(&[&tag("few"), &many]), 1).await;
    assert_eq!(removed.tags, [Ok(0), Ok(there.len() as u64)]);
    let left = backend.raw(&["ZCARD", &list]).await;
    let listed = match backend.cluster.is_some() {
        true => MEMBERS, // They leave with their time.
        false => 0,
    };
    assert_eq!(left, Some(RespReply::Int(listed as i64)));
}

async fn scan_takes_its_prefix_literally_and_reports_its_limit(backend: CacheBackend) {
    let cache = &backend.cache;
    let shared = cache.backend() != "memory";
    put(cache, &key("odds:ours"), b"ours").await;
    for n in 0..30 {
        backend
            .raw(&["SET", &format!("odds:{n:02}"), "theirs"])
            .await;
        backend
            .raw(&["SET", &format!("od*s:{n:02}"), "theirs"])
            .await;
    }
    let scan =
        async |prefix: &str, max: usize| cache.scan_unmanaged(prefix, max).await.expect("a scan");
    let all = scan("odds:", 30).await;
    assert_eq!(all.keys.len(), if shared { 30 } else { 0 });
    assert!(!all.is_truncated);
    assert!(all.keys.iter().all(|key| key.as_str().starts_with("odds:")));
    let letter = scan("od*s:", 100).await;
    assert!(
        letter
            .keys
            .iter()
            .all(|key| key.as_str().starts_with("od*s:"))
    );
    assert_eq!(letter.keys.len(), if shared { 30 } else { 0 });
    let some = scan("odds:", 7).await;
    assert_eq!(some.keys.len(), if shared { 7 } else { 0 });
    assert_eq!(some.is_truncated, shared);
    let everything = scan("", 1_000).await;
    assert_eq!(
        everything.keys.len(),
        if shared { 60 } else { 0 },
        "none of ours"
    );
}

/// A removal costs what it removes: with half a million unmanaged keys around, the same commands are
/// sent, and none scans the keyspace.
#[tokio::test]
async fn removal_cost_is_independent_of_unmanaged_keys() {
    const PIECES: usize = 20;
    let redis = RedisServer::start().await;
    let cache = open_redis(&redis.url()).await;
    cache.connected().await;
    begin_epoch(&cache).await;
    let sidebar = family("sidebar:7:12:");
    let targets = InvalidationTargets {
        keys: vec![key("a"), key("b")],
        tags: vec![sidebar.clone(), tag("other")],
        mark_stale: vec![key("c")],
    };
    let mut reported = Vec::new();
    for foreign in [false, true] {
        if foreign {
            let fill = "for n = 1, 25000 do redis.call('SET', 'sidebar:7:' .. ARGV[1] .. ':' .. n, '') end";
            for piece in 0..PIECES {
                redis
                    .command(&["EVAL", fill, "0", &piece.to_string()])
                    .await;
            }
            let RespReply::Int(size) = redis.command(&["DBSIZE"]).await else {
                panic!("no size");
            };
            assert!(size >= 25_000 * PIECES as i64, "{size}");
        }
        for n in 0..700 {
            let name = format!("sidebar:7:12:p{n}");
            put_plain(&cache, &name, std::slice::from_ref(&sidebar)).await;
        }
        put(&cache, &key("a"), b"ours").await;
        redis.command(&["CONFIG", "RESETSTAT"]).await;
        let removed = remove(&cache, &targets, 1_000_000).await;
        assert_eq!(removed.existing_entries(), 701);
        reported.push(commands(&redis).await);
    }
    assert_eq!(reported[0], reported[1]);
    for (name, calls) in &reported[1] {
        assert!(
            !["keys", "scan", "sscan", "randomkey"].contains(&name.as_str()),
            "{name}"
        );
        assert!(*calls <= 10, "{name}: {calls}");
    }
    // One script for the targets, and one for each five hundred members.
    assert_eq!(reported[1]["eval"], 3);
}

/// How often each command ran since the last reset, in scripts as well.
async fn commands(redis: &RedisServer) -> BTreeMap<String, u64> {
    let stats = redis.command(&["INFO", "commandstats"]).await.text();
    let line = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(':')?;
        let calls = rest.strip_prefix("calls=")?.split(',').next()?;
        Some((name.to_owned(), calls.parse().ok()?))
    };
    let mut commands: BTreeMap<_, _> = stats.lines().filter_map(line).collect();
    // The source that requests them.
    commands.retain(|name, _| !name.starts_with("config") && name != "info");
    commands
}

/// The commands that another program sends, in any language.
#[tokio::test]
async fn documented_script_puts_keys_that_a_tag_removes() {
    let put = include_str!("../deploy/put.lua");
    let backend = CacheBackend::redis().await;
    let (sport, league) = (family("sidebar:7:"), family("sidebar:7:12:"));
    let one = [
        "EVAL",
        put,
        "3",
        "sidebar:7:12:p1",
        "oddsd:members:{b0000}:sidebar:7:*",
        "oddsd:members:{b0000}:sidebar:7:12:*",
        "theirs",
        "60000",
    ];
    for pattern in [&sport, &league] {
        assert_eq!(backend.raw(&one).await, Some(RespReply::Int(1)));
        let removed = remove(&backend.cache, &tagged(&[pattern]), 1).await;
        assert_eq!(removed.tags, [Ok(1)], "{pattern}");
    }
    // A key that is not UTF-8 is removed as well.
    let redis = backend.redis.as_ref().expect("Redis");
    let mut wire = oddsd_testkit::resp::RespClient::connect(redis.port())
        .await
        .expect("a connection");
    let mut bytes: Vec<&[u8]> = one.iter().map(|word| word.as_bytes()).collect();
    bytes[3] = b"\xff\x00";
    assert_eq!(
        wire.command(&bytes).await.expect("an answer"),
        RespReply::Int(1)
    );
    let removed = remove(&backend.cache, &tagged(&[&league]), 2).await;
    assert_eq!(removed.tags, [Ok(1)]);
}

/// One node of the cluster is down: targets on the others are removed.
#[tokio::test]
async fn cluster_removes_on_the_other_nodes_when_one_is_down() {
    let cluster = RedisServer::cluster().await;
    for node in &cluster.nodes {
        let set = ["CONFIG", "SET", "cluster-require-full-coverage", "no"];
        assert_eq!(node.command(&set).await, RespReply::Status("OK".into()));
    }
    let cache = open(CacheSettings {
        redis_url: Some(cluster.url().into()),
        command_timeout: Duration::from_secs(1),
        ..CacheSettings::default()
    })
    .await;
    cache.connected().await;
    begin_epoch(&cache).await;
    let targets = InvalidationTargets {
        keys: (0..40).map(|n| key(&format!("k{n}"))).collect(),
        tags: (0..20).map(|n| tag(&format!("t{n}"))).collect(),
        mark_stale: (0..20).map(|n| key(&format!("s{n}"))).collect(),
    };
    assert_eq!(remove(&cache, &targets, 1).await.first_error(), None);
    cluster.nodes[1].kill().await;
    // As the daemon does: unconfirmed targets are tried again alone.
    let mut confirmed = vec![false; targets.len()];
    eventually("the other nodes remove their targets", async || {
        if let Ok(removed) = cache
            .remove(&targets, &DbSnapshot::from_commit_count(2))
            .await
        {
            let failed: Vec<InvalidationTarget<'_>> =
                removed.failures(&targets).map(|(t, _)| t).collect();
            for (at, target) in targets.iter().enumerate() {
                confirmed[at] |= !failed.contains(&target);
            }
        }
        let done = confirmed.iter().filter(|done| **done).count();
        (done > targets.len() / 4).then_some(()).ok_or(done)
    })
    .await;
    assert!(confirmed.contains(&false), "a dead node confirms nothing");
    cluster.nodes[1].restart().await;
    eventually("every target is removed", async || {
        let removed = cache
            .remove(&targets, &DbSnapshot::from_commit_count(2))
            .await;
        let error = removed.map(|removed| removed.first_error().cloned());
        error.map_or_else(Err, |error| error.map_or(Ok(()), Err))
    })
    .await;
}

/// A key over the service's limit fails alone.
#[tokio::test]
async fn upstash_refused_key_does_not_block_others() {
    let backend = CacheBackend::upstash().await;
    let cache = &backend.cache;
    let long = Key::event_prices(&EventId::new("x".repeat(40_000)));
    for name in ["a", "b", "c"] {
        put(cache, &key(name), b"ours").await;
        backend.raw(&["SET", name, "theirs"]).await;
    }
    let targets = InvalidationTargets {
        keys: vec![key("a"), long.clone(), key("b")],
        mark_stale: vec![key("c")],
        tags: vec![tag("t")],
    };
    let removed = remove(cache, &targets, 1).await;
    assert_eq!(removed.stale, [Ok(2)]);
    assert_eq!(removed.tags, [Ok(0)]);
    assert_eq!((&removed.keys[0], &removed.keys[2]), (&Ok(2), &Ok(2)));
    let failed: Vec<_> = removed.failures(&targets).collect();
    assert!(
        matches!(failed[..], [(InvalidationTarget::Key(key), CacheError::TooLarge(_))] if *key == long),
        "{failed:?}"
    );
    for name in ["a", "b"] {
        assert_eq!(body(cache, &key(name)).await, None);
    }
    let plain = cache
        .remove_unmanaged(&[key("a"), long.clone(), key("d")])
        .await;
    assert!(matches!(plain, Err(CacheError::TooLarge(_))), "{plain:?}");
    // When it is the only target, nothing is confirmed.
    let targets = InvalidationTargets {
        keys: vec![long],
        ..InvalidationTargets::default()
    };
    let removed = cache
        .remove(&targets, &DbSnapshot::from_commit_count(1))
        .await;
    assert!(
        matches!(removed, Err(CacheError::TooLarge(_))),
        "{removed:?}"
    );
}
