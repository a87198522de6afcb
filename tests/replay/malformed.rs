//! Recordings that are replayed twice, truncated, malformed, of another feed, empty or missing.

use std::io::Write;
use std::path::Path;

use super::{Backend, ReplayTarget, count, lines};
use crate::recordings::shipped;
use oddsd_testkit::recordings;

const SHIPPED: &str = "league.jsonl.zst";
const PRIVATE: &str = "wnba_2026-08-04.jsonl.zst";

#[tokio::test]
async fn shipped_league_replayed_again_overwrites_nothing() {
    assert_replayed_again(&shipped("odds_api").join(SHIPPED)).await;
}

#[tokio::test]
async fn private_league_replayed_again_overwrites_nothing() {
    let test = "private_league_replayed_again_overwrites_nothing";
    if let Some(folder) = recordings::folder(test, "odds_api_git_5min") {
        assert_replayed_again(&folder.join(PRIVATE)).await;
    }
}

async fn assert_replayed_again(file: &Path) {
    let last_poll = outcomes(lines(file).last().expect("a poll"));
    for backend in [Backend::Postgres, Backend::Sqlite] {
        let target = ReplayTarget::new(backend).await;
        target.replay(file, "odds-api").await.expect_code(0);
        let everything = "SELECT CAST(p.id AS text), CAST(p.decimal AS text), p.status, CAST(p.updated_at AS text), CAST(p.observed_at AS text) FROM prices p ORDER BY p.id";
        let before = target.rows(everything).await;
        let history = target.number("SELECT count(*) FROM price_history").await;

        let outcome = target.replay(file, "odds-api").await.expect_code(0).json();
        for kind in ["inserted", "reopened", "changed", "withdrawn", "rejected"] {
            assert_eq!(count(&outcome, kind), 0, "{kind} in {outcome}");
        }
        // Only the last poll is as new as what is stored.
        assert_eq!(count(&outcome, "unchanged"), last_poll, "{outcome}");
        let seen = count(&outcome, "prices_seen");
        assert_eq!(count(&outcome, "stale"), seen - last_poll, "{outcome}");
        assert_eq!(target.rows(everything).await, before, "{backend:?}");
        let now = target.number("SELECT count(*) FROM price_history").await;
        assert_eq!(now, history, "{backend:?}");
    }
}

/// Prices in one poll of The Odds API.
fn outcomes(poll: &str) -> u64 {
    poll.matches("\"price\":").count() as u64
}

#[tokio::test]
async fn shipped_league_is_stored_up_to_its_truncation() {
    assert_truncated(&shipped("odds_api").join(SHIPPED)).await;
}

#[tokio::test]
async fn private_league_is_stored_up_to_its_truncation() {
    let test = "private_league_is_stored_up_to_its_truncation";
    if let Some(folder) = recordings::folder(test, "odds_api_git_5min") {
        assert_truncated(&folder.join(PRIVATE)).await;
    }
}

async fn assert_truncated(file: &Path) {
    let target = ReplayTarget::new(Backend::Sqlite).await;
    let whole = lines(file);
    let torn = target.oddsd.folder().join("torn.zst");
    // One frame per poll, the last one cut off.
    let mut file = std::fs::File::create(&torn).expect("creates");
    let frame = |line: &str| zstd::encode_all(format!("{line}\n").as_bytes(), 1).expect("encodes");
    for line in &whole[..20] {
        file.write_all(&frame(line)).expect("writes");
    }
    let last = frame(&whole[20]);
    file.write_all(&last[..last.len() / 2]).expect("writes");
    drop(file);

    let outcome = target.replay(&torn, "odds-api").await.expect_code(1);
    let outcome = outcome.expect_texts(&["torn.zst", "ends badly", "what came before is good"]);
    assert_eq!(count(&outcome.json(), "snapshots"), 20, "{outcome}");
    let open = target.number("SELECT count(*) FROM prices WHERE status = 'open'");
    assert_eq!(open.await as u64, outcomes(&whole[19]), "{outcome}");
}

#[tokio::test]
async fn unreadable_line_costs_only_that_line() {
    assert_unreadable_line(&shipped("odds_api").join(SHIPPED)).await;
}

#[tokio::test]
async fn unreadable_line_in_a_private_league_costs_only_that_line() {
    let test = "unreadable_line_in_a_private_league_costs_only_that_line";
    if let Some(folder) = recordings::folder(test, "odds_api_git_5min") {
        assert_unreadable_line(&folder.join(PRIVATE)).await;
    }
}

async fn assert_unreadable_line(file: &Path) {
    let target = ReplayTarget::new(Backend::Sqlite).await;
    let mut lines = lines(file);
    lines.truncate(5);
    lines.insert(2, lines[2][..300].to_owned());
    let file = target.oddsd.folder().join("one-bad-line.jsonl");
    std::fs::write(&file, lines.join("\n")).expect("writes");
    let outcome = target.replay(&file, "odds-api").await.expect_code(0).json();
    assert_eq!(count(&outcome, "snapshots"), 5);
    assert_eq!(count(&outcome, "rejected"), 1, "{outcome}");
}

#[tokio::test]
async fn exchange_recording_without_prices_says_what_it_holds() {
    let target = ReplayTarget::new(Backend::Sqlite).await;
    let file = target.oddsd.folder().join("basic.jsonl");
    let replay = async |rc: &str| {
        let line = format!(
            r#"{{"op":"mcm","pt":1719410400000,"mc":[{{"id":"1.2","marketDefinition":{{"eventTypeId":"7","marketType":"WIN","status":"OPEN","runners":[{{"id":1,"status":"ACTIVE"}}]}},"rc":[{rc}]}}]}}"#
        );
        std::fs::write(&file, line).expect("writes");
        target.replay(&file, "betfair").await.expect_code(0)
    };
    let volumes = r#"{"id":1,"ltp":2.5,"trd":[[2.5,9]]},{"id":1,"ltp":2.6,"spb":[[1000,9]]}"#;
    let held = "the recording holds 2× ltp, 1× spb, 1× trd";
    replay(volumes)
        .await
        .expect_texts(&["replay.no_prices", held]);
    replay("").await.expect_texts(&["replay.no_prices"]);
    let outcome = replay(r#"{"id":1,"ltp":2.5,"bdatb":[[0,2.4,9]]}"#).await;
    assert!(
        !outcome.to_string().contains("replay.no_prices"),
        "{outcome}"
    );
    assert_eq!(count(&outcome.json(), "inserted"), 1, "{outcome}");
}

#[tokio::test]
async fn recording_of_another_feed_is_refused_with_the_right_name() {
    let target = ReplayTarget::new(Backend::Sqlite).await;
    let file = target.oddsd.folder().join("league.jsonl");
    let line = r#"{"fetched_at":"2026-08-04T00:00:00Z","body":[]}"#;
    std::fs::write(&file, line).expect("writes");
    for (feed, words) in [
        ("racing-api", "--feed odds-api"),
        ("betfair", "--feed odds-api"),
        ("simulator", "--feed racing-api"),
    ] {
        target
            .replay(&file, feed)
            .await
            .expect_code(78)
            .expect_texts(&[words]);
    }
    target.replay(&file, "odds-api").await.expect_code(0);
}

#[tokio::test]
async fn missing_and_empty_file_are_refused_with_the_reason() {
    let target = ReplayTarget::new(Backend::Sqlite).await;
    let empty = target.oddsd.folder().join("empty.jsonl");
    let outcome = target.replay(&empty, "odds-api").await.expect_code(1);
    outcome.expect_texts(&["empty.jsonl", "cannot open", "No such file"]);
    std::fs::write(&empty, "").expect("writes");
    let outcome = target.replay(&empty, "odds-api").await.expect_code(1);
    outcome.expect_texts(&["empty.jsonl", "it is empty", "oddsd record"]);
    // Neither has created a database.
    assert!(!target.oddsd.folder().join("odds.db").exists());
}
