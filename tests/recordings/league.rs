//! Recordings of The Odds API against their independent counts, and recorded again.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use oddsd_core::model::{EventId, Offer, PriceKey};
use oddsd_feeds::recording::{RecordedFeed, Recorder};
use oddsd_feeds::replay::Replay;
use serde_json::{Value, json};

use super::{OpenPrices, json_file, shipped};
use oddsd_testkit::recordings;

#[test]
fn shipped_league_matches_truth() {
    assert_leagues(&shipped("odds_api"), &["league"]);
}

#[test]
fn private_leagues_match_truth() {
    let test = "private_leagues_match_truth";
    let Some(folder) = recordings::folder(test, "odds_api_git_5min") else {
        return;
    };
    let leagues = ["mlb_2026-08-04", "ncaaf_2026-08-04_6h", "wnba_2026-08-04"];
    assert_leagues(&folder, &leagues);
}

fn assert_leagues(folder: &Path, leagues: &[&str]) {
    for name in leagues {
        let truth = json_file(&folder.join(format!("{name}.truth.json")));
        let path = folder.join(format!("{name}.jsonl.zst"));
        let mut replay = Replay::open(&path).expect("opens");
        assert_eq!(replay.feed(), RecordedFeed::OddsApi);
        let mut open = OpenPrices::default();
        let (mut polls, mut seen, mut last_body) = (0, 0, String::new());
        let (mut events, mut bookmakers, mut selections) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        while let Some(replayed) = replay.next().expect("reads") {
            assert!(replayed.rejected.is_empty(), "{}", replayed.rejected);
            let snapshot = replayed.snapshot.expect("a snapshot");
            assert!(snapshot.rejected.is_empty(), "{}", snapshot.rejected);
            polls += 1;
            for event in &snapshot.events {
                seen += event.prices.len() as u64;
                events.insert(event.event.id.clone());
                selections.extend(
                    event
                        .prices
                        .iter()
                        .map(|price| (event.event.id.clone(), price.key.clone())),
                );
            }
            bookmakers.extend(snapshot.bookmakers.iter().map(|b| b.id.clone()));
            open.apply(&snapshot);
            last_body = replayed.bodies.concat();
        }
        let counted = json!({
            "snapshots": polls, "events": events.len(), "bookmakers": bookmakers.len(),
            "distinct_selections": selections.len(), "price_observations": seen,
            "inserts": open.inserts, "changes": open.changes,
            "removals": open.removals, "unchanged": open.unchanged,
        });
        for (count, value) in counted.as_object().expect("object") {
            assert_eq!(value, &truth[count], "{name} {count}");
        }
        assert_eq!(open.open, outcomes(&last_body), "{name}: the last poll");
    }
}

/// The prices of a body, read without the parser.
fn outcomes(body: &str) -> HashMap<(EventId, PriceKey), Offer> {
    let list = |value: &Value, name: &str| value[name].as_array().expect("list").clone();
    let text = |value: &Value, name: &str| value[name].as_str().expect("text").to_owned();
    let mut open = HashMap::new();
    let body: Value = serde_json::from_str(body).expect("JSON");
    for event in body.as_array().expect("events") {
        for bookmaker in list(event, "bookmakers") {
            for market in list(&bookmaker, "markets") {
                for outcome in list(&market, "outcomes") {
                    let price = outcome["price"].as_i64().expect("American");
                    let mut offer = Offer::american(price).expect("odds");
                    if let Some(point) = outcome.get("point") {
                        offer.point = Some(point.to_string().parse().expect("point"));
                    }
                    let key = PriceKey {
                        market: (*text(&market, "key")).into(),
                        selection: (*text(&outcome, "name")).into(),
                        bookmaker: (*text(&bookmaker, "key")).into(),
                    };
                    let id = EventId::new(text(event, "id"));
                    assert_eq!(open.insert((id, key), offer), None);
                }
            }
        }
    }
    open
}

#[test]
fn shipped_league_recorded_again_is_the_same() {
    assert_recorded_again(&shipped("odds_api").join("league.jsonl.zst"), 36);
}

#[test]
fn private_league_recorded_again_is_the_same() {
    let test = "private_league_recorded_again_is_the_same";
    let Some(folder) = recordings::folder(test, "odds_api_git_5min") else {
        return;
    };
    assert_recorded_again(&folder.join("wnba_2026-08-04.jsonl.zst"), 40);
}

fn assert_recorded_again(file: &Path, polls: usize) {
    let temp = tempfile::tempdir().expect("a folder");
    let copy = temp.path().join("copy.jsonl.zst");
    let mut recorder = Recorder::create(&copy).expect("creates");
    let mut replay = Replay::open(file).expect("opens");
    let mut first = Vec::new();
    for _ in 0..polls {
        let replayed = replay.next().expect("reads").expect("more");
        let snapshot = replayed.snapshot.expect("a snapshot");
        recorder
            .write(
                replay.feed(),
                snapshot.as_of,
                &snapshot.scope,
                &replayed.bodies,
            )
            .expect("writes");
        first.push(snapshot);
    }
    // As after a crash, nothing closes the file.
    std::mem::forget(recorder);
    let mut replay = Replay::open(&copy).expect("opens");
    for snapshot in first {
        let replayed = replay.next().expect("reads").expect("more");
        assert_eq!(replayed.snapshot, Some(snapshot));
    }
}
