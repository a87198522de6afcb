//! Recorded racecards.

use oddsd::feed::recording::{RecordedFeed, Recorder};
use oddsd::feed::replay::Replay;
use oddsd::model::Scope;

use super::{snapshots, t0};
use oddsd_testkit::recordings;

#[test]
fn recorded_racecards_replay() {
    let Some(folder) = recordings::folder("recorded_racecards_replay", "racing_api") else {
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
        assert!(replayed.set_aside.is_empty(), "{}", replayed.set_aside);
        let snapshot = replayed.snapshot.expect("cards");
        assert!(snapshot.rejects.is_empty(), "{}", snapshot.rejects);
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
    // Results are no racecards.
    let error = Replay::open(folder.join("results_2025-10-13.json")).err();
    assert!(format!("{:#}", error.expect("refuses")).contains("unknown_shape"));
}

#[test]
fn a_record_that_lacks_pages_speaks_for_those_it_has() {
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
