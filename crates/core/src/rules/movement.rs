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
        let has_odds = |price: &DisplayedPrice| price.open && !price.decimal.is_zero();
        let shown = old
            .zip(new)
            .filter(|(old, new)| has_odds(old) && has_odds(new) && old.point == new.point);
        let ratio = shown.and_then(|(old, new)| Ratio::of(odds(old), odds(new)));
        ratio.map_or(Self::StateChange, Self::Ratio)
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
        let Self::Ratio(ratio) = self else {
            return None;
        };
        let percent = ratio.rounded()?.checked_mul(Decimal::ONE_HUNDRED)?;
        Some(percent.round_dp(2).normalize())
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
}

/// The fraction if the decimal was derived from it (American −105 is 20/21, which has no finite decimal); else
/// the decimal, which is exact.
fn odds(shown: &DisplayedPrice) -> OddsFraction {
    let derived = shown.fractional.filter(|fraction| {
        fraction.decimal() == Some(shown.decimal.normalize())
            && shown.decimal.scale() >= DERIVED_SCALE
    });
    match derived {
        Some(fraction) => {
            let profit = i128::from(fraction.profit.get());
            let stake = i128::from(fraction.stake.get());
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

    fn shown(decimal: Decimal, fractional: Option<Fraction>) -> DisplayedPrice {
        DisplayedPrice {
            decimal,
            fractional,
            point: None,
            open: true,
        }
    }

    fn decimal(text: &str) -> DisplayedPrice {
        shown(text.parse().expect(text), None)
    }

    fn american(odds: i64) -> DisplayedPrice {
        let offer = Offer::american(odds).expect("valid");
        shown(offer.decimal, offer.fractional)
    }

    fn fractional(text: &str) -> DisplayedPrice {
        let fraction = Fraction::parse(text).expect(text);
        shown(fraction.decimal().expect("decimal"), Some(fraction))
    }

    #[test]
    fn movement_is_exact_at_the_threshold() {
        for (old, new, percent, threshold, exceeds) in [
            (american(-105), american(105), "5", "0.05", false),
            (american(-105), american(106), "5.51", "0.05", true),
            (decimal("2.0"), decimal("2.2"), "10", "0.1", false),
            (decimal("2.0"), decimal("2.201"), "10.05", "0.10", true),
            (decimal("2.20"), decimal("1.98"), "10", "0.1", false),
            (fractional("5/2"), fractional("3/1"), "14.29", "0.1", true),
            // Thirds have no end in decimals.
            (fractional("1/3"), fractional("2/3"), "25", "0.25", false),
            (decimal("3.5"), decimal("3.5"), "0", "0", false),
        ] {
            let delta = PriceDelta::between(Some(&old), Some(&new));
            let found = delta.percent().map(|percent| percent.to_string());
            assert_eq!(found.as_deref(), Some(percent), "{old:?} {new:?}");
            let threshold = threshold.parse().expect("a number");
            assert_eq!(delta.exceeds(threshold), exceeds, "{old:?} {new:?}");
        }
    }

    #[test]
    fn movement_between_states_has_no_percentage() {
        let was = decimal("2.5");
        let state = |old: Option<&DisplayedPrice>, new: Option<&DisplayedPrice>| {
            PriceDelta::between(old, new) == PriceDelta::StateChange
        };
        let suspended = DisplayedPrice { open: false, ..was };
        let with_point = |tenths| DisplayedPrice {
            point: Some(Decimal::new(tenths, 1)),
            ..was
        };
        let (line, other_line) = (with_point(-35), with_point(0));
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

    proptest! {
        #[test]
        fn movement_agrees_with_integer_arithmetic(a in 1_001i64..1_000_000, b in 1_001i64..1_000_000, t in 0i64..2_000) {
            let (old, new) = (Decimal::new(a, 3), Decimal::new(b, 3));
            let delta = PriceDelta::between(Some(&shown(old, None)), Some(&shown(new, None)));
            let exact = i128::from((a - b).abs()) * 1000 > i128::from(t) * i128::from(a);
            prop_assert_eq!(delta.exceeds(Decimal::new(t, 3)), exact);
        }
    }
}
