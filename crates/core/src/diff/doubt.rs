//! The missing rows of an event that a rejected row of the answer may have been. The differ builds the index only
//! for an event with rejected rows, so that the usual event pays nothing.

use std::collections::HashSet;

use crate::model::{EventSnapshot, PriceKey, RowInDoubt, SelectionId};

pub(super) struct DoubtIndex<'o> {
    rows: HashSet<&'o RowInDoubt>,
    /// Selections that a rejected price names.
    named: HashSet<&'o SelectionId>,
    /// A rejected price may have named any selection.
    names_any: bool,
    /// If a selection without an id was rejected: those that the snapshot lists, which it was not.
    listed: Option<HashSet<&'o SelectionId>>,
}

impl<'o> DoubtIndex<'o> {
    pub(super) fn new(observed: &'o EventSnapshot) -> Self {
        let rows: HashSet<_> = observed.in_doubt.iter().collect();
        let names = rows.iter().filter_map(|row| match row {
            RowInDoubt::Price { selection, .. } => Some(selection.as_ref()),
            RowInDoubt::Selection => None,
        });
        let listed = observed.selections.iter();
        Self {
            named: names.clone().flatten().collect(),
            names_any: names.clone().any(|name| name.is_none()),
            listed: rows
                .contains(&RowInDoubt::Selection)
                .then(|| listed.map(|selection| &selection.id).collect()),
            rows,
        }
    }

    /// Whether a stored price that is missing may have been in a rejected row. It takes eight lookups, one for each
    /// set of lost parts of a key, however many rows were rejected.
    pub(super) fn has_price(&self, key: &PriceKey) -> bool {
        self.is_unlisted(&key.selection)
            || (0..8).any(|lost| {
                self.rows.contains(&RowInDoubt::Price {
                    market: (lost & 1 == 0).then(|| key.market.clone()),
                    selection: (lost & 2 == 0).then(|| key.selection.clone()),
                    bookmaker: (lost & 4 == 0).then(|| key.bookmaker.clone()),
                })
            })
    }

    /// Whether a stored selection that is missing may have been in a rejected row.
    pub(super) fn has_selection(&self, id: &SelectionId) -> bool {
        self.names_any || self.named.contains(id) || self.is_unlisted(id)
    }

    fn is_unlisted(&self, id: &SelectionId) -> bool {
        let listed = self.listed.as_ref();
        listed.is_some_and(|listed| !listed.contains(id))
    }
}
