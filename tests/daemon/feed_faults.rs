//! Tests of the daemon while the provider fails: stored rows and cached answers stay, and the log gives
//! the advice.

use super::DaemonStack;
use super::fixture::SmallCard;
use crate::harness::daemon::DaemonProcess;
use oddsd_testkit::racing_provider::RacingFault;

/// The cards of today and of tomorrow.
const REQUESTS_OF_A_LOOK: usize = 2;

/// Each fault, with the exit code of `once` and a text of its output.
fn faults() -> Vec<(RacingFault, i32, &'static str)> {
    vec![
        (RacingFault::Refuse, 69, "check the network"),
        (RacingFault::Unauthorized, 78, "RACING_API_USERNAME"),
        (RacingFault::Forbidden, 78, "RACING_API_USERNAME"),
        (RacingFault::Unprocessable, 78, "check the feed's settings"),
        (
            RacingFault::TooMany {
                retry_after: Some("1"),
            },
            69,
            "rate limited",
        ),
        (RacingFault::Status(500), 69, "ask again later"),
        (RacingFault::Status(503), 69, "ask again later"),
        (RacingFault::Html, 69, "unusable answer"),
        (RacingFault::Truncated, 69, "unusable answer"),
        (RacingFault::DropConnection, 69, "check the network"),
        (RacingFault::Redirect, 69, "cycle.fetch_failed"),
        (RacingFault::Bomb, 69, "too large"),
        (RacingFault::Oversize, 69, "too large"),
        (RacingFault::Hang, 69, "check the network"),
        (RacingFault::SlowDrip, 69, "check the network"),
        (RacingFault::ShortPage, 69, "unusable answer"),
        (RacingFault::WrongShape, 69, "unusable answer"),
        (RacingFault::DeepJson, 69, "unusable answer"),
    ]
}

#[tokio::test]
async fn a_failed_answer_changes_nothing_and_is_told_with_its_exit_code() {
    // Each run waits before it tries again, so several stacks run at once.
    let faults = faults();
    let towns = faults.chunks(3).map(changes_nothing);
    futures_util::future::join_all(towns).await;
}

async fn changes_nothing(faults: &[(RacingFault, i32, &'static str)]) {
    let (stack, mut card) = DaemonStack::with_card().await;
    stack.run_once().await.expect_code(0);
    stack.put_unmanaged("still right").await;
    for (fault, code, words) in faults {
        stack.provider.fault(fault.clone()).await;
        // Only a body that never ends meets the short timeout; the others may take longer.
        let patience = match fault {
            RacingFault::Hang | RacingFault::SlowDrip => "1",
            _ => "180",
        };
        let settings = stack.settings.with("FEED_TIMEOUT_SECONDS", patience);
        let run = DaemonProcess::start(&settings, &["once"])
            .wait_for_exit()
            .await;
        stack.provider.clear().await;
        let shown = format!("{fault:?}: {:?} with\n{}", run.code(), run.text());
        assert_eq!(run.code(), Some(*code), "{shown}");
        assert!(run.count(words) > 0, "{words:?} is missing in {shown}");
        assert_eq!(run.count("Cycle complete"), 0, "{shown}");
        assert!(!run.text().contains("paddock-pass"), "{shown}");
        stack.assert_stored(&card).await;
        assert_eq!(
            stack.cached().await.as_deref(),
            Some(&b"still right"[..]),
            "{fault:?}"
        );
    }
    assert_eq!(stack.number("SELECT count(*) FROM oddsd.cycles").await, 1);

    card.set_price("8.5");
    stack.serve(&card);
    let good = stack.run_once().await.expect_code(0);
    assert_eq!(
        good.count("Cycle complete: 1 updated"),
        1,
        "{}",
        good.text()
    );
    stack.assert_stored(&card).await;
    assert_eq!(stack.cached().await, None);
}

#[tokio::test]
async fn a_running_daemon_outlives_every_fault_of_the_provider() {
    let (stack, mut card) = DaemonStack::with_card().await;
    let mut daemon = stack.run();
    daemon.wait_for_log("inserted=48").await;
    let passing = [
        RacingFault::Status(502),
        RacingFault::Html,
        RacingFault::Refuse,
        RacingFault::Truncated,
    ];
    for (n, fault) in passing.into_iter().enumerate() {
        stack.provider.fault(fault.clone()).await;
        let line = daemon.wait_for_log("event=cycle.fetch_failed").await;
        assert!(line.contains("next try in"), "{line}");
        card.set_price(&format!("{}.5", 10 + n));
        stack.serve(&card);
        stack.provider.clear().await;
        daemon.wait_for_log("Cycle complete: 1 updated").await;
    }
    daemon.stop().await.expect_code(0);
    stack.assert_stored(&card).await;
}

#[tokio::test]
async fn a_suspiciously_short_card_is_believed_when_a_second_look_agrees() {
    tokio::join!(
        is_believed_in_the_end(RacingFault::EmptyCards, 0),
        is_believed_in_the_end(RacingFault::HalfCards, 1),
    );
}

async fn is_believed_in_the_end(fault: RacingFault, left: usize) {
    let (mut stack, _) = DaemonStack::with_card().await;
    // Three races: half of them is one, which leaves out two thirds of the prices.
    let card = SmallCard::with_races(3);
    stack.serve(&card);
    stack.run_once().await.expect_code(0);
    stack.put_unmanaged("still right").await;

    // The daemon polls again by itself; the short answer was transient.
    stack.provider.fault_next(fault.clone(), REQUESTS_OF_A_LOOK);
    let mut daemon = stack.run();
    daemon.wait_for_log("event=cycle.removals_refused").await;
    for look in ["first", "second"] {
        let line = daemon.wait_for_log("Cycle complete: 0 updated").await;
        assert!(line.contains("withdrawn=0"), "{look}: {line}");
    }
    daemon.stop().await.expect_code(0);
    stack.assert_stored(&card).await;
    assert_eq!(stack.cached().await.as_deref(), Some(&b"still right"[..]));

    // This one is not transient: `once` polls twice by itself and accepts it.
    // The renewed lease outlives the ten seconds between the two.
    stack.settings = stack.settings.with("LEASE_SECONDS", "6");
    stack.provider.fault(fault).await;
    let run = stack.run_once().await.expect_code(0);
    assert_eq!(
        run.count("event=cycle.removals_refused"),
        1,
        "{}",
        run.text()
    );
    assert_eq!(stack.cached().await, None);
    let mut short = card.clone();
    short.races.truncate(left);
    stack.assert_stored(&short).await;
}
