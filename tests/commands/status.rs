//! `status`, `tail` and `healthcheck`. The first two read the database of a daemon without a port.

use serde_json::Value;

use super::{on_postgres, simulated};
use crate::harness::program::Program;

#[tokio::test]
async fn status_and_tail_on_postgres() {
    shows_cycles_and_removals(on_postgres().await).await;
}

#[tokio::test]
async fn status_and_tail_on_sqlite() {
    shows_cycles_and_removals(simulated()).await;
}

async fn shows_cycles_and_removals(oddsd: Program) {
    oddsd.run(&["once"]).await.expect_code(0);
    oddsd.run(&["invalidate", "--event", "no-such-race"]).await;
    let status = oddsd.run(&["status", "--json"]).await.expect_code(0).json();
    let inserted = status["last_cycle"]["inserted"].as_i64().expect("a count");
    assert!(inserted > 1_000, "{status}");
    assert_eq!(status["open_prices"], inserted, "{status}");
    let output = oddsd.run(&["status"]).await.expect_code(0);
    output.expect_texts(&[
        "open prices",
        "outbox",
        "oddsd run",
        &format!("{inserted} inserted"),
    ]);

    let tail = oddsd
        .run(&["tail", "--for", "100ms", "--json"])
        .await
        .expect_code(0);
    let of = |kind: &str| -> Vec<Value> {
        let lines = tail.json_lines().into_iter();
        lines.filter(|line| line["type"] == kind).collect()
    };
    assert_eq!(of("cycle").len(), 1, "{tail}");
    assert_eq!(of("cycle")[0]["cycle"]["inserted"], inserted);
    assert!(!of("removal").is_empty(), "{tail}");
    let keys = of("removal")[0]["removal"]["targets"].clone();
    let keys = keys.as_array().expect("keys");
    assert!(keys.contains(&"races:by-stage:v1".into()), "{tail}");

    // With a filter only the matching removals are shown.
    let rule = ["tail", "--for", "100ms", "--json", "--rule", "live-odds"];
    let lines = oddsd.run(&rule).await.expect_code(0).json_lines();
    assert!(!lines.is_empty() && lines.len() < of("removal").len());
    for line in &lines {
        let rules = line["removal"]["rule"].as_str().expect("rules");
        assert!(rules.split(',').any(|rule| rule == "live-odds"), "{line}");
    }
    let event = lines[0]["removal"]["entity"].as_str().expect("an event");
    let of_event = ["tail", "--for", "100ms", "--json", "--event", event];
    let lines = oddsd.run(&of_event).await.expect_code(0).json_lines();
    assert!(!lines.is_empty());
    for line in &lines {
        assert_eq!(line["removal"]["entity"], event, "{line}");
    }
    let none = [
        "tail",
        "--for",
        "100ms",
        "--json",
        "--event",
        "no-such-event",
    ];
    assert_eq!(oddsd.run(&none).await.expect_code(0).stdout, "");
    let nothing = ["tail", "--for", "100ms", "--last", "0"];
    assert_eq!(oddsd.run(&nothing).await.expect_code(0).stdout, "");
    let human = oddsd.run(&["tail", "--for", "100ms"]).await.expect_code(0);
    human.expect_texts(&["cycle 1 ", "removed ", "rule live-odds"]);
}

#[tokio::test]
async fn missing_database_is_named_with_the_next_step() {
    let oddsd = simulated();
    for args in [
        &["status"][..],
        &["tail"],
        &["invalidate", "races:by-stage:v1"],
    ] {
        let output = oddsd.run(args).await.expect_code(78);
        output.expect_texts(&["there is no database oddsd.db", "oddsd run", "DATABASE_URL"]);
    }
    assert!(!oddsd.folder().join("oddsd.db").exists());
    let empty = on_postgres().await;
    for args in [&["status"][..], &["tail"]] {
        empty
            .run(args)
            .await
            .expect_code(78)
            .expect_texts(&["oddsd migrate"]);
    }
}

#[tokio::test]
async fn healthcheck_without_a_daemon_is_69_and_without_a_port_78() {
    let port = oddsd_testkit::ports::free_port();
    let unreachable = simulated().with("LISTEN", format!("127.0.0.1:{port}"));
    let output = unreachable.run(&["healthcheck"]).await.expect_code(69);
    output.expect_texts(&["does not answer", "oddsd run"]);
    let output = simulated().run(&["healthcheck"]).await.expect_code(78);
    output.expect_texts(&["LISTEN=off", "oddsd status"]);
}
