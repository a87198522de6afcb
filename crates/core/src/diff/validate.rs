//! Checks that a row can be stored: Postgres has no NUL in text and no index entry longer than a third of a page.
//! The differ calls it where rows are counted, so that one bad row is one rejected row.

use crate::model::{Attributes, Bookmaker, Event, Price, Selection};

/// Three such ids fit well into an index entry (2,704 bytes on Postgres).
const MAX_ID_BYTES: usize = 512;

/// The reason under which a row is rejected.
type RejectReason = &'static str;

fn id(text: &str) -> Option<RejectReason> {
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

fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<RejectReason> {
    let nul = texts.into_iter().any(|text| text.contains('\0'));
    nul.then_some("control_character")
}

fn names_and_values(attributes: &Attributes) -> impl Iterator<Item = &str> {
    attributes.iter().flat_map(|(name, value)| [name, value])
}

pub(super) fn event(event: &Event) -> Option<RejectReason> {
    let names = [
        &*event.source,
        &event.sport,
        &event.league,
        &event.venue,
        &event.name,
    ];
    id(event.id.as_str())
        .or_else(|| texts(names.into_iter().chain(names_and_values(&event.attributes))))
}

pub(super) fn selection(selection: &Selection) -> Option<RejectReason> {
    let attributes = names_and_values(&selection.attributes);
    id(selection.id.as_str()).or_else(|| texts(attributes.chain([selection.name.as_str()])))
}

pub(super) fn bookmaker(bookmaker: &Bookmaker) -> Option<RejectReason> {
    id(bookmaker.id.as_str()).or_else(|| texts([bookmaker.name.as_str()]))
}

pub(super) fn price(price: &Price) -> Option<RejectReason> {
    id(price.key.market.as_str()).or_else(|| id(price.key.bookmaker.as_str()))
}
