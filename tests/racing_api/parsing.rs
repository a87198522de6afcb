//! Tests of the card parser: the provider's peculiarities one by one.

use oddsd_core::model::{
    BookmakerId, EachWay, EventStatus, RowInDoubt, SelectionId, SelectionStatus,
};
use oddsd_feeds::FeedError;
use oddsd_feeds::racing_api::{ParsedCards, parse_cards};
use serde_json::{Value, json};

use super::{now, odds, price, race, runner, utc};

fn parse(races: Value) -> ParsedCards {
    let body = json!({"racecards": races, "total": 1, "limit": 500, "skip": 0, "query": []});
    let parsed = parse_cards(&body.to_string(), now()).expect("a card");
    assert_accounted(&parsed);
    parsed
}

pub(super) fn assert_accounted(parsed: &ParsedCards) {
    let prices: usize = parsed.events.iter().map(|e| e.prices.len()).sum();
    assert_eq!(parsed.prices_seen, prices as u64 + parsed.rejected.total());
}

/// A race with one runner and these odds rows.
fn with_odds(rows: Value) -> Value {
    let mut race = race("rac_1");
    race["runners"][0]["odds"] = rows;
    race
}

fn rejected(parsed: &ParsedCards, reason: &str) -> u64 {
    parsed.rejected.by_reason.get(reason).map_or(0, |r| r.rows)
}

#[test]
fn race_maps_to_the_domain_model() {
    let parsed = parse(json!([race("rac_1")]));
    let found = &parsed.events[0];
    let event = &found.event;
    assert_eq!(event.id.as_str(), "rac_1");
    assert_eq!(
        (&*event.source, event.sport.as_str()),
        ("racing_api", "horse_racing")
    );
    assert_eq!(
        (event.league.as_str(), event.venue.as_str()),
        ("GB", "Hereford")
    );
    assert_eq!(event.name, "Mill Pond Hurdle");
    assert_eq!(event.starts_at, Some(utc("2025-10-13T14:05:00Z")));
    assert_eq!(
        event.day.map(|d| d.to_string()).as_deref(),
        Some("2025-10-13")
    );
    assert_eq!(event.status, EventStatus::Scheduled);
    assert!(event.listed && !event.in_play && found.complete);
    let facts = |facts: &oddsd_core::model::Attributes| serde_json::to_value(facts).expect("text");
    assert_eq!(
        facts(&event.attributes),
        json!({
            "race_date": "2025-10-13", "race_time": "3:05", "race_class": "Class 4",
            "race_type": "Hurdle", "distance": "2m53y", "going": "Good", "surface": "Turf",
            "field_size": "1", "age_band": "4yo+", "prize": "£4,193",
        })
    );
    let selection = &found.selections[0];
    assert_eq!(selection.name, "Quiet Kettle");
    assert_eq!(selection.status, SelectionStatus::Active);
    assert_eq!(
        facts(&selection.attributes),
        json!({
            "number": "1", "draw": "0", "jockey": "Isla Hexley", "trainer": "Ned Vaisey",
            "weight": "158", "age": "5", "form": "542-",
        })
    );
    let bet365 = price(found, "bet365");
    assert_eq!(bet365.key.market.as_str(), "win");
    assert_eq!(bet365.observed_at, Some(utc("2025-10-13T13:11:07Z")));
    let offer = bet365.offer.as_ref().expect("priced");
    assert_eq!(offer.decimal.to_string(), "23");
    assert_eq!(
        offer.each_way,
        Some(EachWay {
            places: 3,
            denom: 5
        })
    );
}

/// The parsed offer of a row with this decimal and fractional: `Some(decimal, fraction)`, or `None` for
/// "no price".
fn shown(decimal: Value, fractional: Value) -> Result<Option<(String, String)>, String> {
    let mut row = odds("Unibet", "");
    row["decimal"] = decimal;
    row["fractional"] = fractional;
    let parsed = parse(json!([with_odds(json!([row]))]));
    match parsed.rejected.by_reason.keys().next() {
        Some(reason) => Err((*reason).to_owned()),
        None => Ok(price(&parsed.events[0], "unibet")
            .offer
            .as_ref()
            .map(|offer| {
                let fraction = offer.fractional.map(|fraction| fraction.to_string());
                (offer.decimal.to_string(), fraction.unwrap_or_default())
            })),
    }
}

#[test]
fn price_is_the_decimal_and_a_dash_is_no_rejection() {
    let priced = |decimal: &str, fraction: &str| Ok(Some((decimal.into(), fraction.into())));
    assert_eq!(shown(json!("23"), json!("22/1")), priced("23", "22/1"));
    assert_eq!(shown(json!("2.880"), json!("15/8")), priced("2.88", "15/8"));
    // Exchanges repeat the decimal; older answers have "4" for 4/1.
    assert_eq!(shown(json!("4.5"), json!("4.5")), priced("4.5", ""));
    assert_eq!(shown(json!("5"), json!("4")), priced("5", ""));
    // A number keeps the digits that were sent.
    assert_eq!(shown(json!(4.33), json!("10/3")), priced("4.33", "10/3"));
    assert_eq!(shown(json!(23), Value::Null), priced("23", ""));
    // Only a fraction: convert it, if it is one.
    assert_eq!(shown(Value::Null, json!("22/1")), priced("23", "22/1"));
    assert_eq!(
        shown(json!(""), json!("8/13")),
        priced("1.615384615", "8/13")
    );

    for nothing in [
        json!("-"),
        json!("SP"),
        json!("sp"),
        json!("0"),
        json!(0),
        json!("0.00"),
        // Stubs of bookmakers that have not priced the runner yet.
        json!("1"),
        json!("1.0"),
        json!(1),
        json!("0.5"),
        json!("EVS"),
        json!("evens"),
        json!("N/A"),
    ] {
        assert_eq!(shown(nothing.clone(), json!("5/1")), Ok(None), "{nothing}");
    }
    for fractional in [json!("-"), json!("SP"), json!("4"), json!(""), Value::Null] {
        assert_eq!(
            shown(Value::Null, fractional.clone()),
            Ok(None),
            "{fractional}"
        );
    }
    for bad in [
        json!("-3"),
        json!("+3"),
        json!("1_000"),
        json!("1,000"),
        json!("100000"),
        json!("1e3"),
        json!("NaN"),
        json!(true),
        json!({}),
        json!([5]),
        json!("9999999999999999999999999999999999"),
        json!("٣"),
    ] {
        assert_eq!(
            shown(bad.clone(), json!("5/1")),
            Err("bad_decimal".into()),
            "{bad}"
        );
    }
}

#[test]
fn each_way_terms_are_complete_or_absent() {
    for (places, denom, expected) in [
        (
            json!("3"),
            json!("5"),
            Some(EachWay {
                places: 3,
                denom: 5,
            }),
        ),
        (
            json!(2),
            json!(4),
            Some(EachWay {
                places: 2,
                denom: 4,
            }),
        ),
        (json!(""), json!(""), None),
        (json!("3"), Value::Null, None),
        (json!("0"), json!("5"), None),
        (json!("many"), json!("5"), None),
    ] {
        let mut row = odds("Unibet", "4");
        row["ew_places"] = places;
        row["ew_denom"] = denom;
        let parsed = parse(json!([with_odds(json!([row]))]));
        let offer = price(&parsed.events[0], "unibet").offer;
        assert_eq!(offer.expect("priced").each_way, expected);
    }
}

#[test]
fn non_runner_has_no_prices_and_a_reserve_has() {
    for (number, jockey, status, priced) in [
        (
            json!("NR"),
            json!("Isla Hexley"),
            SelectionStatus::NonRunner,
            0,
        ),
        (
            json!("4"),
            json!("NON-RUNNER(5)"),
            SelectionStatus::NonRunner,
            0,
        ),
        (json!("R1"), json!(""), SelectionStatus::Reserve, 2),
        (json!("RX"), json!("Ünal"), SelectionStatus::Active, 2),
        (json!(7), Value::Null, SelectionStatus::Active, 2),
    ] {
        let mut race = race("rac_1");
        race["runners"][0]["number"] = number;
        race["runners"][0]["jockey"] = jockey;
        let parsed = parse(json!([race]));
        let found = &parsed.events[0];
        assert_eq!(found.selections[0].status, status);
        assert_eq!(found.prices.len(), 2);
        assert_eq!(
            found.prices.iter().filter(|p| p.offer.is_some()).count(),
            priced
        );
        assert!(parsed.rejected.is_empty());
    }
}

#[test]
fn abandoned_race_has_no_prices() {
    for (flag, status) in [
        (json!(true), Value::Null),
        (json!("true"), Value::Null),
        (json!(false), json!("Abandoned")),
        (Value::Null, json!("race abandoned - waterlogged")),
    ] {
        let mut race = race("rac_1");
        race["is_abandoned"] = flag;
        race["race_status"] = status;
        let parsed = parse(json!([race]));
        assert_eq!(parsed.events[0].event.status, EventStatus::Abandoned);
        assert!(parsed.events[0].prices.iter().all(|p| p.offer.is_none()));
    }
}

#[test]
fn null_or_missing_field_affects_only_itself() {
    let parsed = parse(json!([
        {"race_id": "rac_1", "runners": [{"horse_id": "hrs_1", "odds": null}, {"horse_id": 17}]},
        {"race_id": "rac_2", "runners": null, "course": null, "region": null, "off_dt": null,
         "date": "2025-10-13", "off_time": "2:12", "something_new": {"deep": [1, 2]}},
        {"race_id": "rac_3", "off_dt": "2025-10-13T23:30:00Z"},
    ]));
    assert!(parsed.rejected.is_empty() && parsed.in_doubt.is_empty());
    assert_eq!(parsed.events[0].selections[1].id.as_str(), "17");
    assert_eq!(
        parsed.events[1].event.starts_at,
        Some(utc("2025-10-13T13:12:00Z"))
    );
    // Without a date the day is the UK date of the off.
    let day = parsed.events[2].event.day.map(|d| d.to_string());
    assert_eq!(day.as_deref(), Some("2025-10-14"));
    assert!(parsed.events[0].event.attributes.is_empty());
}

#[test]
fn malformed_rows_are_rejected_and_remove_nothing() {
    let mut odd_runners = race("rac_1");
    odd_runners["runners"] = json!([
        runner(
            "hrs_1",
            json!([
                odds("Bet365", "3"),
                "gibberish",
                odds("", "4"),
                odds("Coral", "x")
            ])
        ),
        "a horse",
        runner("", json!([odds("Bet365", "3"), odds("Coral", "4")])),
        runner("hrs_2", json!("no list")),
    ]);
    let parsed = parse(json!([odd_runners, race("rac_2"), 42, race(""), ["rac_4"]]));
    assert_eq!(parsed.events.len(), 2);
    assert_eq!(parsed.events[0].prices.len(), 1);
    assert_eq!(parsed.events[0].selections.len(), 2);
    for (reason, rows) in [
        ("bad_odds", 2),
        ("no_bookmaker", 1),
        ("bad_decimal", 1),
        ("bad_runner", 1),
        ("no_id", 4),
        ("bad_race", 2),
    ] {
        assert_eq!(
            rejected(&parsed, reason),
            rows,
            "{reason}: {}",
            parsed.rejected
        );
    }
    let prices = |selection: &str, bookmaker: Option<&str>| RowInDoubt::Price {
        market: None,
        selection: Some(SelectionId::new(selection)),
        bookmaker: bookmaker.map(BookmakerId::new),
    };
    let in_doubt = [
        prices("hrs_1", None),
        prices("hrs_1", None),
        prices("hrs_1", Some("coral")),
        RowInDoubt::Selection,
        RowInDoubt::Selection,
        prices("hrs_2", None),
    ];
    assert_eq!(parsed.events[0].in_doubt, in_doubt);
    assert!(parsed.events[1].in_doubt.is_empty());
    assert!(parsed.in_doubt.unidentified && parsed.in_doubt.ids.is_empty());
    assert!(
        parsed.rejected.by_reason["bad_decimal"]
            .sample
            .contains("rac_1 hrs_1 Coral")
    );
}

/// A row that repeats a field is not read, but its key is.
#[test]
fn rejected_row_with_a_readable_key_puts_only_its_key_in_doubt() {
    let row = r#"{"bookmaker":"Coral","decimal":"3","decimal":"4"}"#;
    let runner = |id: &str, odds: &str| format!(r#"{{"horse_id":"{id}","odds":[{odds}]}}"#);
    let repeated = r#"{"horse_id":"hrs_2","horse":"A","horse":"B","odds":[]}"#;
    let runners = format!("{},{repeated}", runner("hrs_1", row));
    let races = [
        format!(r#"{{"race_id":"rac_1","runners":[{runners}]}}"#),
        r#"{"race_id":"rac_2","runners":"none"}"#.to_owned(),
        r#"{"race_id":"rac_3","course":"A","course":"B","runners":[]}"#.to_owned(),
    ];
    let body = format!(r#"{{"racecards":[{}]}}"#, races.join(","));
    let parsed = parse_cards(&body, now()).expect("a card");
    assert_eq!(parsed.rejected.total(), 4);
    let in_doubt = |selection: &str, bookmaker: Option<&str>| RowInDoubt::Price {
        market: None,
        selection: Some(SelectionId::new(selection)),
        bookmaker: bookmaker.map(BookmakerId::new),
    };
    assert_eq!(
        parsed.events[0].in_doubt,
        [in_doubt("hrs_1", Some("coral")), in_doubt("hrs_2", None)]
    );
    let ids: Vec<&str> = parsed.in_doubt.ids.iter().map(|id| id.as_str()).collect();
    assert_eq!(
        (ids, parsed.in_doubt.unidentified),
        (vec!["rac_2", "rac_3"], false)
    );
}

#[test]
fn row_without_bookmaker_and_price_is_no_row() {
    let rows = json!([null, {}, odds("", "-"), odds("", "1"), odds("Bet365", "3")]);
    let parsed = parse(json!([with_odds(rows)]));
    assert!(parsed.rejected.is_empty(), "{}", parsed.rejected);
    assert_eq!(parsed.events[0].prices.len(), 1);
    assert!(parsed.events[0].in_doubt.is_empty());
}

#[test]
fn bookmaker_name_variants_are_one_price() {
    let row = |name: &str, decimal: &str, updated: &str| {
        let mut row = odds(name, decimal);
        row["updated"] = json!(updated);
        row
    };
    let kept = |first: &str, second: &str| {
        let rows = json!([row("Spread Ex", "3", first), row("Spreadex", "4", second)]);
        let parsed = parse(json!([with_odds(rows)]));
        assert_eq!(rejected(&parsed, "duplicate_bookmaker"), 1);
        assert_eq!(parsed.bookmakers.len(), 1);
        assert!(parsed.events[0].in_doubt.is_empty());
        let offer = price(&parsed.events[0], "spreadex").offer;
        offer.expect("priced").decimal.to_string()
    };
    assert_eq!(kept("2025-10-13 14:11:07", "2025-10-13 14:11:08"), "4");
    assert_eq!(kept("2025-10-13 14:11:08", "2025-10-13 14:11:07"), "3");
    assert_eq!(kept("2025-10-13 14:11:07", "2025-10-13 14:11:07"), "3");
}

#[test]
fn repeated_races_and_runners_are_stored_once() {
    let mut twice = race("rac_1");
    twice["runners"] = json!([
        runner("hrs_1", json!([])),
        runner("hrs_1", json!([odds("Coral", "2")]))
    ]);
    let parsed = parse(json!([twice, race("rac_1")]));
    assert_eq!(parsed.events.len(), 1);
    assert_eq!(parsed.events[0].selections.len(), 1);
    assert_eq!(rejected(&parsed, "duplicate_runner"), 1);
    assert_eq!(rejected(&parsed, "duplicate_race"), 2);
}

#[test]
fn hostile_card_is_capped() {
    let many = |n: usize| {
        (0..n)
            .map(|n| odds(&format!("Book {n}"), "3"))
            .collect::<Vec<_>>()
    };
    let mut large = with_odds(json!(many(203)));
    let more = (0..105).map(|n| runner(&format!("hrs_x{n}"), json!([])));
    large["runners"]
        .as_array_mut()
        .expect("a list")
        .extend(more);
    let mut races = vec![large];
    races.extend((0..2_004).map(|n| json!({"race_id": format!("rac_x{n}")})));
    let parsed = parse(json!(races));
    assert_eq!(parsed.events.len(), 2_000);
    assert_eq!(parsed.events[0].selections.len(), 100);
    assert_eq!(parsed.events[0].prices.len(), 200);
    assert_eq!(rejected(&parsed, "row_cap"), 3 + 6 + 5);
    let unknown = parsed.events[0].in_doubt.contains(&RowInDoubt::Selection);
    assert!(parsed.in_doubt.unidentified && unknown);
}

#[test]
fn text_fields_are_stored_literally() {
    let mut race = race("rac_1");
    race["course"] = json!("Here\u{1b}[2Jford\n");
    race["runners"][0]["horse"] = json!("\u{202e}Quiet \u{7}Kettle");
    let parsed = parse(json!([race]));
    assert_eq!(parsed.events[0].event.venue, "Here[2Jford");
    assert_eq!(parsed.events[0].selections[0].name, "Quiet Kettle");
    let mut nul = super::race("rac_\0");
    nul["runners"] = json!([]);
    let parsed = parse(json!([nul, super::race("rac_2")]));
    assert_eq!(rejected(&parsed, "bad_id"), 1);
}

#[test]
fn single_race_parses_with_and_without_envelope() {
    let bare = parse_cards(&race("rac_1").to_string(), now()).expect("a race");
    assert_eq!(bare.events, parse(json!([race("rac_1")])).events);
    assert_eq!(bare.total, None);
}

#[test]
fn other_json_is_an_error_and_an_empty_card_is_not() {
    let error = |body: &str| match parse_cards(body, now()) {
        Err(FeedError::BadAnswer(detail)) => detail,
        other => panic!("{body} gave {other:?}"),
    };
    assert!(error(r#"{"results":[],"total":0}"#).contains("but results, total"));
    assert!(error(r#"{"racecards":null}"#).contains("no \"racecards\""));
    assert!(error(r#"{"racecards":"none"}"#).contains("not a list"));
    assert!(error(r#"{"racecards":[42, "x"]}"#).contains("no readable race among"));
    assert!(error("[]").contains("not a JSON object"));
    assert!(error("{").contains("cannot be read"));
    assert!(error("{}").contains("nothing else either"));
    let empty = parse_cards(r#"{"racecards":[],"total":0}"#, now()).expect("no racing today");
    assert_eq!((empty.events.len(), empty.total), (0, Some(0)));
}
