//! Recorded days, replayed: what the parsers make of them must equal what independent counts of
//! the same files say, and what is recorded must replay as it was.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use oddsd::feed::betfair::{Line, Stream};
use oddsd::feed::odds_api::{OddsFormat, parse_odds};
use oddsd::feed::recording::{Record, RecordedFeed, Recorder, Recording};
use oddsd::feed::replay::Replay;
use oddsd::feed::{Ask, FeedError};
use oddsd::model::{EventId, EventStatus, Offer, PriceKey, Scope, SelectionStatus, Snapshot};
use proptest::prelude::*;
use serde_json::{Value, json};

/// The folder of recordings, or a line that says what was not run.
fn recordings(test: &str, folder: &str) -> Option<PathBuf> {
    let data = std::env::var_os("ODDSD_TEST_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
        PathBuf::from,
    );
    let folder = data.join(folder);
    if !folder.is_dir() {
        println!("NOT RUN: {test} (no recordings)");
        return None;
    }
    Some(folder)
}

fn json_file(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Stands for the stored state.
#[derive(Default)]
struct Stored {
    open: HashMap<(EventId, PriceKey), Offer>,
    inserts: u64,
    changes: u64,
    removals: u64,
    unchanged: u64,
}

impl Stored {
    fn take(&mut self, snapshot: &Snapshot) {
        let mut listed = BTreeSet::new();
        for event in &snapshot.events {
            for price in &event.prices {
                let key = (event.event.id.clone(), price.key.clone());
                match (&price.offer, self.open.get(&key)) {
                    (None, None) => {}
                    (None, Some(_)) => {
                        self.open.remove(&key);
                        self.removals += 1;
                    }
                    (Some(offer), None) => {
                        self.open.insert(key.clone(), offer.clone());
                        self.inserts += 1;
                    }
                    (Some(offer), Some(known)) if offer == known => self.unchanged += 1,
                    (Some(offer), Some(_)) => {
                        self.open.insert(key.clone(), offer.clone());
                        self.changes += 1;
                    }
                }
                listed.insert(key);
            }
        }
        if matches!(snapshot.scope, Scope::League(_)) {
            let before = self.open.len();
            self.open.retain(|key, _| listed.contains(key));
            self.removals += (before - self.open.len()) as u64;
        }
    }
}

#[test]
fn every_exchange_market_replays_as_counted() {
    let test = "every_exchange_market_replays_as_counted";
    let mut markets = 0;
    for (folder, under) in [
        ("betfair_streams", ""),
        ("betfair_pro_greyhounds", "traralgon"),
    ] {
        let Some(folder) = recordings(test, folder) else {
            return;
        };
        let truth = json_file(&folder.join("truth.json"));
        for file in truth.as_array().expect("a list") {
            let path = folder
                .join(under)
                .join(file["file"].as_str().expect("name"));
            for (market, truth) in file["markets"].as_object().expect("markets") {
                assert_eq!(exchange_market(&path, market), expected(truth), "{market}");
                markets += 1;
            }
        }
    }
    assert_eq!(markets, 39);
}

/// The part of a truth file that a replay can tell.
fn expected(truth: &Value) -> Value {
    let mut bsp: BTreeMap<String, String> = BTreeMap::new();
    for (runner, price) in truth["bsp"].as_object().expect("bsp") {
        let price: rust_decimal::Decimal = price.to_string().parse().expect("decimal");
        bsp.insert(runner.clone(), price.normalize().to_string());
    }
    let sorted = |list: &Value| {
        let ids = list.as_array().expect("ids").iter();
        ids.map(Value::to_string).collect::<BTreeSet<_>>()
    };
    json!({
        "messages": truth["messages"],
        "first_pt": truth["first_pt"],
        "last_pt": truth["last_pt"],
        "type": truth["type"].as_str().map(str::to_lowercase),
        "venue": truth["venue"],
        "market_time": truth["market_time"],
        "transitions": truth["transitions"],
        "final_status": truth["final_status"],
        "runners": truth["runners"],
        "removed": sorted(&truth["removed"]),
        "winners": sorted(&truth["winners"]),
        "bsp": bsp,
        "best_price_changes": truth["best_price_changes"],
        "ltp_changes": truth["ltp_changes"],
    })
}

fn exchange_market(path: &Path, market: &str) -> Value {
    let mut replay = Replay::open(path).expect("opens");
    assert_eq!(replay.feed(), RecordedFeed::Betfair);
    let mut stored = Stored::default();
    let (mut messages, mut first, mut last) = (0, None, None);
    let mut transitions: Vec<(i64, &str, bool)> = Vec::new();
    let mut selections = BTreeMap::new();
    let mut event = None;
    let mut types = BTreeSet::new();
    loop {
        let at = replay.next_at().map(|at| at.timestamp_millis());
        let Some(replayed) = replay.next().expect("reads") else {
            break;
        };
        assert!(replayed.set_aside.is_empty(), "{}", replayed.set_aside);
        messages += 1;
        first = first.or(at);
        last = at;
        let Some(snapshot) = replayed.snapshot else {
            continue;
        };
        assert!(snapshot.rejects.is_empty(), "{}", snapshot.rejects);
        stored.take(&snapshot);
        for delta in snapshot.events {
            assert_eq!(delta.event.id.as_str(), market);
            assert!(!delta.complete);
            let status = match delta.event.status {
                EventStatus::Scheduled => "OPEN",
                EventStatus::Suspended => "SUSPENDED",
                EventStatus::Completed => "CLOSED",
                other => panic!("{market} became {other:?}"),
            };
            let state = (status, delta.event.in_play);
            if transitions.last().is_none_or(|(_, s, p)| (*s, *p) != state) {
                transitions.push((snapshot.as_of.timestamp_millis(), state.0, state.1));
            }
            types.extend(delta.prices.iter().map(|price| {
                let market = price.key.market.as_str();
                market.strip_suffix("_lay").unwrap_or(market).to_owned()
            }));
            for selection in delta.selections {
                selections.insert(selection.id.to_string(), selection);
            }
            event = Some(delta.event);
        }
    }
    let event = event.expect("an event");
    let are = |status| {
        let of = |s: &&oddsd::model::Selection| s.status == status;
        let ids = selections.values().filter(of).map(|s| s.id.to_string());
        ids.collect::<BTreeSet<_>>()
    };
    let bsp: BTreeMap<_, _> = selections
        .values()
        .filter_map(|s| Some((s.id.to_string(), s.facts.get("bsp")?)))
        .collect();
    json!({
        "messages": messages,
        "first_pt": first,
        "last_pt": last,
        // A BASIC recording has no price, so no market to name its type by.
        "type": types.first().map_or("win", String::as_str),
        "venue": event.venue,
        "market_time": event.starts_at.map(|t| t.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)),
        "transitions": transitions,
        "final_status": transitions.last().expect("one").1,
        "runners": selections.len(),
        "removed": are(SelectionStatus::Removed),
        "winners": are(SelectionStatus::Winner),
        "bsp": bsp,
        "best_price_changes": stored.inserts + stored.changes + stored.removals,
        "ltp_changes": replay.ltp_changes(),
    })
}

#[test]
fn every_recorded_league_replays_as_counted() {
    let test = "every_recorded_league_replays_as_counted";
    let Some(folder) = recordings(test, "odds_api_git_5min") else {
        return;
    };
    for name in ["mlb_2026-08-04", "ncaaf_2026-08-04_6h", "wnba_2026-08-04"] {
        let truth = json_file(&folder.join(format!("{name}.truth.json")));
        let path = folder.join(format!("{name}.jsonl.zst"));
        let mut replay = Replay::open(&path).expect("opens");
        assert_eq!(replay.feed(), RecordedFeed::OddsApi);
        let mut stored = Stored::default();
        let (mut polls, mut seen, mut last_body) = (0, 0, String::new());
        let (mut events, mut bookmakers, mut selections) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        while let Some(replayed) = replay.next().expect("reads") {
            assert!(replayed.set_aside.is_empty(), "{}", replayed.set_aside);
            let snapshot = replayed.snapshot.expect("a snapshot");
            assert!(snapshot.rejects.is_empty(), "{}", snapshot.rejects);
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
            stored.take(&snapshot);
            last_body = replayed.bodies.concat();
        }
        let told = json!({
            "snapshots": polls, "events": events.len(), "bookmakers": bookmakers.len(),
            "distinct_selections": selections.len(), "price_observations": seen,
            "inserts": stored.inserts, "changes": stored.changes,
            "removals": stored.removals, "unchanged": stored.unchanged,
        });
        for (count, value) in told.as_object().expect("object") {
            assert_eq!(value, &truth[count], "{name} {count}");
        }
        assert_eq!(stored.open, outcomes(&last_body), "{name}: the last poll");
    }
}

/// A body's prices, read a second way.
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

const T0: &str = "2026-08-04T00:00:00Z";

fn t0() -> DateTime<Utc> {
    T0.parse().expect("valid")
}

/// A body of one game, its price `price`.
fn game(price: &str) -> String {
    format!(
        r#"[{{"id":"g1","sport_key":"baseball_mlb","sport_title":"MLB","commence_time":"2026-08-04T23:05:00Z",
"home_team":"Red Sox","away_team":"Yankees","bookmakers":[{{"key":"fanduel","title":"FanDuel",
"last_update":"2026-08-03T23:59:00Z","markets":[{{"key":"h2h","outcomes":[{{"name":"Red Sox","price":{price}}},
{{"name":"Yankees","price":120,"point":-1.50}}]}}]}}]}}]"#
    )
}

fn snapshots(path: &Path) -> Vec<Snapshot> {
    let mut replay = Replay::open(path).expect("opens");
    let mut snapshots = Vec::new();
    while let Some(replayed) = replay.next().expect("reads") {
        assert!(replayed.set_aside.is_empty(), "{}", replayed.set_aside);
        snapshots.extend(replayed.snapshot);
    }
    snapshots
}

#[test]
fn what_is_recorded_replays_as_it_was() {
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
fn a_recorded_league_recorded_again_is_the_same() {
    let test = "a_recorded_league_recorded_again_is_the_same";
    let Some(folder) = recordings(test, "odds_api_git_5min") else {
        return;
    };
    let temp = tempfile::tempdir().expect("a folder");
    let copy = temp.path().join("copy.jsonl.zst");
    let mut recorder = Recorder::create(&copy).expect("creates");
    let mut replay = Replay::open(folder.join("wnba_2026-08-04.jsonl.zst")).expect("opens");
    let mut first = Vec::new();
    for _ in 0..40 {
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
    // As after a crash: nothing closes the file.
    std::mem::forget(recorder);
    let mut replay = Replay::open(&copy).expect("opens");
    for snapshot in first {
        let replayed = replay.next().expect("reads").expect("more");
        assert_eq!(replayed.snapshot, Some(snapshot));
    }
}

#[test]
fn a_line_that_cannot_be_read_costs_that_line() {
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
    // Nobody knows when this one was fetched, and an empty answer names no league.
    writeln!(
        file,
        r#"{{"feed":"mlb","fetched_at":null,"committed_at":null,"body":[]}}"#
    )
    .expect("writes");
    write!(file, r#"{{"feed":"mlb","fetched_at":"{T0}","bo"#).expect("writes");

    let mut replay = Replay::open(&path).expect("opens");
    assert_eq!(replay.next_at(), Some(t0()));
    let first = replay.next().expect("reads").expect("a record");
    assert_eq!(first.set_aside.total(), 1);
    assert_eq!(first.snapshot.expect("good").events.len(), 1);
    let second = replay.next().expect("reads").expect("a record");
    assert_eq!(second.set_aside.total(), 3, "{}", second.set_aside);
    let second = second.snapshot.expect("good");
    assert_eq!(second.as_of, t0() + chrono::TimeDelta::milliseconds(1));
    assert_eq!(second.scope, Scope::League("baseball_mlb".into()));
    let tail = replay.next().expect("reads").expect("what was set aside");
    assert_eq!((tail.snapshot, tail.set_aside.total()), (None, 1));
    assert!(replay.next().expect("the end").is_none());
}

#[test]
fn a_file_that_breaks_off_tells_so_after_its_good_records() {
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
            Ok(None) => panic!("ended without a word after {good} records"),
            Err(error) => break format!("{error:#}"),
        }
    };
    assert!((50..100).contains(&good), "{good} records");
    assert!(
        error.contains("torn.zst") && error.contains("cut off"),
        "{error}"
    );
    assert!(replay.next().expect("then it is over").is_none());

    let error = Replay::open(folder.path().join("missing.zst"))
        .err()
        .expect("no such file");
    assert!(format!("{error:#}").contains("missing.zst"));
    std::fs::write(folder.path().join("empty"), "").expect("writes");
    assert!(Replay::open(folder.path().join("empty")).is_err());
}

#[test]
fn compression_is_told_by_the_bytes_and_one_object_may_be_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let pretty = "{\n \"endpoint\": \"/v1/racecards/pro\",\n \"params\": {\"date\": \"2025-10-14\"},\n \"fetched_at\": \"2025-10-14T22:35:42.897939\",\n \"body\": {\"racecards\": []}\n}\n";
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(pretty.as_bytes()).expect("compresses");
        encoder.finish().expect("compresses")
    };
    let bzip2 = {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(pretty.as_bytes()).expect("compresses");
        encoder.finish().expect("compresses")
    };
    let zstd = zstd::encode_all(pretty.as_bytes(), 3).expect("compresses");
    for (n, bytes) in [pretty.as_bytes(), &gzip, &bzip2, &zstd]
        .into_iter()
        .enumerate()
    {
        let path = folder.path().join(format!("cards{n}"));
        std::fs::write(&path, bytes).expect("writes");
        let mut recording = Recording::open(&path).expect("opens");
        let Some(Record::Answer(answer)) = recording.next().expect("reads") else {
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
        assert_eq!(recording.next().expect("the end"), None);
    }
}

#[tokio::test]
async fn a_recording_is_a_feed_that_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("stream.jsonl");
    std::fs::write(&path, MCM.join("\n")).expect("writes");
    let mut replay = Replay::open(&path).expect("opens");
    let mut polls = 0;
    let end = loop {
        match replay.fetch(&Ask::Everything, t0()).await {
            Ok(fetched) => {
                polls += 1;
                assert_eq!(fetched.bodies.len(), 1);
                assert_eq!(&*fetched.snapshot.source, "betfair");
            }
            Err(error) => break error,
        }
    };
    assert_eq!((polls, end), (4, FeedError::Ended));
    assert_eq!(
        replay.fetch(&Ask::Everything, t0()).await.err(),
        Some(FeedError::Ended)
    );
}

const MCM: &[&str] = &[
    r#"{"op":"mcm","pt":1743511672980,"ct":"SUB_IMAGE","mc":[{"id":"1.2","img":true,"marketDefinition":{"eventTypeId":"7","marketType":"WIN","marketTime":"2025-04-01T13:02:00.000Z","inPlay":false,"status":"OPEN","venue":"Lingfield","countryCode":"GB","runners":[{"id":5,"status":"ACTIVE","sortPriority":1},{"id":5,"hc":-1.5,"status":"ACTIVE","bsp":"NaN"},{"id":6,"status":"ACTIVE"}]},"rc":[{"id":5,"atb":[[2.0,10],[2.5,3]]},{"id":5,"atl":[[3,1.5]]},{"id":5,"hc":-1.5,"batb":[[0,4.1,2],[1,4,9]]},{"id":6,"atb":[[8,1]],"spn":"Infinity"}]}]}"#,
    r#"{"op":"mcm","pt":1743511672981,"ct":"HEARTBEAT"}"#,
    r#"{"op":"mcm","pt":1743511672990,"mc":[{"id":"1.2","con":true,"rc":[{"id":5,"atb":[[2.5,0],["NaN",3]]},{"id":5,"hc":-1.5,"batb":[[0,0,0]]},{"id":5,"atb":[[2.50,7],[2.0,0.0]]}]},{"id":"1.9","rc":[]}]}"#,
    r#"{"op":"mcm","pt":1743511673000,"mc":[{"id":"1.2","img":true,"rc":[{"id":6,"atb":[[9,1]],"ltp":9}]}]}"#,
    r#"{"op":"mcm","pt":1743511674000,"mc":[{"id":"1.2","marketDefinition":{"eventTypeId":"7","marketType":"WIN","status":"CLOSED","inPlay":true,"runners":[{"id":5,"status":"REMOVED"},{"id":5,"hc":-1.5,"status":"REMOVED"},{"id":6,"status":"REMOVED"}]}}]}"#,
    r#"{"op":"mcm","pt":1743511675000,"mc":[{"id":"1.2","rc":[{"id":6,"atb":[[7,1]]}]}]}"#,
];

#[test]
fn an_exchange_line_becomes_what_it_touched() {
    let mut stream = Stream::new();
    let mut take = |line: &str| match stream.line(line) {
        Line::Snapshot(snapshot) => {
            let event = &snapshot.events[0];
            let prices: Vec<String> = event
                .prices
                .iter()
                .map(|p| {
                    let best = p
                        .offer
                        .as_ref()
                        .map_or("-".into(), |o| o.decimal.to_string());
                    format!("{} {} {best}", p.key.selection, p.key.market)
                })
                .collect();
            (prices, event.event.status, snapshot.rejects.total())
        }
        other => panic!("{line} became {other:?}"),
    };
    let open = EventStatus::Scheduled;
    let strings = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
    assert_eq!(
        take(MCM[0]),
        (
            strings(&["5:-1.5 win 4.1", "5 win 2.5", "5 win_lay 3", "6 win 8"]),
            open,
            0
        )
    );
    // Repeated ids merge in order; "NaN" and the unknown market are set aside, the rest counts.
    assert_eq!(
        take(MCM[2]),
        (strings(&["5:-1.5 win 4", "5 win 2.5"]), open, 2)
    );
    // An image takes away what it does not list.
    assert_eq!(
        take(MCM[3]),
        (
            strings(&["5:-1.5 win -", "5 win -", "5 win_lay -", "6 win 9"]),
            open,
            0
        )
    );
    // Everybody removed: the market is void. Its prices stay as the closing prices.
    assert_eq!(take(MCM[4]), (Vec::new(), EventStatus::Abandoned, 0));
    assert_eq!(stream.ltp_changes(), 1);

    assert!(matches!(stream.line(MCM[1]), Line::Nothing));
    for bad in [
        MCM[5],
        &MCM[0][..200],
        r#"{"op":"mcm","mc":[]}"#,
        "[[[",
        "null",
    ] {
        assert!(matches!(stream.line(bad), Line::SetAside(_)), "{bad}");
    }
}

/// Cuts, overwrites and doubles bytes of a good text.
fn mutated(good: String) -> impl Strategy<Value = String> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), 0u8..4, any::<u8>()), 1..8);
    edits.prop_map(move |edits| {
        let mut bytes = good.clone().into_bytes();
        for (at, how, byte) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes[at] = b"0123456789-.eE\"[]{},:"[usize::from(byte) % 21],
                2 => drop(bytes.drain(at..(at + usize::from(byte)).min(bytes.len()))),
                _ => bytes.extend_from_within(at..),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

proptest! {
    #[test]
    fn no_body_panics_the_parser(body in mutated(game("-110"))) {
        for format in [OddsFormat::American, OddsFormat::Decimal] {
            if let Ok(parsed) = parse_odds(&body, t0(), "baseball_mlb", format) {
                let kept: usize = parsed.events.iter().map(|e| e.prices.len()).sum();
                prop_assert!(kept as u64 <= parsed.prices_seen);
            }
        }
    }

    #[test]
    fn no_line_panics_the_stream(line in mutated(MCM[0].into()), next in mutated(MCM[2].into())) {
        let mut stream = Stream::new();
        for line in [&line, MCM[0], &next, MCM[3], &line, &next] {
            let _ = stream.line(line);
        }
    }

    #[test]
    fn no_file_panics_the_replay(text in mutated(MCM.join("\n") + "\n" + &game("150").replace('\n', " "))) {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("any");
        std::fs::write(&path, &text)?;
        if let Ok(mut replay) = Replay::open(&path) {
            while let Ok(Some(_)) = replay.next() {}
        }
    }
}
