//! The answer cached under `races:by-stage:v1`: races to come, by stage. The read API serves it, and other programs
//! read it from the cache, so the names of its fields are a contract.

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use rust_decimal::Decimal;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::race_stage::Stage;
use crate::model::{EventId, EventStatus, SelectionId, SelectionStatus};

/// A stored race.
#[derive(Clone, Debug)]
pub struct StoredRace {
    /// The event's id.
    pub id: EventId,
    /// The card's own (local) date.
    pub day: Option<NaiveDate>,
    /// The card's own (local) time.
    pub time: Option<String>,
    /// Start time.
    pub off: Option<DateTime<Utc>>,
    /// Name of the course.
    pub course: String,
    /// Title of the race.
    pub name: String,
    /// As the card has it: `Flat`, `Chase`.
    pub race_type: Option<String>,
    /// As the card has it: `1m2f`.
    pub distance: Option<String>,
    /// The event's status.
    pub status: EventStatus,
    /// Bets are taken during the race.
    pub in_play: bool,
    /// See [`crate::model::Event::listed`].
    pub listed: bool,
    /// When the stored event or one of its prices last changed.
    pub last_updated: Option<DateTime<Utc>>,
    /// Its selections.
    pub runners: Vec<StoredRunner>,
}

/// A stored runner.
#[derive(Clone, Debug)]
pub struct StoredRunner {
    /// The selection's id.
    pub id: SelectionId,
    /// Name of the horse.
    pub name: String,
    /// Saddle-cloth number as the card has it: `7`, `1A`.
    pub number: Option<String>,
    /// The selection's status.
    pub status: SelectionStatus,
    /// Open win prices, in any order.
    pub odds: Vec<StoredOdds>,
}

/// A stored open price.
#[derive(Clone, Debug)]
pub struct StoredOdds {
    /// The bookmaker's display name.
    pub bookmaker: String,
    /// Fractional odds, where the feed gives them.
    pub fractional: Option<String>,
    /// Decimal odds.
    pub decimal: Decimal,
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct RacesByStage {
    /// Always true.
    pub success: bool,
    /// The races by stage.
    pub stages: StageLists,
    /// Number of races in all stages.
    pub total_races: usize,
    /// When the answer was built, RFC 3339.
    pub timestamp: String,
}

/// Races by stage, each list by time to the off, then by id.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StageLists {
    /// See [`Stage::AtPost`].
    pub at_post: Vec<StagedRace>,
    /// See [`Stage::GoingToPost`].
    pub going_to_post: Vec<StagedRace>,
    /// See [`Stage::PreRace`].
    pub pre_race: Vec<StagedRace>,
    /// See [`Stage::EarlyMarket`].
    pub early_market: Vec<StagedRace>,
}

/// A race of the answer.
#[derive(Clone, Debug, Serialize)]
pub struct StagedRace {
    /// See [`StoredRace::id`].
    pub race_id: EventId,
    /// See [`StoredRace::day`].
    pub race_date: Option<NaiveDate>,
    /// See [`StoredRace::time`].
    pub race_time: Option<String>,
    /// Start time, RFC 3339.
    pub off_dt: String,
    /// See [`StoredRace::course`].
    pub course: String,
    /// See [`StoredRace::name`].
    pub race_name: String,
    /// See [`StoredRace::race_type`].
    pub race_type: Option<String>,
    /// See [`StoredRace::distance`].
    pub distance: Option<String>,
    /// Number of runners without non-runners and reserves.
    pub runners: usize,
    /// Whole minutes to the off, rounded down: 4 means at least 4 and less than 5.
    pub minutes_until: i64,
    /// See [`StoredRace::last_updated`]; RFC 3339.
    pub last_updated: Option<String>,
    /// When the current stage ends, RFC 3339.
    pub next_phase_time: String,
    /// The stage that follows.
    pub next_phase_name: &'static str,
    /// Whole minutes to the end of the stage, rounded down.
    pub next_phase_minutes: i64,
    /// By number, then id; non-runners are left out.
    pub runners_data: Vec<StagedRunner>,
}

/// A runner of the answer.
#[derive(Clone, Debug, Serialize)]
pub struct StagedRunner {
    /// See [`StoredRunner::id`].
    pub horse_id: SelectionId,
    /// See [`StoredRunner::name`].
    pub horse_name: String,
    /// See [`StoredRunner::number`].
    pub horse_number: Option<String>,
    /// The highest decimal odds.
    #[serde(serialize_with = "optional_number")]
    pub best_odds_decimal: Option<Decimal>,
    /// The same as fractional odds, where the feed gives them.
    pub best_odds_fractional: Option<String>,
    /// Who offers them.
    pub best_bookmaker: Option<String>,
    /// Whether its best price is the lowest of the race. Joint favourites are all favourites.
    pub is_favorite: bool,
    /// Highest first; equal prices by the bookmaker's name.
    pub all_odds: Vec<StagedOdds>,
}

/// One bookmaker's price in the answer.
#[derive(Clone, Debug, Serialize)]
pub struct StagedOdds {
    /// See [`StoredOdds::bookmaker`].
    pub bookmaker: String,
    /// See [`StoredOdds::fractional`].
    pub odds_fractional: Option<String>,
    /// See [`StoredOdds::decimal`].
    #[serde(serialize_with = "exact_number")]
    pub odds_decimal: Decimal,
}

/// Builds the answer as of `now`, without races that have started, are over or left the card.
pub fn build_races_by_stage(
    races: impl IntoIterator<Item = StoredRace>,
    now: DateTime<Utc>,
) -> RacesByStage {
    let mut to_come: Vec<(DateTime<Utc>, Stage, StoredRace)> = races
        .into_iter()
        .filter_map(|race| {
            let (off, stage) = stage_of(&race, now)?;
            Some((off, stage, race))
        })
        .collect();
    to_come.sort_by(|(a_off, _, a), (b_off, _, b)| (a_off, &a.id).cmp(&(b_off, &b.id)));

    let total_races = to_come.len();
    let mut stages = StageLists::default();
    for (off, stage, row) in to_come {
        let list = match stage {
            Stage::AtPost => &mut stages.at_post,
            Stage::GoingToPost => &mut stages.going_to_post,
            Stage::PreRace => &mut stages.pre_race,
            Stage::EarlyMarket => &mut stages.early_market,
        };
        list.extend(build_race(row, off, now));
    }
    RacesByStage {
        success: true,
        stages,
        total_races,
        timestamp: rfc3339(now),
    }
}

/// The off and stage of a race that has not started.
fn stage_of(race: &StoredRace, now: DateTime<Utc>) -> Option<(DateTime<Utc>, Stage)> {
    let open = race.listed && !race.in_play && !race.status.is_final();
    if !open || race.status == EventStatus::Live {
        return None;
    }
    let off = race.off?;
    Some((off, Stage::at(off, now)?))
}

fn build_race(row: StoredRace, off: DateTime<Utc>, now: DateTime<Utc>) -> Option<StagedRace> {
    let next = Stage::next_stage(off, now)?;
    let running =
        |r: &&StoredRunner| !r.status.is_withdrawn() && r.status != SelectionStatus::Reserve;
    Some(StagedRace {
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
        runners_data: build_runners(row.runners),
    })
}

fn build_runners(rows: Vec<StoredRunner>) -> Vec<StagedRunner> {
    let mut runners: Vec<StagedRunner> = rows
        .into_iter()
        .filter(|row| !row.status.is_withdrawn())
        .map(build_runner)
        .collect();
    let lowest = runners.iter().filter_map(|r| r.best_odds_decimal).min();
    for runner in &mut runners {
        runner.is_favorite = lowest.is_some() && runner.best_odds_decimal == lowest;
    }
    runners.sort_by_cached_key(|r| (cloth_order(r.horse_number.as_deref()), r.horse_id.clone()));
    runners
}

fn build_runner(row: StoredRunner) -> StagedRunner {
    let mut all_odds: Vec<StagedOdds> = row
        .odds
        .into_iter()
        .map(|odds| StagedOdds {
            bookmaker: odds.bookmaker,
            odds_fractional: odds.fractional,
            odds_decimal: odds.decimal,
        })
        .collect();
    // The highest price is the best one for the bettor.
    all_odds.sort_by(|a, b| {
        let by_price = b.odds_decimal.cmp(&a.odds_decimal);
        by_price.then_with(|| a.bookmaker.cmp(&b.bookmaker))
    });
    let best = all_odds.first();
    StagedRunner {
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

/// The sort key of a saddle-cloth number: `2`, `10`, `10A`, then runners without one.
fn cloth_order(number: Option<&str>) -> (u32, String) {
    let text = number.unwrap_or_default().trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, suffix) = text.split_at(digits);
    (number.parse().unwrap_or(u32::MAX), suffix.to_owned())
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Writes the exact digits as a JSON number; as a float, 1.15 could become 1.1499999.
fn exact_number<S: Serializer>(decimal: &Decimal, serializer: S) -> Result<S::Ok, S::Error> {
    RawValue::from_string(decimal.normalize().to_string())
        .map_err(serde::ser::Error::custom)?
        .serialize(serializer)
}

fn optional_number<S: Serializer>(
    decimal: &Option<Decimal>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match decimal {
        Some(decimal) => exact_number(decimal, serializer),
        None => serializer.serialize_none(),
    }
}
