//! Bookmakers and the normalisation of their names, which vary between feeds and answers.
//! Used by feed parsers; the alias table also by the migration of older databases.

use super::BookmakerId;

/// Names of one bookmaker that vary between answers: `(as received, as stored)`.
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
    /// Lower-cases the name, removes white space and applies the alias table. `None` if nothing is left.
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
            .find(|(received, _)| *received == plain)
            .map_or(plain.as_str(), |(_, stored)| stored);
        Some(Self::new(id))
    }
}

/// A bookmaker and its display name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bookmaker {
    /// The normalised name.
    pub id: BookmakerId,
    /// The display name.
    pub name: String,
}

impl Bookmaker {
    /// `exchange` or `fixed`.
    pub fn kind_text(&self) -> &'static str {
        let id = self.id.as_str();
        match EXCHANGES.contains(&id) || id.starts_with("betfair_ex_") {
            true => "exchange",
            false => "fixed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bookmaker_names_that_vary_have_one_id() {
        let id = |name| BookmakerId::from_name(name).map(|id| id.to_string());
        assert_eq!(id("Betfair Exchange").as_deref(), Some("betfair"));
        assert_eq!(id("Spread Ex"), id("Spreadex"));
        assert_eq!(id("William Hill"), id("WillHill"));
        assert_eq!(id(" \t"), None);
    }
}
