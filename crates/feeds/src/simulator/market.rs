//! How the prices of one race move. `RaceDay` calls it every ten simulated seconds.

use chrono::{DateTime, Utc};
use fastrand::Rng;

use super::price_ladder::LAST;

/// How far a steady runner moves from its opening price, in ticks.
const MAX_STEADY_MOVE: usize = 3;
/// Ticks that a steamer or drifter moves, one at a time.
pub(super) const TREND_TICKS: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriceTrend {
    Steady,
    /// Shortens at each of its scripted events.
    Steamer,
    /// Lengthens at each of its scripted events.
    Drifter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuoteState {
    Priced,
    /// Written "-": not opened yet.
    NotYet,
    /// Written "SP" / "0": bets are taken at the starting price only.
    StartingPrice,
}

/// One bookmaker's price on one runner.
pub(super) struct BookmakerQuote {
    /// Difference to the market, in ticks.
    pub(super) bias: isize,
    pub(super) tick: usize,
    pub(super) state: QuoteState,
}

pub(super) struct SimulatedRunner {
    pub(super) horse_id: String,
    pub(super) horse: String,
    pub(super) jockey: String,
    pub(super) trainer: String,
    pub(super) number: usize,
    pub(super) age: u8,
    pub(super) lbs: u32,
    pub(super) form: String,
    pub(super) trend: PriceTrend,
    pub(super) non_runner: bool,
    pub(super) opening: usize,
    pub(super) market: usize,
    pub(super) quotes: Vec<BookmakerQuote>,
}

impl SimulatedRunner {
    /// Moves the prices at random; true if a visible one has changed.
    pub(super) fn move_prices(&mut self, minutes_to_off: i64, rng: &mut Rng) -> bool {
        if self.non_runner {
            return false;
        }
        let moves_in_10_000 = match minutes_to_off {
            ..5 => 400,
            5..30 => 120,
            30..120 => 40,
            _ => 12,
        };
        if self.trend == PriceTrend::Steady && rng.u32(..10_000) < moves_in_10_000 {
            let lowest = self.opening.saturating_sub(MAX_STEADY_MOVE);
            let highest = (self.opening + MAX_STEADY_MOVE).min(LAST);
            self.market = match rng.bool() {
                true => (self.market + 1).min(highest),
                false => self.market.saturating_sub(1).max(lowest),
            };
        }
        let mut moved = false;
        for quote in &mut self.quotes {
            let wanted = self.market.saturating_add_signed(quote.bias).min(LAST);
            // Bookmakers follow the market one after the other, within about a minute.
            if quote.tick != wanted && rng.u8(..4) == 0 {
                quote.tick = match quote.tick < wanted {
                    true => quote.tick + 1,
                    false => quote.tick - 1,
                };
                moved |= quote.state == QuoteState::Priced;
            }
        }
        moved
    }

    /// Moves the market one tick along the runner's trend.
    pub(super) fn follow_trend(&mut self) {
        match self.trend {
            PriceTrend::Steady => {}
            PriceTrend::Steamer => self.market = self.market.saturating_sub(1),
            PriceTrend::Drifter => self.market = (self.market + 1).min(LAST),
        }
    }
}

pub(super) struct SimulatedRace {
    pub(super) id: String,
    pub(super) course: usize,
    pub(super) name: String,
    pub(super) off_at: DateTime<Utc>,
    pub(super) abandoned: bool,
    /// Time of the race's last price change: the provider gives one value for a whole race.
    pub(super) updated: DateTime<Utc>,
    pub(super) runners: Vec<SimulatedRunner>,
}

impl SimulatedRace {
    /// Moves all prices, until the off or the abandonment.
    pub(super) fn move_prices(&mut self, now: DateTime<Utc>, rng: &mut Rng) {
        if self.abandoned || now >= self.off_at {
            return;
        }
        let minutes = (self.off_at - now).num_minutes();
        let mut moved = false;
        for runner in &mut self.runners {
            moved |= runner.move_prices(minutes, rng);
        }
        if moved {
            self.updated = now;
        }
    }
}
