//! Text identifiers with a type of their own, so that one kind cannot be passed for another.
//! Used by every crate.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// Defines a text identifier that is cheap to clone.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub Arc<str>);

        impl $name {
            /// Copies the text.
            pub fn new(text: impl AsRef<str>) -> Self {
                Self(Arc::from(text.as_ref()))
            }
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text_id!(
    /// The provider's id of an event: `rac_11743160`, `1.241629436`, a 32-digit hash.
    EventId
);
text_id!(
    /// The id of a selection inside its event.
    SelectionId
);
text_id!(
    /// The kind of bet: `win`, `place`, `h2h`, `spreads`, `totals`. A lay side is `win_lay`.
    MarketId
);
text_id!(
    /// A bookmaker's name in lower case without spaces, after aliases (see [`BookmakerId::from_name`]).
    BookmakerId
);

/// The beginnings of the names of markets whose outcomes have several lines.
const LINE_MARKETS: [&str; 3] = ["player_", "batter_", "pitcher_"];
/// Parts of the names of such markets.
const LINE_MARKET_PARTS: [&str; 2] = ["alternate", "team_total"];

impl MarketId {
    /// Whether a bookmaker offers several lines of one outcome in this market, by its name: alternate lines, players'
    /// props and team totals, of the whole game or of a part of it.
    pub fn offers_lines(&self) -> bool {
        let starts = LINE_MARKETS.iter().any(|start| self.0.starts_with(start));
        starts || LINE_MARKET_PARTS.iter().any(|part| self.0.contains(part))
    }
}

impl SelectionId {
    /// The id of one line of an outcome: `Over` at 24.50 is `Over 24.5`.
    pub fn line(outcome: &str, point: Decimal) -> Self {
        Self::new(format!("{outcome} {}", point.normalize()))
    }

    /// Whether this is the id of a line at `point`.
    pub fn is_line(&self, point: Decimal) -> bool {
        // Most ids end with a letter, and are not compared with the point's text.
        self.0.ends_with(|end: char| end.is_ascii_digit())
            && self
                .0
                .strip_suffix(&point.normalize().to_string())
                .is_some_and(|outcome| outcome.ends_with(' '))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn market_offers_lines_by_its_name() {
        for (market, expected) in [
            ("alternate_spreads", true),
            ("alternate_totals_h1", true),
            ("player_points", true),
            ("player_points_alternate", true),
            ("batter_home_runs", true),
            ("pitcher_strikeouts_alternate", true),
            ("team_totals", true),
            ("team_totals_q1", true),
            ("alternate_team_totals", true),
            ("h2h", false),
            ("h2h_3_way_h1", false),
            ("spreads", false),
            ("spreads_h1", false),
            ("totals", false),
            ("totals_1st_5_innings", false),
            ("outrights", false),
            ("win", false),
        ] {
            assert_eq!(MarketId::new(market).offers_lines(), expected, "{market}");
        }
    }

    #[test]
    fn line_has_one_spelling_of_its_point() {
        let line = |outcome: &str, point: &str| {
            let point: Decimal = point.parse().expect("a decimal");
            let line = SelectionId::line(outcome, point);
            assert!(line.is_line(point), "{line}");
            assert!(!line.is_line(point + Decimal::ONE), "{line}");
            assert!(!SelectionId::new(outcome).is_line(point), "{outcome}");
            line.to_string()
        };
        for point in ["3.5", "3.50", "+3.5"] {
            assert_eq!(line("A", point), "A 3.5");
        }
        assert_eq!(line("A", "-3.50"), "A -3.5");
        for zero in ["0", "-0", "-0.0", "0.00"] {
            assert_eq!(line("A", zero), "A 0");
        }
        assert_eq!(line("Player One / Over", "24.5"), "Player One / Over 24.5");
        // A team whose name ends with a digit, and a point that the end of another one contains.
        assert_eq!(line("Schalke 04", "4"), "Schalke 04 4");
        assert_eq!(line("A", "13.5"), "A 13.5");
        assert!(!SelectionId::new("A 13.5").is_line("3.5".parse().expect("a decimal")));
    }
}
