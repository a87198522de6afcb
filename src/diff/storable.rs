//! What no database of ours can hold, stopped where rows are counted, so that one bad row is one
//! rejected row: Postgres has no NUL in text, and no index entry longer than a third of a page.

use crate::model::{Bookmaker, Event, Facts, Price, Selection};

/// Well below what an index entry of three such ids may take (2,704 bytes on Postgres).
const MAX_ID_BYTES: usize = 512;

/// Why it cannot be stored: the name under which the row is rejected.
pub type Reason = &'static str;

fn id(text: &str) -> Option<Reason> {
    if text.chars().any(char::is_control) {
        Some("control_character")
    } else if text.is_empty() {
        Some("empty_id")
    } else if text.len() > MAX_ID_BYTES {
        Some("id_too_long")
    } else {
        None
    }
}

fn words<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<Reason> {
    let nul = texts.into_iter().any(|text| text.contains('\0'));
    nul.then_some("control_character")
}

fn facts(facts: &Facts) -> impl Iterator<Item = &str> {
    facts.iter().flat_map(|(name, value)| [name, value])
}

pub fn event(event: &Event) -> Option<Reason> {
    let named = [
        &*event.source,
        &event.sport,
        &event.league,
        &event.venue,
        &event.name,
    ];
    id(event.id.as_str()).or_else(|| words(named.into_iter().chain(facts(&event.facts))))
}

pub fn selection(selection: &Selection) -> Option<Reason> {
    let named = [selection.name.as_str()];
    id(selection.id.as_str()).or_else(|| words(named.into_iter().chain(facts(&selection.facts))))
}

pub fn bookmaker(bookmaker: &Bookmaker) -> Option<Reason> {
    id(bookmaker.id.as_str()).or_else(|| words([bookmaker.name.as_str()]))
}

pub fn price(price: &Price) -> Option<Reason> {
    id(price.key.market.as_str()).or_else(|| id(price.key.bookmaker.as_str()))
}
