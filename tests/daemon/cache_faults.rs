//! Tests of the daemon while the cache fails: cycles go on, and removals wait in the outbox until they
//! are confirmed.

use super::DaemonStack;
use super::fixture::{INVALIDATED, SHORT_TIMEOUT_MS, get};
use crate::harness::daemon::{DaemonProcess, field};
use oddsd_testkit::redis::RedisServer;
use oddsd_testkit::upstash::{UpstashFault, UpstashStandIn};

#[tokio::test]
async fn once_commits_while_the_cache_is_down_and_the_next_run_removes() {
    let (mut stack, card) = DaemonStack::with_card().await;
    stack.settings = stack.settings.with("CACHE_TIMEOUT_MS", SHORT_TIMEOUT_MS);
    stack.redis.kill().await;
    let run = stack.run_once().await.expect_code(0);
    let failed = "Redis connection failed (cache invalidation queued)";
    assert!(run.count(failed) >= 1, "{}", run.text());
    assert_eq!(
        run.count("event=once.removals_pending"),
        1,
        "{}",
        run.text()
    );
    stack.assert_stored(&card).await;
    assert_eq!(stack.outbox().await, 4, "a row for each race");

    stack.redis.restart().await;
    stack.put_unmanaged("stale").await;
    let next = stack.run_once().await.expect_code(0);
    assert_eq!(next.count("inserted=0 updated=0"), 1, "{}", next.text());
    assert_eq!(next.count(INVALIDATED), 1, "{}", next.text());
    assert_eq!(stack.cached().await, None);
    assert_eq!(stack.outbox().await, 0);
}

#[tokio::test]
async fn outbox_keeps_removals_through_a_cache_outage_and_a_crash() {
    let (mut stack, mut card) = DaemonStack::with_card().await;
    stack.settings = stack.settings.with("CACHE_TIMEOUT_MS", SHORT_TIMEOUT_MS);
    stack.redis.kill().await;
    let mut daemon = stack.run();
    let url = daemon.url().await;
    daemon.wait_for_log("inserted=48").await;
    let answer = get(&format!("{url}/v1/races/by-stage")).await;
    assert_eq!((answer.status, answer.cache_status()), (200, "BYPASS"));
    assert_eq!(get(&format!("{url}/readyz")).await.status, 200);
    let verbose = get(&format!("{url}/readyz?verbose")).await;
    assert_eq!(verbose.status, 200);
    assert_eq!(verbose.json()["cache"]["ok"], false, "{}", verbose.body);
    daemon.crash().await;

    stack.end_lease().await;

    // A second change while the cache is down.
    let mut daemon = stack.run();
    card.set_price("4.5");
    stack.serve(&card);
    daemon.wait_for_log("Cycle complete: 1 updated").await;
    assert_eq!(stack.outbox().await, 5);
    // The cache returns with old answers, and the daemon is not restarted.
    stack.redis.restart().await;
    stack.put_unmanaged("from before").await;
    daemon.wait_for_log(INVALIDATED).await;
    stack.settled().await;
    daemon.stop().await.expect_code(0);
    assert_eq!(stack.cached().await, None);
    stack.assert_stored(&card).await;
}

#[tokio::test]
async fn hanging_cache_delays_no_cycle() {
    let (mut stack, mut card) = DaemonStack::with_card().await;
    stack.settings = stack.settings.with("CACHE_TIMEOUT_MS", SHORT_TIMEOUT_MS);
    let mut daemon = stack.run();
    let url = daemon.url().await;
    daemon.wait_for_log(INVALIDATED).await;
    stack.put_unmanaged("stale").await;
    stack.redis.pause();
    card.set_price("4.5");
    stack.serve(&card);
    daemon.wait_for_log("Cycle complete: 1 updated").await;
    // The relay retries this removal in vain; cycles and readers go on.
    for price in ["5.5", "6.5", "7.5"] {
        card.set_price(price);
        stack.serve(&card);
        let line = daemon.wait_for_log("Cycle complete: 1 updated").await;
        // The poll after that is due within a second; on a slow machine it is due already.
        let next = field(&line, "next_s");
        assert!(matches!(next, Some("0" | "1")), "{line}");
        let answer = get(&format!("{url}/v1/races/by-stage")).await;
        assert_eq!((answer.status, answer.cache_status()), (200, "BYPASS"));
    }
    assert_eq!(daemon.count_log(INVALIDATED), 1);
    daemon
        .ensure_logged("Invalidation failed, will retry")
        .await;
    stack.redis.resume();
    daemon.wait_for_log(INVALIDATED).await;
    // Removals that failed at different times are due at different times.
    stack.settled().await;
    daemon.stop().await.expect_code(0);
    assert_eq!(stack.cached().await, None);
    assert_eq!(stack.outbox().await, 0);
    stack.assert_stored(&card).await;
}

#[tokio::test]
async fn upstash_removal_is_retried_until_confirmed() {
    let (mut stack, mut card) = DaemonStack::with_card().await;
    let upstash = UpstashStandIn::start(stack.redis.port(), "up-secret").await;
    stack.settings = stack
        .settings
        .with("REDIS_URL", "")
        .with("UPSTASH_REDIS_REST_URL", upstash.url())
        .with("UPSTASH_REDIS_REST_TOKEN", "up-secret");
    let mut daemon = stack.run();
    daemon.wait_for_log(INVALIDATED).await;
    let faults = [
        UpstashFault::Status500,
        UpstashFault::ItemErrors,
        UpstashFault::Html,
        UpstashFault::TruncatedJson,
        UpstashFault::Unknown400,
    ];
    for (n, fault) in faults.into_iter().enumerate() {
        upstash.fail(fault);
        stack.put_unmanaged("stale").await;
        card.set_price(&format!("{}.5", n + 4));
        stack.serve(&card);
        let reported = [
            "Cycle complete: 1 updated",
            "Invalidation failed, will retry",
        ];
        daemon.wait_for_logs(reported).await;
        assert!(stack.cached().await.is_some(), "{fault:?}");
        upstash.fail(None);
        let line = daemon.wait_for_log(INVALIDATED).await;
        assert!(line.contains("attempts="), "{line}");
        assert_eq!(stack.cached().await, None, "{fault:?}");
    }
    let ended = daemon.stop().await.expect_code(0);
    assert_eq!(ended.count("up-secret"), 0, "{}", ended.text());
    assert_eq!(stack.outbox().await, 0);
}

#[tokio::test]
async fn cache_refusal_is_logged_and_fails_no_cycle() {
    let (mut stack, card) = DaemonStack::with_card().await;
    stack.redis = RedisServer::with_password("right").await;
    let url = format!("redis://:wrong-secret@127.0.0.1:{}", stack.redis.port());
    let settings = stack.settings.with("REDIS_URL", url);
    let settings = settings.with("CACHE_TIMEOUT_MS", SHORT_TIMEOUT_MS);
    let run = DaemonProcess::start(&settings, &["once"])
        .wait_for_exit()
        .await
        .expect_code(0);
    stack.assert_stored(&card).await;
    assert!(
        run.count("WRONGPASS") + run.count("password") >= 1,
        "{}",
        run.text()
    );
    assert_eq!(run.count("wrong-secret"), 0, "{}", run.text());
    assert_eq!(run.count(INVALIDATED), 0);
    assert_eq!(stack.outbox().await, 4);
}
