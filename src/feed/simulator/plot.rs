//! What makes a simulated day worth watching, written before it begins: who is backed, who drifts,
//! who does not run, which race is lost to the weather, who prices up late.

use chrono::{DateTime, TimeDelta, Utc};
use fastrand::Rng;

use super::ladder::LAST;
use super::market::{PLOT_RUNGS, Quoting, Race, Temper};
use super::names;

/// Something that happens at a known moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twist {
    pub at: DateTime<Utc>,
    pub race_id: String,
    pub kind: TwistKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TwistKind {
    /// The whole market shortens this horse by one rung. Comes several times for one horse.
    Shortens {
        horse_id: String,
    },
    /// The mirror: one rung longer.
    Lengthens {
        horse_id: String,
    },
    NonRunner {
        horse_id: String,
    },
    Abandoned,
    /// This bookmaker offers no price on the race ("-") until it [`TwistKind::Opens`].
    NotYet {
        bookmaker: &'static str,
    },
    /// This bookmaker takes bets on the race at the starting price only.
    StartingPriceOnly {
        bookmaker: &'static str,
    },
    /// This bookmaker offers prices on the race (again).
    Opens {
        bookmaker: &'static str,
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
/// all but the abandonment, the last race has that one. Other races have some of it.
pub(super) fn write(races: &mut [Race], opens_at: DateTime<Utc>, rng: &mut Rng) -> Vec<Twist> {
    let mut twists = Vec::new();
    let last = races.len() - 1;
    for (n, race) in races.iter_mut().enumerate() {
        let id = race.id.clone();
        let off_at = race.off_at;
        let mut tell = |before: i64, kind| {
            let at = off_at - TimeDelta::minutes(before);
            let race_id = id.clone();
            twists.push(Twist { at, race_id, kind });
        };
        let mut often = |one_in: u8| n == 0 || rng.u8(..one_in) == 0;
        if often(2) {
            backed(race, &mut tell);
        }
        if often(3)
            && let Some(horse_id) = spare(race)
        {
            tell(NON_RUNNER, TwistKind::NonRunner { horse_id });
        }
        let books = race.runners.first().map_or(0, |r| r.books.len());
        if often(2) && books > 0 {
            let bookmaker = names::BOOKMAKERS[books - 1];
            let morning = (off_at - opens_at).num_minutes();
            tell(morning, TwistKind::NotYet { bookmaker });
            tell(LATE_BOOK, TwistKind::Opens { bookmaker });
        }
        if often(4) && books > 1 {
            let bookmaker = names::BOOKMAKERS[books / 2 - usize::from(books == 2)];
            tell(SP_FROM, TwistKind::StartingPriceOnly { bookmaker });
            tell(SP_UNTIL, TwistKind::Opens { bookmaker });
        }
        if n == 0 {
            let going = names::GOINGS[0];
            tell(GOING, TwistKind::Going { going });
        }
        if n == last && last > 0 {
            tell(ABANDONED, TwistKind::Abandoned);
        }
    }
    twists.sort_by_key(|twist| twist.at);
    twists
}

/// One runner is backed from the upper half of its market, and one in front of it drifts.
fn backed(race: &mut Race, tell: &mut impl FnMut(i64, TwistKind)) {
    let mut order: Vec<usize> = (0..race.runners.len()).collect();
    order.sort_by_key(|&runner| race.runners[runner].opening);
    let (drifter, steamer) = (order[1], order[order.len() / 2]);
    for push in 0..PLOT_RUNGS as i64 {
        let before = FIRST_PUSH - push * BETWEEN_PUSHES;
        let horse_id = race.runners[steamer].horse_id.clone();
        tell(before, TwistKind::Shortens { horse_id });
        let horse_id = race.runners[drifter].horse_id.clone();
        tell(before, TwistKind::Lengthens { horse_id });
    }
    // Both need room on the ladder, and two rungs for bookmakers that differ.
    let (steams, drifts) = (steamer, drifter);
    let lowest = PLOT_RUNGS + 2;
    let runner = &mut race.runners[steams];
    runner.temper = Temper::Steamer;
    reopen(runner, runner.opening.max(lowest));
    let runner = &mut race.runners[drifts];
    runner.temper = Temper::Drifter;
    reopen(runner, runner.opening.min(LAST - lowest));
}

fn reopen(runner: &mut super::market::Runner, rung: usize) {
    runner.opening = rung;
    runner.market = rung;
    for book in &mut runner.books {
        book.rung = rung.saturating_add_signed(book.bias).min(LAST);
    }
}

/// The longest-priced runner that is in no other story.
fn spare(race: &Race) -> Option<String> {
    let steady = race.runners.iter().filter(|r| r.temper == Temper::Steady);
    steady.max_by_key(|r| r.opening).map(|r| r.horse_id.clone())
}

pub(super) fn happen(twist: &Twist, races: &mut [Race], goings: &mut [usize]) {
    let Some(race) = races.iter_mut().find(|race| race.id == twist.race_id) else {
        return;
    };
    // What happens to a race that is off the board is not told any more.
    if race.abandoned {
        return;
    }
    let mut horse = |id: &str, act: fn(&mut super::market::Runner)| {
        race.runners
            .iter_mut()
            .filter(|r| r.horse_id == id)
            .for_each(act);
    };
    let mut quoting = None;
    match &twist.kind {
        TwistKind::Shortens { horse_id } | TwistKind::Lengthens { horse_id } => {
            horse(horse_id, super::market::Runner::push);
        }
        TwistKind::NonRunner { horse_id } => horse(horse_id, |runner| {
            runner.non_runner = true;
            runner.jockey = "NON-RUNNER".into();
        }),
        TwistKind::Abandoned => race.abandoned = true,
        TwistKind::NotYet { bookmaker } => quoting = Some((*bookmaker, Quoting::NotYet)),
        TwistKind::StartingPriceOnly { bookmaker } => {
            quoting = Some((*bookmaker, Quoting::StartingPrice));
        }
        TwistKind::Opens { bookmaker } => quoting = Some((*bookmaker, Quoting::Priced)),
        TwistKind::Going { going } => {
            if let Some(at) = names::GOINGS.iter().position(|g| g == going) {
                goings[race.course] = at;
            }
        }
    }
    if let Some((bookmaker, quoting)) = quoting {
        let at = names::BOOKMAKERS.iter().position(|name| *name == bookmaker);
        let books = race.runners.iter_mut().filter_map(|r| r.books.get_mut(at?));
        books.for_each(|book| book.quoting = quoting);
    }
    race.updated = race.updated.max(twist.at);
}
