//! Tests of the answer cached under `races:by-stage:v1`: its fields, its order and its odds.

use chrono::{DateTime, TimeDelta, Utc};
use oddsd_core::model::{EventStatus, SelectionStatus};
use oddsd_core::stage::{Stage, StoredOdds, StoredRace, StoredRunner, build_races_by_stage};
use proptest::prelude::*;
use rust_decimal::Decimal;

fn now() -> DateTime<Utc> {
    "2026-03-14T13:00:00Z".parse().expect("valid")
}

fn race(id: &str, seconds_to_off: i64, runners: Vec<StoredRunner>) -> StoredRace {
    StoredRace {
        id: id.into(),
        day: Some(now().date_naive()),
        time: Some("14:05".into()),
        off: Some(now() + TimeDelta::seconds(seconds_to_off)),
        course: "Leicester".into(),
        name: "Maiden Stakes".into(),
        race_type: Some("Flat".into()),
        distance: None,
        status: EventStatus::Scheduled,
        in_play: false,
        listed: true,
        last_updated: Some(now()),
        runners,
    }
}

fn runner(id: &str, number: &str, odds: &[(&str, &str, Option<&str>)]) -> StoredRunner {
    StoredRunner {
        id: id.into(),
        name: format!("Horse {id}"),
        number: Some(number.into()),
        status: SelectionStatus::Active,
        odds: odds
            .iter()
            .map(|(bookmaker, decimal, fractional)| StoredOdds {
                bookmaker: (*bookmaker).into(),
                fractional: fractional.map(Into::into),
                decimal: decimal.parse().expect("a decimal"),
            })
            .collect(),
    }
}

#[test]
fn races_by_stage_has_exactly_its_documented_fields() {
    let gone = StoredRunner {
        status: SelectionStatus::NonRunner,
        ..runner("h9", "9", &[("Bet365", "1.5", None)])
    };
    let runners = vec![
        runner("h10", "10", &[]),
        runner(
            "h2",
            "2",
            &[
                ("Unibet", "23.0", Some("22/1")),
                ("Bet365", "23.00", Some("22/1")),
            ],
        ),
        runner(
            "h1",
            "1",
            &[("Bet365", "4.33", None), ("Betfair", "4.5", None)],
        ),
        gone,
    ];
    let text = serde_json::to_string(&build_races_by_stage([race("r1", 359, runners)], now()))
        .expect("JSON");
    assert_eq!(
        text,
        concat!(
            r#"{"success":true,"stages":{"at_post":[],"going_to_post":[{"race_id":"r1","race_date":"2026-03-14","#,
            r#""race_time":"14:05","off_dt":"2026-03-14T13:05:59Z","course":"Leicester","race_name":"Maiden Stakes","#,
            r#""race_type":"Flat","distance":null,"runners":3,"minutes_until":5,"last_updated":"2026-03-14T13:00:00Z","#,
            r#""next_phase_time":"2026-03-14T13:00:59Z","next_phase_name":"at_post","next_phase_minutes":0,"runners_data":["#,
            r#"{"horse_id":"h1","horse_name":"Horse h1","horse_number":"1","best_odds_decimal":4.5,"best_odds_fractional":null,"#,
            r#""best_bookmaker":"Betfair","is_favorite":true,"all_odds":[{"bookmaker":"Betfair","odds_fractional":null,"odds_decimal":4.5},"#,
            r#"{"bookmaker":"Bet365","odds_fractional":null,"odds_decimal":4.33}]},"#,
            r#"{"horse_id":"h2","horse_name":"Horse h2","horse_number":"2","best_odds_decimal":23,"best_odds_fractional":"22/1","#,
            r#""best_bookmaker":"Bet365","is_favorite":false,"all_odds":[{"bookmaker":"Bet365","odds_fractional":"22/1","odds_decimal":23},"#,
            r#"{"bookmaker":"Unibet","odds_fractional":"22/1","odds_decimal":23}]},"#,
            r#"{"horse_id":"h10","horse_name":"Horse h10","horse_number":"10","best_odds_decimal":null,"best_odds_fractional":null,"#,
            r#""best_bookmaker":null,"is_favorite":false,"all_odds":[]}]}],"pre_race":[],"early_market":[]},"#,
            r#""total_races":1,"timestamp":"2026-03-14T13:00:00Z"}"#,
        )
    );
}

#[test]
fn races_by_stage_keeps_all_digits_of_a_decimal() {
    let runners = vec![runner("h1", "1", &[("A", "1234567890.123456789", None)])];
    let text = serde_json::to_string(&build_races_by_stage([race("r1", 60, runners)], now()))
        .expect("JSON");
    assert!(
        text.contains(r#""odds_decimal":1234567890.123456789}"#),
        "{text}"
    );
}

#[test]
fn races_by_stage_marks_all_joint_favourites() {
    let runners = vec![
        runner("h1", "1", &[("A", "3.5", None)]),
        runner("h2", "2", &[("A", "3", None), ("B", "3.50", None)]),
        runner("h3", "3", &[("A", "9", None)]),
    ];
    let answer = build_races_by_stage([race("r1", 60, runners)], now());
    let favourites: Vec<bool> = answer.stages[&Stage::AtPost][0]
        .runners_data
        .iter()
        .map(|r| r.is_favorite)
        .collect();
    assert_eq!(favourites, [true, true, false]);
}

#[test]
fn races_by_stage_omits_started_and_cancelled_races() {
    let mut races: Vec<StoredRace> = (0..7).map(|_| race("r", 600, vec![])).collect();
    races[0].in_play = true;
    races[1].listed = false;
    races[2].status = EventStatus::Abandoned;
    races[3].status = EventStatus::Live;
    races[4].off = None;
    races[5].off = Some(now());
    let answer = build_races_by_stage(races, now());
    assert_eq!(
        (answer.total_races, answer.stages[&Stage::GoingToPost].len()),
        (1, 1)
    );
}

proptest! {
    #[test]
    fn races_by_stage_lists_every_race_to_come_once_and_sorted(
        offs in prop::collection::vec(-3600i64..12_000, 0..40)
    ) {
        let races: Vec<StoredRace> = offs
            .iter()
            .enumerate()
            .map(|(n, off)| race(&format!("r{n:02}"), *off, vec![]))
            .collect();
        let answer = build_races_by_stage(races, now());
        let mut seen = Vec::new();
        for (stage, list) in &answer.stages {
            for race in list {
                prop_assert_eq!(Stage::at(race.off_dt, now()), Some(*stage));
                seen.push(race.race_id.to_string());
            }
            let order: Vec<_> = list.iter().map(|r| (r.off_dt, r.race_id.clone())).collect();
            prop_assert!(order.is_sorted());
        }
        let mut expected: Vec<String> = (0..offs.len())
            .filter(|n| offs[*n] > 0)
            .map(|n| format!("r{n:02}"))
            .collect();
        seen.sort();
        expected.sort();
        prop_assert_eq!(seen.len(), answer.total_races);
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn races_by_stage_takes_the_highest_price_as_best(prices in prop::collection::vec((1001i64..999_000, 0u32..9), 1..12)) {
        let odds = prices
            .iter()
            .map(|(thousandths, book)| StoredOdds {
                bookmaker: format!("Book {book}"),
                fractional: None,
                decimal: Decimal::new(*thousandths, 3),
            })
            .collect();
        let horse = StoredRunner { odds, ..runner("h", "1", &[]) };
        let answer = build_races_by_stage([race("r", 60, vec![horse])], now());
        let runner = &answer.stages[&Stage::AtPost][0].runners_data[0];
        let highest = prices.iter().map(|(t, _)| Decimal::new(*t, 3)).max();
        prop_assert_eq!(runner.best_odds_decimal, highest);
        let first = prices.iter().filter(|(t, _)| Some(Decimal::new(*t, 3)) == highest).map(|(_, b)| b).min();
        let expected = first.map(|b| format!("Book {b}"));
        prop_assert_eq!(runner.best_bookmaker.as_ref(), expected.as_ref());
    }
}
