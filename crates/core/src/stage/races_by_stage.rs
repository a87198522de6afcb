//! The answer cached under `races:by-stage:v1`: races to come, by stage. The read API serves it, and other programs
//! read it from the cache, so the names of its fields are a contract.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
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

/// A stored open price, as the answer lists it too.
#[derive(Clone, Debug, Serialize)]
pub struct StoredOdds {
    /// The bookmaker's display name.
    pub bookmaker: String,
    /// Fractional odds, where the feed gives them.
    #[serde(rename = "odds_fractional")]
    pub fractional: Option<String>,
    /// Decimal odds.
    #[serde(rename = "odds_decimal", serialize_with = "exact_number")]
    pub decimal: Decimal,
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct RacesByStage {
    /// Always true.
    pub success: bool,
    /// Every stage with its races, by time to the off, then by id.
    pub stages: BTreeMap<Stage, Vec<StagedRace>>,
    /// Number of races in all stages.
    pub total_races: usize,
    /// When the answer was built.
    pub timestamp: DateTime<Utc>,
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
    /// Start time.
    pub off_dt: DateTime<Utc>,
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
    /// See [`StoredRace::last_updated`].
    pub last_updated: Option<DateTime<Utc>>,
    /// When the current stage ends.
    pub next_phase_time: DateTime<Utc>,
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
    #[serde(serialize_with = "exact_number")]
    pub best_odds_decimal: Option<Decimal>,
    /// The same as fractional odds, where the feed gives them.
    pub best_odds_fractional: Option<String>,
    /// The bookmaker that offers them.
    pub best_bookmaker: Option<String>,
    /// Whether its best price is the lowest of the race. Joint favourites are all favourites.
    pub is_favorite: bool,
    /// Highest first; equal prices by the bookmaker's name.
    pub all_odds: Vec<StoredOdds>,
}

/// Builds the answer as of `now`, without races that have started, are over or left the card.
pub fn build_races_by_stage(
    races: impl IntoIterator<Item = StoredRace>,
    now: DateTime<Utc>,
) -> RacesByStage {
    let staged = races.into_iter().filter_map(|race| build_race(race, now));
    let mut staged: Vec<(Stage, StagedRace)> = staged.collect();
    staged.sort_by(|(_, a), (_, b)| (a.off_dt, &a.race_id).cmp(&(b.off_dt, &b.race_id)));
    let total_races = staged.len();
    let mut stages = BTreeMap::from(Stage::ALL.map(|stage| (stage, Vec::new())));
    for (stage, race) in staged {
        stages.entry(stage).or_default().push(race);
    }
    RacesByStage {
        success: true,
        stages,
        total_races,
        timestamp: now,
    }
}

/// `None` if the race has started, is over or left the card.
fn build_race(row: StoredRace, now: DateTime<Utc>) -> Option<(Stage, StagedRace)> {
    let begun = row.in_play || row.status == EventStatus::Live;
    if !row.listed || begun || row.status.is_final() {
        return None;
    }
    let off = row.off?;
    let stage = Stage::at(off, now)?;
    let (ends_at, next) = stage.end(off);
    let running =
        |r: &&StoredRunner| !r.status.is_withdrawn() && r.status != SelectionStatus::Reserve;
    let race = StagedRace {
        race_id: row.id,
        race_date: row.day,
        race_time: row.time,
        off_dt: off,
        course: row.course,
        race_name: row.name,
        race_type: row.race_type,
        distance: row.distance,
        runners: row.runners.iter().filter(running).count(),
        minutes_until: (off - now).num_minutes(),
        last_updated: row.last_updated,
        next_phase_time: ends_at,
        next_phase_name: next,
        next_phase_minutes: (ends_at - now).num_minutes(),
        runners_data: build_runners(row.runners),
    };
    Some((stage, race))
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
    let mut all_odds = row.odds;
    // The highest price is the best one for the bettor.
    all_odds.sort_by(|a, b| {
        let by_price = b.decimal.cmp(&a.decimal);
        by_price.then_with(|| a.bookmaker.cmp(&b.bookmaker))
    });
    let best = all_odds.first();
    StagedRunner {
        horse_id: row.id,
        horse_name: row.name,
        horse_number: row.number,
        best_odds_decimal: best.map(|b| b.decimal),
        best_odds_fractional: best.and_then(|b| b.fractional.clone()),
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

/// Writes the exact digits as a JSON number; as a float, 1.15 could become 1.1499999.
fn exact_number<'a, S: Serializer>(
    decimal: impl Into<Option<&'a Decimal>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let digits = decimal
        .into()
        .map(|decimal| decimal.normalize().to_string());
    let number = digits.map(RawValue::from_string).transpose();
    number
        .map_err(serde::ser::Error::custom)?
        .serialize(serializer)
}
