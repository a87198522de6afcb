//! Tests of the daemon while the database fails: nothing is lost or written twice, and no restart is
//! needed.

use std::time::Duration;

use super::Town;
use super::fixture::{INVALIDATED, get};
use oddsd_testkit::proxy::{Proxy, Wire};

/// The stack with a proxy between daemon and database.
async fn wired() -> (Town, super::fixture::Card, Proxy) {
    let (mut stack, card) = Town::racing().await;
    let (proxy, url) = Proxy::before_url(&stack.database).await;
    stack.settings = stack.settings.with("DATABASE_URL", url);
    (stack, card, proxy)
}

#[tokio::test]
async fn database_down_at_start_is_reported_with_its_cause() {
    let (stack, _card, mut proxy) = wired().await;
    proxy.refuse().await;
    for command in ["once", "run"] {
        let run = crate::harness::daemon::Daemon::start(&stack.settings, &[command])
            .ends()
            .await
            .expect(69);
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
    daemon.says_all(["inserted=48", INVALIDATED]).await;
    for price in ["4.5", "5.5"] {
        // The database is unreachable from the middle of a commit on.
        proxy.set(Wire::CutAnswerTo("price_changed"));
        card.set_price(price);
        stack.serve(&card);
        proxy.until_cut().await;
        daemon.has_said("event=cycle.store_failed").await;
        assert_eq!(get(&format!("{url}/livez")).await.status, 200);
        assert_eq!(get(&format!("{url}/readyz")).await.status, 503);
        assert_eq!(get(&format!("{url}/readyz?verbose")).await.status, 503);
        proxy.set(Wire::Pass);
        daemon.listen_anew();
        // The commit may have gone through: then there is nothing left to update.
        daemon.says("Cycle complete").await;
        daemon.says("Cycle complete").await;
        assert_eq!(get(&format!("{url}/readyz")).await.status, 200);
        stack.is_right(&card).await;
    }
    stack.settled().await;
    daemon.stop().await.expect(0);
}

#[tokio::test]
async fn commit_with_a_lost_answer_leaves_the_right_rows() {
    let (stack, mut card, proxy) = wired().await;
    let mut daemon = stack.run();
    daemon.says("inserted=48").await;
    for round in 0..3 {
        // Only a commit sends this text.
        proxy.set(Wire::CutAnswerTo("price_changed"));
        card.set_price(&format!("{}.5", round + 4));
        card.odds(1, 1, round % 4)["decimal"] = serde_json::json!(format!("{}.25", round + 6));
        stack.serve(&card);
        proxy.until_cut().await;
        proxy.set(Wire::Pass);
        // After two more cycles the rows equal the card, whatever was cut.
        daemon.listen_anew();
        daemon.says("Cycle complete").await;
        daemon.says("Cycle complete").await;
        stack.is_right(&card).await;
    }
    stack.settled().await;
    daemon.stop().await.expect(0);
}

#[tokio::test]
async fn slow_database_is_waited_for() {
    let (stack, mut card, proxy) = wired().await;
    proxy.set(Wire::Slow(Duration::from_millis(40)));
    let mut daemon = stack.run();
    daemon.says("inserted=48").await;
    card.set_price("4.5");
    stack.serve(&card);
    let reported = ["Cycle complete: 1 updated", INVALIDATED];
    daemon.says_all(reported).await;
    daemon.stop().await.expect(0);
    stack.is_right(&card).await;
    assert_eq!(stack.outbox().await, 0);
}
