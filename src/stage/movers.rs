//! Steamers and drifters: lines whose best price keeps moving one way.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;

/// So many moves in a row, …
const IN_A_ROW: usize = 3;
/// … within this time.
const WITHIN: TimeDelta = TimeDelta::minutes(60);
const SHORT: TimeDelta = TimeDelta::minutes(15);

/// What one bookmaker's price of a line became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which price.
    pub price: i64,
    pub at: DateTime<Utc>,
    /// Decimal; `None`: not offered.
    pub odds: Option<Decimal>,
    /// The first that is known of this price.
    pub first: bool,
}

/// Where a line is heading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Heading {
    /// Its odds shorten.
    Steaming,
    /// Its odds lengthen.
    Drifting,
}

/// A line that moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mover {
    pub heading: Heading,
    /// Its best price now, and when it opened.
    pub best: Decimal,
    pub opened: Decimal,
    /// In percent of the opening price, and of the best price a quarter of an hour ago; two decimal places,
    /// shortening below zero. `None`: it had no price then.
    pub since_open: Decimal,
    pub in_15_min: Option<Decimal>,
    /// The last moves of the best price, oldest first: as many as it takes.
    pub moves: Vec<(DateTime<Utc>, Decimal)>,
}

/// How far back [`mover`] needs to know every step. Of what was before, the last step of each price and the
/// first are enough.
pub fn movers_from(now: DateTime<Utc>) -> DateTime<Utc> {
    now - WITHIN
}

/// What a line is doing at `now`: its best price has moved three times in a row to the same side, all of them
/// within the last hour. A time without any price ends a row. `steps` are in the order of time.
pub fn mover(steps: &[Step], now: DateTime<Utc>) -> Option<Mover> {
    let bests = bests(steps);
    let best = bests.last()?.1?;
    let opened = opened(steps)?;
    let ago = bests.iter().rev().find(|(at, _)| *at <= now - SHORT);

    let row: Vec<(DateTime<Utc>, Decimal)> = bests
        .iter()
        .rev()
        .take(IN_A_ROW + 1)
        .map_while(|(at, best)| Some((*at, (*best)?)))
        .collect();
    // Newest first, and the one before the first move beside them.
    if row.len() <= IN_A_ROW || row[IN_A_ROW - 1].0 < now - WITHIN {
        return None;
    }
    let pairs = || row.windows(2).map(|pair| (pair[1].1, pair[0].1));
    let heading = if pairs().all(|(before, after)| after < before) {
        Heading::Steaming
    } else if pairs().all(|(before, after)| after > before) {
        Heading::Drifting
    } else {
        return None;
    };
    Some(Mover {
        heading,
        best,
        opened,
        since_open: percent(opened, best),
        in_15_min: ago.and_then(|(_, ago)| Some(percent((*ago)?, best))),
        moves: row[..IN_A_ROW].iter().rev().copied().collect(),
    })
}

/// The best price over time, wherever it changed. Steps of one time are one change.
fn bests(steps: &[Step]) -> Vec<(DateTime<Utc>, Option<Decimal>)> {
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

/// The best of the prices with which the line opened.
fn opened(steps: &[Step]) -> Option<Decimal> {
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
    fn line(points: &[(i64, i64)]) -> Vec<Step> {
        let step = |(n, (minute, cents)): (usize, &(i64, i64))| Step {
            price: 1,
            at: at(*minute),
            odds: (*cents > 0).then(|| Decimal::new(*cents, 2)),
            first: n == 0,
        };
        points.iter().enumerate().map(step).collect()
    }

    fn heading(points: &[(i64, i64)], now: i64) -> Option<Heading> {
        mover(&line(points), at(now)).map(|mover| mover.heading)
    }

    #[test]
    fn three_in_a_row_within_the_hour() {
        let steam = [(0, 500), (10, 450), (20, 400), (30, 350)];
        assert_eq!(heading(&steam, 30), Some(Heading::Steaming));
        assert_eq!(
            heading(&steam, 70),
            Some(Heading::Steaming),
            "exactly an hour"
        );
        assert_eq!(heading(&steam, 71), None);
        assert_eq!(heading(&steam[..3], 20), None);
        let drift = [(0, 300), (10, 310), (20, 330), (30, 340)];
        assert_eq!(heading(&drift, 30), Some(Heading::Drifting));
        let turned = [(0, 500), (10, 450), (20, 400), (30, 410), (40, 390)];
        assert_eq!(heading(&turned, 40), None);
        let gone = [(0, 500), (10, 450), (15, 0), (20, 400), (30, 350)];
        assert_eq!(
            heading(&gone, 30),
            None,
            "a time without a price ends the row"
        );
    }

    #[test]
    fn percentages_are_exact() {
        let steps = line(&[(0, 500), (40, 450), (50, 400), (60, 350)]);
        let mover = mover(&steps, at(60)).expect("a steamer");
        assert_eq!(mover.since_open, Decimal::from(-30));
        // A quarter of an hour ago it was 4.50.
        assert_eq!(mover.in_15_min, Some(Decimal::new(-2222, 2)));
        assert_eq!(mover.moves.len(), 3);
        assert_eq!(mover.moves[0], (at(40), Decimal::new(450, 2)));
    }

    #[test]
    fn the_best_price_counts_not_each() {
        // Two bookmakers: the second one keeps the best price where it is.
        let mut steps = line(&[(0, 500), (10, 450), (20, 400), (30, 350)]);
        steps.insert(
            1,
            Step {
                price: 2,
                at: at(0),
                odds: Some(Decimal::from(6)),
                first: true,
            },
        );
        assert_eq!(mover(&steps, at(30)), None);
        assert_eq!(opened(&steps), Some(Decimal::from(6)));
    }

    proptest! {
        /// Turned upside down, a steamer is a drifter.
        #[test]
        fn a_drifter_is_a_steamer_mirrored(cents in prop::collection::vec(101i64..900, 1..8)) {
            let points: Vec<_> = cents.iter().enumerate().map(|(n, c)| (5 * n as i64, *c)).collect();
            let mirrored: Vec<_> = points.iter().map(|(at, c)| (*at, 1001 - c)).collect();
            let turn = |heading| match heading {
                Heading::Steaming => Heading::Drifting,
                Heading::Drifting => Heading::Steaming,
            };
            let last = points[points.len() - 1].0;
            prop_assert_eq!(heading(&points, last).map(turn), heading(&mirrored, last));
        }
    }
}
