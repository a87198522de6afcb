//! The answer behind `races:by-stage:v1`: other programs read it by these names, so each field is
//! spelt here and nowhere else.

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use rust_decimal::Decimal;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::Stage;
use crate::model::{EventId, EventStatus, SelectionId, SelectionStatus};

/// A race as it is stored.
#[derive(Clone, Debug)]
pub struct RaceRow {
    pub id: EventId,
    /// The card's own date and time, as people read them.
    pub day: Option<NaiveDate>,
    pub time: Option<String>,
    pub off: Option<DateTime<Utc>>,
    pub course: String,
    pub name: String,
    pub race_type: Option<String>,
    pub distance: Option<String>,
    pub status: EventStatus,
    pub in_play: bool,
    pub listed: bool,
    /// When a stored fact or price of it last changed.
    pub last_updated: Option<DateTime<Utc>>,
    pub runners: Vec<RunnerRow>,
}

#[derive(Clone, Debug)]
pub struct RunnerRow {
    pub id: SelectionId,
    pub name: String,
    /// Saddle-cloth number as the card has it: `7`, `1A`.
    pub number: Option<String>,
    pub status: SelectionStatus,
    /// Open win prices, in any order.
    pub odds: Vec<OddsRow>,
}

#[derive(Clone, Debug)]
pub struct OddsRow {
    /// The bookmaker's name as people read it.
    pub bookmaker: String,
    pub fractional: Option<String>,
    pub decimal: Decimal,
}

/// The whole answer.
#[derive(Clone, Debug, Serialize)]
pub struct Payload {
    pub success: bool,
    pub stages: Stages,
    pub total_races: usize,
    pub timestamp: String,
}

/// Each list by time to the off, then by id.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stages {
    pub at_post: Vec<Race>,
    pub going_to_post: Vec<Race>,
    pub pre_race: Vec<Race>,
    pub early_market: Vec<Race>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Race {
    pub race_id: EventId,
    pub race_date: Option<NaiveDate>,
    pub race_time: Option<String>,
    pub off_dt: String,
    pub course: String,
    pub race_name: String,
    pub race_type: Option<String>,
    pub distance: Option<String>,
    /// How many run: non-runners and reserves are not counted.
    pub runners: usize,
    /// Whole minutes, rounded down: 4 means at least 4 and less than 5.
    pub minutes_until: i64,
    pub last_updated: Option<String>,
    pub next_phase_time: String,
    pub next_phase_name: &'static str,
    /// Whole minutes, rounded down.
    pub next_phase_minutes: i64,
    /// By number, then id; non-runners are left out.
    pub runners_data: Vec<Runner>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Runner {
    pub horse_id: SelectionId,
    pub horse_name: String,
    pub horse_number: Option<String>,
    #[serde(serialize_with = "maybe_number")]
    pub best_odds_decimal: Option<Decimal>,
    pub best_odds_fractional: Option<String>,
    pub best_bookmaker: Option<String>,
    /// Its best price is the lowest of the race. Joint favourites are all favourites.
    pub is_favorite: bool,
    /// Best first; equal prices by the bookmaker's name.
    pub all_odds: Vec<Odds>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Odds {
    pub bookmaker: String,
    pub odds_fractional: Option<String>,
    #[serde(serialize_with = "number")]
    pub odds_decimal: Decimal,
}

/// Builds the answer as of `now`. Races that have started, are over, or left the card are left out.
pub fn payload(races: impl IntoIterator<Item = RaceRow>, now: DateTime<Utc>) -> Payload {
    let mut waiting: Vec<(DateTime<Utc>, Stage, RaceRow)> = races
        .into_iter()
        .filter_map(|race| {
            let (off, stage) = stage_of(&race, now)?;
            Some((off, stage, race))
        })
        .collect();
    waiting.sort_by(|(a_off, _, a), (b_off, _, b)| (a_off, &a.id).cmp(&(b_off, &b.id)));

    let total_races = waiting.len();
    let mut stages = Stages::default();
    for (off, stage, row) in waiting {
        let list = match stage {
            Stage::AtPost => &mut stages.at_post,
            Stage::GoingToPost => &mut stages.going_to_post,
            Stage::PreRace => &mut stages.pre_race,
            Stage::EarlyMarket => &mut stages.early_market,
        };
        list.extend(race(row, off, now));
    }
    Payload {
        success: true,
        stages,
        total_races,
        timestamp: rfc3339(now),
    }
}

/// The off and stage of a race that is still to be run.
fn stage_of(race: &RaceRow, now: DateTime<Utc>) -> Option<(DateTime<Utc>, Stage)> {
    let open = race.listed && !race.in_play && !race.status.is_final();
    if !open || race.status == EventStatus::Live {
        return None;
    }
    let off = race.off?;
    Some((off, Stage::of(off, now)?))
}

fn race(row: RaceRow, off: DateTime<Utc>, now: DateTime<Utc>) -> Option<Race> {
    let next = Stage::next(off, now)?;
    let running = |r: &&RunnerRow| !r.status.is_out() && r.status != SelectionStatus::Reserve;
    Some(Race {
        race_id: row.id,
        race_date: row.day,
        race_time: row.time,
        off_dt: rfc3339(off),
        course: row.course,
        race_name: row.name,
        race_type: row.race_type,
        distance: row.distance,
        runners: row.runners.iter().filter(running).count(),
        minutes_until: (off - now).num_minutes(),
        last_updated: row.last_updated.map(rfc3339),
        next_phase_time: rfc3339(next.at),
        next_phase_name: next.name,
        next_phase_minutes: (next.at - now).num_minutes(),
        runners_data: runners(row.runners),
    })
}

fn runners(rows: Vec<RunnerRow>) -> Vec<Runner> {
    let mut runners: Vec<Runner> = rows
        .into_iter()
        .filter(|row| !row.status.is_out())
        .map(runner)
        .collect();
    let lowest = runners.iter().filter_map(|r| r.best_odds_decimal).min();
    for runner in &mut runners {
        runner.is_favorite = lowest.is_some() && runner.best_odds_decimal == lowest;
    }
    runners.sort_by_cached_key(|r| (cloth(r.horse_number.as_deref()), r.horse_id.clone()));
    runners
}

fn runner(row: RunnerRow) -> Runner {
    let mut all_odds: Vec<Odds> = row
        .odds
        .into_iter()
        .map(|odds| Odds {
            bookmaker: odds.bookmaker,
            odds_fractional: odds.fractional,
            odds_decimal: odds.decimal,
        })
        .collect();
    // For who bets, the highest price is the best one.
    all_odds.sort_by(|a, b| {
        let by_price = b.odds_decimal.cmp(&a.odds_decimal);
        by_price.then_with(|| a.bookmaker.cmp(&b.bookmaker))
    });
    let best = all_odds.first();
    Runner {
        horse_id: row.id,
        horse_name: row.name,
        horse_number: row.number,
        best_odds_decimal: best.map(|b| b.odds_decimal),
        best_odds_fractional: best.and_then(|b| b.odds_fractional.clone()),
        best_bookmaker: best.map(|b| b.bookmaker.clone()),
        is_favorite: false,
        all_odds,
    }
}

/// `2` before `10` before `10A`; runners without a number come last.
fn cloth(number: Option<&str>) -> (u32, String) {
    let text = number.unwrap_or_default().trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, suffix) = text.split_at(digits);
    (number.parse().unwrap_or(u32::MAX), suffix.to_owned())
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// The exact digits as a JSON number; through a float, 1.15 could become 1.1499999.
fn number<S: Serializer>(decimal: &Decimal, serializer: S) -> Result<S::Ok, S::Error> {
    RawValue::from_string(decimal.normalize().to_string())
        .map_err(serde::ser::Error::custom)?
        .serialize(serializer)
}

fn maybe_number<S: Serializer>(
    decimal: &Option<Decimal>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match decimal {
        Some(decimal) => number(decimal, serializer),
        None => serializer.serialize_none(),
    }
}
