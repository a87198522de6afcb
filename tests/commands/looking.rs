//! `status` and `tail`, through the database alone: the daemon has no port.

use serde_json::Value;

use super::{on_postgres, simulated};
use crate::harness::program::Oddsd;

#[tokio::test]
async fn what_a_worker_without_a_port_did_is_seen_through_postgres() {
    looked_at(on_postgres().await).await;
}

#[tokio::test]
async fn what_a_worker_without_a_port_did_is_seen_through_sqlite() {
    looked_at(simulated()).await;
}

async fn looked_at(oddsd: Oddsd) {
    oddsd.run(&["once"]).await.is(0);
    oddsd.run(&["invalidate", "--event", "no-such-race"]).await;
    let status = oddsd.run(&["status", "--json"]).await.is(0).json();
    let inserted = status["last_cycle"]["inserted"].as_i64().expect("a count");
    assert!(inserted > 1_000, "{status}");
    assert_eq!(status["open_prices"], inserted, "{status}");
    let told = oddsd.run(&["status"]).await.is(0);
    told.says(&[
        "open prices",
        "outbox",
        "oddsd run",
        &format!("{inserted} inserted"),
    ]);

    let tail = oddsd.run(&["tail", "--for", "100ms", "--json"]).await.is(0);
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

    // Filters leave only removals, and of those the ones asked for.
    let rule = ["tail", "--for", "100ms", "--json", "--rule", "live-odds"];
    let lines = oddsd.run(&rule).await.is(0).json_lines();
    assert!(!lines.is_empty() && lines.len() < of("removal").len());
    for line in &lines {
        let rules = line["removal"]["rule"].as_str().expect("rules");
        assert!(rules.split(',').any(|rule| rule == "live-odds"), "{line}");
    }
    let event = lines[0]["removal"]["entity"].as_str().expect("an event");
    let of_event = ["tail", "--for", "100ms", "--json", "--event", event];
    let lines = oddsd.run(&of_event).await.is(0).json_lines();
    assert!(!lines.is_empty());
    for line in &lines {
        assert_eq!(line["removal"]["entity"], event, "{line}");
    }
    let none = ["tail", "--for", "100ms", "--json", "--event", "nobody"];
    assert_eq!(oddsd.run(&none).await.is(0).stdout, "");
    let nothing = ["tail", "--for", "100ms", "--last", "0"];
    assert_eq!(oddsd.run(&nothing).await.is(0).stdout, "");
    let human = oddsd.run(&["tail", "--for", "100ms"]).await.is(0);
    human.says(&["cycle 1 ", "removed ", "rule live-odds"]);
}

#[tokio::test]
async fn before_anything_is_there_each_says_what_to_do() {
    let oddsd = simulated();
    for args in [
        &["status"][..],
        &["tail"],
        &["invalidate", "races:by-stage:v1"],
    ] {
        let told = oddsd.run(args).await.is(78);
        told.says(&["there is no database oddsd.db", "oddsd run", "DATABASE_URL"]);
    }
    assert!(!oddsd.folder().join("oddsd.db").exists());
    let empty = on_postgres().await;
    for args in [&["status"][..], &["tail"]] {
        empty.run(args).await.is(78).says(&["oddsd migrate"]);
    }
}

#[tokio::test]
async fn a_healthcheck_tells_nobody_there_from_nobody_wanted() {
    let port = oddsd_testkit::ports::free_port();
    let nobody = simulated().with("LISTEN", format!("127.0.0.1:{port}"));
    let told = nobody.run(&["healthcheck"]).await.is(69);
    told.says(&["does not answer", "oddsd run"]);
    let told = simulated().run(&["healthcheck"]).await.is(78);
    told.says(&["LISTEN=off", "oddsd status"]);
}
