//! Readers of a running daemon get fresh answers, also during changes and without a cache.

use std::collections::HashSet;

use reqwest::Method;
use serde_json::json;

use super::DaemonStack;
use super::fixture::{HttpAnswer, INVALIDATED, first_price, get, request};
use oddsd_testkit::eventually;

const CARD: &str = "/v1/races/by-stage";

/// Reads until the answer comes from the cache. On a loaded machine Redis may answer too late for a reader;
/// then the database answers, and whether the cache was filled is unknown.
async fn hit(path: &str, headers: &[(&str, &str)]) -> HttpAnswer {
    let read = async || {
        let answer = request(Method::GET, path, headers).await;
        match answer.cache_status() {
            "HIT" => Ok(answer),
            other => Err(other.to_owned()),
        }
    };
    eventually("an answer from the cache", read).await
}

#[tokio::test]
async fn first_read_after_a_removal_has_the_new_price() {
    let (town, mut card) = DaemonStack::with_card().await;
    let mut daemon = town.run();
    let url = daemon.url().await;
    daemon.wait_for_log(INVALIDATED).await;
    let path = format!("{url}{CARD}");

    let first = get(&path).await;
    assert_eq!(first.status, 200, "{}", first.body);
    assert_ne!(first.cache_status(), "HIT");
    assert_eq!(first_price(&first.json()), Some(3.3));
    assert_eq!(first.json()["total_races"], 4);
    let second = hit(&path, &[]).await;
    assert_eq!(second.status, 200);
    assert_eq!(first_price(&second.json()), Some(3.3));
    assert_eq!(hit(&path, &[]).await.body, second.body);
    assert_eq!(second.header("x-cache-key"), "races:by-stage:v1");
    assert!(
        second
            .header("cache-status")
            .starts_with("oddsd; hit; ttl=")
    );
    let known = [("if-none-match", second.header("etag"))];
    let same = hit(&path, &known).await;
    assert_eq!((same.status, same.body.as_str()), (304, ""));
    let ttl: u64 = second.header("x-cache-ttl").parse().expect("seconds");
    assert!(ttl <= 60, "{ttl}");

    card.set_price("7.5");
    town.serve(&card);
    let told = ["Cycle complete: 1 updated", INVALIDATED];
    let [line, _] = daemon.wait_for_logs(told).await;
    assert!(
        line.contains("inserted=0") && line.contains("47 skipped"),
        "{line}"
    );
    let third = get(&path).await;
    assert_ne!(third.cache_status(), "HIT");
    assert_eq!(first_price(&third.json()), Some(7.5));
    let fourth = hit(&path, &[]).await;
    assert_eq!(first_price(&fourth.json()), Some(7.5));
    let changed = request(Method::GET, &path, &known).await;
    assert_eq!(changed.status, 200);

    let event = get(&format!("{url}/v1/events/rac_0/prices")).await;
    assert_eq!(event.status, 200, "{}", event.body);
    assert_ne!(event.cache_status(), "HIT");
    let fresh = request(Method::GET, &path, &[("cache-control", "no-cache")]).await;
    assert_eq!((fresh.status, fresh.cache_status()), (200, "BYPASS"));
    daemon.stop().await.expect_code(0);
    town.assert_stored(&card).await;
}

#[tokio::test]
async fn changed_fact_is_written_once() {
    let (town, mut card) = DaemonStack::with_card().await;
    let mut daemon = town.run();
    daemon.wait_for_log("inserted=48").await;

    // The ground dries: one fact of one race.
    card.races[0]["going"] = json!("Good to Firm");
    town.serve(&card);
    let line = daemon.wait_for_log("facts=1").await;
    assert!(
        line.contains("Cycle complete: 0 updated | 48 skipped"),
        "{line}"
    );

    // A runner is out: its four prices and itself.
    card.scratch(1, 2);
    town.serve(&card);
    let line = daemon.wait_for_log("withdrawn=4").await;
    assert!(line.contains("facts=1"), "{line}");

    // One bookmaker takes its price down.
    card.odds(2, 0, 1)["decimal"] = json!("-");
    card.odds(2, 0, 1)["fractional"] = json!("-");
    town.serve(&card);
    daemon.wait_for_log("withdrawn=1").await;

    card.races[3]["is_abandoned"] = json!(true);
    town.serve(&card);
    let line = daemon.wait_for_log("facts=1").await;
    assert!(!line.contains("errors=1"), "{line}");

    // The race leaves the card.
    card.races.remove(2);
    town.serve(&card);
    daemon.wait_for_log("withdrawn=11").await;
    // None of it is written twice.
    daemon.wait_for_log("Cycle complete: 0 updated").await;
    let cycles = town.number("SELECT count(*) FROM oddsd.cycles").await;
    let line = daemon
        .wait_for_log("inserted=0 updated=0 withdrawn=0")
        .await;
    assert!(!line.contains("facts="), "{line}");
    daemon
        .wait_for_log("inserted=0 updated=0 withdrawn=0")
        .await;
    assert_eq!(
        town.number("SELECT count(*) FROM oddsd.cycles").await,
        cycles
    );
    assert_eq!(cycles, 6);
    daemon.stop().await.expect_code(0);
    town.assert_no_repeats().await;
    let unlisted = "SELECT count(*) FROM oddsd.events WHERE NOT listed";
    assert_eq!(town.number(unlisted).await, 1);
    let abandoned = "SELECT count(*) FROM oddsd.events WHERE status = 'abandoned'";
    assert_eq!(town.number(abandoned).await, 1);
    let out = "SELECT count(*) FROM oddsd.selections WHERE status = 'non_runner'";
    assert_eq!(town.number(out).await, 1);
}

#[tokio::test]
async fn fifty_cold_readers_cause_one_load() {
    let (town, _card) = DaemonStack::with_card().await;
    let town = DaemonStack {
        // One poll only, so that nothing is removed between the readers, and the in-process cache, which
        // always answers in time.
        settings: town
            .settings
            .with("REDIS_URL", "")
            .with("CADENCE", "*=900s")
            .with("WHOLE_CARD_SECONDS", "900"),
        ..town
    };
    let mut daemon = town.run();
    let url = daemon.url().await;
    daemon.wait_for_log(INVALIDATED).await;
    let path = format!("{url}{CARD}");
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let path = path.clone();
        readers.spawn(async move { get(&path).await });
    }
    let answers = readers.join_all().await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    // Each load puts its time into the body, so equal bodies come from one load.
    let bodies: HashSet<&str> = answers.iter().map(|answer| answer.body.as_str()).collect();
    assert_eq!(bodies.len(), 1, "loads");
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn invalid_request_gets_an_error_with_a_hint() {
    let (town, _card) = DaemonStack::with_card().await;
    let mut daemon = town.run();
    let url = daemon.url().await;
    daemon.wait_for_log("Cycle complete").await;
    let cases = [
        ("/v1/races/by-stage?stage=at_post", 400),
        ("/v1/events/rac_0/prices?limit=1", 400),
        ("/v1/events/rac_none/prices", 404),
        ("/v1/events/%00/prices", 404),
        ("/v1/events/a%0Ab/prices", 404),
        ("/v1/nowhere", 404),
        ("/", 200),
        ("/livez", 200),
        ("/readyz", 200),
    ];
    for (path, status) in cases {
        let answer = get(&format!("{url}{path}")).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        if status >= 400 {
            let problem = answer.json();
            for part in ["error", "hint"] {
                assert!(
                    problem[part].as_str().is_some_and(|t| t.len() > 10),
                    "{path}: {problem}"
                );
            }
        }
    }
    let post = request(Method::POST, &format!("{url}{CARD}"), &[]).await;
    assert_eq!(post.status, 405, "{}", post.body);
    assert!(post.header("allow").contains("GET"), "{:?}", post.headers);
    let long = get(&format!("{url}/v1/events/{}/prices", "x".repeat(7_000))).await;
    assert_eq!(long.status, 404, "{}", long.body);
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn disabled_cache_is_not_contacted_and_reads_are_answered() {
    let (mut town, mut card) = DaemonStack::with_card().await;
    town.settings = town.settings.with("CACHE_ENABLED", "false");
    town.put_unmanaged("foreign").await;
    let connections = |info: oddsd_testkit::resp::RespReply| {
        let text = info.text();
        let (_, rest) = text
            .split_once("total_connections_received:")
            .expect("INFO");
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().expect("a number")
    };
    let before = connections(town.redis.command(&["INFO", "stats"]).await);
    let mut daemon = town.run();
    let url = daemon.url().await;
    daemon.wait_for_log("inserted=48").await;
    for _ in 0..2 {
        let answer = get(&format!("{url}{CARD}")).await;
        assert_eq!((answer.status, answer.cache_status()), (200, "BYPASS"));
    }
    card.set_price("5.5");
    town.serve(&card);
    daemon.wait_for_log("Cycle complete: 1 updated").await;
    let answer = get(&format!("{url}{CARD}")).await;
    assert_eq!(first_price(&answer.json()), Some(5.5));
    daemon.stop().await.expect_code(0);
    assert_eq!(town.outbox().await, 0, "no removal is pending");
    assert_eq!(town.cached().await.as_deref(), Some(&b"foreign"[..]));
    // Between the two counts only the second INFO and the GET connect.
    let after = connections(town.redis.command(&["INFO", "stats"]).await);
    assert_eq!(after - before, 2, "the daemon contacted the cache");
}
