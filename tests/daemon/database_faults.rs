//! Tests of the daemon while the database fails: nothing is lost or written twice, and no restart is
//! needed.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor};

use super::DaemonStack;
use super::fixture::{INVALIDATED, get, hits_with};
use crate::harness::daemon::field;
use oddsd_testkit::eventually;
use oddsd_testkit::postgres::PostgresServer;
use oddsd_testkit::proxy::{FaultProxy, ProxyMode};

/// The stack with a proxy between daemon and database.
async fn wired() -> (DaemonStack, super::fixture::SmallCard, FaultProxy) {
    let (mut stack, card) = DaemonStack::with_card().await;
    let (proxy, url) = FaultProxy::in_front_of_url(&stack.database).await;
    stack.settings = stack.settings.with("DATABASE_URL", url);
    (stack, card, proxy)
}

#[tokio::test]
async fn database_down_at_start_is_reported_with_its_cause() {
    let (stack, _card, mut proxy) = wired().await;
    proxy.refuse().await;
    for command in ["once", "run"] {
        let run = crate::harness::daemon::DaemonProcess::start(&stack.settings, &[command])
            .wait_for_exit()
            .await
            .expect_code(69);
        assert!(
            run.text().contains("cannot reach the database"),
            "{}",
            run.text()
        );
        assert!(
            run.text().to_lowercase().contains("refused"),
            "{}",
            run.text()
        );
    }
    assert!(
        stack.provider.requests().is_empty(),
        "nobody is asked for what cannot be kept"
    );
}

#[tokio::test]
async fn database_outage_loses_no_change() {
    let (stack, mut card, proxy) = wired().await;
    let mut daemon = stack.run();
    let url = daemon.url().await;
    daemon.wait_for_logs(["inserted=48", INVALIDATED]).await;
    for price in ["4.5", "5.5"] {
        // The database is unreachable from the middle of a commit on.
        proxy.set(ProxyMode::CutAnswerTo("price_changed"));
        card.set_price(price);
        stack.serve(&card);
        proxy.until_cut().await;
        daemon.ensure_logged("event=cycle.store_failed").await;
        assert_eq!(get(&format!("{url}/livez")).await.status, 200);
        assert_eq!(get(&format!("{url}/readyz")).await.status, 503);
        assert_eq!(get(&format!("{url}/readyz?verbose")).await.status, 503);
        proxy.set(ProxyMode::Pass);
        daemon.skip_log();
        // The commit may have gone through: then there is nothing left to update.
        daemon.wait_for_log("Cycle complete").await;
        daemon.wait_for_log("Cycle complete").await;
        assert_eq!(get(&format!("{url}/readyz")).await.status, 200);
        stack.assert_stored(&card).await;
    }
    stack.settled().await;
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn commit_with_a_lost_answer_leaves_the_right_rows() {
    let (stack, mut card, proxy) = wired().await;
    let mut daemon = stack.run();
    daemon.wait_for_log("inserted=48").await;
    for round in 0..3 {
        // Only a commit sends this text.
        proxy.set(ProxyMode::CutAnswerTo("price_changed"));
        card.set_price(&format!("{}.5", round + 4));
        card.odds(1, 1, round % 4)["decimal"] = serde_json::json!(format!("{}.25", round + 6));
        stack.serve(&card);
        proxy.until_cut().await;
        proxy.set(ProxyMode::Pass);
        // After two more cycles the rows equal the card, whatever was cut.
        daemon.skip_log();
        daemon.wait_for_log("Cycle complete").await;
        daemon.wait_for_log("Cycle complete").await;
        stack.assert_stored(&card).await;
    }
    stack.settled().await;
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn slow_database_is_waited_for() {
    let (stack, mut card, proxy) = wired().await;
    proxy.set(ProxyMode::Slow(Duration::from_millis(40)));
    let mut daemon = stack.run();
    daemon.wait_for_log("inserted=48").await;
    card.set_price("4.5");
    stack.serve(&card);
    let reported = ["Cycle complete: 1 updated", INVALIDATED];
    daemon.wait_for_logs(reported).await;
    daemon.stop().await.expect_code(0);
    stack.assert_stored(&card).await;
    assert_eq!(stack.outbox().await, 0);
}

#[tokio::test]
async fn requests_without_a_database_share_a_log_line_with_their_number() {
    const REQUESTS: u64 = 30;
    let (mut stack, _card, mut proxy) = wired().await;
    stack.settings = stack.settings.with("CACHE_ENABLED", "false");
    let mut daemon = stack.run();
    let url = daemon.url().await;
    daemon.wait_for_log("inserted=48").await;
    proxy.refuse().await;
    // The first requests may meet connections that are cut, which is another error.
    for _ in 0..REQUESTS {
        let answer = get(&format!("{url}/v1/races/by-stage")).await;
        assert_eq!(answer.status, 503);
    }
    let ended = daemon.stop().await.expect_code(0);
    let written: Vec<&String> = ended
        .lines
        .iter()
        .filter(|line| line.contains("event=http.store_failed"))
        .collect();
    assert!((1..=5).contains(&written.len()), "{}", ended.text());
    let held = ended
        .lines
        .iter()
        .filter(|line| line.contains("of=http.store_failed"));
    let held = held.map(|line| field(line, "log_lines").expect("a number").parse::<u64>());
    let held: u64 = held.map(|number| number.expect("a number")).sum();
    assert_eq!(written.len() as u64 + held, REQUESTS, "{}", ended.text());
}

/// A session keeps the default that its role had when it began.
#[tokio::test]
async fn database_that_was_read_only_for_a_while_is_written_again() {
    let (stack, mut card) = DaemonStack::with_card().await;
    let mut daemon = stack.run();
    daemon.wait_for_logs(["inserted=48", INVALIDATED]).await;
    let mut admin = stack.db().await;
    let name = stack.database.rsplit('/').next().expect("a database");
    let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = 'oddsd'";
    for change in [
        format!("ALTER DATABASE {name} SET default_transaction_read_only = on"),
        ended.to_owned(),
    ] {
        admin.execute(AssertSqlSafe(change)).await.expect("changed");
    }
    card.set_price("4.5");
    stack.serve(&card);
    daemon.wait_for_log("it answers read-only").await;
    let restored = format!(
        "SET default_transaction_read_only = off; ALTER DATABASE {name} RESET default_transaction_read_only"
    );
    admin.execute(AssertSqlSafe(restored)).await.expect("reset");
    daemon.wait_for_log("Cycle complete: 1 updated").await;
    stack.settled().await;
    stack.assert_stored(&card).await;
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn sqlite_file_that_was_moved_away_is_reported_and_used_again_when_it_is_back() {
    let (mut stack, mut card) = DaemonStack::with_card().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (file, away) = (folder.path().join("odds.db"), folder.path().join("away"));
    let url = format!("sqlite:{}", file.display());
    stack.settings = stack.settings.with("DATABASE_URL", url);
    let mut daemon = stack.run();
    let url = daemon.url().await + "/readyz";
    daemon.wait_for_logs(["inserted=48", INVALIDATED]).await;
    assert_eq!(get(&url).await.status, 200);
    std::fs::rename(&file, &away).expect("moved away");
    let answer = get(&url).await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("put it back"), "{}", answer.body);
    card.set_price("4.5");
    stack.serve(&card);
    daemon.wait_for_log("event=cycle.store_failed").await;
    assert!(!file.exists(), "no empty file is made");
    std::fs::rename(&away, &file).expect("put back");
    daemon.wait_for_log("Cycle complete: 1 updated").await;
    assert_eq!(get(&url).await.status, 200);
    assert_eq!(daemon.count_log("event=store.file_lost"), 1);
    daemon.stop().await.expect_code(0);
}

/// A restart may have lost commits, and another server may answer after it: what was cached before is not served.
#[tokio::test]
async fn restart_of_the_database_begins_a_new_epoch_of_the_cache() {
    let mut server = PostgresServer::start().expect("a server");
    let (mut stack, _card) = DaemonStack::with_card().await;
    stack.settings = stack.settings.with("DATABASE_URL", server.url.as_str());
    let mut daemon = stack.run();
    let path = format!("{}/v1/races/by-stage", daemon.url().await);
    let started = ["event=cache.epoch_started", INVALIDATED];
    daemon.wait_for_logs(started).await;
    hits_with(&path, 3.3).await;
    daemon.skip_log();
    server.restart().expect("started again");
    daemon.wait_for_log("event=cache.epoch_started").await;
    // A session that the restart has cut may still fail a read.
    eventually("an answer from the cache", async || {
        let answer = get(&path).await;
        let state = answer.cache_status().to_owned();
        (state == "HIT").then_some(()).ok_or(state)
    })
    .await;
    let exit = daemon.stop().await.expect_code(0);
    assert_eq!(exit.count("event=cache.foreign_database"), 0);
    assert_eq!(exit.count("event=cache.epoch_waiting"), 0);
}
