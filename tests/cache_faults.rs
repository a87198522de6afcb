//! Tests of caches that are down, hanging, full, read-only or wrongly configured: the error, the retry,
//! the recovery, and no secret in the log.

use std::sync::Arc;
use std::time::Duration;

use oddsd_cache::{
    Cache, CacheError, CacheSettings, InvalidationTargets, LeaseOutcome, PutOutcome,
};
use oddsd_core::key::Key;
use oddsd_core::model::DbSnapshot;

use crate::cache::{begin_epoch, body, entry, fill, key, lease, open, open_redis, put, take};
use oddsd_testkit::eventually;
use oddsd_testkit::log::CapturedLog;
use oddsd_testkit::ports::free_port;
use oddsd_testkit::redis::{RedisCluster, RedisServer};
use oddsd_testkit::resp::RespReply;

pub const CANARY: &str = "canary-5ecret";

pub async fn remove(cache: &Cache, name: &str) -> Result<u64, CacheError> {
    remove_all(cache, &[key(name)]).await
}

pub async fn remove_all(cache: &Cache, keys: &[Key]) -> Result<u64, CacheError> {
    let targets = InvalidationTargets {
        keys: keys.to_vec(),
        ..InvalidationTargets::default()
    };
    let removed = cache
        .remove(&targets, &DbSnapshot::from_commit_count(1))
        .await?;
    match removed.first_error() {
        Some(why) => Err(why.clone()),
        None => Ok(removed.existing_entries()),
    }
}

/// With a short time per command, for caches that hang.
async fn open_impatient(url: &str) -> Cache {
    open(CacheSettings {
        redis_url: Some(url.to_owned().into()),
        command_timeout: Duration::from_millis(300),
        ..CacheSettings::default()
    })
    .await
}

/// The timeout of a command under way when the server disappears.
async fn open_hasty(url: &str) -> Cache {
    open(CacheSettings {
        redis_url: Some(url.to_owned().into()),
        command_timeout: Duration::from_secs(1),
        ..CacheSettings::default()
    })
    .await
}

/// Waits until the cache answers again, without a restart of the client.
async fn recovered(cache: &Cache) {
    eventually("the cache answers", async || {
        cache.connected().await;
        cache.ping().await
    })
    .await;
}

/// As `recovered`, for caches opened with a short time per command.
async fn removes_again(cache: &Cache) {
    eventually("the cache removes", async || {
        cache.connected().await;
        remove(cache, "k").await
    })
    .await;
}

pub fn refused(answer: Result<impl std::fmt::Debug, CacheError>, advice: &str) {
    match answer {
        Err(why @ CacheError::Refused(_)) => {
            assert!(!why.is_retryable());
            let shown = why.to_string();
            assert!(shown.contains(advice), "{shown}");
            let shown = format!("{why} {why:?}");
            assert!(!shown.contains(CANARY), "{shown}");
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn cache_down_at_start_is_used_when_it_is_up() {
    let redis = RedisServer::start().await;
    redis.kill().await;
    let cache = open_redis(&redis.url()).await;
    let answer = remove(&cache, "k").await;
    assert!(matches!(answer, Err(CacheError::Down(_))), "{answer:?}");
    redis.restart().await;
    recovered(&cache).await;
    assert_eq!(remove(&cache, "k").await, Ok(0));
    cache.close().await;
}

#[tokio::test]
async fn cache_restart_voids_fill_leases_and_reconnects() {
    let redis = RedisServer::start().await;
    let cache = open_redis(&redis.url()).await;
    begin_epoch(&cache).await;
    let old = lease(&cache, &key("k")).await.expect("a lease");
    redis.restart().await;
    recovered(&cache).await;
    let filled = fill(&cache, &key("k"), old, b"old", 9).await;
    assert_eq!(filled, PutOutcome::LeaseEnded);
    begin_epoch(&cache).await;
    put(&cache, &key("k"), b"new").await;
}

#[tokio::test]
async fn hanging_cache_costs_its_timeout_and_recovers() {
    let redis = RedisServer::start().await;
    let cache = open_impatient(&redis.url()).await;
    recovered(&cache).await;
    redis.pause();
    let answer = remove(&cache, "k").await;
    assert!(matches!(answer, Err(CacheError::Timeout(_))), "{answer:?}");
    for _ in 0..5 {
        let answer = remove(&cache, "k").await;
        assert!(
            matches!(answer, Err(CacheError::Timeout(_) | CacheError::Down(_))),
            "{answer:?}"
        );
    }
    redis.resume();
    removes_again(&cache).await;
}

#[tokio::test]
async fn replica_refuses_removals() {
    let redis = RedisServer::start().await;
    let cache = open_redis(&redis.url()).await;
    begin_epoch(&cache).await;
    put(&cache, &key("k"), b"1").await;
    let old = lease(&cache, &key("other")).await.expect("a lease");
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    refused(remove(&cache, "k").await, "name the primary in REDIS_URL");
    let filled = cache
        .put_if_valid(&key("other"), old, entry(b"1", 9), 99)
        .await;
    refused(filled, "primary");
    assert_eq!(body(&cache, &key("k")).await.as_deref(), Some(&b"1"[..]));
    redis.command(&["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(remove(&cache, "k").await, Ok(1));
}

#[tokio::test]
async fn full_cache_refuses_fills_and_still_removes() {
    let redis = RedisServer::start().await;
    let cache = open_redis(&redis.url()).await;
    begin_epoch(&cache).await;
    put(&cache, &key("k"), b"1").await;
    let lease = lease(&cache, &key("other")).await.expect("a lease");
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let filled = cache
        .put_if_valid(&key("other"), lease, entry(b"1", 9), 99)
        .await;
    refused(filled, "maxmemory");
    let looked = cache.get(&key("third"), &[]).await.expect("reading works");
    refused(
        cache.acquire_lease(&key("third"), &[], &looked).await,
        "maxmemory",
    );
    assert_eq!(body(&cache, &key("k")).await.as_deref(), Some(&b"1"[..]));
    assert_eq!(remove(&cache, "k").await, Ok(1));
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    put(&cache, &key("k"), b"2").await;
}

#[tokio::test]
async fn wrong_password_is_refused_until_accepted() {
    let redis = RedisServer::with_password("right").await;
    let url = format!("redis://:{CANARY}@127.0.0.1:{}", redis.port());
    let cache = open_redis(&url).await;
    refused(remove(&cache, "k").await, "Check REDIS_URL");
    assert!(!cache.host().contains(CANARY));
    redis
        .command(&["ACL", "SETUSER", "default", &format!(">{CANARY}")])
        .await;
    recovered(&cache).await;
    assert_eq!(remove(&cache, "k").await, Ok(0));
}

#[tokio::test]
async fn user_without_rights_is_refused_with_advice() {
    let redis = RedisServer::start().await;
    let rights = format!("ACL SETUSER odds on >{CANARY} ~* +ping +info +get");
    redis.command(&rights.split(' ').collect::<Vec<_>>()).await;
    let url = format!("redis://odds:{CANARY}@127.0.0.1:{}", redis.port());
    let cache = open_redis(&url).await;
    refused(remove(&cache, "k").await, "unlink");
    let rights = "ACL SETUSER odds +eval +set +mget +del +unlink +persist +getrange +exists +time";
    redis.command(&rights.split(' ').collect::<Vec<_>>()).await;
    assert_eq!(remove(&cache, "k").await, Ok(0));
}

#[tokio::test]
async fn cluster_behind_the_url_of_one_server_is_refused_with_the_scheme() {
    let cluster = RedisServer::cluster().await;
    let url = format!("redis://127.0.0.1:{}", cluster.nodes[0].port());
    let cache = open_redis(&url).await;
    eventually("it is recognised", async || match cache.ping().await {
        Err(CacheError::Refused(why)) if why.contains("redis-cluster://") => Ok(()),
        other => Err(other),
    })
    .await;
    let removed = remove_all(&cache, &["a", "b", "c"].map(key)).await;
    refused(removed, "redis-cluster://");
}

#[tokio::test]
async fn user_without_info_removes_and_reads() {
    let redis = RedisServer::start().await;
    let rights = format!("ACL SETUSER odds on >{CANARY} ~* +@all -info");
    redis.command(&rights.split(' ').collect::<Vec<_>>()).await;
    let url = format!("redis://odds:{CANARY}@127.0.0.1:{}", redis.port());
    let cache = open_redis(&url).await;
    recovered(&cache).await;
    assert_eq!(remove(&cache, "k").await, Ok(0));
    begin_epoch(&cache).await;
}

#[tokio::test]
async fn sentinel_leads_to_the_primary() {
    let redis = RedisServer::start().await;
    let sentinel = RedisServer::sentinel(&redis).await;
    let url = format!(
        "redis-sentinel://127.0.0.1:{}?sentinelServiceName=odds",
        sentinel.port()
    );
    let cache = open_redis(&url).await;
    recovered(&cache).await;
    begin_epoch(&cache).await;
    put(&cache, &key("k"), b"1").await;
    assert_eq!(remove(&cache, "k").await, Ok(1));
}

#[tokio::test]
async fn cluster_node_is_used_again_after_a_restart() {
    let cluster = RedisServer::cluster().await;
    let cache = open_hasty(&cluster.url()).await;
    cache.connected().await;
    let keys: Vec<Key> = (0..30).map(|n| key(&format!("k{n}"))).collect();
    cluster.nodes[1].kill().await;
    let answer = remove_all(&cache, &keys).await;
    assert!(
        answer.is_err(),
        "a third of the keys cannot be confirmed: {answer:?}"
    );
    cluster.nodes[1].restart().await;
    eventually("all keys are removed", async || {
        remove_all(&cache, &keys).await
    })
    .await;
}

#[tokio::test]
async fn settings_errors_name_the_setting_and_not_its_value() {
    let cases = [
        (
            Some("http://canary-5ecret@h"),
            None,
            None,
            "REDIS_URL must begin with",
        ),
        (
            Some("canary-5ecret"),
            None,
            None,
            "REDIS_URL must begin with",
        ),
        (
            Some("redis://u:canary-5ecret@h:notaport"),
            None,
            None,
            "REDIS_URL cannot be read",
        ),
        (
            Some("redis-sentinel://:canary-5ecret@h"),
            None,
            None,
            "sentinelServiceName",
        ),
        (
            Some("redis://h"),
            Some("https://u"),
            Some(CANARY),
            "both set",
        ),
        (
            None,
            Some("https://u"),
            None,
            "UPSTASH_REDIS_REST_TOKEN is empty",
        ),
        (
            None,
            Some("http://example.com"),
            Some(CANARY),
            "must begin with https://",
        ),
        (
            None,
            Some("https://canary-5ecret@u"),
            Some(CANARY),
            "must not hold credentials",
        ),
        (None, Some("not a url"), Some(CANARY), "cannot be read"),
        (
            None,
            Some("https://u"),
            Some("canary-5ecret\nx"),
            "copy it again",
        ),
    ];
    let _ = rustls::crypto::ring::default_provider().install_default();
    for (redis, url, token, expected) in cases {
        let settings = CacheSettings {
            redis_url: redis.map(|url| url.to_owned().into()),
            upstash_url: url.map(str::to_owned),
            upstash_token: token.map(|token| token.to_owned().into()),
            ..CacheSettings::default()
        };
        let Err(why) = Cache::open(&settings).await else {
            panic!("{redis:?} {url:?} opens");
        };
        let shown = format!("{why:#} {why:?}");
        assert!(shown.contains(expected), "{shown}");
        assert!(!shown.contains(CANARY), "{shown}");
    }
}

#[tokio::test]
async fn settings_select_the_in_process_cache_or_none() {
    let empty = || Some(String::new().into());
    let settings = CacheSettings {
        redis_url: empty(),
        upstash_url: Some(String::new()),
        upstash_token: empty(),
        ..CacheSettings::default()
    };
    assert_eq!(open(settings).await.backend(), "memory");

    let off = open(CacheSettings {
        redis_url: Some("redis://127.0.0.1:1".to_owned().into()),
        enabled: false,
        ..CacheSettings::default()
    })
    .await;
    assert_eq!(off.backend(), "off");
    assert_eq!(body(&off, &key("k")).await, None);
    assert!(matches!(take(&off, &key("k")).await, LeaseOutcome::NoEpoch));
    assert_eq!(remove(&off, "k").await, Ok(0));
}

#[tokio::test]
async fn hanging_cache_does_not_queue_removals() {
    let redis = RedisServer::start().await;
    let cache = Arc::new(open_impatient(&redis.url()).await);
    recovered(&cache).await;
    redis.pause();
    let removals: Vec<_> = (0..5_000)
        .map(|_| {
            let cache = Arc::clone(&cache);
            tokio::spawn(async move { remove(&cache, "k").await })
        })
        .collect();
    for removal in removals {
        let answer = removal.await.expect("no panic");
        assert!(
            matches!(answer, Err(CacheError::Timeout(_) | CacheError::Down(_))),
            "{answer:?}"
        );
    }
    redis.resume();
    removes_again(&cache).await;
}

#[tokio::test]
async fn untrusted_certificate_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost", "-addext"])
        .args(["subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-keyout", &path("key.pem"), "-out", &path("cert.pem")])
        .output();
    let made = made.expect("openssl is needed to make a certificate: run ./test");
    assert!(made.status.success(), "{made:?}");
    let tls_port = free_port();
    let settings = [
        "--tls-port",
        &tls_port.to_string(),
        "--tls-cert-file",
        &path("cert.pem"),
        "--tls-key-file",
        &path("key.pem"),
        "--tls-ca-cert-file",
        &path("cert.pem"),
        "--tls-auth-clients",
        "no",
    ];
    let redis = RedisServer::with(&settings).await;
    let url = format!("rediss://:{CANARY}@localhost:{tls_port}");
    let why = remove(&open_redis(&url).await, "k").await;
    let why = why.expect_err("an unknown certificate");
    assert!(matches!(why, CacheError::Down(_)), "{why:?}");
    assert!(why.to_string().contains("InvalidCertificate"), "{why}");
    assert!(!format!("{why:?}").contains(CANARY), "{why:?}");

    // A server that does not speak TLS at all.
    let url = format!("rediss://127.0.0.1:{}", redis.port());
    let why = remove(&open_impatient(&url).await, "k").await;
    assert!(why.is_err_and(|why| why.is_retryable()));
}

#[tokio::test]
async fn log_has_the_documented_lines_once_and_no_secret() {
    let (log, _guard) = CapturedLog::start();
    let redis = RedisServer::with_password(CANARY).await;
    let cache = open_hasty(&redis.url()).await;
    recovered(&cache).await;
    redis.kill().await;
    eventually("the loss is noticed", async || {
        let removed = remove(&cache, "k").await;
        let noticed = removed.is_err() && !log.lines("connection failed").is_empty();
        noticed.then_some(()).ok_or(removed)
    })
    .await;
    redis.restart().await;
    recovered(&cache).await;

    let connected = format!(
        "Redis cache invalidation connected: 127.0.0.1:{}",
        redis.port()
    );
    let lines = log.lines(&connected);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("INFO") && lines[0].contains(r#"event="cache.redis_connected""#));
    let lines = log.lines("Redis connection failed (cache invalidation queued): ");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("WARN"), "{lines:?}");
    assert!(lines[0].contains(r#"event="cache.redis_connection_failed""#));
    assert_eq!(log.lines(CANARY), Vec::<String>::new());
}

/// Moves one slot with all that is in it to the next node, step by step as an operator's tool does;
/// `between` happens when the keys have moved and the slot has not.
async fn move_slot(cluster: &RedisCluster, name: &str, between: impl AsyncFnOnce()) {
    let nodes = &cluster.nodes;
    let slot = nodes[0].command(&["CLUSTER", "KEYSLOT", name]).await;
    let RespReply::Int(slot) = slot else {
        panic!("{slot:?}")
    };
    let from = [5460, 10922, 16383].iter().position(|last| slot <= *last);
    let from = from.expect("a slot");
    let (source, target) = (&nodes[from], &nodes[(from + 1) % 3]);
    let slot = slot.to_string();
    let id = async |node: &RedisServer| node.command(&["CLUSTER", "MYID"]).await.text();
    let (source_id, target_id) = (id(source).await, id(target).await);
    let set = async |node: &RedisServer, how: &str, id: &str| {
        let done = node.command(&["CLUSTER", "SETSLOT", &slot, how, id]).await;
        assert_eq!(done, RespReply::Status("OK".into()));
    };
    set(target, "IMPORTING", &source_id).await;
    set(source, "MIGRATING", &target_id).await;
    let keys = source
        .command(&["CLUSTER", "GETKEYSINSLOT", &slot, "1000"])
        .await;
    let RespReply::Array(keys) = keys else {
        panic!("{keys:?}")
    };
    let port = target.port().to_string();
    for key in keys {
        let key = key.text();
        let moved = source
            .command(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"])
            .await;
        assert_eq!(moved, RespReply::Status("OK".into()));
    }
    between().await;
    for node in [target, source] {
        set(node, "NODE", &target_id).await;
    }
}

#[tokio::test]
async fn cluster_slot_migration_voids_at_most_the_fill() {
    let cluster = RedisServer::cluster().await;
    let cache = open_redis(&cluster.url()).await;
    cache.connected().await;
    begin_epoch(&cache).await;
    for n in 0..3 {
        let key = key(&format!("moving {n}"));
        let value = key.value_key(key.shard(32));
        put(&cache, &key, b"before").await;
        assert_eq!(remove_all(&cache, std::slice::from_ref(&key)).await, Ok(1));
        let old = lease(&cache, &key).await.expect("a lease");
        move_slot(&cluster, &value, async || {
            // Half-way, commands may be turned away; none may succeed at the wrong node.
            let filled = cache.put_if_valid(&key, old, entry(b"during", 9), 99).await;
            if let Err(why) = &filled {
                assert!(why.is_retryable(), "{why:?}");
            }
            let _ = remove_all(&cache, std::slice::from_ref(&key)).await;
        })
        .await;
        eventually("the slot's new node removes", async || {
            remove_all(&cache, std::slice::from_ref(&key)).await
        })
        .await;
        assert_eq!(body(&cache, &key).await, None);
        put(&cache, &key, b"after").await;
        assert_eq!(body(&cache, &key).await.as_deref(), Some(&b"after"[..]));
    }
}

#[tokio::test]
async fn scripts_are_loaded_again_after_a_flush() {
    let redis = RedisServer::start().await;
    let cache = open_redis(&redis.url()).await;
    begin_epoch(&cache).await;
    for body_in in [b"1", b"2"] {
        redis.command(&["SCRIPT", "FLUSH"]).await;
        put(&cache, &key("k"), body_in).await;
        redis.command(&["SCRIPT", "FLUSH"]).await;
        assert_eq!(remove(&cache, "k").await, Ok(1));
    }
}
