//! The simulated day as JSON in the format of The Racing API. `RaceDay` renders its answers with it.

use std::rc::Rc;

use chrono::NaiveDate;
use chrono_tz::Europe::London;
use serde::Serialize;

use super::market::{BookmakerQuote, QuoteState, SimulatedRace, SimulatedRunner};
use super::names;
use super::price_ladder::{self, QuotedOdds};

#[derive(Serialize)]
pub(super) struct CardBody<'a> {
    racecards: Vec<RaceBody<'a>>,
    total: usize,
    limit: usize,
    skip: usize,
    query: Vec<(&'static str, String)>,
}

#[derive(Serialize)]
pub(super) struct RaceBody<'a> {
    race_id: &'a str,
    course: &'static str,
    course_id: String,
    date: String,
    off_time: String,
    off_dt: String,
    race_name: &'a str,
    distance: &'static str,
    distance_f: &'static str,
    region: &'static str,
    race_class: &'static str,
    r#type: &'static str,
    age_band: &'static str,
    prize: &'static str,
    field_size: String,
    going: &'static str,
    surface: &'static str,
    big_race: bool,
    is_abandoned: bool,
    race_status: Option<&'static str>,
    runners: Vec<RunnerBody<'a>>,
}

#[derive(Serialize)]
struct RunnerBody<'a> {
    horse_id: &'a str,
    horse: &'a str,
    age: String,
    trainer: &'a str,
    jockey: &'a str,
    number: String,
    draw: &'static str,
    lbs: String,
    form: &'a str,
    odds: Vec<OddsBody>,
}

#[derive(Serialize)]
struct OddsBody {
    bookmaker: &'static str,
    fractional: String,
    decimal: String,
    ew_places: &'static str,
    ew_denom: &'static str,
    updated: Rc<str>,
    history: [(); 0],
}

pub(super) fn card_body<'a>(day: NaiveDate, racecards: Vec<RaceBody<'a>>) -> CardBody<'a> {
    CardBody {
        total: racecards.len(),
        racecards,
        limit: 500,
        skip: 0,
        query: vec![("date", day.to_string())],
    }
}

pub(super) fn race_body<'a>(
    race: &'a SimulatedRace,
    day: NaiveDate,
    going: &'static str,
) -> RaceBody<'a> {
    let off = race.off_at.with_timezone(&London);
    let running = race.runners.iter().filter(|r| !r.non_runner).count();
    let updated = race.updated.with_timezone(&London);
    let updated: Rc<str> = updated.format("%Y-%m-%d %H:%M:%S").to_string().into();
    RaceBody {
        race_id: &race.id,
        course: names::COURSES[race.course],
        course_id: format!("crs_9{:02}", race.course),
        date: day.to_string(),
        off_time: off.format("%-I:%M").to_string(),
        off_dt: off.to_rfc3339(),
        race_name: &race.name,
        distance: "2m4f",
        distance_f: "20.0",
        region: "GB",
        race_class: "Class 4",
        r#type: if race.name.contains("Chase") {
            "Chase"
        } else {
            "Hurdle"
        },
        age_band: "4yo+",
        prize: "£5,100",
        field_size: running.to_string(),
        going,
        surface: "Turf",
        big_race: false,
        is_abandoned: race.abandoned,
        race_status: race.abandoned.then_some("abandoned"),
        runners: race
            .runners
            .iter()
            .map(|runner| runner_body(runner, each_way(running), &updated))
            .collect(),
    }
}

fn runner_body<'a>(
    runner: &'a SimulatedRunner,
    each_way: (&'static str, &'static str),
    updated: &Rc<str>,
) -> RunnerBody<'a> {
    let odds = names::BOOKMAKERS.iter().zip(&runner.quotes);
    RunnerBody {
        horse_id: &runner.horse_id,
        horse: &runner.horse,
        age: runner.age.to_string(),
        trainer: &runner.trainer,
        jockey: &runner.jockey,
        number: match runner.non_runner {
            true => "NR".into(),
            false => runner.number.to_string(),
        },
        draw: "0",
        lbs: runner.lbs.to_string(),
        form: &runner.form,
        odds: odds
            .map(|(name, quote)| {
                let odds = quoted_odds(name, quote);
                OddsBody {
                    bookmaker: name,
                    fractional: odds.fractional,
                    decimal: odds.decimal,
                    ew_places: each_way.0,
                    ew_denom: each_way.1,
                    updated: updated.clone(),
                    history: [],
                }
            })
            .collect(),
    }
}

/// The usual each-way terms by number of runners: places, and the fraction of the odds.
fn each_way(running: usize) -> (&'static str, &'static str) {
    match running {
        ..5 => ("", ""),
        5..8 => ("2", "4"),
        _ => ("3", "5"),
    }
}

fn quoted_odds(name: &'static str, quote: &BookmakerQuote) -> QuotedOdds {
    match quote.state {
        QuoteState::Priced if name == names::EXCHANGE => price_ladder::exchange(quote.tick),
        QuoteState::Priced => price_ladder::fixed(quote.tick),
        QuoteState::NotYet => QuotedOdds {
            fractional: "-".into(),
            decimal: "-".into(),
        },
        QuoteState::StartingPrice => QuotedOdds {
            fractional: "SP".into(),
            decimal: "0".into(),
        },
    }
}
