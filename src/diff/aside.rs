//! Parts of a cycle: for a database that refuses a row which we thought it could hold.

use std::collections::HashSet;

use super::{Changes, PriceChange, PriceChangeKind};
use crate::model::{Counts, EventId};

/// Rows to be left out of a cycle: whole events, and prices of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aside {
    pub events: HashSet<i64>,
    pub prices: HashSet<i64>,
}

impl Changes {
    /// Some of these changes, to be tried: the events that pass, with the prices that pass.
    pub fn part(&self, event: impl Fn(i64) -> bool, price: impl Fn(&PriceChange) -> bool) -> Self {
        let events = self.events.iter().filter(|change| event(change.row));
        let selections = self.selections.iter();
        let selections = selections.filter(|change| event(change.event_row));
        let mut part = Self {
            as_of: self.as_of,
            next: self.next,
            bookmakers: self.bookmakers.clone(),
            events: events.cloned().collect(),
            selections: selections.cloned().collect(),
            ..Self::default()
        };
        for change in &self.prices {
            if event(change.event_row) && price(change) {
                part.push_price(change.clone());
            }
        }
        part
    }

    /// Leaves rows out for good, as if the answer had not held them; they are counted as rejected.
    pub fn set_aside(&mut self, aside: &Aside, reason: &'static str, why: &str) {
        let out = |event_row: i64, price: i64| {
            aside.events.contains(&event_row) || aside.prices.contains(&price)
        };
        let (counts, rejects) = (&mut self.counts, &mut self.rejects);
        let mut touched: HashSet<EventId> = HashSet::new();
        let mut reject = |event: &EventId, sample: &str| {
            touched.insert(event.clone());
            rejects.add(reason, format!("{event} {sample}: {why}"));
        };
        self.prices.retain(|change| {
            let out = out(change.event_row, change.row);
            if out {
                *by_kind(counts, change.kind) -= 1;
                counts.rejected += 1;
                reject(&change.event, change.market.as_str());
            }
            !out
        });
        self.selections.retain(|change| {
            let out = aside.events.contains(&change.event_row);
            if out {
                reject(&change.event, change.after.id.as_str());
            }
            !out
        });
        self.events.retain(|change| {
            let out = aside.events.contains(&change.row);
            if out {
                reject(&change.after.id, &change.after.name);
            }
            !out
        });
        // What is not stored as its text says must be read again.
        self.texts.retain(|(event, _)| !touched.contains(event));
    }
}

pub(super) fn by_kind(counts: &mut Counts, kind: PriceChangeKind) -> &mut u64 {
    match kind {
        PriceChangeKind::Inserted => &mut counts.inserted,
        PriceChangeKind::Reopened => &mut counts.reopened,
        PriceChangeKind::Changed => &mut counts.changed,
        PriceChangeKind::Withdrawn => &mut counts.withdrawn,
    }
}
