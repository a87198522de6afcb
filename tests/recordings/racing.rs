//! Recordings of The Racing API's cards.

use std::path::Path;

use chrono::{DateTime, Utc};
use oddsd_core::model::Scope;
use oddsd_feeds::recording::{RecordedFeed, Recorder};
use oddsd_feeds::replay::Replay;
use oddsd_feeds::simulator::{RaceDay, RaceDaySize};

use super::{shipped, snapshots, t0};
use oddsd_testkit::recordings;

/// The shipped card: the simulated day, polled around its scripted events.
const CARD_SIZE: RaceDaySize = RaceDaySize {
    races: 2,
    bookmakers: 2,
};
const CARD_POLLS: [&str; 6] = ["13:00", "13:16", "13:22", "13:36", "13:43", "13:58"];

fn record_simulated_day(path: &Path) {
    let day = "2026-01-05".parse().expect("a date");
    let mut simulated = RaceDay::new(7, day, CARD_SIZE);
    let scope = Scope::Days {
        days: vec![day],
        regions: Vec::new(),
    };
    let mut recorder = Recorder::create(path).expect("creates");
    for time in CARD_POLLS {
        let at: DateTime<Utc> = format!("{day}T{time}:00Z").parse().expect("a time");
        let bodies = [simulated.card_at(at)];
        recorder
            .write(RecordedFeed::RacingApi, at, &scope, &bodies)
            .expect("writes");
    }
}

/// A difference means that the simulator gives another day for the same seed, or that the recording
/// format has changed. If that is intended, write the file anew: delete it and set
/// `ODDSD_WRITE_TEST_DATA=1`.
#[test]
fn shipped_card_is_the_simulated_day() {
    let file = shipped("racing_api").join("card.jsonl.zst");
    if std::env::var_os("ODDSD_WRITE_TEST_DATA").is_some() {
        record_simulated_day(&file);
    }
    let temp = tempfile::tempdir().expect("a folder");
    let again = temp.path().join("card.jsonl.zst");
    record_simulated_day(&again);
    let text = |path: &Path| {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        String::from_utf8(zstd::decode_all(&*bytes).expect("zstd")).expect("UTF-8")
    };
    assert!(text(&file) == text(&again), "{} differs", file.display());
}

#[test]
fn shipped_card_replays_every_price() {
    let replayed = snapshots(&shipped("racing_api").join("card.jsonl.zst"));
    assert_eq!(replayed.len(), CARD_POLLS.len());
    for snapshot in replayed {
        assert!(snapshot.rejected.is_empty(), "{}", snapshot.rejected);
        assert_eq!(snapshot.events.len(), CARD_SIZE.races);
        for race in snapshot.events {
            let rows = race.selections.len() * CARD_SIZE.bookmakers;
            assert_eq!(race.prices.len(), rows, "{}", race.event.id);
        }
    }
}

#[test]
fn private_cards_replay_every_price() {
    let Some(folder) = recordings::folder("private_cards_replay_every_price", "racing_api") else {
        return;
    };
    let temp = tempfile::tempdir().expect("a folder");
    for (file, day, races, prices) in [
        (
            "racecards_pro_2025-10-13_hereford.json",
            "2025-10-13",
            1,
            224,
        ),
        ("racecards_pro_2025-10-14.json", "2025-10-14", 2, 280),
        ("racecards_standard_2025-10-14.json", "2025-10-14", 2, 280),
    ] {
        let mut replay = Replay::open(folder.join(file)).expect("opens");
        assert_eq!(replay.feed(), RecordedFeed::RacingApi);
        let replayed = replay.next().expect("reads").expect("one");
        assert!(replayed.rejected.is_empty(), "{}", replayed.rejected);
        let snapshot = replayed.snapshot.expect("cards");
        assert!(snapshot.rejected.is_empty(), "{}", snapshot.rejected);
        let days = vec![day.parse().expect("a date")];
        assert!(matches!(&snapshot.scope, Scope::Days { days: d, .. } if *d == days));
        assert_eq!(snapshot.events.len(), races, "{file}");
        let listed: usize = snapshot.events.iter().map(|e| e.prices.len()).sum();
        assert_eq!(listed, prices, "{file}");
        assert!(replay.next().expect("reads").is_none());

        let copy = temp.path().join(file).with_extension("zst");
        if copy.exists() {
            continue;
        }
        let mut recorder = Recorder::create(&copy).expect("creates");
        recorder
            .write(
                RecordedFeed::RacingApi,
                snapshot.as_of,
                &snapshot.scope,
                &replayed.bodies,
            )
            .expect("writes");
        drop(recorder);
        assert_eq!(snapshots(&copy), [snapshot]);
    }
    // Results are not racecards.
    let error = Replay::open(folder.join("results_2025-10-13.json")).err();
    assert!(format!("{:#}", error.expect("refuses")).contains("unknown_shape"));
}

#[test]
fn record_that_lacks_pages_has_the_scope_of_the_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("partial.jsonl");
    let mut recorder = Recorder::create(&path).expect("creates");
    let card = |id: &str, date: &str| {
        format!(
            r#"{{"racecards":[{{"race_id":"{id}","date":"{date}","region":"GB","runners":[]}}],"total":1}}"#
        )
    };
    let days: Vec<chrono::NaiveDate> = ["2025-10-13", "2025-10-14"]
        .map(|day| day.parse().expect("a date"))
        .to_vec();
    let scope = |days: &[chrono::NaiveDate]| Scope::Days {
        days: days.to_vec(),
        regions: vec!["gb".into()],
    };
    let events = Scope::Events(vec!["rac_1".into(), "rac_2".into()]);
    let both = [card("rac_1", "2025-10-13"), card("rac_2", "2025-10-14")];
    for (scope, bodies) in [
        (&scope(&days), &both[..]),
        (&scope(&days), &both[1..]),
        (&scope(&days), &[]),
        (&events, &both[..1]),
    ] {
        recorder
            .write(RecordedFeed::RacingApi, t0(), scope, bodies)
            .expect("writes");
    }
    let scopes: Vec<Scope> = snapshots(&path).into_iter().map(|s| s.scope).collect();
    assert_eq!(
        scopes,
        [
            scope(&days),
            scope(&days[1..]),
            scope(&[]),
            Scope::Events(vec!["rac_1".into()]),
        ]
    );
}
