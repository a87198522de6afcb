//! A cache that fails: cycles go on and commit, and no removal is ever forgotten.

use super::Town;
use super::fixture::{HASTY, INVALIDATED, get};
use crate::harness::daemon::{Daemon, field};
use oddsd_testkit::redis::RedisServer;
use oddsd_testkit::upstash::{Fault, Upstash};

#[tokio::test]
async fn once_commits_without_a_cache_and_the_next_run_removes() {
    let (mut town, card) = Town::racing().await;
    town.settings = town.settings.with("CACHE_TIMEOUT_MS", HASTY);
    town.redis.kill().await;
    let run = town.once().await.expect(0);
    let failed = "Redis connection failed (cache invalidation queued)";
    assert!(run.count(failed) >= 1, "{}", run.text());
    assert_eq!(
        run.count("event=once.removals_pending"),
        1,
        "{}",
        run.text()
    );
    town.is_right(&card).await;
    assert_eq!(town.outbox().await, 4, "a row for each race");

    town.redis.restart().await;
    town.put_foreign("stale").await;
    let next = town.once().await.expect(0);
    assert_eq!(next.count("inserted=0 updated=0"), 1, "{}", next.text());
    assert_eq!(next.count(INVALIDATED), 1, "{}", next.text());
    assert_eq!(town.cached().await, None);
    assert_eq!(town.outbox().await, 0);
}

#[tokio::test]
async fn a_removal_waits_for_the_cache_through_a_crash_of_the_daemon() {
    let (mut town, mut card) = Town::racing().await;
    town.settings = town.settings.with("CACHE_TIMEOUT_MS", HASTY);
    town.redis.kill().await;
    let mut daemon = town.run();
    let url = daemon.url().await;
    daemon.says("inserted=48").await;
    let answer = get(&format!("{url}/v1/races/by-stage")).await;
    assert_eq!((answer.status, answer.cache()), (200, "BYPASS"));
    assert_eq!(get(&format!("{url}/readyz")).await.status, 200);
    let verbose = get(&format!("{url}/readyz?verbose")).await;
    assert_eq!(verbose.status, 200);
    assert_eq!(verbose.json()["cache"]["ok"], false, "{}", verbose.body);
    daemon.crash().await;

    town.end_lease().await;

    // Another one, and the cache is still away.
    let mut daemon = town.run();
    card.set_price("4.5");
    town.serve(&card);
    daemon.says("Cycle complete: 1 updated").await;
    assert_eq!(town.outbox().await, 5);
    // It comes back with old answers in it, and nobody restarts anything.
    town.redis.restart().await;
    town.put_foreign("from before").await;
    daemon.says(INVALIDATED).await;
    town.all_told(&mut daemon).await;
    daemon.stop().await.expect(0);
    assert_eq!(town.cached().await, None);
    town.is_right(&card).await;
}

#[tokio::test]
async fn a_silent_cache_delays_no_cycle() {
    let (mut town, mut card) = Town::racing().await;
    town.settings = town.settings.with("CACHE_TIMEOUT_MS", HASTY);
    let mut daemon = town.run();
    let url = daemon.url().await;
    daemon.says(INVALIDATED).await;
    town.put_foreign("stale").await;
    town.redis.pause();
    card.set_price("4.5");
    town.serve(&card);
    daemon.says("Cycle complete: 1 updated").await;
    // The relay is stuck on the removal of this; cycles and readers are not.
    for price in ["5.5", "6.5", "7.5"] {
        card.set_price(price);
        town.serve(&card);
        let line = daemon.says("Cycle complete: 1 updated").await;
        // Due within its second, or already on a machine that was slow.
        let next = field(&line, "next_s");
        assert!(matches!(next, Some("0" | "1")), "{line}");
        let answer = get(&format!("{url}/v1/races/by-stage")).await;
        assert_eq!((answer.status, answer.cache()), (200, "BYPASS"));
    }
    assert_eq!(daemon.count(INVALIDATED), 1);
    daemon.has_said("Invalidation failed, will retry").await;
    town.redis.resume();
    daemon.says(INVALIDATED).await;
    // What failed at different times is due again at different times.
    town.all_told(&mut daemon).await;
    daemon.stop().await.expect(0);
    assert_eq!(town.cached().await, None);
    assert_eq!(town.outbox().await, 0);
    town.is_right(&card).await;
}

#[tokio::test]
async fn upstash_is_asked_until_it_confirms() {
    let (mut town, mut card) = Town::racing().await;
    let upstash = Upstash::start(town.redis.port(), "up-secret").await;
    town.settings = town
        .settings
        .with("REDIS_URL", "")
        .with("UPSTASH_REDIS_REST_URL", upstash.url())
        .with("UPSTASH_REDIS_REST_TOKEN", "up-secret");
    let mut daemon = town.run();
    daemon.says(INVALIDATED).await;
    let faults = [
        Fault::Status500,
        Fault::ItemErrors,
        Fault::Html,
        Fault::TruncatedJson,
        Fault::Unknown400,
    ];
    for (n, fault) in faults.into_iter().enumerate() {
        upstash.fail(fault);
        town.put_foreign("stale").await;
        card.set_price(&format!("{}.5", n + 4));
        town.serve(&card);
        let told = [
            "Cycle complete: 1 updated",
            "Invalidation failed, will retry",
        ];
        daemon.says_all(told).await;
        assert!(town.cached().await.is_some(), "{fault:?}");
        upstash.fail(None);
        let line = daemon.says(INVALIDATED).await;
        assert!(line.contains("attempts="), "{line}");
        assert_eq!(town.cached().await, None, "{fault:?}");
    }
    let ended = daemon.stop().await.expect(0);
    assert_eq!(ended.count("up-secret"), 0, "{}", ended.text());
    assert_eq!(town.outbox().await, 0);
}

#[tokio::test]
async fn a_cache_that_refuses_us_says_why_and_fails_nothing() {
    let (mut town, card) = Town::racing().await;
    town.redis = RedisServer::with_password("right").await;
    let url = format!("redis://:wrong-secret@127.0.0.1:{}", town.redis.port());
    let settings = town.settings.with("REDIS_URL", url);
    let settings = settings.with("CACHE_TIMEOUT_MS", HASTY);
    let run = Daemon::start(&settings, &["once"]).ends().await.expect(0);
    town.is_right(&card).await;
    assert!(
        run.count("WRONGPASS") + run.count("password") >= 1,
        "{}",
        run.text()
    );
    assert_eq!(run.count("wrong-secret"), 0, "{}", run.text());
    assert_eq!(run.count(INVALIDATED), 0);
    assert_eq!(town.outbox().await, 4);
}
