//! `invalidate`: the removal is durable before it is attempted, and is retried until it is confirmed.

use super::on_postgres;
use crate::harness::daemon::{DaemonEnv, DaemonProcess};
use oddsd_testkit::postgres;
use oddsd_testkit::redis::RedisServer;
use oddsd_testkit::resp::RespReply;

const KEY: &str = "races:by-stage:v1";

async fn put(redis: &RedisServer) {
    let put = redis.command(&["SET", KEY, "stale"]).await;
    assert_eq!(put, RespReply::Status("OK".into()));
}

#[tokio::test]
async fn dry_run_prints_the_keys_and_removes_nothing() {
    let redis = RedisServer::start().await;
    put(&redis).await;
    let oddsd = on_postgres().await.with("REDIS_URL", redis.url());
    oddsd.run(&["migrate"]).await.expect_code(0);
    let args = [
        "invalidate",
        "--dry-run",
        "--json",
        "--event",
        "rac_1",
        "a:key",
    ];
    let output = oddsd.run(&args).await.expect_code(0).json();
    assert_eq!(output["dry_run"], true);
    let keys = output["keys"].as_array().expect("keys");
    for key in [
        "a:key",
        "event:rac_1:prices:v1",
        "odds:live:rac_1",
        "sidebar:*",
        KEY,
    ] {
        assert!(keys.contains(&key.into()), "{key} is not in {keys:?}");
    }
    assert_eq!(redis.command(&["EXISTS", KEY]).await, RespReply::Int(1));
    let status = oddsd.run(&["status", "--json"]).await.json();
    assert_eq!(status["outbox_pending"], 0);
    oddsd
        .run(&["invalidate"])
        .await
        .expect_code(78)
        .expect_texts(&["at least one key", KEY]);
    oddsd
        .run(&["invalidate", " "])
        .await
        .expect_code(78)
        .expect_texts(&["not a valid cache key"]);
    // A glob is no key: it would remove nothing and say that it had.
    for (glob, hint) in [
        ("*", "--sidebar all"),
        ("races:*:v1", "--scan \"races:\""),
        ("rac?s:by-stage:v1", "--scan \"rac\""),
        ("a[bc]", "--scan \"a\""),
        ("a:*:*", "--scan \"a:\""),
        ("races*", "--scan \"races\""),
    ] {
        let refused = oddsd.run(&["invalidate", glob]).await.expect_code(78);
        refused.expect_texts(&[hint]);
    }
}

#[tokio::test]
async fn without_a_daemon_the_command_removes_and_logs() {
    let redis = RedisServer::start().await;
    put(&redis).await;
    let oddsd = on_postgres().await.with("REDIS_URL", redis.url());
    oddsd.run(&["migrate"]).await.expect_code(0);
    let output = oddsd
        .run(&["invalidate", KEY, "--json"])
        .await
        .expect_code(0)
        .json();
    assert_eq!(output["confirmed"], true);
    assert_eq!(redis.command(&["EXISTS", KEY]).await, RespReply::Int(0));
    let rule = ["tail", "--for", "100ms", "--json", "--rule", "manual"];
    let lines = oddsd.run(&rule).await.expect_code(0).json_lines();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["removal"]["targets"], serde_json::json!([KEY]));
}

/// A machine without the cache's settings must not settle removals of the daemon's cache.
#[tokio::test]
async fn without_a_cache_the_removal_waits_for_the_daemon() {
    let redis = RedisServer::start().await;
    put(&redis).await;
    let mut oddsd = on_postgres().await;
    oddsd.run(&["migrate"]).await.expect_code(0);
    let output = oddsd.run(&["invalidate", KEY]).await.expect_code(69);
    output.expect_texts(&["not removed yet", "outbox", "REDIS_URL"]);
    let status = oddsd.run(&["status", "--json"]).await.json();
    assert_eq!(status["outbox_pending"], 1);
    assert_eq!(redis.command(&["EXISTS", KEY]).await, RespReply::Int(1));
    oddsd.set("REDIS_URL", redis.url());
    oddsd.run(&["once"]).await.expect_code(0);
    assert_eq!(redis.command(&["EXISTS", KEY]).await, RespReply::Int(0));
}

#[tokio::test]
async fn removal_stays_in_the_outbox_while_the_cache_is_down() {
    let redis = RedisServer::start().await;
    let oddsd = on_postgres().await.with("REDIS_URL", redis.url());
    oddsd.run(&["migrate"]).await.expect_code(0);
    redis.kill().await;
    let output = oddsd.run(&["invalidate", KEY]).await.expect_code(69);
    output.expect_texts(&["not confirmed yet", "outbox", "oddsd status"]);
    let status = oddsd.run(&["status", "--json"]).await.expect_code(0).json();
    assert_eq!(status["outbox_pending"], 1);
    oddsd
        .run(&["status"])
        .await
        .expect_texts(&["outbox    1 pending"]);
}

#[tokio::test]
async fn running_daemon_removes_the_key() {
    let redis = RedisServer::start().await;
    let database = postgres::database().await;
    let settings = DaemonEnv::default()
        .with("FEED", "simulator")
        .with("DATABASE_URL", database.as_str())
        .with("REDIS_URL", redis.url())
        .with("LISTEN", "off")
        .with("LOG_FORMAT", "logfmt");
    let mut daemon = DaemonProcess::start(&settings, &["run"]);
    let lines = ["event=cycle.complete", "event=cache.invalidated"];
    daemon.wait_for_logs(lines).await;
    put(&redis).await;
    // The command knows the database only.
    let elsewhere = crate::harness::program::Program::new().with("DATABASE_URL", &database);
    let output = elsewhere.run(&["invalidate", KEY]).await.expect_code(0);
    output.expect_texts(&["removed races:by-stage:v1"]);
    assert_eq!(redis.command(&["EXISTS", KEY]).await, RespReply::Int(0));
    daemon.wait_for_log("rule=manual").await;
    daemon.stop().await;
}
