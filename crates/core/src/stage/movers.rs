//! Movers: selections whose best price keeps shortening (steamers) or lengthening (drifters).
//! Computed from the price history by the read API.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;

/// A mover has this many moves in one direction …
const MOVES: usize = 3;
/// … within this time.
const WINDOW: TimeDelta = TimeDelta::minutes(60);
/// The time of the short comparison.
const SHORT_WINDOW: TimeDelta = TimeDelta::minutes(15);

/// One change of one bookmaker's price of a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OddsStep {
    /// The row id of the price.
    pub price: i64,
    /// When it changed.
    pub at: DateTime<Utc>,
    /// The new decimal odds; `None`: not offered.
    pub odds: Option<Decimal>,
    /// Whether it is the first of this price.
    pub first: bool,
}

/// The direction of a mover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MoveDirection {
    /// The odds shorten.
    Steaming,
    /// The odds lengthen.
    Drifting,
}

/// A selection whose best price moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mover {
    /// Its direction.
    pub direction: MoveDirection,
    /// The best price now, in decimal odds.
    pub best: Decimal,
    /// The best opening price, in decimal odds.
    pub opened: Decimal,
    /// In percent of the opening price, to two decimal places; negative for shortening.
    pub since_open: Decimal,
    /// The same against the best price of 15 minutes ago; `None` if there was none.
    pub in_15_min: Option<Decimal>,
    /// The last three moves of the best price, oldest first.
    pub moves: Vec<(DateTime<Utc>, Decimal)>,
}

/// The time from which [`detect_mover`] needs every step. Before it, the first and the last step of each price are enough.
pub fn mover_window_start(now: DateTime<Utc>) -> DateTime<Utc> {
    now - WINDOW
}

/// Detects a mover at `now`: the last three moves of the best price went in one direction, all within the last
/// hour. A time without any price interrupts them. `steps` are in the order of time.
pub fn detect_mover(steps: &[OddsStep], now: DateTime<Utc>) -> Option<Mover> {
    let bests = best_prices(steps);
    let best = bests.last()?.1?;
    let opened = opened(steps)?;
    let ago = bests.iter().rev().find(|(at, _)| *at <= now - SHORT_WINDOW);

    let last: Vec<(DateTime<Utc>, Decimal)> = bests
        .iter()
        .rev()
        .take(MOVES + 1)
        .map_while(|(at, best)| Some((*at, (*best)?)))
        .collect();
    // Newest first, followed by the price before the first move.
    if last.len() <= MOVES || last[MOVES - 1].0 < now - WINDOW {
        return None;
    }
    let pairs = || last.windows(2).map(|pair| (pair[1].1, pair[0].1));
    let direction = if pairs().all(|(before, after)| after < before) {
        MoveDirection::Steaming
    } else if pairs().all(|(before, after)| after > before) {
        MoveDirection::Drifting
    } else {
        return None;
    };
    Some(Mover {
        direction,
        best,
        opened,
        since_open: percent(opened, best),
        in_15_min: ago.and_then(|(_, ago)| Some(percent((*ago)?, best))),
        moves: last[..MOVES].iter().rev().copied().collect(),
    })
}

/// The best price at each time that it changed. Steps of one time are one change.
fn best_prices(steps: &[OddsStep]) -> Vec<(DateTime<Utc>, Option<Decimal>)> {
    let mut offered: BTreeMap<i64, Decimal> = BTreeMap::new();
    let mut bests: Vec<(DateTime<Utc>, Option<Decimal>)> = Vec::new();
    for together in steps.chunk_by(|one, other| one.at == other.at) {
        for step in together {
            match step.odds {
                Some(odds) => offered.insert(step.price, odds),
                None => offered.remove(&step.price),
            };
        }
        let best = offered.values().max().copied();
        if bests
            .last()
            .map_or(best.is_some(), |(_, last)| *last != best)
        {
            bests.push((together[0].at, best));
        }
    }
    bests
}

/// The best opening price.
fn opened(steps: &[OddsStep]) -> Option<Decimal> {
    let first = steps
        .iter()
        .filter(|step| step.first && step.odds.is_some());
    let at = first.clone().map(|step| step.at).min()?;
    first
        .filter(|step| step.at == at)
        .filter_map(|step| step.odds)
        .max()
}

fn percent(from: Decimal, to: Decimal) -> Decimal {
    ((to - from) * Decimal::ONE_HUNDRED / from)
        .round_dp(2)
        .normalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + 60 * minutes, 0).expect("valid")
    }

    /// (minute, cents) of one price, the first its opening.
    fn line(points: &[(i64, i64)]) -> Vec<OddsStep> {
        let step = |(n, (minute, cents)): (usize, &(i64, i64))| OddsStep {
            price: 1,
            at: at(*minute),
            odds: (*cents > 0).then(|| Decimal::new(*cents, 2)),
            first: n == 0,
        };
        points.iter().enumerate().map(step).collect()
    }

    fn direction(points: &[(i64, i64)], now: i64) -> Option<MoveDirection> {
        detect_mover(&line(points), at(now)).map(|mover| mover.direction)
    }

    #[test]
    fn mover_needs_three_moves_within_an_hour() {
        let steam = [(0, 500), (10, 450), (20, 400), (30, 350)];
        assert_eq!(direction(&steam, 30), Some(MoveDirection::Steaming));
        assert_eq!(
            direction(&steam, 70),
            Some(MoveDirection::Steaming),
            "exactly an hour"
        );
        assert_eq!(direction(&steam, 71), None);
        assert_eq!(direction(&steam[..3], 20), None);
        let drift = [(0, 300), (10, 310), (20, 330), (30, 340)];
        assert_eq!(direction(&drift, 30), Some(MoveDirection::Drifting));
        let turned = [(0, 500), (10, 450), (20, 400), (30, 410), (40, 390)];
        assert_eq!(direction(&turned, 40), None);
        let gone = [(0, 500), (10, 450), (15, 0), (20, 400), (30, 350)];
        assert_eq!(
            direction(&gone, 30),
            None,
            "a time without a price interrupts the moves"
        );
    }

    #[test]
    fn mover_percentages_are_exact() {
        let steps = line(&[(0, 500), (40, 450), (50, 400), (60, 350)]);
        let mover = detect_mover(&steps, at(60)).expect("a steamer");
        assert_eq!(mover.since_open, Decimal::from(-30));
        // 15 minutes before it was 4.50.
        assert_eq!(mover.in_15_min, Some(Decimal::new(-2222, 2)));
        assert_eq!(mover.moves.len(), 3);
        assert_eq!(mover.moves[0], (at(40), Decimal::new(450, 2)));
    }

    #[test]
    fn mover_follows_the_best_price_alone() {
        // Two bookmakers: the second one keeps the best price where it is.
        let mut steps = line(&[(0, 500), (10, 450), (20, 400), (30, 350)]);
        steps.insert(
            1,
            OddsStep {
                price: 2,
                at: at(0),
                odds: Some(Decimal::from(6)),
                first: true,
            },
        );
        assert_eq!(detect_mover(&steps, at(30)), None);
        assert_eq!(opened(&steps), Some(Decimal::from(6)));
    }

    proptest! {
        #[test]
        fn mover_drifts_where_its_mirror_image_steams(cents in prop::collection::vec(101i64..900, 1..8)) {
            let points: Vec<_> = cents.iter().enumerate().map(|(n, c)| (5 * n as i64, *c)).collect();
            let mirrored: Vec<_> = points.iter().map(|(at, c)| (*at, 1001 - c)).collect();
            let turn = |direction| match direction {
                MoveDirection::Steaming => MoveDirection::Drifting,
                MoveDirection::Drifting => MoveDirection::Steaming,
            };
            let last = points[points.len() - 1].0;
            prop_assert_eq!(direction(&points, last).map(turn), direction(&mirrored, last));
        }
    }
}
