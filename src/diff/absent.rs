//! Absence: what an answer left out inside its scope, and what follows from it.

use super::book::{StoredEvent, StoredPrice, StoredSelection};
use super::{
    Differ, EventChange, Guard, HeldBack, Missing, PriceChange, PriceChangeKind, Rows,
    SelectionChange,
};
use crate::model::{Look, PriceStatus, Scope, SelectionStatus, StatusSource};

/// What the answer left out inside its scope.
#[derive(Default)]
pub(super) struct Absent<'a> {
    pub(super) events: Vec<&'a StoredEvent>,
    pub(super) selections: Vec<(&'a StoredEvent, &'a StoredSelection)>,
    pub(super) prices: Vec<(&'a StoredEvent, &'a StoredPrice)>,
    pub(super) open_prices: usize,
    pub(super) listed_events: usize,
}

impl Absent<'_> {
    fn rows(&self) -> Missing {
        Missing {
            events: self.events.iter().map(|stored| stored.row).collect(),
            selections: self.selections.iter().map(|(_, known)| known.row).collect(),
            prices: self.prices.iter().map(|(_, price)| price.row).collect(),
        }
    }
}

impl<'a> Differ<'a> {
    pub(super) fn absent_events(&mut self, look: &Look) {
        if look.scope == Scope::Listed {
            return;
        }
        for (id, stored) in &self.book.events {
            let in_scope = stored.event.listed
                && stored.event.source == look.source
                && stored.checked_at <= look.as_of
                && !self.listed.contains(id)
                && look.scope.covers(&stored.event);
            if in_scope {
                self.absent.listed_events += 1;
                self.absent.events.push(stored);
                let open = stored.prices.iter().filter(|price| price.is_open());
                let before = self.absent.prices.len();
                self.absent.prices.extend(open.map(|price| (stored, price)));
                self.absent.open_prices += self.absent.prices.len() - before;
            }
        }
    }

    /// Turns absence into changes, unless so much is absent that the answer itself is in doubt.
    pub(super) fn removals(&mut self, guard: &Guard) {
        let absent = std::mem::take(&mut self.absent);
        let in_doubt = guard.trips(absent.prices.len(), absent.open_prices)
            || guard.trips(absent.events.len(), absent.listed_events);
        let first_look = guard.first_look.filter(|_| in_doubt);
        // Whether an absence is believed: at once, or because the look before missed the row too.
        let agreed = |rows: fn(&Missing) -> &Rows, row: i64| match first_look {
            Some(first) => rows(first).contains(row),
            None => !in_doubt,
        };
        let (as_of, mut held) = (self.as_of, (0, 0));
        for stored in &absent.events {
            if !agreed(|missing| &missing.events, stored.row) {
                held.0 += 1;
                continue;
            }
            let mut after = stored.event.clone();
            after.listed = false;
            after.status = after.moved_by_clock(as_of).unwrap_or(after.status);
            let before = Some(stored.event.clone());
            self.changes.checked.push(after.id.clone());
            self.changes.events.push(EventChange {
                row: stored.row,
                before,
                after,
                status_by: StatusSource::Clock,
            });
        }
        for (stored, known) in &absent.selections {
            if agreed(|missing| &missing.selections, known.row) {
                let mut after = known.selection.clone();
                after.status = SelectionStatus::Removed;
                self.changes.selections.push(SelectionChange {
                    row: known.row,
                    event_row: stored.row,
                    event: stored.event.id.clone(),
                    before: Some(known.selection.clone()),
                    after,
                });
            }
        }
        for (stored, price) in &absent.prices {
            match agreed(|missing| &missing.prices, price.row) {
                true => self.withdraw(stored, price),
                false => held.1 += 1,
            }
        }
        let (events, prices) = held;
        if events + prices > 0 {
            self.changes.held_back = Some(HeldBack {
                prices,
                open_prices: absent.open_prices,
                events,
                listed_events: absent.listed_events,
                missing: absent.rows(),
            });
        }
    }

    fn withdraw(&mut self, stored: &StoredEvent, price: &StoredPrice) {
        self.changes.push_price(PriceChange {
            kind: PriceChangeKind::Withdrawn,
            status: PriceStatus::Withdrawn,
            // The feed's clock stands still: when the price comes back with the feed time it had,
            // that is news. `checked_at` keeps older snapshots out.
            ..self.unchanged(stored, price)
        });
    }
}
