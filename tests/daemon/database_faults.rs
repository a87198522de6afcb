//! A database that fails: nobody pretends, nothing is lost or written twice, and no restart is needed.

use std::time::Duration;

use super::Town;
use super::fixture::{INVALIDATED, get};
use oddsd_testkit::proxy::{Proxy, Wire};

/// The town with a wire between daemon and database.
async fn wired() -> (Town, super::fixture::Card, Proxy) {
    let (mut town, card) = Town::racing().await;
    let (proxy, url) = Proxy::before_url(&town.database).await;
    town.settings = town.settings.with("DATABASE_URL", url);
    (town, card, proxy)
}

#[tokio::test]
async fn down_at_the_start_is_said_with_its_cause() {
    let (town, _card, mut proxy) = wired().await;
    proxy.refuse().await;
    for command in ["once", "run"] {
        let run = crate::harness::daemon::Daemon::start(&town.settings, &[command])
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
        town.provider.requests().is_empty(),
        "nobody is asked for what cannot be kept"
    );
}

#[tokio::test]
async fn a_database_that_goes_and_comes_back_is_written_to_as_if_nothing_had_happened() {
    let (town, mut card, proxy) = wired().await;
    let mut daemon = town.run();
    let url = daemon.url().await;
    daemon.says_all(["inserted=48", INVALIDATED]).await;
    for price in ["4.5", "5.5"] {
        // Away from the middle of a commit on.
        proxy.set(Wire::CutAnswerTo("price_changed"));
        card.set_price(price);
        town.serve(&card);
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
        town.is_right(&card).await;
    }
    town.all_told(&mut daemon).await;
    daemon.stop().await.expect(0);
}

#[tokio::test]
async fn whichever_way_a_commit_went_whose_answer_was_lost_the_rows_are_right() {
    let (town, mut card, proxy) = wired().await;
    let mut daemon = town.run();
    daemon.says("inserted=48").await;
    for round in 0..3 {
        // Only a commit says this to the database.
        proxy.set(Wire::CutAnswerTo("price_changed"));
        card.set_price(&format!("{}.5", round + 4));
        card.odds(1, 1, round % 4)["decimal"] = serde_json::json!(format!("{}.25", round + 6));
        town.serve(&card);
        proxy.until_cut().await;
        proxy.set(Wire::Pass);
        // Two looks from now everything is as served, whatever was cut.
        daemon.listen_anew();
        daemon.says("Cycle complete").await;
        daemon.says("Cycle complete").await;
        town.is_right(&card).await;
    }
    town.all_told(&mut daemon).await;
    daemon.stop().await.expect(0);
}

#[tokio::test]
async fn a_slow_database_is_waited_for() {
    let (town, mut card, proxy) = wired().await;
    proxy.set(Wire::Slow(Duration::from_millis(40)));
    let mut daemon = town.run();
    daemon.says("inserted=48").await;
    card.set_price("4.5");
    town.serve(&card);
    let told = ["Cycle complete: 1 updated", INVALIDATED];
    daemon.says_all(told).await;
    daemon.stop().await.expect(0);
    town.is_right(&card).await;
    assert_eq!(town.outbox().await, 0);
}
