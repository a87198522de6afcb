//! An invented race day, for `oddsd demo`, tests, and trying oddsd without a key. Its answers are The
//! Racing API's JSON and go through that feed's parser.
//!
//! The day moves in steps of ten seconds from eight in the morning. Each step depends only on the
//! seed and the steps before, so one seed and one time always give the same card.

mod card;
mod market;
mod names;
mod price_ladder;
mod scenario;

use std::sync::Arc;

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Europe::London;
use fastrand::Rng;

use self::market::{BookmakerQuote, SimulatedRace, SimulatedRunner};
pub use self::market::{PriceTrend, QuoteState};
pub use self::scenario::{ScriptedEvent, ScriptedEventKind};
use crate::{FeedError, FetchRequest, FetchResult, racing_api};
use oddsd_core::model::{Scope, Snapshot};

pub const SOURCE: &str = "simulator";

const STEP: TimeDelta = TimeDelta::seconds(10);
const OPENS: NaiveTime = NaiveTime::from_hms_opt(8, 0, 0).expect("a time of day");
const FIRST_OFF: NaiveTime = NaiveTime::from_hms_opt(14, 0, 0).expect("a time of day");
/// After the last off nothing moves.
const MAX_STEPS: i64 = 16 * 360;
const RACES_A_COURSE: usize = 8;
const MAX_RACES: usize = names::COURSES.len() * RACES_A_COURSE;
const MIN_RUNNERS: usize = 5;
const MAX_RUNNERS: usize = 12;
/// Sum of a bookmaker's implied probabilities: 1 and the margin.
const OVERROUND: f64 = 1.15;

/// How large a day is; both are clamped to the number of courses and bookmakers there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaceDaySize {
    pub races: usize,
    pub bookmakers: usize,
}

/// A simulated day of racing, at one moment of it.
pub struct RaceDay {
    day: NaiveDate,
    opens_at: DateTime<Utc>,
    steps: i64,
    rng: Rng,
    races: Vec<SimulatedRace>,
    goings: Vec<usize>,
    script: Vec<ScriptedEvent>,
    /// Events of the script that have happened.
    applied: usize,
}

impl RaceDay {
    pub fn new(seed: u64, day: NaiveDate, size: RaceDaySize) -> Self {
        let mut rng = Rng::with_seed(seed ^ u64::from(day.num_days_from_ce().unsigned_abs()));
        let at = |time| {
            let local = London.from_local_datetime(&day.and_time(time)).earliest();
            local.expect("clocks change at night").to_utc()
        };
        let opens_at = at(OPENS);
        let races = size.races.clamp(1, MAX_RACES);
        let bookmakers = size.bookmakers.clamp(1, names::BOOKMAKERS.len());
        let mut horses = horse_names(&mut rng);
        let mut off_at = at(FIRST_OFF);
        let races: Vec<SimulatedRace> = (0..races)
            .map(|n| {
                let race = new_race(n, races, day, off_at, bookmakers, &mut horses, &mut rng);
                off_at += TimeDelta::minutes(rng.i64(5..=10));
                SimulatedRace {
                    updated: opens_at,
                    ..race
                }
            })
            .collect();
        let mut day = Self {
            day,
            opens_at,
            steps: 0,
            goings: names::COURSES
                .iter()
                .map(|_| rng.usize(1..names::GOINGS.len()))
                .collect(),
            script: Vec::new(),
            applied: 0,
            races,
            rng,
        };
        day.script = scenario::write_script(&mut day.races, opens_at, &mut day.rng);
        day.apply_due_events(opens_at);
        day
    }

    /// The body of `racecards/pro` at `now`. Time does not run backwards: a time before the last one
    /// gives the last card again.
    pub fn card_at(&mut self, now: DateTime<Utc>) -> String {
        self.advance(now);
        let races = self.races.iter().map(|race| self.race_body(race)).collect();
        json(&card::card_body(self.day, races))
    }

    /// The body of `racecards/{id}/pro`; `None` for a race that is not on the card.
    pub fn race_at(&mut self, id: &str, now: DateTime<Utc>) -> Option<String> {
        self.advance(now);
        let race = self.races.iter().find(|race| race.id == id)?;
        Some(json(&self.race_body(race)))
    }

    /// The scripted events of the day, in their order.
    pub fn scripted_events(&self) -> &[ScriptedEvent] {
        &self.script
    }

    /// The card, or some of its races, as a feed.
    pub fn fetch(
        &mut self,
        request: &FetchRequest,
        now: DateTime<Utc>,
    ) -> Result<FetchResult, FeedError> {
        let (bodies, scope) = match request {
            FetchRequest::Everything => {
                let scope = Scope::Days {
                    days: vec![self.day],
                    regions: Vec::new(),
                };
                (vec![self.card_at(now)], scope)
            }
            FetchRequest::Events(ids) => {
                let bodies = ids.iter().filter_map(|id| self.race_at(id.as_str(), now));
                (bodies.collect(), Scope::Events(ids.clone()))
            }
        };
        let mut found = racing_api::parse_pages(bodies.iter().map(String::as_str), now)?;
        let source: Arc<str> = SOURCE.into();
        for event in &mut found.events {
            event.event.source = source.clone();
        }
        let snapshot = Snapshot {
            source,
            as_of: now,
            scope,
            events: found.events,
            in_doubt: found.in_doubt,
            bookmakers: found.bookmakers,
            rejected: found.rejected,
        };
        Ok(FetchResult { snapshot, bodies })
    }

    fn race_body<'a>(&self, race: &'a SimulatedRace) -> card::RaceBody<'a> {
        card::race_body(race, self.day, names::GOINGS[self.goings[race.course]])
    }

    fn advance(&mut self, now: DateTime<Utc>) {
        let wanted = (now - self.opens_at).num_seconds() / STEP.num_seconds();
        while self.steps < wanted.min(MAX_STEPS) {
            self.steps += 1;
            let now = self.opens_at + STEP * i32::try_from(self.steps).unwrap_or(i32::MAX);
            self.apply_due_events(now);
            for race in &mut self.races {
                race.move_prices(now, &mut self.rng);
            }
        }
    }

    fn apply_due_events(&mut self, now: DateTime<Utc>) {
        while let Some(event) = self
            .script
            .get(self.applied)
            .filter(|event| event.at <= now)
        {
            scenario::apply_event(event, &mut self.races, &mut self.goings);
            self.applied += 1;
        }
    }
}

fn json(card: &impl serde::Serialize) -> String {
    serde_json::to_string(card).expect("text and lists always become JSON")
}

fn horse_names(rng: &mut Rng) -> Vec<String> {
    let mut names = Vec::new();
    for first in names::HORSE_FIRST.split_whitespace() {
        let second = names::HORSE_SECOND.split_whitespace();
        names.extend(second.map(|second| format!("{first} {second}")));
    }
    rng.shuffle(&mut names);
    names
}

fn person(last_names: &'static str, rng: &mut Rng) -> String {
    let mut pick = |names: &'static str| {
        let names: Vec<_> = names.split_whitespace().collect();
        names[rng.usize(..names.len())]
    };
    format!("{} {}", pick(names::PEOPLE_FIRST), pick(last_names))
}

fn new_race(
    n: usize,
    of: usize,
    day: NaiveDate,
    off_at: DateTime<Utc>,
    bookmakers: usize,
    horses: &mut Vec<String>,
    rng: &mut Rng,
) -> SimulatedRace {
    let id = format!("rac_{}{n:02}", day.num_days_from_ce());
    let courses = of.div_ceil(RACES_A_COURSE).max(of.min(3));
    let mut chances: Vec<f64> = (0..rng.usize(MIN_RUNNERS..=MAX_RUNNERS))
        .map(|place| (0.6 + rng.f64()) / (place + 1) as f64)
        .collect();
    let sum: f64 = chances.iter().sum();
    rng.shuffle(&mut chances);
    let runners = chances.iter().enumerate().map(|(place, chance)| {
        let opening = price_ladder::nearest_tick((chance / sum * OVERROUND).min(0.8));
        SimulatedRunner {
            horse_id: format!("hrs_{}{n:02}{place:02}", day.num_days_from_ce()),
            horse: horses
                .pop()
                .unwrap_or_else(|| format!("Late Entry {n} {place}")),
            jockey: person(names::JOCKEYS_LAST, rng),
            trainer: person(names::TRAINERS_LAST, rng),
            number: place + 1,
            age: rng.u8(4..=11),
            lbs: rng.u32(140..=168),
            form: (0..4).map(|_| char::from(rng.u8(b'1'..=b'9'))).collect(),
            trend: PriceTrend::Steady,
            non_runner: false,
            opening,
            market: opening,
            quotes: (0..bookmakers)
                .map(|_| {
                    let bias = [0, 0, 0, 1, -1][rng.usize(..5)];
                    BookmakerQuote {
                        bias,
                        tick: opening.saturating_add_signed(bias).min(price_ladder::LAST),
                        state: QuoteState::Priced,
                    }
                })
                .collect(),
        }
    });
    SimulatedRace {
        id,
        course: n % courses,
        name: names::RACES[n % names::RACES.len()].to_owned(),
        off_at,
        abandoned: false,
        updated: off_at,
        runners: runners.collect(),
    }
}
