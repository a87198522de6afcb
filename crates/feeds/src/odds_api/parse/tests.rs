//! Tests of answers that are parsed, compared with the stored state and applied, one after another.

use chrono::TimeDelta;
use serde_json::{Value, json};

use super::*;
use oddsd_core::diff::stored_state::StoredState;
use oddsd_core::diff::{Changes, PriceChangeKind, ShrinkGuard, compute_changes};

const LEAGUE: &str = "basketball_nba";

fn at(minute: i64) -> DateTime<Utc> {
    let start: DateTime<Utc> = "2026-08-04T12:00:00Z".parse().expect("valid");
    start + TimeDelta::minutes(minute)
}

fn event_of(id: &str, league: &str, bookmakers: Value) -> Value {
    json!({"id": id, "sport_key": league, "commence_time": "2026-08-05T00:00:00Z",
           "home_team": "A", "away_team": "B", "bookmakers": bookmakers})
}

fn bookmaker(key: &str, market: &str, outcomes: Value) -> Value {
    json!({"key": key, "title": key, "markets": [{"key": market, "outcomes": outcomes}]})
}

/// Outcomes from `name point price`, with an optional description before a slash.
fn outcomes(rows: &[&str]) -> Value {
    let outcome = |row: &&str| {
        let mut parts = row.rsplitn(3, ' ');
        let price: f64 = parts.next().expect("a price").parse().expect("a number");
        let point: f64 = parts.next().expect("a point").parse().expect("a number");
        let name = parts.next().expect("a name");
        match name.split_once('/') {
            None => json!({"name": name, "price": price, "point": point}),
            Some((whose, name)) => {
                json!({"name": name, "description": whose, "price": price, "point": point})
            }
        }
    };
    rows.iter().map(outcome).collect()
}

/// Parses an answer, and applies its changes.
fn apply(state: &mut StoredState, minute: i64, sport: &str, events: &Value) -> Changes {
    let parsed = parse_odds(&events.to_string(), at(minute), sport, OddsFormat::Decimal);
    let snapshot = parsed.expect("a list").into_snapshot(at(minute), sport);
    let changes = compute_changes(state, 0, &snapshot, &ShrinkGuard::OFF);
    state.apply(changes.clone());
    changes
}

fn kinds(changes: &Changes) -> Vec<PriceChangeKind> {
    changes.prices.iter().map(|change| change.kind).collect()
}

/// The open prices as `market selection bookmaker decimal`, sorted.
fn open(state: &StoredState) -> Vec<String> {
    let events = state.events.values().filter(|stored| stored.event.listed);
    let prices = events.flat_map(|stored| state.prices(stored));
    let open = prices.filter(|(_, price)| price.is_open());
    let mut open: Vec<_> = open
        .map(|(key, price)| {
            let decimal = price.offer.decimal;
            format!(
                "{} {} {} {decimal}",
                key.market, key.selection, key.bookmaker
            )
        })
        .collect();
    open.sort();
    open
}

#[test]
fn each_line_of_a_market_that_offers_lines_is_a_price_in_any_order() {
    let spreads = ["A -2.5 1.65", "B 2.5 2.2", "A -3.50 2.4", "B 3.5 1.55"];
    let props = [
        "P. One/Over 20.5 1.8",
        "P. One/Under 20.5 1.95",
        "P. Two/Over 7.5 1.7",
        "P. One/Over 24.5 2.9",
    ];
    let cases: [(&str, &[&str], &[&str]); 8] = [
        (
            "alternate_spreads",
            &spreads,
            &["A -2.5", "A -3.5", "B 2.5", "B 3.5"],
        ),
        (
            "alternate_totals_h1",
            &["Over 1 1.5", "Over 2.0 1.9"],
            &["Over 1", "Over 2"],
        ),
        (
            "player_points",
            &props,
            &[
                "P. One / Over 20.5",
                "P. One / Over 24.5",
                "P. One / Under 20.5",
                "P. Two / Over 7.5",
            ],
        ),
        (
            "batter_hits_alternate",
            &["X/Over 0.5 1.5", "X/Over 1.5 3.5"],
            &["X / Over 0.5", "X / Over 1.5"],
        ),
        ("pitcher_outs", &["X/Over 14.5 1.9"], &["X / Over 14.5"]),
        (
            "team_totals",
            &["A/Over 1.5 1.9", "B/Over 1.5 1.8", "A/Over 2.5 3.1"],
            &["A / Over 1.5", "A / Over 2.5", "B / Over 1.5"],
        ),
        (
            "alternate_team_totals_q1",
            &["A/Over 0.5 1.9"],
            &["A / Over 0.5"],
        ),
        // Both teams at the same handicap of zero, written in two ways.
        (
            "alternate_spreads",
            &["A 0 1.9", "B -0.0 1.8"],
            &["A 0", "B 0"],
        ),
    ];
    for (market, rows, lines) in cases {
        let answer = |rows: &[&str]| {
            let bookmakers = json!([bookmaker("b1", market, outcomes(rows))]);
            json!([event_of("g1", LEAGUE, bookmakers)])
        };
        let mut state = StoredState::default();
        apply(&mut state, 0, LEAGUE, &answer(rows));
        let stored = &state.events["g1"];
        let mut found: Vec<_> = stored
            .selections
            .iter()
            .map(|s| s.selection.name.clone())
            .collect();
        found.sort();
        assert_eq!(found, lines, "{market}");
        assert_eq!(open(&state).len(), rows.len(), "{market}");
        let mut reversed = rows.to_vec();
        reversed.reverse();
        let again = apply(&mut state, 1, LEAGUE, &answer(&reversed));
        assert_eq!(
            (again.prices.len(), again.selections.len()),
            (0, 0),
            "{market}"
        );
        // A line that moved is another line.
        let moved = apply(&mut state, 2, LEAGUE, &answer(&rows[1..]));
        let expected = vec![PriceChangeKind::Withdrawn; 1];
        assert_eq!(kinds(&moved), expected, "{market}");
    }
}

#[test]
fn line_that_moves_in_a_main_market_is_a_change() {
    for market in [
        "spreads",
        "totals",
        "spreads_h1",
        "totals_q1",
        "h2h",
        "outrights",
    ] {
        let mut state = StoredState::default();
        let answer = |rows: &[&str]| {
            let bookmakers = json!([bookmaker("b1", market, outcomes(rows))]);
            json!([event_of("g1", LEAGUE, bookmakers)])
        };
        apply(&mut state, 0, LEAGUE, &answer(&["A -2.5 1.9", "B 2.5 1.9"]));
        let moved = apply(&mut state, 1, LEAGUE, &answer(&["B 3.5 1.9", "A -3.5 1.9"]));
        assert_eq!(kinds(&moved), [PriceChangeKind::Changed; 2], "{market}");
        let same = apply(
            &mut state,
            2,
            LEAGUE,
            &answer(&["A -3.50 1.90", "B 3.5 1.9"]),
        );
        assert_eq!(kinds(&same), [], "{market}");
    }
}

/// A market without lines by its name, in which a bookmaker lists an outcome at two points.
#[test]
fn repeat_gives_a_market_lines_from_then_on() {
    let rows = ["A -2.5 1.9", "A -3.5 2.1", "B 2.5 1.8"];
    let orders = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    let answer = |first: &[&str], second: &[&str]| {
        let bookmakers = json!([
            bookmaker("b1", "spreads", outcomes(first)),
            bookmaker("b2", "spreads", outcomes(second)),
            bookmaker(
                "b3",
                "h2h",
                json!([{"name": "A", "price": 1.5}, {"name": "C", "price": 9}])
            ),
        ]);
        json!([event_of("g1", LEAGUE, bookmakers)])
    };
    let lines = [
        "h2h A b3 1.5",
        "h2h C b3 9",
        "spreads A -2.5 b1 1.9",
        "spreads A -2.5 b2 1.7",
        "spreads A -3.5 b1 2.1",
        "spreads B 2.5 b1 1.8",
    ];
    for (n, order) in orders.iter().enumerate() {
        let ordered = order.map(|at| rows[at]);
        let mut state = StoredState::default();
        // Before the repeat a point is a value. The repeat withdraws the three prices under their old keys, once.
        apply(
            &mut state,
            0,
            LEAGUE,
            &answer(&[rows[0], rows[2]], &["A -2.5 1.7"]),
        );
        let split = apply(&mut state, 1, LEAGUE, &answer(&ordered, &["A -2.5 1.7"]));
        let mut found = kinds(&split);
        found.sort_by_key(|kind| format!("{kind:?}"));
        let (inserted, withdrawn) = (PriceChangeKind::Inserted, PriceChangeKind::Withdrawn);
        let expected = [
            inserted, inserted, inserted, inserted, withdrawn, withdrawn, withdrawn,
        ];
        assert_eq!(found, expected, "{order:?}");
        assert_eq!(open(&state), lines, "{order:?}");

        // The repeating bookmaker may also be the second one, and the answer the first.
        let mut other = StoredState::default();
        apply(&mut other, 0, LEAGUE, &answer(&["A -2.5 1.7"], &ordered));
        let swapped = lines.map(|line| {
            line.replace("b1", "x")
                .replace("b2", "b1")
                .replace('x', "b2")
        });
        let mut swapped = swapped.to_vec();
        swapped.sort();
        assert_eq!(open(&other), swapped, "{order:?}");

        let next = orders[(n + 1) % orders.len()].map(|at| rows[at]);
        let again = apply(&mut state, 2, LEAGUE, &answer(&next, &["A -2.5 1.7"]));
        assert_eq!(
            (again.prices.len(), again.selections.len()),
            (0, 0),
            "{order:?}"
        );

        // Without a repeat the market keeps its lines, also when all of them are withdrawn.
        let single = apply(
            &mut state,
            3,
            LEAGUE,
            &answer(&[rows[0], rows[2]], &["A -2.5 1.7"]),
        );
        assert_eq!(kinds(&single), [withdrawn], "{order:?}");
        let none = apply(&mut state, 4, LEAGUE, &answer(&[], &[]));
        assert_eq!(kinds(&none), [withdrawn; 3], "{order:?}");
        let back = apply(&mut state, 5, LEAGUE, &answer(&ordered[..1], &[]));
        assert_eq!(kinds(&back), [PriceChangeKind::Reopened], "{order:?}");
    }
}

#[test]
fn placeholder_is_no_price_and_no_rejected_row() {
    let no_price = [
        (OddsFormat::Decimal, json!({"name": "A", "price": 1})),
        (OddsFormat::Decimal, json!({"name": "A", "price": 1.0})),
        (OddsFormat::Decimal, json!({"name": "A", "price": 0.5})),
        (OddsFormat::Decimal, json!({"name": "A", "price": 0})),
        (OddsFormat::Decimal, json!({"name": "A", "price": null})),
        (OddsFormat::Decimal, json!({"name": "A"})),
        (
            OddsFormat::Decimal,
            json!({"name": "A", "price": 1, "point": 2.5}),
        ),
        (OddsFormat::American, json!({"name": "A", "price": 0})),
        (OddsFormat::American, json!({"name": "A", "price": null})),
        (OddsFormat::Decimal, json!(null)),
    ];
    for (format, row) in no_price {
        let rows = json!([row, {"name": "B", "price": 150}]);
        let body = json!([event_of(
            "g1",
            LEAGUE,
            json!([bookmaker("b1", "h2h", rows)])
        )]);
        let parsed = parse_odds(&body.to_string(), at(0), LEAGUE, format).expect("a list");
        assert!(parsed.rejected.is_empty(), "{row}: {}", parsed.rejected);
        let event = &parsed.events[0];
        assert!(event.complete && event.in_doubt.is_empty(), "{row}");
        let offered = event.prices.iter().filter(|price| price.offer.is_some());
        assert_eq!(offered.count(), 1, "{row}");
    }
    let empty = [
        json!(null),
        json!([]),
        json!([null]),
        json!([{"key": "", "title": ""}]),
        json!([{"key": "b1", "markets": null}]),
        json!([{"key": "b1", "markets": [null]}]),
        json!([{"key": "b1", "markets": [{"key": "h2h", "outcomes": null}]}]),
        json!([{"key": "b1", "markets": [{"key": "h2h", "outcomes": []}]}]),
    ];
    for bookmakers in empty {
        let mut state = StoredState::default();
        let price = json!([{"name": "A", "price": 1.5}]);
        let known = json!([event_of(
            "g1",
            LEAGUE,
            json!([bookmaker("b1", "h2h", price)])
        )]);
        apply(&mut state, 0, LEAGUE, &known);
        let answer = json!([event_of("g1", LEAGUE, bookmakers.clone())]);
        let changes = apply(&mut state, 1, LEAGUE, &answer);
        assert_eq!(changes.counts.rejected, 0, "{bookmakers}");
        assert_eq!(
            kinds(&changes),
            [PriceChangeKind::Withdrawn],
            "{bookmakers}"
        );
    }
    // A negative number is American odds in the wrong place.
    let rows = json!([{"name": "A", "price": -110}]);
    let body = json!([event_of(
        "g1",
        LEAGUE,
        json!([bookmaker("b1", "h2h", rows)])
    )])
    .to_string();
    let parsed = parse_odds(&body, at(0), LEAGUE, OddsFormat::Decimal).expect("a list");
    assert_eq!(parsed.rejected.by_reason["bad_price"].rows, 1);
}

#[test]
fn rejected_row_keeps_only_what_it_may_have_been() {
    let market = |key: &str, rows: Value| json!({"key": key, "outcomes": rows});
    let both = |n: &str| {
        json!({"key": n, "markets": [
            market("h2h", json!([{"name": "A", "price": 1.5}, {"name": "B", "price": 2.5}])),
            market("alternate_totals", outcomes(&["Over 1.5 1.8", "Over 2.5 1.9"])),
        ]})
    };
    let h2h = |row: Value| json!([{"key": "b1", "markets": [market("h2h", json!([row]))]}]);
    let totals =
        |row: Value| json!([{"key": "b1", "markets": [market("alternate_totals", json!([row]))]}]);
    let all_b1 = [
        "alternate_totals Over 1.5 b1 1.8",
        "alternate_totals Over 2.5 b1 1.9",
        "h2h A b1 1.5",
        "h2h B b1 2.5",
    ];
    let lines_b1 = &all_b1[..2];
    let h2h_b1 = &all_b1[2..];
    let cases: [(Value, &[&str]); 15] = [
        (json!([]), &[]),
        (h2h(json!({"name": "A", "price": "x"})), &all_b1[2..3]),
        (h2h(json!({"name": "A", "price": -7})), &all_b1[2..3]),
        (
            h2h(json!({"name": "B", "price": 2, "point": "x"})),
            &all_b1[3..],
        ),
        (
            h2h(json!({"name": "B", "price": {}, "point": 3})),
            &all_b1[3..],
        ),
        (
            h2h(json!({"name": "A", "price": 2, "description": 7})),
            h2h_b1,
        ),
        (h2h(json!({"name": 5, "price": 2})), h2h_b1),
        (h2h(json!({"price": 2})), h2h_b1),
        (h2h(json!(7)), h2h_b1),
        (
            totals(json!({"name": "Over", "price": "x", "point": 2.50})),
            &all_b1[1..2],
        ),
        (
            totals(json!({"name": "Over", "price": 2, "point": "x"})),
            lines_b1,
        ),
        (
            json!([{"key": "b1", "markets": [{"key": "h2h", "outcomes": 7}]}]),
            h2h_b1,
        ),
        (
            json!([{"key": "b1", "markets": [{"key": "", "outcomes": []}]}]),
            &all_b1,
        ),
        (json!([{"key": "b1", "markets": 7}]), &all_b1),
        // Every part of its key is unknown.
        (
            json!([7]),
            &[
                "alternate_totals Over 1.5 b1 1.8",
                "alternate_totals Over 1.5 b2 1.8",
                "alternate_totals Over 2.5 b1 1.9",
                "alternate_totals Over 2.5 b2 1.9",
                "h2h A b1 1.5",
                "h2h A b2 1.5",
                "h2h B b1 2.5",
                "h2h B b2 2.5",
            ],
        ),
    ];
    for (bookmakers, expected) in cases {
        let mut state = StoredState::default();
        let known = json!([event_of("g1", LEAGUE, json!([both("b1"), both("b2")]))]);
        apply(&mut state, 0, LEAGUE, &known);
        let answer = json!([event_of("g1", LEAGUE, bookmakers.clone())]);
        let changes = apply(&mut state, 1, LEAGUE, &answer);
        let rejected = u64::from(bookmakers != json!([]));
        assert_eq!(changes.counts.rejected, rejected, "{bookmakers}");
        assert_eq!(open(&state), expected, "{bookmakers}");
    }
    // In a market that has lines without its name, the rejected row may have been any of them.
    for (order, row) in [
        (0, json!({"name": "A", "price": "x"})),
        (1, json!({"name": "A", "price": "x", "point": -2.5})),
    ] {
        let mut state = StoredState::default();
        let lines = outcomes(&["A -2.5 1.9", "A -3.5 2.1"]);
        let known = json!([event_of(
            "g1",
            LEAGUE,
            json!([
                bookmaker("b1", "spreads", lines.clone()),
                bookmaker("b2", "spreads", lines)
            ])
        )]);
        apply(&mut state, 0, LEAGUE, &known);
        let mut rows = vec![json!({"name": "B", "price": 3, "point": 9})];
        rows.insert(order, row);
        let answer = json!([event_of(
            "g1",
            LEAGUE,
            json!([bookmaker("b1", "spreads", json!(rows))])
        )]);
        apply(&mut state, 1, LEAGUE, &answer);
        let expected = [
            "spreads A -2.5 b1 1.9",
            "spreads A -3.5 b1 2.1",
            "spreads B 9 b1 3",
        ];
        assert_eq!(open(&state), expected);
    }
}

#[test]
fn rejected_event_leaves_only_itself_in_doubt() {
    let price = || json!([bookmaker("b1", "h2h", json!([{"name": "A", "price": 1.5}]))]);
    let known = json!(["g1", "g2", "g3"].map(|id| event_of(id, LEAGUE, price())));
    for (damaged, listed) in [
        (json!({"id": "g2", "sport_key": 7}), vec!["g1", "g2"]),
        (json!({"id": "g2"}), vec!["g1", "g2"]),
        (
            json!({"id": "g2", "sport_key": LEAGUE, "bookmakers": 7}),
            vec!["g1", "g2"],
        ),
        (json!({"id": "unknown", "sport_key": 7}), vec!["g1"]),
        // It may have been any event.
        (json!({"sport_key": LEAGUE}), vec!["g1", "g2", "g3"]),
        (
            json!({"id": 2, "sport_key": LEAGUE}),
            vec!["g1", "g2", "g3"],
        ),
        (json!(7), vec!["g1", "g2", "g3"]),
    ] {
        let mut state = StoredState::default();
        apply(&mut state, 0, LEAGUE, &known);
        let answer = json!([event_of("g1", LEAGUE, price()), damaged]);
        apply(&mut state, 1, LEAGUE, &answer);
        let events = state.events.values().filter(|stored| stored.event.listed);
        let mut found: Vec<_> = events.map(|stored| stored.event.id.as_str()).collect();
        found.sort_unstable();
        assert_eq!(found, listed, "{damaged}");
    }
}

#[test]
fn answer_that_spans_leagues_stores_each_event_under_its_own() {
    let price = || json!([bookmaker("b1", "h2h", json!([{"name": "A", "price": 1.5}]))]);
    let events = |rows: &[(&str, &str)]| -> Value {
        rows.iter()
            .map(|(id, league)| event_of(id, league, price()))
            .collect()
    };
    let first = [
        ("g1", LEAGUE),
        ("g2", "tennis_atp_wimbledon"),
        ("g3", "soccer_epl"),
    ];
    for (sport, expected) in [
        ("upcoming", vec!["g1", "g2", "g3"]),
        ("soccer", vec!["g1", "g2", "g3"]),
        (LEAGUE, vec!["g1"]),
        ("tennis_atp", vec!["g2"]),
        ("tennis_at", vec![]),
    ] {
        let mut state = StoredState::default();
        let body = events(&first).to_string();
        let parsed = parse_odds(&body, at(0), sport, OddsFormat::Decimal);
        assert_eq!(parsed.is_err(), expected.is_empty(), "{sport}");
        if expected.is_empty() {
            continue;
        }
        apply(&mut state, 0, sport, &events(&first));
        let mut found: Vec<_> = state.events.keys().map(EventId::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{sport}");
        for stored in state.events.values() {
            let (_, league) = first
                .iter()
                .find(|(id, _)| *id == stored.event.id.as_str())
                .expect("listed");
            assert_eq!(stored.event.league, *league);
            assert_eq!(Some(&*stored.event.sport), league.split('_').next());
        }
        // The window moved on, or is empty: only the answer for a league says that its event is gone.
        if expected.contains(&"g1") {
            apply(&mut state, 1, sport, &events(&first[..1]));
        }
        apply(&mut state, 2, sport, &json!([]));
        let listed = state.events.values().filter(|stored| stored.event.listed);
        assert_eq!(
            listed.count(),
            if sport == LEAGUE { 0 } else { expected.len() },
            "{sport}"
        );
    }
    for (rows, sport) in [
        (&first[..], Some("upcoming")),
        (&first[2..], Some("soccer_epl")),
        (&[][..], None),
    ] {
        assert_eq!(find_sport(&events(rows).to_string()).as_deref(), sport);
    }
}
