//! A cache that forgets, or remembers what it should not, in front of a running daemon; and programs
//! that fill it on their own.

use reqwest::Method;

use super::Town;
use super::fixture::{INVALIDATED, ask, first_price, get};
use oddsd_testkit::WAIT_LIMIT as PATIENCE;

const CARD: &str = "/v1/races/by-stage";

/// Reads until the answer comes from the cache; every answer on the way shows this price.
async fn hits_with(path: &str, price: f64) {
    let hitting = async {
        loop {
            let answer = ask(Method::GET, path, &[]).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
            let cache = answer.cache().to_owned();
            assert_eq!(first_price(&answer.json()), Some(price), "{cache}");
            if cache == "HIT" {
                return;
            }
        }
    };
    let hit = tokio::time::timeout(PATIENCE, hitting).await;
    hit.expect("the cache is used again");
}

#[tokio::test]
async fn a_flushed_cache_is_filled_again_without_a_restart() {
    let (town, mut card) = Town::racing().await;
    let mut daemon = town.run();
    let path = format!("{}{CARD}", daemon.url().await);
    daemon.says(INVALIDATED).await;
    hits_with(&path, 3.3).await;
    for (flush, price) in ["4.5", "5.5", "6.5"].into_iter().enumerate() {
        town.redis.cli(&["FLUSHALL"]).await;
        hits_with(&path, if flush == 0 { 3.3 } else { 3.5 + flush as f64 }).await;
        card.set_price(price);
        town.serve(&card);
        let told = ["Cycle complete: 1 updated", INVALIDATED];
        daemon.says_all(told).await;
        hits_with(&path, price.parse().expect("a number")).await;
    }
    daemon.stop().await.expect(0);
    assert_eq!(town.outbox().await, 0);
}

#[tokio::test]
async fn what_an_old_copy_of_the_cache_brings_back_is_never_served() {
    let (town, mut card) = Town::racing().await;
    let mut daemon = town.run();
    let path = format!("{}{CARD}", daemon.url().await);
    daemon.says(INVALIDATED).await;
    hits_with(&path, 3.3).await;
    // Floor, horizon, fences and the old answer, as they are now.
    town.redis.cli(&["SAVE"]).await;
    card.set_price("4.5");
    town.serve(&card);
    let told = ["Cycle complete: 1 updated", INVALIDATED];
    daemon.says_all(told).await;
    assert_eq!(first_price(&get(&path).await.json()), Some(4.5));
    town.redis.restart().await;
    hits_with(&path, 4.5).await;
    daemon.stop().await.expect(0);
}

#[tokio::test]
async fn what_another_program_fills_behind_a_removal_is_removed_once_more() {
    let (mut town, mut card) = Town::racing().await;
    // Long enough for a busy machine to come in between.
    town.settings = town.settings.with("CACHE_REMOVE_AGAIN_MS", "4000");
    let mut daemon = town.run();
    daemon.says(INVALIDATED).await;
    card.set_price("4.5");
    town.serve(&card);
    let told = ["Cycle complete: 1 updated", INVALIDATED];
    daemon.says_all(told).await;
    // It had asked the database before the commit.
    town.put_foreign("old").await;
    let removed = async {
        while town.cached().await.is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, removed)
        .await
        .expect("it goes again");
    daemon.stop().await.expect(0);
}

#[tokio::test]
async fn once_leaves_no_second_removal_behind() {
    let (mut town, _card) = Town::racing().await;
    town.settings = town.settings.with("CACHE_REMOVE_AGAIN_MS", "300");
    let run = town.once().await.expect(0);
    assert_eq!(run.count(INVALIDATED), 1, "{}", run.text());
    assert_eq!(town.number("SELECT count(*) FROM oddsd.outbox").await, 0);
}
