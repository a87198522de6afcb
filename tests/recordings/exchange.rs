//! Exchange recordings: whole markets against their independent counts, and single lines.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use oddsd_core::model::{EventStatus, SelectionStatus};
use oddsd_feeds::betfair::{LineOutcome, MarketStream};
use oddsd_feeds::recording::RecordedFeed;
use oddsd_feeds::replay::Replay;
use serde_json::{Value, json};

use super::{OpenPrices, json_file, shipped};
use oddsd_testkit::recordings;

#[test]
fn shipped_exchange_market_matches_truth() {
    assert_eq!(assert_markets(&shipped("betfair"), ""), 1);
}

#[test]
fn private_exchange_markets_match_truth() {
    let test = "private_exchange_markets_match_truth";
    let mut markets = 0;
    for (folder, under) in [
        ("betfair_streams", ""),
        ("betfair_pro_greyhounds", "traralgon"),
    ] {
        let Some(folder) = recordings::folder(test, folder) else {
            return;
        };
        markets += assert_markets(&folder, under);
    }
    assert_eq!(markets, 39);
}

/// Replays every market of a folder and returns how many there are.
fn assert_markets(folder: &Path, under: &str) -> usize {
    let truth = json_file(&folder.join("truth.json"));
    let mut markets = 0;
    for file in truth.as_array().expect("a list") {
        let path = folder
            .join(under)
            .join(file["file"].as_str().expect("name"));
        for (market, truth) in file["markets"].as_object().expect("markets") {
            assert_eq!(replay_market(&path, market), expected(truth), "{market}");
            markets += 1;
        }
    }
    markets
}

/// The part of a truth file that a replay can reproduce.
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

fn replay_market(path: &Path, market: &str) -> Value {
    let mut replay = Replay::open(path).expect("opens");
    assert_eq!(replay.feed(), RecordedFeed::Betfair);
    let mut open = OpenPrices::default();
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
        assert!(replayed.rejected.is_empty(), "{}", replayed.rejected);
        messages += 1;
        first = first.or(at);
        last = at;
        let Some(snapshot) = replayed.snapshot else {
            continue;
        };
        assert!(snapshot.rejected.is_empty(), "{}", snapshot.rejected);
        open.apply(&snapshot);
        for delta in snapshot.events {
            assert_eq!(delta.event.id.as_str(), market);
            assert!(!delta.complete);
            let status = match delta.event.status {
                EventStatus::Scheduled | EventStatus::Live => "OPEN",
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
        let of = |s: &&oddsd_core::model::Selection| s.status == status;
        let ids = selections.values().filter(of).map(|s| s.id.to_string());
        ids.collect::<BTreeSet<_>>()
    };
    let bsp: BTreeMap<_, _> = selections
        .values()
        .filter_map(|s| Some((s.id.to_string(), s.attributes.get("bsp")?)))
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
        "best_price_changes": open.inserts + open.changes + open.removals,
        "ltp_changes": replay.ltp_changes(),
    })
}

/// A market of three runners, one of them with a handicap, from its image to its void end.
pub const MCM: &[&str] = &[
    r#"{"op":"mcm","pt":1743511672980,"ct":"SUB_IMAGE","mc":[{"id":"1.2","img":true,"marketDefinition":{"eventTypeId":"7","marketType":"WIN","marketTime":"2025-04-01T13:02:00.000Z","inPlay":false,"status":"OPEN","venue":"Lingfield","countryCode":"GB","runners":[{"id":5,"status":"ACTIVE","sortPriority":1},{"id":5,"hc":-1.5,"status":"ACTIVE","bsp":"NaN"},{"id":6,"status":"ACTIVE"}]},"rc":[{"id":5,"atb":[[2.0,10],[2.5,3]]},{"id":5,"atl":[[3,1.5]]},{"id":5,"hc":-1.5,"batb":[[0,4.1,2],[1,4,9]]},{"id":6,"atb":[[8,1]],"spn":"Infinity"}]}]}"#,
    r#"{"op":"mcm","pt":1743511672981,"ct":"HEARTBEAT"}"#,
    r#"{"op":"mcm","pt":1743511672990,"mc":[{"id":"1.2","con":true,"rc":[{"id":5,"atb":[[2.5,0],["NaN",3]]},{"id":5,"hc":-1.5,"batb":[[0,0,0]]},{"id":5,"atb":[[2.50,7],[2.0,0.0]]}]},{"id":"1.9","rc":[]}]}"#,
    r#"{"op":"mcm","pt":1743511673000,"mc":[{"id":"1.2","img":true,"rc":[{"id":6,"atb":[[9,1]],"ltp":9}]}]}"#,
    r#"{"op":"mcm","pt":1743511674000,"mc":[{"id":"1.2","marketDefinition":{"eventTypeId":"7","marketType":"WIN","status":"CLOSED","inPlay":true,"runners":[{"id":5,"status":"REMOVED"},{"id":5,"hc":-1.5,"status":"REMOVED"},{"id":6,"status":"REMOVED"}]}}]}"#,
    r#"{"op":"mcm","pt":1743511675000,"mc":[{"id":"1.2","rc":[{"id":6,"atb":[[7,1]]}]}]}"#,
];

#[test]
fn exchange_line_becomes_a_delta() {
    let mut stream = MarketStream::default();
    let mut apply = |line: &str| match stream.apply_line(line) {
        LineOutcome::Snapshot(snapshot) => {
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
            (prices, event.event.status, snapshot.rejected.total())
        }
        other => panic!("{line} became {other:?}"),
    };
    let open = EventStatus::Scheduled;
    let strings = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
    assert_eq!(
        apply(MCM[0]),
        (
            strings(&["5:-1.5 win 4.1", "5 win 2.5", "5 win_lay 3", "6 win 8"]),
            open,
            0
        )
    );
    // Repeated ids merge in order; "NaN" and the unknown market are rejected, the rest is applied.
    assert_eq!(
        apply(MCM[2]),
        (strings(&["5:-1.5 win 4", "5 win 2.5"]), open, 2)
    );
    // An image withdraws the prices that it does not list.
    assert_eq!(
        apply(MCM[3]),
        (
            strings(&["5:-1.5 win -", "5 win -", "5 win_lay -", "6 win 9"]),
            open,
            0
        )
    );
    // With every runner removed the market is void. Its prices stay as the closing prices.
    assert_eq!(apply(MCM[4]), (Vec::new(), EventStatus::Abandoned, 0));
    assert_eq!(stream.ltp_changes(), 1);

    assert!(matches!(stream.apply_line(MCM[1]), LineOutcome::NoChange));
    for bad in [
        MCM[5],
        &MCM[0][..200],
        r#"{"op":"mcm","mc":[]}"#,
        "[[[",
        "null",
    ] {
        assert!(
            matches!(stream.apply_line(bad), LineOutcome::Rejected(_)),
            "{bad}"
        );
    }
}

#[test]
fn exchange_prices_are_held_until_the_runner_is_defined() {
    let line =
        |rest: &str| format!(r#"{{"op":"mcm","pt":1743511672980,"mc":[{{"id":"1.2",{rest}}}]}}"#);
    let definition = |runners: &str| {
        line(&format!(
            r#""marketDefinition":{{"eventTypeId":"4339","marketType":"PLACE","status":"OPEN","runners":[{runners}]}}"#
        ))
    };
    let mut stream = MarketStream::default();
    let mut prices = |line: &str| match stream.apply_line(line) {
        LineOutcome::Snapshot(snapshot) => snapshot.events[0].prices.len(),
        LineOutcome::NoChange => 0,
        LineOutcome::Rejected(rejects) => panic!("{rejects}"),
    };
    assert_eq!(prices(&definition(r#"{"id":1,"status":"ACTIVE"}"#)), 0);
    assert_eq!(prices(&line(r#""rc":[{"id":2,"atb":[[4,1]]}]"#)), 0);
    let both = r#"{"id":1,"status":"ACTIVE"},{"id":2,"status":"ACTIVE"}"#;
    assert_eq!(prices(&definition(both)), 1);
    assert_eq!(prices(&definition(both)), 0);
    // Volumes are not stored.
    assert_eq!(
        prices(&line(r#""rc":[{"id":2,"tv":3.5,"trd":[[4,1]]}]"#)),
        0
    );
}

#[test]
fn of_two_definitions_in_an_exchange_line_the_later_counts() {
    let definition = |status: &str| {
        format!(
            r#"{{"id":"1.2","marketDefinition":{{"eventTypeId":"7","marketType":"WIN","status":"OPEN","runners":[{{"id":1,"status":"{status}"}}]}}}}"#
        )
    };
    let line = format!(
        r#"{{"op":"mcm","pt":1743511672980,"mc":[{},{}]}}"#,
        definition("ACTIVE"),
        definition("REMOVED")
    );
    let LineOutcome::Snapshot(snapshot) = MarketStream::default().apply_line(&line) else {
        panic!("no snapshot");
    };
    let selections = &snapshot.events[0].selections;
    assert_eq!(selections.len(), 1);
    assert_eq!(selections[0].status, SelectionStatus::Removed);
}
