//! A provider that fails: nothing that is stored or cached changes, somebody is told what to do,
//! and the first good answer is taken as if nothing had happened.

use super::Town;
use super::fixture::Card;
use crate::harness::daemon::Daemon;
use oddsd_testkit::racing_provider::Fault;

/// The cards of today and of tomorrow.
const REQUESTS_OF_A_LOOK: usize = 2;

/// Each way to fail, with the exit code and a word of what `once` says.
fn faults() -> Vec<(Fault, i32, &'static str)> {
    vec![
        (Fault::Refuse, 69, "check the network"),
        (Fault::Unauthorized, 78, "RACING_API_USERNAME"),
        (Fault::Forbidden, 78, "RACING_API_USERNAME"),
        (Fault::Unprocessable, 78, "check the feed's settings"),
        (
            Fault::TooMany {
                retry_after: Some("1"),
            },
            69,
            "rate limited",
        ),
        (Fault::Status(500), 69, "ask again later"),
        (Fault::Status(503), 69, "ask again later"),
        (Fault::Html, 69, "unusable answer"),
        (Fault::Truncated, 69, "unusable answer"),
        (Fault::DropConnection, 69, "check the network"),
        (Fault::Redirect, 69, "cycle.fetch_failed"),
        (Fault::Bomb, 69, "too large"),
        (Fault::Oversize, 69, "too large"),
        (Fault::Hang, 69, "check the network"),
        (Fault::SlowDrip, 69, "check the network"),
        (Fault::ShortPage, 69, "unusable answer"),
        (Fault::WrongShape, 69, "unusable answer"),
        (Fault::DeepJson, 69, "unusable answer"),
    ]
}

#[tokio::test]
async fn a_failed_answer_changes_nothing_and_is_told_with_its_exit_code() {
    // Each run waits a while before it tries again, so several towns fail at once.
    let faults = faults();
    let towns = faults.chunks(3).map(changes_nothing);
    futures_util::future::join_all(towns).await;
}

async fn changes_nothing(faults: &[(Fault, i32, &'static str)]) {
    let (town, mut card) = Town::racing().await;
    town.once().await.expect(0);
    town.put_foreign("still right").await;
    for (fault, code, words) in faults {
        town.provider.fault(fault.clone()).await;
        // Only who never ends is given up soon: all others may take as long as the machine does.
        let patience = match fault {
            Fault::Hang | Fault::SlowDrip => "1",
            _ => "180",
        };
        let settings = town.settings.with("FEED_TIMEOUT_SECONDS", patience);
        let run = Daemon::start(&settings, &["once"]).ends().await;
        town.provider.clear().await;
        let said = format!("{fault:?}: {:?} with\n{}", run.code(), run.text());
        assert_eq!(run.code(), Some(*code), "{said}");
        assert!(run.count(words) > 0, "{words:?} is missing in {said}");
        assert_eq!(run.count("Cycle complete"), 0, "{said}");
        assert!(!run.text().contains("paddock-pass"), "{said}");
        town.is_right(&card).await;
        assert_eq!(
            town.cached().await.as_deref(),
            Some(&b"still right"[..]),
            "{fault:?}"
        );
    }
    assert_eq!(town.number("SELECT count(*) FROM oddsd.cycles").await, 1);

    card.set_price("8.5");
    town.serve(&card);
    let good = town.once().await.expect(0);
    assert_eq!(
        good.count("Cycle complete: 1 updated"),
        1,
        "{}",
        good.text()
    );
    town.is_right(&card).await;
    assert_eq!(town.cached().await, None);
}

#[tokio::test]
async fn a_running_daemon_outlives_every_fault_of_the_provider() {
    let (town, mut card) = Town::racing().await;
    let mut daemon = town.run();
    daemon.says("inserted=48").await;
    let passing = [
        Fault::Status(502),
        Fault::Html,
        Fault::Refuse,
        Fault::Truncated,
    ];
    for (n, fault) in passing.into_iter().enumerate() {
        town.provider.fault(fault.clone()).await;
        let line = daemon.says("event=cycle.fetch_failed").await;
        assert!(line.contains("next try in"), "{line}");
        card.set_price(&format!("{}.5", 10 + n));
        town.serve(&card);
        town.provider.clear().await;
        daemon.says("Cycle complete: 1 updated").await;
    }
    daemon.stop().await.expect(0);
    town.is_right(&card).await;
}

#[tokio::test]
async fn a_suspiciously_short_card_is_believed_when_a_second_look_agrees() {
    tokio::join!(
        is_believed_in_the_end(Fault::EmptyCards, 0),
        is_believed_in_the_end(Fault::HalfCards, 1),
    );
}

async fn is_believed_in_the_end(fault: Fault, left: usize) {
    let (mut town, _) = Town::racing().await;
    // Three races: half of them is one, which leaves out two thirds of the prices.
    let card = Card::of(3);
    town.serve(&card);
    town.once().await.expect(0);
    town.put_foreign("still right").await;

    // The daemon looks a second time by itself, and it was a hiccup of one look.
    town.provider.fault_next(fault.clone(), REQUESTS_OF_A_LOOK);
    let mut daemon = town.run();
    daemon.says("event=cycle.removals_refused").await;
    for look in ["first", "second"] {
        let line = daemon.says("Cycle complete: 0 updated").await;
        assert!(line.contains("withdrawn=0"), "{look}: {line}");
    }
    daemon.stop().await.expect(0);
    town.is_right(&card).await;
    assert_eq!(town.cached().await.as_deref(), Some(&b"still right"[..]));

    // This time it is not: `once` looks twice by itself and believes it.
    // The lease, renewed, outlives the ten seconds between the two.
    town.settings = town.settings.with("LEASE_SECONDS", "6");
    town.provider.fault(fault).await;
    let run = town.once().await.expect(0);
    assert_eq!(
        run.count("event=cycle.removals_refused"),
        1,
        "{}",
        run.text()
    );
    assert_eq!(town.cached().await, None);
    let mut short = card.clone();
    short.races.truncate(left);
    town.is_right(&short).await;
}
