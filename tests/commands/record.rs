//! `record`, and `replay` of its files.

use super::simulated;
use crate::harness::program::Program;
use oddsd_testkit::odds_provider::{OddsProvider, OddsReply};
use oddsd_testkit::racing_provider::{PASSWORD, RacingFault, RacingProvider, USERNAME};

#[tokio::test]
async fn recorded_simulated_day_replays_with_equal_counts() {
    for name in ["day.jsonl", "day.jsonl.zst"] {
        let oddsd = simulated().with("CADENCE", "*=1s");
        let twice = |text: &str| text.matches(" recorded ").count() >= 2;
        let output = oddsd
            .run_until_output(&["record", "--out", name], twice)
            .await;
        let output = output.expect_code(0).expect_texts(&[
            "answers recorded",
            "oddsd replay",
            "--feed racing-api",
        ]);
        // "09:15:51 recorded 57 events, 12796 prices", once an answer.
        let answers = output.stderr.lines();
        let answers = answers.filter_map(|line| line.strip_suffix(" prices")?.rsplit(' ').next());
        let prices: u64 = answers.map(|n| n.parse::<u64>().expect("a count")).sum();
        assert!(prices > 1_000, "{output}");
        let args = ["replay", name, "--feed", "racing-api", "--json", "--verify"];
        let replayed = oddsd.run(&args).await.expect_code(0).json();
        assert_eq!(replayed["prices_seen"], prices, "{output}\n{replayed}");
        for none in ["rejected", "stale", "withdrawn"] {
            assert_eq!(replayed[none], 0, "{output}\n{replayed}");
        }

        // A recording cannot be made again, so it is never overwritten.
        let before = std::fs::read(oddsd.folder().join(name)).expect("it is there");
        let again = oddsd.run(&["record", "--out", name, "--for", "1s"]).await;
        again
            .expect_code(1)
            .expect_texts(&[name, "never overwritten", "name a new one"]);
        let after = std::fs::read(oddsd.folder().join(name)).expect("it is there");
        assert_eq!(before, after);
    }
}

#[tokio::test]
async fn recorded_league_has_the_exact_bodies() {
    let provider = OddsProvider::start().await;
    let body = r#"[{"id":"g1","sport_key":"baseball_mlb","sport_title":"MLB","commence_time":"2099-08-04T23:05:00Z","home_team":"Red Sox","away_team":"Yankees","bookmakers":[{"key":"fanduel","title":"FanDuel","last_update":"2026-08-03T23:59:00Z","markets":[{"key":"h2h","outcomes":[{"name":"Red Sox","price":1.50},{"name":"Yankees","price":2.6}]}]}]}]"#;
    provider.push_reply(OddsReply::complete(200, body));
    let oddsd = Program::new()
        .with("FEED", "odds-api")
        .with("ODDS_API_URL", &provider.url)
        .with("ODDS_API_KEY", "k3y-of-a-story")
        .with("ODDS_API_SPORT", "baseball_mlb");
    let args = ["record", "--out", "league.jsonl"];
    let once = |text: &str| text.contains(" recorded ");
    let output = oddsd.run_until_output(&args, once).await.expect_code(0);
    output.expect_texts(&["1 answers recorded"]);
    let text = std::fs::read_to_string(oddsd.folder().join("league.jsonl")).expect("it is there");
    assert!(!text.contains("k3y-of-a-story"), "{text}");
    let record: serde_json::Value = serde_json::from_str(&text).expect("one line of JSON");
    assert_eq!(record["bodies"], serde_json::json!([body]));
    let replay = ["replay", "league.jsonl", "--json"];
    let output = oddsd.run(&replay).await.expect_code(0).json();
    assert_eq!(output["inserted"], 2, "{output}");
}

#[tokio::test]
async fn refused_recording_leaves_no_file() {
    let provider = RacingProvider::start().await;
    provider.fault(RacingFault::Unauthorized).await;
    let oddsd = Program::new()
        .with("RACING_API_URL", provider.base_url())
        .with("RACING_API_USERNAME", USERNAME)
        .with("RACING_API_PASSWORD", PASSWORD);
    let args = ["record", "--out", "day.jsonl"];
    let output = oddsd.run(&args).await.expect_code(78);
    output.expect_texts(&["401", "RACING_API_USERNAME"]);
    assert!(!oddsd.folder().join("day.jsonl").exists());
    provider.fault(RacingFault::Status(503)).await;
    let failed = |text: &str| text.contains("not recorded");
    let output = oddsd.run_until_output(&args, failed).await.expect_code(1);
    output.expect_texts(&["503", "nothing was recorded", "oddsd check"]);
    assert!(!oddsd.folder().join("day.jsonl").exists());
}
