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

/// One line with these changes of markets.
fn line(changes: &[Value]) -> String {
    json!({ "op": "mcm", "pt": 1_743_511_672_980_i64, "mc": changes }).to_string()
}

/// A change with a definition of these runners and their statuses.
fn defined(version: Option<i64>, status: &str, runners: &[(i64, &str)], rc: Value) -> Value {
    let runners = runners
        .iter()
        .map(|(id, status)| json!({ "id": id, "status": status }));
    let mut definition = json!({
        "eventTypeId": "7", "marketType": "WIN", "status": status, "runners": runners.collect::<Vec<_>>(),
    });
    if let Some(version) = version {
        definition["version"] = version.into();
    }
    json!({ "id": "1.2", "marketDefinition": definition, "rc": rc })
}

fn prices_only(rc: Value) -> Value {
    json!({ "id": "1.2", "rc": rc })
}

/// The market after some lines.
#[derive(Default)]
struct MarketAfter {
    status: Option<EventStatus>,
    selections: BTreeMap<String, SelectionStatus>,
    prices: BTreeMap<String, String>,
    rejected: BTreeMap<&'static str, u64>,
}

impl MarketAfter {
    fn of(lines: &[String]) -> Self {
        let mut stream = MarketStream::default();
        let mut after = Self::default();
        for line in lines {
            let rejected = match stream.apply_line(line) {
                LineOutcome::Snapshot(snapshot) => {
                    for event in &snapshot.events {
                        after.status = Some(event.event.status);
                        for selection in &event.selections {
                            let id = selection.id.to_string();
                            after.selections.insert(id, selection.status);
                        }
                        for price in &event.prices {
                            let key = format!("{} {}", price.key.selection, price.key.market);
                            let best = price.offer.map(|offer| offer.decimal.to_string());
                            after.prices.insert(key, best.unwrap_or("-".into()));
                        }
                    }
                    snapshot.rejected
                }
                LineOutcome::Rejected(rejected) => rejected,
                LineOutcome::NoChange => continue,
            };
            for (reason, group) in rejected.by_reason {
                *after.rejected.entry(reason).or_default() += group.rows;
            }
        }
        after
    }

    fn prices(&self) -> String {
        let prices = self
            .prices
            .iter()
            .map(|(key, best)| format!("{key} {best}"));
        prices.collect::<Vec<_>>().join(", ")
    }

    fn rejected(&self) -> String {
        let rejected = self
            .rejected
            .iter()
            .map(|(reason, rows)| format!("{rows} {reason}"));
        rejected.collect::<Vec<_>>().join(", ")
    }
}

#[test]
fn of_two_definitions_the_higher_version_counts() {
    let removed = |version, best: f64| {
        defined(
            version,
            "OPEN",
            &[(1, "REMOVED"), (2, "ACTIVE")],
            json!([{"id": 2, "batb": [[0, best, 5]]}]),
        )
    };
    let active = |version, best: f64| {
        defined(
            version,
            "SUSPENDED",
            &[(1, "ACTIVE"), (2, "ACTIVE")],
            json!([{"id": 2, "batb": [[0, best, 5]]}]),
        )
    };
    let image = |mut change: Value| {
        change["img"] = true.into();
        change
    };
    let (open, suspended) = (EventStatus::Scheduled, EventStatus::Suspended);
    let out = (open, SelectionStatus::Removed, "2");
    let in_play = (suspended, SelectionStatus::Active, "3");
    let cases = [
        // In one line, whatever their order. Without versions the later one counts.
        (
            vec![line(&[removed(Some(7), 2.0), active(Some(6), 3.0)])],
            out,
            "",
        ),
        (
            vec![line(&[active(Some(6), 3.0), removed(Some(7), 2.0)])],
            out,
            "",
        ),
        (
            vec![line(&[removed(Some(6), 2.0), active(Some(7), 3.0)])],
            in_play,
            "",
        ),
        (
            vec![line(&[removed(Some(6), 2.0), active(Some(6), 3.0)])],
            in_play,
            "",
        ),
        (
            vec![line(&[removed(None, 2.0), active(None, 3.0)])],
            in_play,
            "",
        ),
        (
            vec![line(&[active(None, 3.0), removed(Some(1), 2.0)])],
            out,
            "",
        ),
        // In several lines.
        (
            vec![
                line(&[removed(Some(7), 2.0)]),
                line(&[active(Some(8), 3.0)]),
            ],
            in_play,
            "",
        ),
        (
            vec![
                line(&[removed(Some(7), 2.0)]),
                line(&[active(Some(6), 3.0)]),
            ],
            out,
            "1 older_version",
        ),
        (
            vec![line(&[removed(Some(7), 2.0)]), line(&[active(None, 3.0)])],
            in_play,
            "",
        ),
        (
            vec![
                line(&[removed(Some(7), 2.0)]),
                line(&[image(active(Some(6), 3.0))]),
            ],
            in_play,
            "",
        ),
    ];
    for (lines, (status, runner, best), rejected) in cases {
        let after = MarketAfter::of(&lines);
        let runner_status = after.selections.get("1").copied();
        let found = (after.status, runner_status, &*after.prices["2 win"]);
        assert_eq!(found, (Some(status), Some(runner), best), "{lines:?}");
        assert_eq!(after.rejected(), rejected, "{lines:?}");
    }
}

#[test]
fn malformed_part_of_an_exchange_line_costs_only_itself() {
    let start = line(&[defined(
        Some(1),
        "OPEN",
        &[(1, "ACTIVE"), (2, "ACTIVE")],
        json!([{"id": 1, "batb": [[0, 2.5, 9]], "atl": [[3, 9]]}, {"id": 2, "batb": [[0, 4, 9]]}]),
    )]);
    let good = json!({"id": 2, "batb": [[0, 5, 9]]});
    let before = "1 win 2.5, 1 win_lay 3";
    // Malformed rows of runner 1, how many, and its prices afterwards.
    for (ladders, count, prices) in [
        (json!({"batb": [[]]}), 1, before),
        (json!({"batb": [[], [0, 2.6]]}), 2, before),
        (json!({"batb": [[0, 2.6, 1, 1]]}), 1, before),
        (
            json!({"batb": ["x", null, 7, true, {}, [[0, 2.6, 1]]]}),
            6,
            before,
        ),
        (
            json!({"batb": [["0", 2.6, 1], [0, "2.6", 1], [0, 2.6, "1"]]}),
            3,
            before,
        ),
        (
            json!({"batb": [[-1, 2.6, 1], [0.5, 2.6, 1], [1e20, 2.6, 1]]}),
            3,
            before,
        ),
        (
            json!({"batb": [[0, 1e30, 1], [0, 1, 1], [0, -2.6, 1], [0, 2.6, -1]]}),
            4,
            before,
        ),
        (
            json!({"batb": [[], [0, 2.6, 1], []]}),
            2,
            "1 win 2.6, 1 win_lay 3",
        ),
        (json!({"batb": [[0, 0, 0], []]}), 1, "1 win -, 1 win_lay 3"),
        (
            json!({"atl": [[], [2.9], [2.8, 1, 1], [2.9, 1]]}),
            3,
            "1 win 2.5, 1 win_lay 2.9",
        ),
        (json!({"bdatb": [[], [0]], "bdatl": [7]}), 3, before),
        (json!({"batb": {}, "atl": "x", "atb": 5}), 3, before),
        (json!({"batb": null, "atl": []}), 0, before),
    ] {
        let mut change = ladders.clone();
        change["id"] = 1.into();
        let after = MarketAfter::of(&[start.clone(), line(&[prices_only(json!([change, good]))])]);
        assert_eq!(after.prices(), format!("{prices}, 2 win 5"), "{ladders}");
        let rejected = after.rejected.get("unreadable_ladder_row").copied();
        assert_eq!(rejected.unwrap_or_default(), count, "{ladders}");
        assert_eq!(after.rejected.len(), usize::from(count > 0), "{ladders}");
    }
    // Malformed parts above the ladders.
    let good = || prices_only(json!([good]));
    let rc = |bad: Value| prices_only(json!([bad, {"id": 2, "batb": [[0, 5, 9]]}]));
    let mut no_list = prices_only(json!({}));
    no_list["marketDefinition"] =
        defined(Some(2), "OPEN", &[], json!([]))["marketDefinition"].clone();
    let mut no_definition = good();
    no_definition["marketDefinition"] = json!([1]);
    let bad_runner = json!({ "id": "1.2", "rc": [{"id": 2, "batb": [[0, 5, 9]]}], "marketDefinition": {
        "marketType": "WIN", "status": "OPEN", "runners": [7, {"id": "x"}, {"id": 2, "status": "ACTIVE"}] } });
    for (changes, rejected) in [
        (
            vec![json!(7), good(), json!("x"), json!({}), json!(null)],
            "4 unreadable_market_change",
        ),
        (vec![json!({"id": 5}), good()], "1 unreadable_market_change"),
        (vec![rc(json!([]))], "1 unreadable_runner_change"),
        (vec![rc(json!({"id": "one"}))], "1 unreadable_runner_change"),
        (
            vec![rc(json!({"atb": [[2, 1]]}))],
            "1 unreadable_runner_change",
        ),
        (vec![no_list, good()], "1 unreadable_runner_change"),
        (vec![no_definition], "1 unreadable_definition"),
        (vec![bad_runner], "2 unreadable_runner"),
        (
            vec![json!({"id": "1.2", "img": "yes", "rc": []}), good()],
            "",
        ),
    ] {
        let after = MarketAfter::of(&[start.clone(), line(&changes)]);
        assert_eq!(after.prices(), format!("{before}, 2 win 5"), "{changes:?}");
        assert_eq!(after.rejected(), rejected, "{changes:?}");
    }
}

#[test]
fn closed_market_is_void_only_if_all_its_runners_were_removed() {
    let open = |runners: &[(i64, &str)]| defined(None, "OPEN", runners, json!([]));
    let closed = |runners: &[(i64, &str)]| defined(None, "CLOSED", runners, json!([]));
    let both = open(&[(1, "ACTIVE"), (2, "REMOVED")]);
    let (void, run) = (EventStatus::Abandoned, EventStatus::Completed);
    for (changes, expected) in [
        (vec![both.clone(), closed(&[(2, "REMOVED")])], run),
        (vec![both.clone(), closed(&[])], run),
        (vec![both.clone(), closed(&[(1, "WINNER")])], run),
        (vec![both.clone(), closed(&[(1, "REMOVED")])], void),
        (
            vec![both.clone(), closed(&[(1, "REMOVED"), (2, "REMOVED")])],
            void,
        ),
        (
            vec![
                both.clone(),
                closed(&[(1, "REMOVED_VACANT"), (2, "HIDDEN")]),
            ],
            void,
        ),
        (vec![both, closed(&[(1, "HIDDEN")])], void),
        (vec![closed(&[(1, "REMOVED"), (2, "REMOVED_VACANT")])], void),
        (vec![closed(&[(1, "REMOVED"), (2, "LOSER")])], run),
        // Only prices named the other runner.
        (
            vec![
                open(&[(2, "REMOVED")]),
                prices_only(json!([{"id": 1, "atb": [[2, 1]]}])),
                closed(&[(2, "REMOVED")]),
            ],
            run,
        ),
        (
            vec![
                open(&[(2, "REMOVED")]),
                prices_only(json!([{"id": 1, "tv": 0}])),
                closed(&[(2, "REMOVED")]),
            ],
            void,
        ),
        (vec![closed(&[])], run),
    ] {
        let lines: Vec<String> = changes
            .iter()
            .map(|change| line(std::slice::from_ref(change)))
            .collect();
        assert_eq!(MarketAfter::of(&lines).status, Some(expected), "{lines:?}");
    }
}

#[test]
fn removed_runner_has_no_prices_until_it_is_put_back() {
    let start = || {
        let rc =
            json!([{"id": 1, "atb": [[2, 9]]}, {"id": 2, "atb": [[3, 9]], "batl": [[0, 4, 9]]}]);
        defined(None, "OPEN", &[(1, "ACTIVE"), (2, "ACTIVE")], rc)
    };
    let then = |status: &str, rc: Value| defined(None, "OPEN", &[(1, "ACTIVE"), (2, status)], rc);
    let out = "1 win 2, 2 win -, 2 win_lay -";
    let back = "1 win 2, 2 win 3, 2 win_lay 4";
    for (changes, prices) in [
        (vec![start()], back),
        (vec![start(), then("REMOVED", json!([]))], out),
        (
            vec![start(), then("REMOVED_VACANT", json!([{"id": 2, "tv": 0}]))],
            out,
        ),
        (vec![start(), then("HIDDEN", json!([]))], out),
        (
            vec![
                start(),
                then(
                    "REMOVED",
                    json!([{"id": 2, "atb": [[3, 0]], "batl": [[0, 0, 0]]}]),
                ),
            ],
            out,
        ),
        (
            vec![
                start(),
                then("REMOVED", json!([])),
                prices_only(json!([{"id": 2, "atb": [[5, 1]]}])),
            ],
            out,
        ),
        (
            vec![
                start(),
                then("REMOVED", json!([])),
                then("ACTIVE", json!([])),
            ],
            back,
        ),
        // The recording begins after the removal: an earlier one may have stored prices.
        (vec![then("REMOVED", json!([]))], "2 win -, 2 win_lay -"),
        (vec![start(), then("LOSER", json!([]))], back),
    ] {
        let lines: Vec<String> = changes
            .iter()
            .map(|change| line(std::slice::from_ref(change)))
            .collect();
        assert_eq!(MarketAfter::of(&lines).prices(), prices, "{lines:?}");
    }
}

#[test]
fn most_exact_ladder_gives_the_best_price() {
    let start = |rc: Value| line(&[defined(None, "OPEN", &[(1, "ACTIVE")], json!([rc]))]);
    for (rc, prices) in [
        (
            json!({"id": 1, "bdatb": [[0, 2.5, 9], [1, 2.4, 9]], "bdatl": [[0, 2.6, 9], [1, 2.7, 9]]}),
            "1 win 2.5, 1 win_lay 2.6",
        ),
        (
            json!({"id": 1, "bdatb": [[0, 2.5, 9]], "batb": [[0, 2.4, 9]]}),
            "1 win 2.4",
        ),
        (
            json!({"id": 1, "batb": [[0, 2.4, 9]], "bdatb": [[0, 2.5, 9]], "atb": [[2.3, 9]]}),
            "1 win 2.3",
        ),
        (
            json!({"id": 1, "batb": [[0, 0, 0]], "bdatb": [[0, 2.5, 9]]}),
            "1 win -",
        ),
    ] {
        assert_eq!(
            MarketAfter::of(&[start(rc.clone())]).prices(),
            prices,
            "{rc}"
        );
    }
}
