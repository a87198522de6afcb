//! What each event's readers have to be told of one cycle's changes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{Changes, EventChange, PriceChange, PriceChangeKind};
use crate::model::{ChangeKind, EventId, EventStatus};

/// One outbox row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub kinds: BTreeSet<ChangeKind>,
    /// Statuses where the status changed, otherwise decimal odds of the first price that did.
    pub before: Option<String>,
    pub after: Option<String>,
    /// JSON, `{"was": {…}}`: sport, league and venue as they were, where an event moved between them.
    pub detail: Option<String>,
}

impl EventChange {
    /// Before (`None` for a new event) and after, where they differ.
    pub fn transition(&self) -> Option<(Option<EventStatus>, EventStatus)> {
        let before = self.before.as_ref().map(|before| before.status);
        (before != Some(self.after.status)).then_some((before, self.after.status))
    }

    fn tell(&self, told: &mut Told) {
        let after = &self.after;
        let Some(before) = &self.before else {
            told.kinds.insert(ChangeKind::EventAdded);
            return;
        };
        if before.listed && !after.listed {
            told.kinds.insert(ChangeKind::EventRemoved);
        } else if !before.same_facts(after) {
            told.kinds.insert(ChangeKind::EventChanged);
        }
        if (before.status, before.in_play) != (after.status, after.in_play) {
            told.kinds.insert(ChangeKind::StatusChanged);
        }
        if before.status != after.status {
            told.before = Some(before.status.as_str().into());
            told.after = Some(after.status.as_str().into());
        }
        let place = |event: &crate::model::Event| {
            [&event.sport, &event.league, &event.venue].map(String::clone)
        };
        if place(before) != place(after) {
            let was = json!({ "sport_id": before.sport, "league_id": before.league, "venue": before.venue });
            told.detail = Some(json!({ "was": was }).to_string());
        }
    }
}

impl PriceChange {
    fn tell(&self, told: &mut Told) {
        told.before = self.before.map(|odds| odds.normalize().to_string());
        told.after = (self.kind != PriceChangeKind::Withdrawn)
            .then(|| self.offer.decimal.normalize().to_string());
    }
}

impl Changes {
    /// The outbox of this cycle: one entry an event.
    pub fn by_event(&self) -> BTreeMap<EventId, Told> {
        let mut all: BTreeMap<EventId, Told> = BTreeMap::new();
        for change in &self.events {
            change.tell(all.entry(change.after.id.clone()).or_default());
        }
        for change in &self.selections {
            let told = all.entry(change.event.clone()).or_default();
            told.kinds.insert(ChangeKind::SelectionChanged);
        }
        // Thousands of prices of one event lie together and say the same.
        let mut rest = self.prices.as_slice();
        while let Some(first) = rest.first() {
            let run = rest.iter().take_while(|c| c.event == first.event).count();
            let (these, others) = rest.split_at(run);
            rest = others;
            let told = all.entry(first.event.clone()).or_default();
            let mut changed = None;
            for change in these {
                told.kinds.insert(match change.kind {
                    PriceChangeKind::Withdrawn => ChangeKind::PriceWithdrawn,
                    _ => ChangeKind::PriceChanged,
                });
                changed = changed.or((change.kind == PriceChangeKind::Changed).then_some(change));
            }
            if (&told.before, &told.after) == (&None, &None) {
                changed.unwrap_or(first).tell(told);
            }
        }
        all
    }
}
