//! Tests of Upstash and its look-alikes under faults: each fault maps to its error kind, and none shows
//! the token.

use std::time::Duration;

use oddsd_cache::{CacheError, CacheSettings};

use crate::cache::{key, open, open_upstash};
use crate::cache_faults::{CANARY, refused, remove, remove_all};
use oddsd_testkit::ports::free_port;
use oddsd_testkit::redis::RedisServer;
use oddsd_testkit::upstash::{UpstashFault, UpstashStandIn};

#[tokio::test]
async fn upstash_faults_map_to_their_error_kinds() {
    let redis = RedisServer::start().await;
    let upstash = UpstashStandIn::start(redis.port(), CANARY).await;
    let cache = open_upstash(&upstash, CANARY).await;
    // Only a hanging server meets the short timeout; any other answer may take longer.
    let hasty = open(CacheSettings {
        upstash_url: Some(upstash.url()),
        upstash_token: Some(CANARY.to_owned().into()),
        command_timeout: Duration::from_millis(500),
        ..CacheSettings::default()
    })
    .await;
    let faults = [
        (UpstashFault::Unauthorized, "Refused", false),
        (UpstashFault::NoPerm, "Refused", false),
        (UpstashFault::Status500, "Down", true),
        (UpstashFault::ItemErrors, "Protocol", true),
        (UpstashFault::Unknown400, "Protocol", true),
        (UpstashFault::Html, "Protocol", true),
        (UpstashFault::TruncatedJson, "Protocol", true),
        (UpstashFault::Redirect, "Protocol", true),
        (UpstashFault::Hang, "Timeout", true),
    ];
    for (fault, kind, is_retryable) in faults {
        upstash.fail(fault);
        let asked = match fault {
            UpstashFault::Hang => &hasty,
            _ => &cache,
        };
        let why = remove(asked, "k").await.expect_err("a fault");
        let shown = format!("{why:?}");
        assert!(shown.starts_with(kind), "{fault:?}: {shown}");
        assert_eq!(why.is_retryable(), is_retryable, "{fault:?}");
        assert!(!format!("{why} {shown}").contains(CANARY), "{shown}");
        upstash.fail(None);
        assert_eq!(remove(&cache, "k").await, Ok(0), "after {fault:?}");
    }
}

#[tokio::test]
async fn upstash_status_400_for_a_lost_redis_is_retryable() {
    let redis = RedisServer::start().await;
    let upstash = UpstashStandIn::start(redis.port(), CANARY).await;
    let cache = open_upstash(&upstash, CANARY).await;
    assert_eq!(remove(&cache, "k").await, Ok(0));
    redis.kill().await;
    let why = remove(&cache, "k").await.expect_err("no Redis");
    assert!(why.is_retryable(), "{why:?}");
    redis.restart().await;
    assert_eq!(remove(&cache, "k").await, Ok(0));
}

#[tokio::test]
async fn upstash_item_without_result_and_error_is_no_confirmation() {
    let redis = RedisServer::start().await;
    let upstash = UpstashStandIn::start(redis.port(), CANARY).await;
    let cache = open_upstash(&upstash, CANARY).await;
    upstash.fail(UpstashFault::EmptyItem);
    // More than one script takes, so that they are a pipeline.
    let keys: Vec<_> = (0..1_200).map(|n| key(&format!("k{n}"))).collect();
    let why = remove_all(&cache, &keys).await.expect_err("not confirmed");
    let shown = why.to_string();
    assert!(shown.contains("neither a result nor an error"), "{shown}");
    assert!(why.is_retryable(), "{shown}");
    upstash.fail(None);
    assert_eq!(remove_all(&cache, &keys).await, Ok(0));
}

#[tokio::test]
async fn upstash_sync_token_is_sent_back() {
    let redis = RedisServer::start().await;
    let upstash = UpstashStandIn::start(redis.port(), CANARY).await;
    let cache = open_upstash(&upstash, CANARY).await;
    for _ in 0..3 {
        assert_eq!(cache.ping().await, Ok(()));
    }
    assert_eq!(upstash.sync_tokens(), ["sync-1", "sync-2"]);
}

#[tokio::test]
async fn upstash_wrong_token_is_refused_and_not_printed() {
    let redis = RedisServer::start().await;
    let upstash = UpstashStandIn::start(redis.port(), "right").await;
    let cache = open_upstash(&upstash, CANARY).await;
    refused(remove(&cache, "k").await, "Check UPSTASH_REDIS_REST_TOKEN");
}

#[tokio::test]
async fn upstash_without_a_listener_is_down() {
    let url = format!("http://127.0.0.1:{}", free_port());
    let cache = open(CacheSettings {
        upstash_url: Some(url),
        upstash_token: Some(CANARY.to_owned().into()),
        ..CacheSettings::default()
    })
    .await;
    let why = remove(&cache, "k").await.expect_err("nobody there");
    assert!(matches!(why, CacheError::Down(_)), "{why:?}");
}
