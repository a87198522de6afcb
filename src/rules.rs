//! What a change makes wrong. Pure: a change goes in, the cache keys to remove come out.
//!
//! One rule is built in and covers every answer that our own readers cache.

use std::collections::BTreeSet;

use crate::key::Key;
use crate::model::{ChangeKind, EventId};

/// The built-in rule, by the name that logs and the invalidation history show.
pub const LIVE_ODDS: &str = "live-odds";
/// The "rule" behind keys that a person named.
pub const MANUAL: &str = "manual";

/// Every answer that a change of this event makes wrong. The card by stage shows all that a change
/// can touch (price, runner, off time, status), so any kind of change removes it.
pub fn targets(event: &EventId) -> BTreeSet<Key> {
    BTreeSet::from([Key::races_by_stage(), Key::event_prices(event)])
}

/// The reason that a removal records: what readers care about most comes first.
pub fn reason(kinds: &BTreeSet<ChangeKind>) -> &'static str {
    let reasons: BTreeSet<&str> = kinds.iter().map(|kind| kind.reason()).collect();
    ["MANUAL", "STATUS_CHANGE", "PRICE_CHANGE", "EVENT_CHANGE"]
        .into_iter()
        .find(|reason| reasons.contains(reason))
        .unwrap_or("EVENT_CHANGE")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_makes_the_card_and_its_own_event_wrong() {
        let keys: Vec<String> = targets(&"rac_1".into())
            .iter()
            .map(Key::to_string)
            .collect();
        assert_eq!(keys, ["event:rac_1:prices:v1", "races:by-stage:v1"]);
    }

    #[test]
    fn every_kind_has_a_reason() {
        for kind in ChangeKind::ALL {
            assert_eq!(reason(&BTreeSet::from([kind])), kind.reason());
        }
        let both = BTreeSet::from([ChangeKind::PriceChanged, ChangeKind::SelectionChanged]);
        assert_eq!(reason(&both), "PRICE_CHANGE");
    }
}
