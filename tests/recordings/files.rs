//! Recording files: complete, truncated, compressed, malformed.

use std::io::Write;

use oddsd_core::model::Scope;
use oddsd_feeds::FeedError;
use oddsd_feeds::odds_api::{OddsFormat, parse_odds};
use oddsd_feeds::recording::{RecordedFeed, Recorder, Recording, RecordingEntry};
use oddsd_feeds::replay::Replay;

use super::exchange::MCM;
use super::{T0, game, snapshots, t0};

#[test]
fn recorded_answers_replay_unchanged() {
    let folder = tempfile::tempdir().expect("a folder");
    let league = Scope::League("baseball_mlb".into());
    let bodies = [game("-110"), game("-115"), "[]".into(), game("\"junk\"")];
    let scopes = [
        league.clone(),
        Scope::Events(vec!["g1".into()]),
        league,
        Scope::Listed,
    ];
    let at = |n: usize| t0() + chrono::TimeDelta::minutes(5 * n as i64);
    for name in ["day.jsonl", "day.jsonl.zst"] {
        let path = folder.path().join(name);
        let mut recorder = Recorder::create(&path).expect("creates");
        for (n, body) in bodies.iter().enumerate() {
            recorder
                .write(
                    RecordedFeed::OddsApi,
                    at(n),
                    &scopes[n],
                    std::slice::from_ref(body),
                )
                .expect("writes");
        }
        drop(recorder);
        let replayed = snapshots(&path);
        assert_eq!(replayed.len(), bodies.len());
        for (n, snapshot) in replayed.into_iter().enumerate() {
            let format = OddsFormat::American;
            let parsed = parse_odds(&bodies[n], at(n), "baseball_mlb", format).expect("parses");
            let mut live = parsed.into_snapshot(at(n), "baseball_mlb");
            live.scope = scopes[n].clone();
            assert_eq!(snapshot, live, "{name} record {n}");
        }
        let error = Recorder::create(&path).err().expect("refuses to overwrite");
        assert!(format!("{error:#}").contains("never overwritten"));
    }
}

#[test]
fn unreadable_line_costs_only_that_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("torn.jsonl");
    let mut file = std::fs::File::create(&path).expect("creates");
    let body = game("-110").replace('\n', "");
    writeln!(file, r#"{{"seq":0,"fetched_at":"#).expect("writes");
    writeln!(
        file,
        r#"{{"feed":"mlb","fetched_at":"{T0}","body":{body}}}"#
    )
    .expect("writes");
    file.write_all(b"\xff\xfe not text\n\n").expect("writes");
    writeln!(
        file,
        r#"{{"feed":"mystery","fetched_at":"{T0}","bodies":[]}}"#
    )
    .expect("writes");
    writeln!(file, r#"{{"feed":"mlb","fetched_at":"{T0}","body":[{{]}}"#).expect("writes");
    // Without a time of its own it follows the record before, and its empty body names no league.
    writeln!(
        file,
        r#"{{"feed":"mlb","fetched_at":null,"committed_at":null,"body":[]}}"#
    )
    .expect("writes");
    write!(file, r#"{{"feed":"mlb","fetched_at":"{T0}","bo"#).expect("writes");

    let mut replay = Replay::open(&path).expect("opens");
    assert_eq!(replay.next_at(), Some(t0()));
    let first = replay.next().expect("reads").expect("a record");
    assert_eq!(first.rejected.total(), 1);
    assert_eq!(first.snapshot.expect("good").events.len(), 1);
    let second = replay.next().expect("reads").expect("a record");
    assert_eq!(second.rejected.total(), 3, "{}", second.rejected);
    let second = second.snapshot.expect("good");
    assert_eq!(second.as_of, t0() + chrono::TimeDelta::milliseconds(1));
    assert_eq!(second.scope, Scope::League("baseball_mlb".into()));
    let tail = replay.next().expect("reads").expect("the rejects");
    assert_eq!((tail.snapshot, tail.rejected.total()), (None, 1));
    assert!(replay.next().expect("the end").is_none());
}

#[test]
fn truncated_file_is_an_error_after_its_good_records() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = folder.path().join("whole.zst");
    let mut recorder = Recorder::create(&whole).expect("creates");
    let scope = Scope::League("baseball_mlb".into());
    for price in 100..200 {
        let bodies = [game(&price.to_string())];
        recorder
            .write(RecordedFeed::OddsApi, t0(), &scope, &bodies)
            .expect("writes");
    }
    drop(recorder);
    let bytes = std::fs::read(&whole).expect("reads");
    let torn = folder.path().join("torn.zst");
    std::fs::write(&torn, &bytes[..bytes.len() * 2 / 3]).expect("writes");

    let mut replay = Replay::open(&torn).expect("opens");
    let mut good = 0;
    let error = loop {
        match replay.next() {
            Ok(Some(replayed)) => good += u64::from(replayed.snapshot.is_some()),
            Ok(None) => panic!("ended without an error after {good} records"),
            Err(error) => break format!("{error:#}"),
        }
    };
    assert!((50..100).contains(&good), "{good} records");
    assert!(
        error.contains("torn.zst") && error.contains("cut off"),
        "{error}"
    );
    assert!(replay.next().expect("the end").is_none());

    let error = Replay::open(folder.path().join("missing.zst"))
        .err()
        .expect("no such file");
    assert!(format!("{error:#}").contains("missing.zst"));
    std::fs::write(folder.path().join("empty"), "").expect("writes");
    assert!(Replay::open(folder.path().join("empty")).is_err());
}

#[test]
fn compression_is_detected_by_the_first_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let pretty = "{\n \"endpoint\": \"/v1/racecards/pro\",\n \"params\": {\"date\": \"2025-10-14\"},\n \"fetched_at\": \"2025-10-14T22:35:42.897939\",\n \"body\": {\"racecards\": []}\n}\n";
    for (n, bytes) in compressed(pretty.as_bytes()).iter().enumerate() {
        let path = folder.path().join(format!("cards{n}"));
        std::fs::write(&path, bytes).expect("writes");
        let mut recording = Recording::open(&path).expect("opens");
        let Some(RecordingEntry::Answer(answer)) = recording.read_entry().expect("reads") else {
            panic!("file {n} holds no answer");
        };
        assert_eq!(answer.feed, RecordedFeed::RacingApi);
        assert_eq!(
            answer.fetched_at.to_rfc3339(),
            "2025-10-14T22:35:42.897939+00:00"
        );
        let days = vec!["2025-10-14".parse().expect("a date")];
        let regions = Vec::new();
        assert_eq!(answer.scope, Some(Scope::Days { days, regions }));
        assert_eq!(answer.bodies, [r#"{"racecards": []}"#]);
        assert_eq!(recording.read_entry().expect("the end"), None);
    }
}

#[test]
fn byte_order_mark_is_skipped_in_every_form_of_a_recording() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("marked");
    let league = format!(
        r#"{{"feed":"mlb","fetched_at":"{T0}","body":{}}}"#,
        game("-110").replace('\n', "")
    );
    let cards = r#"{"endpoint":"/v1/racecards/pro","params":{"date":"2025-10-14"},"fetched_at":"2025-10-14T22:35:42Z","body":{"racecards":[]}}"#;
    let pretty = cards.replacen('{', "{\n ", 1);
    let own = serde_json::json!({ "seq": 0, "feed": "odds_api", "fetched_at": T0,
        "scope": { "league": "baseball_mlb" }, "bodies": [format!("\u{feff}{}", game("-110"))] });
    let own = own.to_string();
    let stream = MCM[..2].join("\r\n");
    // Two files that were joined.
    let joined = format!("{}\n\u{feff}{}", MCM[0], MCM[2]);
    for text in [&league, cards, &pretty, &own, &stream, &joined] {
        let plain = text.replace('\u{feff}', "").into_bytes();
        let marked = ["\u{feff}".as_bytes(), text.as_bytes()].concat();
        let expected = replayed(&path, &plain);
        assert!(expected.0 > 0);
        for bytes in compressed(&marked) {
            assert_eq!(replayed(&path, &bytes), expected, "{text}");
        }
    }
}

/// The number of snapshots and of their prices, without a rejected row except of an unknown market.
fn replayed(path: &std::path::Path, bytes: &[u8]) -> (usize, usize, u64) {
    std::fs::write(path, bytes).expect("writes");
    let mut replay = Replay::open(path).expect("opens");
    let (mut snapshots, mut prices, mut rejected) = (0, 0, 0);
    while let Some(replayed) = replay.next().expect("reads") {
        rejected += replayed.rejected.total();
        if let Some(snapshot) = replayed.snapshot {
            snapshots += 1;
            prices += snapshot
                .events
                .iter()
                .map(|event| event.prices.len())
                .sum::<usize>();
        }
    }
    (snapshots, prices, rejected)
}

/// Plain, and by each compression.
fn compressed(bytes: &[u8]) -> [Vec<u8>; 4] {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).expect("compresses");
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(bytes).expect("compresses");
    [
        bytes.to_vec(),
        gzip.finish().expect("compresses"),
        bzip2.finish().expect("compresses"),
        zstd::encode_all(bytes, 3).expect("compresses"),
    ]
}

#[test]
fn replay_ends_after_the_last_record() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("stream.jsonl");
    std::fs::write(&path, MCM.join("\n")).expect("writes");
    let mut replay = Replay::open(&path).expect("opens");
    let (mut polls, mut rejected) = (0, 0);
    let end = loop {
        match replay.fetch() {
            // An empty snapshot reports the last lines, which could not be read.
            Ok(fetched) if fetched.bodies.is_empty() => {
                assert!(fetched.snapshot.events.is_empty());
                rejected += fetched.snapshot.rejected.total();
            }
            Ok(fetched) => {
                polls += 1;
                rejected += fetched.snapshot.rejected.total();
                assert_eq!(fetched.bodies.len(), 1);
                assert_eq!(&*fetched.snapshot.source, "betfair");
            }
            Err(error) => break error,
        }
    };
    assert_eq!((polls, rejected, end), (4, 3, FeedError::Ended));
    assert_eq!(replay.fetch().err(), Some(FeedError::Ended));
}
