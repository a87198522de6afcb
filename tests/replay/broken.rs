//! Recordings told twice, of somebody else, torn, empty or not there.

use std::io::Write;

use super::{Backend, Home, count, lines};
use oddsd_testkit::recordings;

const LEAGUE: &str = "wnba_2026-08-04.jsonl.zst";

#[tokio::test]
async fn a_recording_replayed_again_writes_nothing_old_over_what_is_new() {
    let test = "a_recording_replayed_again_writes_nothing_old_over_what_is_new";
    let Some(folder) = recordings::folder(test, "odds_api_git_5min") else {
        return;
    };
    for backend in [Backend::Postgres, Backend::Sqlite] {
        let home = Home::new(backend).await;
        let file = folder.join(LEAGUE);
        home.replay(&file, "odds-api").await.is(0);
        let everything = "SELECT CAST(p.id AS text), CAST(p.decimal AS text), p.status, CAST(p.updated_at AS text), CAST(p.observed_at AS text) FROM prices p ORDER BY p.id";
        let before = home.rows(everything).await;
        let history = home.number("SELECT count(*) FROM price_history").await;

        let told = home.replay(&file, "odds-api").await.is(0).json();
        for kind in ["inserted", "reopened", "changed", "withdrawn", "rejected"] {
            assert_eq!(count(&told, kind), 0, "{kind} in {told}");
        }
        // Only the last poll is as new as what is stored.
        assert_eq!(count(&told, "unchanged"), 302, "{told}");
        let seen = count(&told, "prices_seen");
        assert_eq!(count(&told, "stale"), seen - 302, "{told}");
        assert_eq!(home.rows(everything).await, before, "{backend:?}");
        let now = home.number("SELECT count(*) FROM price_history").await;
        assert_eq!(now, history, "{backend:?}");
    }
}

#[tokio::test]
async fn a_torn_recording_is_stored_up_to_where_it_is_torn() {
    let test = "a_torn_recording_is_stored_up_to_where_it_is_torn";
    let Some(folder) = recordings::folder(test, "odds_api_git_5min") else {
        return;
    };
    let home = Home::new(Backend::Sqlite).await;
    let whole = lines(&folder.join(LEAGUE));
    let torn = home.oddsd.folder().join("torn.zst");
    // A frame a poll, and the last one cut off.
    let mut file = std::fs::File::create(&torn).expect("creates");
    let frame = |line: &str| zstd::encode_all(format!("{line}\n").as_bytes(), 1).expect("encodes");
    for line in &whole[..20] {
        file.write_all(&frame(line)).expect("writes");
    }
    let last = frame(&whole[20]);
    file.write_all(&last[..last.len() / 2]).expect("writes");
    drop(file);

    let told = home.replay(&torn, "odds-api").await.is(1);
    let told = told.says(&["torn.zst", "ends badly", "what came before is good"]);
    assert_eq!(count(&told.json(), "snapshots"), 20, "{told}");
    let open = home.number("SELECT count(*) FROM prices WHERE status = 'open'");
    assert!(open.await > 100, "{told}");
}

#[tokio::test]
async fn a_line_that_cannot_be_read_costs_that_line() {
    let test = "a_line_that_cannot_be_read_costs_that_line";
    let Some(folder) = recordings::folder(test, "odds_api_git_5min") else {
        return;
    };
    let home = Home::new(Backend::Sqlite).await;
    let mut lines = lines(&folder.join(LEAGUE));
    lines.truncate(5);
    lines.insert(2, lines[2][..300].to_owned());
    let file = home.oddsd.folder().join("one-bad-line.jsonl");
    std::fs::write(&file, lines.join("\n")).expect("writes");
    let told = home.replay(&file, "odds-api").await.is(0).json();
    assert_eq!(count(&told, "snapshots"), 5);
    assert_eq!(count(&told, "rejected"), 1, "{told}");
}

#[tokio::test]
async fn the_wrong_feed_is_named_and_so_is_the_right_one() {
    let home = Home::new(Backend::Sqlite).await;
    let file = home.oddsd.folder().join("league.jsonl");
    let line = r#"{"fetched_at":"2026-08-04T00:00:00Z","body":[]}"#;
    std::fs::write(&file, line).expect("writes");
    for (feed, words) in [
        ("racing-api", "--feed odds-api"),
        ("betfair", "--feed odds-api"),
        ("simulator", "--feed racing-api"),
    ] {
        home.replay(&file, feed).await.is(78).says(&[words]);
    }
    home.replay(&file, "odds-api").await.is(0);
}

#[tokio::test]
async fn no_file_and_an_empty_file_say_what_is_missing() {
    let home = Home::new(Backend::Sqlite).await;
    let empty = home.oddsd.folder().join("empty.jsonl");
    let told = home.replay(&empty, "odds-api").await.is(1);
    told.says(&["empty.jsonl", "cannot open", "No such file"]);
    std::fs::write(&empty, "").expect("writes");
    let told = home.replay(&empty, "odds-api").await.is(1);
    told.says(&["empty.jsonl", "it is empty", "oddsd record"]);
    // Neither made a database on the way.
    assert!(!home.oddsd.folder().join("odds.db").exists());
}
