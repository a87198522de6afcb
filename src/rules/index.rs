//! Rules by what they ask for first: of a thousand, only those that can apply are looked at.

use std::collections::HashMap;

use super::{Change, Rule};
use crate::model::ChangeKind;

/// What a rule can be found by, the narrowest first.
const FIELDS: [&str; 5] = ["task", "table", "event_id", "league_id", "sport_id"];

#[derive(Clone, Debug, Default)]
pub(super) struct Index([OfKind; ChangeKind::ALL.len()]);

/// Rules for one kind of change, by their place.
#[derive(Clone, Debug, Default)]
struct OfKind {
    /// Without a condition on any of [`FIELDS`].
    any: Vec<usize>,
    by: [HashMap<String, Vec<usize>>; FIELDS.len()],
}

impl Index {
    pub fn of(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (at, rule) in rules.iter().enumerate() {
            let when = &rule.when;
            let wanted = [
                &when.tasks,
                &when.tables,
                &when.events,
                &when.leagues,
                &when.sports,
            ];
            let first = wanted.iter().position(|wanted| !wanted.is_empty());
            for kind in &rule.on {
                let of_kind = &mut index.0[*kind as usize];
                match first {
                    None => of_kind.any.push(at),
                    Some(field) => {
                        for value in wanted[field] {
                            of_kind.by[field].entry(value.clone()).or_default().push(at);
                        }
                    }
                }
            }
        }
        index
    }

    /// In the order of the rules, each once.
    pub fn find(&self, change: &Change) -> Vec<usize> {
        let mut found = Vec::with_capacity(8);
        for kind in &change.kinds {
            let of_kind = &self.0[*kind as usize];
            found.extend(&of_kind.any);
            for (field, by) in FIELDS.iter().zip(&of_kind.by) {
                if by.is_empty() {
                    continue;
                }
                match change.fields.get(field) {
                    // Not known: any of them may be meant.
                    [] => found.extend(by.values().flatten()),
                    known => found.extend(known.iter().filter_map(|value| by.get(value)).flatten()),
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}
