//! The scripted events of a simulated day: steamers, drifters, non-runners, an abandoned race, late
//! prices. `RaceDay` writes the script before the day begins and applies each event at its time.

use chrono::{DateTime, TimeDelta, Utc};
use fastrand::Rng;

use super::market::{PriceTrend, QuoteState, SimulatedRace, SimulatedRunner, TREND_TICKS};
use super::names;
use super::price_ladder::LAST;

/// Something that happens at a known time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptedEvent {
    pub at: DateTime<Utc>,
    pub race_id: String,
    pub kind: ScriptedEventKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptedEventKind {
    /// The market moves this horse by one tick along its trend; scheduled several times for one horse.
    Moves {
        horse_id: String,
        trend: PriceTrend,
    },
    NonRunner {
        horse_id: String,
    },
    Abandoned,
    /// This bookmaker quotes the race in this way from now on.
    Quotes {
        bookmaker: &'static str,
        state: QuoteState,
    },
    /// At the race's course, for all races there.
    Going {
        going: &'static str,
    },
}

/// Minutes before the off.
const FIRST_PUSH: i64 = 50;
const BETWEEN_PUSHES: i64 = 6;
const NON_RUNNER: i64 = 40;
const ABANDONED: i64 = 30;
const LATE_BOOK: i64 = 45;
const SP_FROM: i64 = 25;
const SP_UNTIL: i64 = 18;
const GOING: i64 = 35;

/// Every kind happens at least once on a day of two races and two bookmakers: the first race has
/// all but the abandonment, the last race has that one. Other races have a random part.
pub(super) fn write_script(
    races: &mut [SimulatedRace],
    opens_at: DateTime<Utc>,
    rng: &mut Rng,
) -> Vec<ScriptedEvent> {
    let quotes = |bookmaker, state| ScriptedEventKind::Quotes { bookmaker, state };
    let mut script = Vec::new();
    let last = races.len() - 1;
    for (n, race) in races.iter_mut().enumerate() {
        let id = race.id.clone();
        let off_at = race.off_at;
        let mut schedule = |before: i64, kind| {
            let at = off_at - TimeDelta::minutes(before);
            let race_id = id.clone();
            script.push(ScriptedEvent { at, race_id, kind });
        };
        let mut often = |one_in: u8| n == 0 || rng.u8(..one_in) == 0;
        if often(2) {
            add_steamer_and_drifter(race, &mut schedule);
        }
        if often(3)
            && let Some(horse_id) = spare_runner(race)
        {
            schedule(NON_RUNNER, ScriptedEventKind::NonRunner { horse_id });
        }
        let bookmakers = race.runners.first().map_or(0, |r| r.quotes.len());
        if often(2) && bookmakers > 0 {
            let bookmaker = names::BOOKMAKERS[bookmakers - 1];
            let morning = (off_at - opens_at).num_minutes();
            schedule(morning, quotes(bookmaker, QuoteState::NotYet));
            schedule(LATE_BOOK, quotes(bookmaker, QuoteState::Priced));
        }
        if often(4) && bookmakers > 1 {
            let bookmaker = names::BOOKMAKERS[bookmakers / 2 - usize::from(bookmakers == 2)];
            schedule(SP_FROM, quotes(bookmaker, QuoteState::StartingPrice));
            schedule(SP_UNTIL, quotes(bookmaker, QuoteState::Priced));
        }
        if n == 0 {
            let going = names::GOINGS[0];
            schedule(GOING, ScriptedEventKind::Going { going });
        }
        if n == last && last > 0 {
            schedule(ABANDONED, ScriptedEventKind::Abandoned);
        }
    }
    script.sort_by_key(|event| event.at);
    script
}

/// A runner in the middle of the market shortens, and the second favourite drifts.
fn add_steamer_and_drifter(
    race: &mut SimulatedRace,
    schedule: &mut impl FnMut(i64, ScriptedEventKind),
) {
    let mut order: Vec<usize> = (0..race.runners.len()).collect();
    order.sort_by_key(|&runner| race.runners[runner].opening);
    let (drifter, steamer) = (order[1], order[order.len() / 2]);
    for push in 0..TREND_TICKS as i64 {
        let before = FIRST_PUSH - push * BETWEEN_PUSHES;
        for (runner, trend) in [
            (steamer, PriceTrend::Steamer),
            (drifter, PriceTrend::Drifter),
        ] {
            let horse_id = race.runners[runner].horse_id.clone();
            schedule(before, ScriptedEventKind::Moves { horse_id, trend });
        }
    }
    // Both need room on the ladder, and two ticks for bookmakers that differ from the market.
    let lowest = TREND_TICKS + 2;
    let runner = &mut race.runners[steamer];
    runner.trend = PriceTrend::Steamer;
    reopen(runner, runner.opening.max(lowest));
    let runner = &mut race.runners[drifter];
    runner.trend = PriceTrend::Drifter;
    reopen(runner, runner.opening.min(LAST - lowest));
}

fn reopen(runner: &mut SimulatedRunner, tick: usize) {
    runner.opening = tick;
    runner.market = tick;
    for quote in &mut runner.quotes {
        quote.tick = tick.saturating_add_signed(quote.bias).min(LAST);
    }
}

/// The longest-priced runner that is neither steamer nor drifter.
fn spare_runner(race: &SimulatedRace) -> Option<String> {
    let steady = race
        .runners
        .iter()
        .filter(|r| r.trend == PriceTrend::Steady);
    steady.max_by_key(|r| r.opening).map(|r| r.horse_id.clone())
}

pub(super) fn apply_event(
    event: &ScriptedEvent,
    races: &mut [SimulatedRace],
    goings: &mut [usize],
) {
    let Some(race) = races.iter_mut().find(|race| race.id == event.race_id) else {
        return;
    };
    // An abandoned race does not change any more.
    if race.abandoned {
        return;
    }
    let mut horse = |id: &str, act: fn(&mut SimulatedRunner)| {
        race.runners
            .iter_mut()
            .filter(|r| r.horse_id == id)
            .for_each(act);
    };
    match &event.kind {
        ScriptedEventKind::Moves { horse_id, .. } => horse(horse_id, SimulatedRunner::follow_trend),
        ScriptedEventKind::NonRunner { horse_id } => horse(horse_id, |runner| {
            runner.non_runner = true;
            runner.jockey = "NON-RUNNER".into();
        }),
        ScriptedEventKind::Abandoned => race.abandoned = true,
        ScriptedEventKind::Quotes { bookmaker, state } => {
            let at = names::BOOKMAKERS.iter().position(|name| name == bookmaker);
            let runners = race.runners.iter_mut();
            let quotes = runners.filter_map(|runner| runner.quotes.get_mut(at?));
            quotes.for_each(|quote| quote.state = *state);
        }
        ScriptedEventKind::Going { going } => {
            if let Some(at) = names::GOINGS.iter().position(|g| g == going) {
                goings[race.course] = at;
            }
        }
    }
    race.updated = race.updated.max(event.at);
}
