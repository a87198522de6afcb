//! End-to-end tests of event statuses: moved by the clock between polls, corrected by a person, and
//! filtered by readers.

use serde_json::Value;
use sqlx::AssertSqlSafe;

use super::DaemonStack;
use super::fixture::{HttpAnswer, SmallCard, get, request};
use crate::harness::program::Program;
use oddsd_testkit::eventually;
use oddsd_testkit::racing_provider::RacingFault;

const FRESH: [(&str, &str); 1] = [("cache-control", "no-cache")];

/// Requests past the cache until the response has this status.
async fn answers(url: &str, status: u16) -> HttpAnswer {
    eventually(&format!("status {status} of {url}"), async || {
        let answer = request(reqwest::Method::GET, url, &FRESH).await;
        match answer.status == status {
            true => Ok(answer),
            false => Err(answer.status),
        }
    })
    .await
}

impl DaemonStack {
    async fn moved(&self, sql: &str) {
        let moved = sqlx::query(AssertSqlSafe(sql.to_owned()));
        let moved = moved.execute(&mut self.db().await).await;
        assert_eq!(moved.expect("moved").rows_affected(), 1, "{sql}");
    }

    /// Races as stored yesterday: one is past its start, one starts in a moment.
    async fn with_races_that_are_due(&self) {
        self.run_once().await.expect_code(0);
        for (race, start) in [
            ("rac_0", "- interval '1 minute'"),
            ("rac_1", "+ interval '7202 seconds'"),
        ] {
            let moved =
                format!("UPDATE oddsd.events SET starts_at = now() {start} WHERE key = '{race}'");
            self.moved(&moved).await;
        }
    }

    fn oddsd(&self) -> Program {
        Program::new().with("DATABASE_URL", &self.database)
    }
}

async fn transitions(url: &str, race: &str) -> Vec<[String; 3]> {
    let answer = get(&format!("{url}/v1/events/{race}/transitions")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let text = |line: &Value, name: &str| line[name].as_str().unwrap_or("-").to_owned();
    let lines = answer.json()["transitions"].clone();
    let lines = lines.as_array().expect("a list").iter();
    lines
        .map(|line| {
            [
                text(line, "before"),
                text(line, "after"),
                text(line, "source"),
            ]
        })
        .collect()
}

fn lines(lines: &[[&str; 3]]) -> Vec<[String; 3]> {
    lines.iter().map(|line| line.map(str::to_owned)).collect()
}

#[tokio::test]
async fn status_moves_with_the_clock_while_the_feed_is_down() {
    let (stack, _) = DaemonStack::with_card().await;
    stack.with_races_that_are_due().await;
    stack.provider.fault(RacingFault::Status(503)).await;
    let mut daemon = stack.run();
    let url = daemon.url().await;
    answers(&format!("{url}/v1/odds/live/rac_0"), 200).await;
    answers(&format!("{url}/v1/odds/upcoming/rac_1"), 200).await;
    daemon.ensure_logged("1 event is live now").await;
    assert_eq!(daemon.count_log("Cycle complete"), 0);
    assert_eq!(
        transitions(&url, "rac_0").await,
        lines(&[["-", "scheduled", "clock"], ["scheduled", "live", "clock"]])
    );
    assert_eq!(
        transitions(&url, "rac_1").await,
        lines(&[
            ["-", "scheduled", "clock"],
            ["scheduled", "upcoming", "clock"]
        ])
    );
    let reported = daemon.stop().await.expect_code(0);
    assert_eq!(
        reported.count("event=status.changed"),
        reported.count("by=clock"),
        "{}",
        reported.text()
    );
}

/// The next poll is months away, and so is the first.
#[tokio::test]
async fn status_moves_with_the_clock_between_cron_ticks() {
    let (mut stack, _) = DaemonStack::with_card().await;
    stack.with_races_that_are_due().await;
    stack.settings = stack.settings.with("CRON", "0 0 0 29 2 *");
    let mut daemon = stack.run();
    let url = daemon.url().await;
    answers(&format!("{url}/v1/odds/live/rac_0"), 200).await;
    answers(&format!("{url}/v1/odds/upcoming/rac_1"), 200).await;
    let card = format!("{url}/v1/races/by-stage");
    let races =
        async || request(reqwest::Method::GET, &card, &FRESH).await.json()["total_races"].clone();
    assert_eq!(races().await, 3, "one is off");
    // A postponed start: the race is scheduled again.
    let put_back =
        "UPDATE oddsd.events SET starts_at = now() + interval '1 hour' WHERE key = 'rac_0'";
    stack.moved(put_back).await;
    assert_eq!(races().await, 4);
    let reported = daemon.stop().await.expect_code(0);
    assert_eq!(reported.count("Cycle complete"), 0, "{}", reported.text());
}

#[tokio::test]
async fn correction_reopens_an_event() {
    let (mut stack, mut card) = DaemonStack::with_card().await;
    card.races[0]["is_abandoned"] = true.into();
    stack.serve(&card);
    // The daemon reads it when it renews its lease.
    stack.settings = stack.settings.with("LEASE_SECONDS", "6");
    let oddsd = stack.oddsd();
    stack.run_once().await.expect_code(0);

    oddsd
        .run(&["correct", "rac_99", "--status", "live"])
        .await
        .expect_code(1)
        .expect_texts(&["rac_99", "/v1/sidebar"]);
    oddsd
        .run(&["correct", "rac_0", "--status", "suspendet"])
        .await
        .expect_code(2)
        .expect_texts(&["suspended"]);
    let dry = [
        "correct",
        "rac_0",
        "--status",
        "live",
        "--dry-run",
        "--json",
    ];
    let reported = oddsd.run(&dry).await.expect_code(0).json();
    assert_eq!(
        (&reported["before"], &reported["after"]),
        (&"abandoned".into(), &"live".into())
    );
    let asked = ["correct", "rac_0", "--status", "suspended", "--json"];
    let reported = oddsd.run(&asked).await.expect_code(0).json();
    assert_eq!(
        reported["state"], "waiting",
        "nobody is there to carry it out"
    );

    let before = card.clone();
    card.races[0]["is_abandoned"] = false.into();
    stack.serve(&card);
    let mut daemon = stack.run();
    let url = daemon.url().await;
    daemon.wait_for_log("1 event is suspended now").await;
    let path = format!("{url}/v1/odds/suspended/rac_0");
    answers(&path, 200).await;
    // A feed without a status for it does not undo it.
    daemon.wait_for_log("Cycle complete").await;
    assert_eq!(answers(&path, 200).await.json()["status"], "suspended");
    // The next reported status counts again.
    stack.serve(&before);
    daemon.wait_for_log("1 event is abandoned now").await;
    assert_eq!(
        transitions(&url, "rac_0").await,
        lines(&[
            ["-", "abandoned", "feed"],
            ["abandoned", "suspended", "correction"],
            ["suspended", "abandoned", "feed"],
        ])
    );
    // With a running daemon the correction is applied when the command ends, or soon after.
    let asked = ["correct", "rac_1", "--status", "cancelled"];
    oddsd.run(&asked).await.expect_code(0);
    daemon.wait_for_log("1 event is cancelled now").await;
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn events_are_filtered_by_status_and_league() {
    let stack = DaemonStack::build().await;
    let mut card = SmallCard::with_races(3);
    card.races[2]["is_abandoned"] = true.into();
    card.races[1]["region"] = "IRE".into();
    stack.serve(&card);
    let mut daemon = stack.run();
    let url = daemon.url().await;
    daemon.wait_for_log("Cycle complete").await;

    let odds = get(&format!("{url}/v1/odds/scheduled/rac_0")).await;
    let prices = request(
        reqwest::Method::GET,
        &format!("{url}/v1/events/rac_0/prices"),
        &FRESH,
    )
    .await;
    assert_eq!(odds.status, 200, "{}", odds.body);
    let (mut odds, mut prices) = (odds.json(), prices.json());
    for body in [&mut odds, &mut prices] {
        body["checked_at"] = Value::Null;
    }
    assert_eq!(odds, prices);
    let other = get(&format!("{url}/v1/odds/live/rac_0")).await;
    assert_eq!(other.status, 404);
    assert_eq!(other.json()["status"], "scheduled");
    assert!(
        other.body.contains("not live, it is scheduled"),
        "{}",
        other.body
    );
    assert_eq!(
        get(&format!("{url}/v1/odds/abandoned/rac_2")).await.status,
        200
    );
    assert_eq!(get(&format!("{url}/v1/odds/live/rac_9")).await.status, 404);
    assert_eq!(
        get(&format!("{url}/v1/odds/lively/rac_0")).await.status,
        404
    );
    assert_eq!(
        get(&format!("{url}/v1/events/rac_9/transitions"))
            .await
            .status,
        404
    );

    let ids = async |path: &str| {
        let list = get(&format!("{url}{path}")).await;
        assert_eq!(list.status, 200, "{}", list.body);
        let mut ids = Vec::new();
        for sport in list.json()["sports"].as_array().expect("sports") {
            for league in sport["leagues"].as_array().expect("leagues") {
                for event in league["events"].as_array().expect("events") {
                    let text = |value: &Value| value.as_str().expect("text").to_owned();
                    let words = [&sport["sport_id"], &league["league_id"], &event["event_id"]];
                    ids.push(words.map(text).join(" "));
                }
            }
        }
        ids
    };
    let (gb, ire) = ("horse_racing GB rac_0", "horse_racing IRE rac_1");
    assert_eq!(ids("/v1/sidebar").await, [gb, ire]);
    assert_eq!(ids("/v1/sidebar/horse_racing").await, [gb, ire]);
    assert_eq!(ids("/v1/sidebar/horse_racing/GB").await, [gb]);
    assert_eq!(ids("/v1/sidebar/chess").await, [""; 0]);

    for path in [
        "/v1/sidebar",
        "/v1/movers",
        "/v1/odds/live/rac_0",
        "/v1/events/rac_0/transitions",
    ] {
        let wrong = get(&format!("{url}{path}?limit=3")).await;
        assert_eq!(wrong.status, 400, "{path}: {}", wrong.body);
    }

    // Three times shorter at every bookmaker that has the best price, and a runner that drifts.
    for (shorter, longer) in [("3.25", "5.5"), ("3.2", "6"), ("3.1", "6.5")] {
        for bookmaker in 0..4 {
            card.odds(0, 0, bookmaker)["decimal"] = shorter.into();
        }
        card.odds(0, 2, 1)["decimal"] = longer.into();
        stack.serve(&card);
        daemon.wait_for_log("Cycle complete: 5 updated").await;
    }
    let movers = request(reqwest::Method::GET, &format!("{url}/v1/movers"), &FRESH).await;
    assert_eq!(movers.status, 200, "{}", movers.body);
    let movers = movers.json();
    let named = |list: &str| {
        let list = movers[list].as_array().expect("a list").iter();
        list.map(|mover| {
            let since = mover["since_open_percent"].to_string();
            (
                mover["selection_id"].as_str().expect("an id").to_owned(),
                since,
            )
        })
        .collect::<Vec<_>>()
    };
    assert_eq!(
        named("steamers"),
        [("hrs_0_0".to_owned(), "-6.06".to_owned())]
    );
    assert_eq!(
        named("drifters"),
        [("hrs_0_2".to_owned(), "22.64".to_owned())]
    );
    daemon.stop().await.expect_code(0);
}
