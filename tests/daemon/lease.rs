//! Tests of two daemons on one database: one leads, the other takes over, and only the leader writes.

use super::DaemonStack;
use super::fixture::INVALIDATED;
use crate::harness::daemon::DaemonProcess;

/// Lease seconds: long enough for a slow machine. The standby asks every third of it.
const LONG: &str = "9";

fn named(stack: &DaemonStack, name: &str) -> DaemonProcess {
    DaemonProcess::start(&stack.settings.with("INSTANCE", name), &["run"])
}

#[tokio::test]
async fn standby_takes_over_after_a_crash_and_at_once_after_a_shutdown() {
    let (mut stack, mut card) = DaemonStack::with_card().await;
    stack.settings = stack.settings.with("LEASE_SECONDS", LONG);
    let mut first = named(&stack, "first");
    first.wait_for_log("inserted=48").await;
    let mut second = named(&stack, "second");
    let line = second.wait_for_log("event=lease.standby").await;
    assert!(line.contains("first"), "{line}");
    card.set_price("4.5");
    stack.serve(&card);
    first.wait_for_log("Cycle complete: 1 updated").await;
    assert_eq!(second.count_log("Cycle complete"), 0);

    first.crash().await;
    stack.end_lease().await;
    second.wait_for_log("event=lease.leading").await;
    card.set_price("5.5");
    stack.serve(&card);
    second.wait_for_log("Cycle complete: 1 updated").await;
    stack.assert_stored(&card).await;

    // A lease of ten minutes: only a release can end it during this test.
    second.stop().await.expect_code(0);
    stack.settings = stack.settings.with("LEASE_SECONDS", "600");
    let mut third = named(&stack, "third");
    third.wait_for_log("Cycle complete").await;
    third.stop().await.expect_code(0);
    let mut fourth = named(&stack, "fourth");
    fourth.wait_for_log("Cycle complete").await;
    fourth.stop().await.expect_code(0);
}

#[tokio::test]
async fn once_beside_a_leader_does_nothing_and_reports_it() {
    let (stack, mut card) = DaemonStack::with_card().await;
    let mut daemon = named(&stack, "leader");
    daemon.wait_for_log(INVALIDATED).await;
    let settings = stack.settings.with("CADENCE", "*=900s");
    let cycles = stack.number("SELECT count(*) FROM oddsd.cycles").await;
    let run = DaemonProcess::start(&settings, &["once"])
        .wait_for_exit()
        .await
        .expect_code(75);
    assert!(run.text().contains("leader"), "{}", run.text());
    assert_eq!(run.count("Cycle complete"), 0, "{}", run.text());
    assert_eq!(
        stack.number("SELECT count(*) FROM oddsd.cycles").await,
        cycles
    );
    card.set_price("4.5");
    stack.serve(&card);
    daemon.wait_for_log("Cycle complete: 1 updated").await;
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn expired_leader_writes_nothing_and_reloads_its_state() {
    let (mut stack, mut card) = DaemonStack::with_card().await;
    stack.settings = stack.settings.with("LEASE_SECONDS", LONG);
    let mut sleeper = named(&stack, "sleeper");
    sleeper.wait_for_log("inserted=48").await;
    let mut second = named(&stack, "second");
    second.wait_for_log("event=lease.standby").await;
    sleeper.signal("-STOP");
    stack.end_lease().await;
    second.wait_for_log("event=lease.leading").await;
    card.set_price("4.5");
    stack.serve(&card);
    second.wait_for_log("Cycle complete: 1 updated").await;
    sleeper.skip_log();
    sleeper.signal("-CONT");
    sleeper.wait_for_log("event=lease.standby").await;
    assert_eq!(stack.number("SELECT count(*) FROM oddsd.cycles").await, 2);

    // It leads again. The card equals its old state in memory, not the stored rows.
    card.set_price("3.0");
    stack
        .provider
        .fault(oddsd_testkit::racing_provider::RacingFault::Status(503))
        .await;
    second.crash().await;
    stack.end_lease().await;
    stack.serve(&card);
    stack.provider.clear().await;
    sleeper.wait_for_log("event=lease.leading").await;
    sleeper.wait_for_log("Cycle complete: 1 updated").await;
    stack.assert_stored(&card).await;
    // The crashed one may have held a claimed removal.
    stack.settled().await;
    sleeper.stop().await.expect_code(0);
    assert_eq!(stack.outbox().await, 0);
}

#[tokio::test]
async fn replay_into_live_odds_needs_its_option_and_names_the_daemon_that_it_waits_for() {
    let (stack, _) = DaemonStack::with_card().await;
    let mut daemon = named(&stack, "trader");
    daemon.wait_for_log("inserted=48").await;
    let recording = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/odds_api/league.jsonl.zst"
    );
    let args = ["replay", recording, "--feed", "odds-api"];
    let refused = DaemonProcess::start(&stack.settings, &args);
    let refused = refused.wait_for_exit().await.expect_code(78);
    assert!(
        refused.text().contains("live odds of racing_api")
            && refused.text().contains("--into-live"),
        "{}",
        refused.text()
    );

    let mut replay = DaemonProcess::start(&stack.settings, &[&args[..], &["--into-live"]].concat());
    replay
        .wait_for_log("holds the lease of this database")
        .await;
    daemon.stop().await.expect_code(0);
    replay.wait_for_exit().await.expect_code(0);
    let leagues = "SELECT count(*) FROM oddsd.events WHERE source = 'odds_api'";
    assert!(stack.number(leagues).await > 0);
}
