//! The movement of a price: |new − old| / |old| of decimal odds, exact and without rounding.
//! Rules compare it with a threshold; the relay and the poller compute it.

use rust_decimal::Decimal;

use crate::model::{DERIVED_SCALE, Fraction};

/// A price as a cache may show it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DisplayedPrice {
    /// Decimal odds.
    pub decimal: Decimal,
    /// Fractional odds, where the feed gives them.
    pub fractional: Option<Fraction>,
    /// Handicap or total line.
    pub point: Option<Decimal>,
    /// Neither suspended nor withdrawn.
    pub open: bool,
}

/// The difference between a shown price and a later one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PriceDelta {
    /// A change of state, which has no percentage: one of the two is missing, suspended or zero, or their
    /// handicap lines differ.
    StateChange,
    /// Relative to the shown price; 0.1 is 10 %.
    Ratio(Ratio),
}

/// An exact, non-negative ratio.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    over: i128,
    under: i128,
}

/// Decimal odds as a fraction of integers.
type OddsFraction = (i128, i128);

impl PriceDelta {
    /// The default threshold of a significant movement: 10 %.
    pub const SIGNIFICANT: Decimal = Decimal::from_parts(1, 0, 0, false, 1);

    /// Compares two prices.
    pub fn between(old: Option<&DisplayedPrice>, new: Option<&DisplayedPrice>) -> Self {
        let (Some(old), Some(new)) = (old, new) else {
            return Self::StateChange;
        };
        if !old.open
            || !new.open
            || old.point != new.point
            || old.decimal.is_zero()
            || new.decimal.is_zero()
        {
            return Self::StateChange;
        }
        let (old, new) = (odds(old), odds(new));
        Ratio::of(old, new).map_or(Self::StateChange, Self::Ratio)
    }

    /// Whether it exceeds the threshold; a change of state always does.
    pub fn exceeds(&self, threshold: Decimal) -> bool {
        match self {
            Self::StateChange => true,
            Self::Ratio(ratio) => ratio.is_over(threshold),
        }
    }

    /// In percent, rounded to two places. `None` for a change of state.
    pub fn percent(&self) -> Option<Decimal> {
        match self {
            Self::StateChange => None,
            Self::Ratio(ratio) => ratio.percent(),
        }
    }

    /// A movement by this ratio.
    pub fn from_ratio(ratio: Decimal) -> Self {
        let under = 10i128.pow(ratio.scale());
        Self::Ratio(Ratio {
            over: ratio.mantissa().abs(),
            under,
        })
    }
}

impl Ratio {
    /// |c/d − a/b| / |a/b| = |c·b − a·d| / |a·d|
    fn of((a, b): OddsFraction, (c, d): OddsFraction) -> Option<Self> {
        let (was, is) = (a.checked_mul(d)?, c.checked_mul(b)?);
        let (over, under) = (is.checked_sub(was)?.checked_abs()?, was.checked_abs()?);
        (under > 0).then_some(Self { over, under })
    }

    fn is_over(&self, threshold: Decimal) -> bool {
        let scale = 10i128.checked_pow(threshold.scale());
        let exact = scale.and_then(|scale| {
            let left = self.over.checked_mul(scale)?;
            Some(left > threshold.mantissa().checked_mul(self.under)?)
        });
        // Beyond 38 digits only rounded values can be compared.
        exact.unwrap_or_else(|| self.rounded().is_none_or(|ratio| ratio > threshold))
    }

    fn rounded(&self) -> Option<Decimal> {
        let part = |n: i128| Decimal::try_from_i128_with_scale(n, 0).ok();
        part(self.over)?.checked_div(part(self.under)?)
    }

    fn percent(&self) -> Option<Decimal> {
        let percent = self.rounded()?.checked_mul(Decimal::ONE_HUNDRED)?;
        Some(percent.round_dp(2).normalize())
    }
}

/// The fraction if the decimal was derived from it (American −105 is 20/21, which has no finite decimal); else
/// the decimal, which is exact.
fn odds(shown: &DisplayedPrice) -> OddsFraction {
    let derived = shown.fractional.filter(|fraction| {
        let decimal = fraction
            .decimal()
            .map(|decimal| decimal.round_dp(DERIVED_SCALE).normalize());
        decimal == Some(shown.decimal.normalize()) && shown.decimal.scale() >= DERIVED_SCALE
    });
    match derived {
        Some(fraction) => {
            let (profit, stake) = (
                i128::from(fraction.profit.get()),
                i128::from(fraction.stake.get()),
            );
            (profit + stake, stake)
        }
        None => {
            let decimal = shown.decimal.normalize();
            (decimal.mantissa(), 10i128.pow(decimal.scale()))
        }
    }
}

/// Reads a percentage: `10%` or `10` is 0.1.
pub(super) fn parse_percent(text: &str) -> Result<Decimal, String> {
    let number = text.trim().trim_end_matches('%').trim();
    let percent = Decimal::from_str_exact(number).ok();
    let ratio = percent.and_then(|percent| percent.checked_div(Decimal::ONE_HUNDRED));
    ratio
        .filter(|ratio| !ratio.is_sign_negative() && ratio.scale() <= 12)
        .map(|ratio| ratio.normalize())
        .ok_or_else(|| format!("{text:?} is no percentage: write \"10%\" or \"significant\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Offer;
    use proptest::prelude::*;

    fn decimal(text: &str) -> DisplayedPrice {
        DisplayedPrice {
            decimal: text.parse().expect(text),
            fractional: None,
            point: None,
            open: true,
        }
    }

    fn american(odds: i64) -> DisplayedPrice {
        let offer = Offer::american(odds).expect("valid");
        DisplayedPrice {
            decimal: offer.decimal,
            fractional: offer.fractional,
            point: None,
            open: true,
        }
    }

    fn fractional(text: &str) -> DisplayedPrice {
        let fraction = Fraction::parse(text).expect(text);
        DisplayedPrice {
            decimal: fraction.decimal().expect("decimal"),
            fractional: Some(fraction),
            point: None,
            open: true,
        }
    }

    fn over(old: &DisplayedPrice, new: &DisplayedPrice, threshold: &str) -> bool {
        PriceDelta::between(Some(old), Some(new)).exceeds(threshold.parse().expect("a number"))
    }

    fn percent(old: &DisplayedPrice, new: &DisplayedPrice) -> String {
        let percent = PriceDelta::between(Some(old), Some(new)).percent();
        percent.map_or("state".into(), |percent| percent.to_string())
    }

    #[test]
    fn movement_is_exact_at_the_threshold() {
        assert_eq!(percent(&american(-105), &american(105)), "5");
        assert!(
            !over(&american(-105), &american(105), "0.05"),
            "exactly 5 % is not over 5 %"
        );
        assert!(over(&american(-105), &american(106), "0.05"));
        assert_eq!(percent(&decimal("2.0"), &decimal("2.2")), "10");
        assert!(
            !over(&decimal("2.0"), &decimal("2.2"), "0.1"),
            "exactly 10 %"
        );
        assert!(over(&decimal("2.0"), &decimal("2.201"), "0.10"));
        assert!(
            !over(&decimal("2.20"), &decimal("1.98"), "0.1"),
            "and downwards"
        );
        assert_eq!(percent(&fractional("5/2"), &fractional("3/1")), "14.29");
        assert_eq!(percent(&fractional("1/3"), &fractional("2/3")), "25");
        assert!(
            !over(&fractional("1/3"), &fractional("2/3"), "0.25"),
            "thirds have no end in decimals"
        );
        assert_eq!(percent(&decimal("3.5"), &decimal("3.5")), "0");
    }

    #[test]
    fn movement_between_states_has_no_percentage() {
        let was = decimal("2.5");
        let state = |old: Option<&DisplayedPrice>, new: Option<&DisplayedPrice>| {
            PriceDelta::between(old, new) == PriceDelta::StateChange
        };
        let suspended = DisplayedPrice { open: false, ..was };
        let (line, other_line) = (
            DisplayedPrice {
                point: Some("-3.5".parse().expect("a point")),
                ..was
            },
            DisplayedPrice {
                point: Some(Decimal::ZERO),
                ..was
            },
        );
        assert!(state(None, Some(&was)) && state(Some(&was), None));
        assert!(state(Some(&was), Some(&suspended)) && state(Some(&suspended), Some(&was)));
        assert!(state(Some(&decimal("0")), Some(&was)) && state(Some(&was), Some(&decimal("0"))));
        assert!(state(Some(&line), Some(&other_line)));
        assert!(
            !state(Some(&other_line), Some(&other_line)),
            "a line of zero that stays is a price like any other"
        );
        assert!(PriceDelta::StateChange.exceeds(Decimal::ONE_HUNDRED));
    }

    #[test]
    fn movement_adds_up_against_the_shown_price() {
        let (mut price, cached) = (decimal("10"), decimal("10"));
        let mut over_at = Vec::new();
        for step in 1..=5 {
            price.decimal = (price.decimal * Decimal::new(109, 2)).round_dp(6);
            if over(&cached, &price, "0.1") {
                over_at.push(step);
            }
        }
        assert_eq!(over_at, [2, 3, 4, 5]);
    }

    proptest! {
        #[test]
        fn movement_agrees_with_integer_arithmetic(a in 1_001i64..1_000_000, b in 1_001i64..1_000_000, t in 0i64..2_000) {
            let (old, new) = (Decimal::new(a, 3), Decimal::new(b, 3));
            let threshold = Decimal::new(t, 3);
            let shown = |decimal| DisplayedPrice { decimal, fractional: None, point: None, open: true };
            let exact = i128::from((a - b).abs()) * 1000 > i128::from(t) * i128::from(a);
            prop_assert_eq!(over(&shown(old), &shown(new), &threshold.to_string()), exact);
        }
    }
}
