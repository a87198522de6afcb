//! Prices: exact decimal odds, and the conversion of fractional and American odds.
//! Built by feed parsers and stores; compared by `diff`.

use std::fmt;
use std::num::NonZeroU32;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize, Serializer};
use strum::{EnumString, IntoStaticStr, VariantArray};

use super::{BookmakerId, MarketId, SelectionId, text_forms};

/// Each-way terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EachWay {
    /// Paid places.
    pub places: u16,
    /// A place pays 1/`denom` of the win odds.
    pub denom: u16,
}

/// Fractional odds as a bookmaker writes them, `22/1` or `100/30`. They are not reduced: bettors know them by
/// this form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fraction {
    /// Won for each `stake`.
    pub profit: NonZeroU32,
    /// Staked.
    pub stake: NonZeroU32,
}

impl Fraction {
    /// Reads `22/1`, also with spaces. `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (profit, stake) = text.split_once('/')?;
        let part = |text: &str| {
            let text = text.trim();
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse().ok())?
        };
        Some(Self {
            profit: part(profit)?,
            stake: part(stake)?,
        })
    }

    /// Converts to decimal odds: 22/1 is 23.
    pub fn decimal(self) -> Option<Decimal> {
        from_fraction(self.profit.get().into(), self.stake.get().into())
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.profit, self.stake)
    }
}

impl Serialize for Fraction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The compared value of a price. Decimals are exact and compare by value,
/// so 2.5 equals 2.50.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Decimal odds, stake included.
    pub decimal: Decimal,
    /// The exact value where the decimal cannot be finite (American −105).
    pub fractional: Option<Fraction>,
    /// Handicap or total line: a value of the price. Where a market offers several lines of one selection, the
    /// selection's id holds it as well (see [`SelectionId::line`]).
    pub point: Option<Decimal>,
    /// Each-way terms, where offered.
    pub each_way: Option<EachWay>,
}

/// The status of a price.
#[derive(EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PriceStatus {
    /// Bets are taken.
    Open,
    /// Shown, but no bets are taken.
    Suspended,
    /// Not offered any more.
    Withdrawn,
}

text_forms!(PriceStatus);

/// Key of a price inside its event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PriceKey {
    /// The kind of bet.
    pub market: MarketId,
    /// The runner, team or outcome.
    pub selection: SelectionId,
    /// The bookmaker that offers it.
    pub bookmaker: BookmakerId,
}

/// One bookmaker's price of one selection, as a feed reported it.
#[derive(Clone, Debug, PartialEq)]
pub struct Price {
    /// Market, selection and bookmaker.
    pub key: PriceKey,
    /// `None`: the feed reports explicitly that there is no price now ("-", SP, non-runner).
    pub offer: Option<Offer>,
    /// No bets are taken at the moment.
    pub suspended: bool,
    /// Feed time of this price. `None`: the feed gives none, or one that cannot be right.
    pub observed_at: Option<DateTime<Utc>>,
}

/// Decimal places kept where a conversion has no finite decimal. Prices that differ in a
/// provider's own notation also differ here: it separates American odds up to ±30,000.
pub const DERIVED_SCALE: u32 = 9;

impl Offer {
    /// An offer of decimal odds alone.
    pub fn decimal(decimal: Decimal) -> Self {
        Self {
            decimal: decimal.normalize(),
            fractional: None,
            point: None,
            each_way: None,
        }
    }

    /// Converts American odds exactly: +150 is 3/2, −105 is 20/21. `None` inside (−100, 100).
    pub fn american(odds: i64) -> Option<Self> {
        if odds.unsigned_abs() < 100 || odds.unsigned_abs() > 10_000_000 {
            return None;
        }
        let (profit, stake) = if odds > 0 { (odds, 100) } else { (100, -odds) };
        let common = gcd(profit, stake);
        let (profit, stake) = (profit / common, stake / common);
        let part = |n: i64| NonZeroU32::new(u32::try_from(n).ok()?);
        Some(Self {
            fractional: Some(Fraction {
                profit: part(profit)?,
                stake: part(stake)?,
            }),
            ..Self::decimal(from_fraction(profit, stake)?)
        })
    }
}

fn from_fraction(profit: i64, stake: i64) -> Option<Decimal> {
    let odds = Decimal::ONE + Decimal::from(profit).checked_div(Decimal::from(stake))?;
    Some(odds.round_dp(DERIVED_SCALE).normalize())
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn american_and_fractional_odds_convert_exactly() {
        let cases = [
            (150, "2.5", "3/2"),
            (-200, "1.5", "1/2"),
            (-105, "1.952380952", "20/21"),
        ];
        for (american, decimal, fractional) in cases {
            let offer = Offer::american(american).expect("valid");
            assert_eq!(offer.decimal.to_string(), decimal);
            let exact = offer.fractional.map(|fraction| fraction.to_string());
            assert_eq!(exact.as_deref(), Some(fractional));
        }
        assert_eq!(Offer::american(99), None);
        assert_eq!(Offer::american(0), None);
        assert_eq!(Offer::american(i64::MIN), None);
        let decimal = |text| Fraction::parse(text).and_then(Fraction::decimal);
        assert_eq!(decimal("22/1"), Some(Decimal::from(23)));
        assert_eq!(
            decimal(" 100 / 30 "),
            Decimal::from_str_exact("4.333333333").ok()
        );
        for bad in "4 1/0 0/1 -1/2 +1/2 1/2/3 / 99999999999/1 evens".split(' ') {
            assert_eq!(Fraction::parse(bad), None, "{bad}");
        }
    }
}
