//! A provider that fails: nothing that is stored or cached changes, somebody is told what to do,
//! and the first good answer is taken as if nothing had happened.

use super::Town;
use super::town::Card;
use crate::world::daemon::Daemon;
use crate::world::racing_provider::Fault;

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
    let (town, mut card) = Town::racing().await;
    town.once().await.expect(0);
    town.put_foreign("still right").await;
    let settings = town.settings.with("FEED_TIMEOUT_SECONDS", "1");
    let mut wrong = Vec::new();
    for (fault, code, words) in faults() {
        town.provider.fault(fault.clone()).await;
        let run = Daemon::start(&settings, &["once"]).ends().await;
        town.provider.clear().await;
        if run.code() != Some(code) || run.count(words) == 0 || run.count("Cycle complete") > 0 {
            wrong.push(format!("{fault:?}: {:?} with\n{}", run.code(), run.text()));
        }
        assert!(!run.text().contains("paddock-pass"), "{}", run.text());
        town.is_right(&card).await;
        assert_eq!(
            town.cached().await.as_deref(),
            Some(&b"still right"[..]),
            "{fault:?}"
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
    let (mut town, mut card) = Town::racing().await;
    town.settings = town.settings.with("FEED_TIMEOUT_SECONDS", "1");
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
    for (fault, left) in [(Fault::EmptyCards, 0), (Fault::HalfCards, 1)] {
        let (mut town, _) = Town::racing().await;
        // Three races: half of them is one, which leaves out two thirds of the prices.
        let card = Card::of(3);
        town.serve(&card);
        town.once().await.expect(0);
        town.put_foreign("still right").await;

        // The daemon looks a second time by itself; between the two nothing has changed.
        town.provider.fault(fault.clone()).await;
        let mut daemon = town.run();
        daemon.says("event=cycle.removals_refused").await;
        town.is_right(&card).await;
        assert_eq!(town.cached().await.as_deref(), Some(&b"still right"[..]));
        // It was a hiccup.
        town.provider.clear().await;
        let line = daemon.says("Cycle complete: 0 updated").await;
        assert!(line.contains("withdrawn=0"), "{line}");
        daemon.stop().await.expect(0);
        town.is_right(&card).await;

        // This time it is not: `once` looks twice by itself and believes it.
        town.settings = town.settings.with("LEASE_SECONDS", "2");
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
}
