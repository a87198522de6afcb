//! The nouns of the trade. Feeds produce them, `diff` compares them, stores keep them.
//!
//! Everything here is a value: no clock, no I/O, and no vendor's spelling.

mod bookmaker;
mod change;
mod event;
mod facts;
mod ids;
mod nearest;
mod price;
mod reported;
mod snapshot;
mod status;
mod view;

pub use bookmaker::{BOOKMAKER_ALIASES, Bookmaker};
pub use change::{ChangeKind, Counts};
pub use event::{Event, EventStatus, Selection, SelectionStatus};
pub use facts::Facts;
pub use ids::{BookmakerId, EventId, MarketId, SelectionId};
pub use nearest::nearest;
pub use price::{DERIVED_SCALE, EachWay, Fraction, Offer, Price, PriceKey, PriceStatus};
pub use reported::Reported;
pub use snapshot::{EventSnapshot, Look, Reject, Rejects, Scope, Slice, Snapshot};
pub use status::{StatusSource, status_at};
pub use view::View;

/// Foreign text made safe for a log or page: control characters out (they can move a terminal's
/// cursor or fake a log line), bidirectional overrides out, at most `max` characters.
pub fn plain_text(text: &str, max: usize) -> String {
    let mut plain: String = text
        .chars()
        .filter(|c| {
            !c.is_control() && !matches!(*c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        })
        .take(max + 1)
        .collect();
    if plain.chars().count() > max {
        plain = plain.chars().take(max - 1).collect();
        plain.push('…');
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_move_the_cursor() {
        assert_eq!(plain_text("Red\u{1b}[2J Rum\n", 80), "Red[2J Rum");
        assert_eq!(plain_text("abcdef", 4), "abc…");
    }
}
