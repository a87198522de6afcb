//! Two daemons on one database: one works, the other waits for its end, and nobody writes out of turn.

use super::Town;
use super::fixture::INVALIDATED;
use crate::harness::daemon::Daemon;

/// Seconds: nobody loses it because the machine is slow, and who waits for it asks every third of it.
const LONG: &str = "9";

fn named(town: &Town, name: &str) -> Daemon {
    Daemon::start(&town.settings.with("INSTANCE", name), &["run"])
}

#[tokio::test]
async fn a_second_daemon_takes_over_after_a_crash_and_at_once_after_a_goodbye() {
    let (mut town, mut card) = Town::racing().await;
    town.settings = town.settings.with("LEASE_SECONDS", LONG);
    let mut first = named(&town, "first");
    first.says("inserted=48").await;
    let mut second = named(&town, "second");
    let line = second.says("event=lease.standby").await;
    assert!(line.contains("first"), "{line}");
    card.set_price("4.5");
    town.serve(&card);
    first.says("Cycle complete: 1 updated").await;
    assert_eq!(second.count("Cycle complete"), 0);

    first.crash().await;
    town.end_lease().await;
    second.says("event=lease.leading").await;
    card.set_price("5.5");
    town.serve(&card);
    second.says("Cycle complete: 1 updated").await;
    town.is_right(&card).await;

    // A lease of ten minutes: only a goodbye can end it before this story's patience does.
    second.stop().await.expect(0);
    town.settings = town.settings.with("LEASE_SECONDS", "600");
    let mut third = named(&town, "third");
    third.says("Cycle complete").await;
    third.stop().await.expect(0);
    let mut fourth = named(&town, "fourth");
    fourth.says("Cycle complete").await;
    fourth.stop().await.expect(0);
}

#[tokio::test]
async fn a_run_beside_a_leading_daemon_does_nothing_and_says_so() {
    let (town, mut card) = Town::racing().await;
    let mut daemon = named(&town, "leader");
    daemon.says(INVALIDATED).await;
    let settings = town.settings.with("CADENCE", "*=900s");
    let cycles = town.number("SELECT count(*) FROM oddsd.cycles").await;
    let run = Daemon::start(&settings, &["once"]).ends().await.expect(75);
    assert!(run.text().contains("leader"), "{}", run.text());
    assert_eq!(run.count("Cycle complete"), 0, "{}", run.text());
    assert_eq!(
        town.number("SELECT count(*) FROM oddsd.cycles").await,
        cycles
    );
    card.set_price("4.5");
    town.serve(&card);
    daemon.says("Cycle complete: 1 updated").await;
    daemon.stop().await.expect(0);
}

#[tokio::test]
async fn a_leader_that_slept_through_its_lease_writes_nothing_and_forgets_what_it_knew() {
    let (mut town, mut card) = Town::racing().await;
    town.settings = town.settings.with("LEASE_SECONDS", LONG);
    let mut sleeper = named(&town, "sleeper");
    sleeper.says("inserted=48").await;
    let mut second = named(&town, "second");
    second.says("event=lease.standby").await;
    sleeper.signal("-STOP");
    town.end_lease().await;
    second.says("event=lease.leading").await;
    card.set_price("4.5");
    town.serve(&card);
    second.says("Cycle complete: 1 updated").await;
    sleeper.listen_anew();
    sleeper.signal("-CONT");
    sleeper.says("event=lease.standby").await;
    assert_eq!(town.number("SELECT count(*) FROM oddsd.cycles").await, 2);

    // It leads again. The card is back at what the sleeper remembers, not at what is stored.
    card.set_price("3.0");
    town.provider
        .fault(oddsd_testkit::racing_provider::Fault::Status(503))
        .await;
    second.crash().await;
    town.end_lease().await;
    town.serve(&card);
    town.provider.clear().await;
    sleeper.says("event=lease.leading").await;
    sleeper.says("Cycle complete: 1 updated").await;
    town.is_right(&card).await;
    // The one that crashed may have died with a removal in its hands.
    town.all_told(&mut sleeper).await;
    sleeper.stop().await.expect(0);
    assert_eq!(town.outbox().await, 0);
}
