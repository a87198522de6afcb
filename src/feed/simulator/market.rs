//! How one race's prices move, ten seconds at a time.

use chrono::{DateTime, Utc};
use fastrand::Rng;

use super::ladder::LAST;

/// How far a steady runner strays from its opening price, in rungs.
const STRAY: usize = 3;
/// Rungs that a plot moves, one at a time.
pub(super) const PLOT_RUNGS: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Temper {
    Steady,
    /// Shortens at each of its moments.
    Steamer,
    /// Lengthens at each of its moments.
    Drifter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quoting {
    Priced,
    /// "-": has not opened yet.
    NotYet,
    /// "SP" / "0": takes bets at the starting price only.
    StartingPrice,
}

pub(super) struct Book {
    /// What this bookmaker asks for above (or below) the market, in rungs.
    pub(super) bias: isize,
    pub(super) rung: usize,
    pub(super) quoting: Quoting,
}

pub(super) struct Runner {
    pub(super) horse_id: String,
    pub(super) horse: String,
    pub(super) jockey: String,
    pub(super) trainer: String,
    pub(super) number: usize,
    pub(super) age: u8,
    pub(super) lbs: u32,
    pub(super) form: String,
    pub(super) temper: Temper,
    pub(super) non_runner: bool,
    pub(super) opening: usize,
    pub(super) market: usize,
    pub(super) books: Vec<Book>,
}

impl Runner {
    /// One step of random trade; true when a price that people see has moved.
    pub(super) fn trade(&mut self, minutes_to_off: i64, rng: &mut Rng) -> bool {
        if self.non_runner {
            return false;
        }
        let moves_in_10_000 = match minutes_to_off {
            ..5 => 400,
            5..30 => 120,
            30..120 => 40,
            _ => 12,
        };
        if self.temper == Temper::Steady && rng.u32(..10_000) < moves_in_10_000 {
            let lowest = self.opening.saturating_sub(STRAY);
            let highest = (self.opening + STRAY).min(LAST);
            self.market = match rng.bool() {
                true => (self.market + 1).min(highest),
                false => self.market.saturating_sub(1).max(lowest),
            };
        }
        let mut moved = false;
        for book in &mut self.books {
            let wanted = self.market.saturating_add_signed(book.bias).min(LAST);
            // Bookmakers follow the market one after the other, within a minute or so.
            if book.rung != wanted && rng.u8(..4) == 0 {
                book.rung = match book.rung < wanted {
                    true => book.rung + 1,
                    false => book.rung - 1,
                };
                moved |= book.quoting == Quoting::Priced;
            }
        }
        moved
    }

    /// A plot's moment: the whole market takes one step.
    pub(super) fn push(&mut self) {
        match self.temper {
            Temper::Steady => {}
            Temper::Steamer => self.market = self.market.saturating_sub(1),
            Temper::Drifter => self.market = (self.market + 1).min(LAST),
        }
    }
}

pub(super) struct Race {
    pub(super) id: String,
    pub(super) course: usize,
    pub(super) name: String,
    pub(super) off_at: DateTime<Utc>,
    pub(super) abandoned: bool,
    /// When any price of the race last moved: the provider gives one value for a whole race.
    pub(super) updated: DateTime<Utc>,
    pub(super) runners: Vec<Runner>,
}

impl Race {
    /// Trade stops at the off and when the race is abandoned.
    pub(super) fn trade(&mut self, now: DateTime<Utc>, rng: &mut Rng) {
        if self.abandoned || now >= self.off_at {
            return;
        }
        let minutes = (self.off_at - now).num_minutes();
        let mut moved = false;
        for runner in &mut self.runners {
            moved |= runner.trade(minutes, rng);
        }
        if moved {
            self.updated = now;
        }
    }
}
