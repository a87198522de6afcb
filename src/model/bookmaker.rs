//! Who offers prices, under one name however it is spelt.

use super::BookmakerId;

/// Spellings of one bookmaker that drift between answers: `(as spelt, as stored)`.
pub const BOOKMAKER_ALIASES: &[(&str, &str)] = &[
    ("betfairexchange", "betfair"),
    ("willhill", "williamhill"),
    ("boyle", "boylesports"),
    ("888", "888sport"),
    ("ladbroke", "ladbrokes"),
    ("betvictorsports", "betvictor"),
];

const EXCHANGES: &[&str] = &["betfair", "smarkets", "matchbook", "betdaq"];

impl BookmakerId {
    /// Lower case, no white space, through the alias table. Empty names give `None`.
    pub fn from_name(name: &str) -> Option<Self> {
        let plain: String = name
            .chars()
            .filter(|c| !c.is_whitespace() && !c.is_control())
            .flat_map(char::to_lowercase)
            .collect();
        if plain.is_empty() {
            return None;
        }
        let id = BOOKMAKER_ALIASES
            .iter()
            .find(|(spelt, _)| *spelt == plain)
            .map_or(plain.as_str(), |(_, stored)| stored);
        Some(Self::new(id))
    }

    pub fn is_exchange(&self) -> bool {
        EXCHANGES.contains(&self.as_str()) || self.0.starts_with("betfair_ex_")
    }
}

/// A bookmaker as people read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bookmaker {
    pub id: BookmakerId,
    pub name: String,
}

impl Bookmaker {
    /// `exchange` or `fixed`.
    pub fn kind(&self) -> &'static str {
        if self.id.is_exchange() {
            "exchange"
        } else {
            "fixed"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bookmakers_that_drift_are_one() {
        let id = |name| BookmakerId::from_name(name).map(|id| id.to_string());
        assert_eq!(id("Betfair Exchange").as_deref(), Some("betfair"));
        assert_eq!(id("Spread Ex"), id("Spreadex"));
        assert_eq!(id("William Hill"), id("WillHill"));
        assert_eq!(id(" \t"), None);
    }
}
