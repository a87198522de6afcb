//! Tests of cached answers after a flush, a restored copy and a late fill of another program.

use super::DaemonStack;
use super::fixture::{INVALIDATED, first_price, get, hits_with};
use oddsd_testkit::eventually;

const CARD: &str = "/v1/races/by-stage";

#[tokio::test]
async fn cache_flush_is_followed_by_a_new_epoch_and_fills() {
    let (stack, mut card) = DaemonStack::with_card().await;
    let mut daemon = stack.run();
    let path = format!("{}{CARD}", daemon.url().await);
    daemon.wait_for_log(INVALIDATED).await;
    hits_with(&path, 3.3).await;
    for (flush, price) in ["4.5", "5.5", "6.5"].into_iter().enumerate() {
        stack.redis.command(&["FLUSHALL"]).await;
        hits_with(&path, if flush == 0 { 3.3 } else { 3.5 + flush as f64 }).await;
        card.set_price(price);
        stack.serve(&card);
        let reported = ["Cycle complete: 1 updated", INVALIDATED];
        daemon.wait_for_logs(reported).await;
        hits_with(&path, price.parse().expect("a number")).await;
    }
    daemon.stop().await.expect_code(0);
    assert_eq!(stack.outbox().await, 0);
}

#[tokio::test]
async fn cache_restored_from_an_old_copy_serves_no_old_value() {
    let (stack, mut card) = DaemonStack::with_card().await;
    let mut daemon = stack.run();
    let path = format!("{}{CARD}", daemon.url().await);
    daemon.wait_for_log(INVALIDATED).await;
    hits_with(&path, 3.3).await;
    // With epoch, watermark, fences and the old answer.
    stack.redis.copy().await;
    card.set_price("4.5");
    stack.serve(&card);
    let reported = ["Cycle complete: 1 updated", INVALIDATED];
    daemon.wait_for_logs(reported).await;
    assert_eq!(first_price(&get(&path).await.json()), Some(4.5));
    stack.redis.restart_from_copy().await;
    hits_with(&path, 4.5).await;
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn second_removal_takes_a_late_fill_of_another_program() {
    let (mut stack, mut card) = DaemonStack::with_card().await;
    // Long enough for a busy machine to come in between.
    stack.settings = stack.settings.with("CACHE_REMOVE_AGAIN_MS", "4000");
    let mut daemon = stack.run();
    daemon.wait_for_log(INVALIDATED).await;
    card.set_price("4.5");
    stack.serve(&card);
    let reported = ["Cycle complete: 1 updated", INVALIDATED];
    daemon.wait_for_logs(reported).await;
    // The other program had read the database before the commit.
    stack.put_unmanaged("old").await;
    eventually("the old value is removed", async || {
        stack.cached().await.map_or(Ok(()), Err)
    })
    .await;
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn once_finishes_its_second_removals() {
    let (mut stack, _card) = DaemonStack::with_card().await;
    stack.settings = stack.settings.with("CACHE_REMOVE_AGAIN_MS", "300");
    let run = stack.run_once().await.expect_code(0);
    assert_eq!(run.count(INVALIDATED), 1, "{}", run.text());
    assert_eq!(stack.number("SELECT count(*) FROM oddsd.outbox").await, 0);
}
