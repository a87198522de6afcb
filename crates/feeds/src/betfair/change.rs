//! The changes of one line, parsed one by one, so that a malformed part costs only itself. `MarketStream` reads them
//! before it applies any.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::value::RawValue;

use super::wire::{MarketChange, MarketDefinition};
use oddsd_core::model::RejectedRows;

/// One change of a market.
pub struct ParsedChange<'a> {
    pub id: Cow<'a, str>,
    /// It replaces the market's book.
    pub is_image: bool,
    pub definition: Option<MarketDefinition<'a>>,
    /// [`super::wire::RunnerChange`]s.
    pub runners: Vec<&'a RawValue>,
}

impl<'a> ParsedChange<'a> {
    /// `None` if it cannot be told which market it is about.
    fn read(raw: &'a RawValue, rejects: &mut RejectedRows) -> Option<Self> {
        let change: MarketChange<'a> = match serde_json::from_str(raw.get()) {
            Ok(change) => change,
            Err(error) => {
                rejects.add("unreadable_market_change", error);
                return None;
            }
        };
        let mut reject = |reason, error: serde_json::Error| {
            rejects.add(reason, format_args!("{}: {error}", change.id));
        };
        let definition = change.market_definition.and_then(|definition| {
            let definition = serde_json::from_str(definition.get());
            definition
                .map_err(|error| reject("unreadable_definition", error))
                .ok()
        });
        let runners = change.rc.map(|rows| serde_json::from_str(rows.get()));
        let runners = runners.transpose().unwrap_or_else(|error| {
            reject("unreadable_runner_change", error);
            None
        });
        Some(Self {
            is_image: change.img.is_some_and(|img| img.get() == "true"),
            id: change.id,
            definition,
            runners: runners.unwrap_or_default(),
        })
    }

    /// The version of its definition.
    pub fn version(&self) -> Option<i64> {
        self.definition.as_ref()?.version()
    }
}

impl MarketDefinition<'_> {
    pub fn version(&self) -> Option<i64> {
        self.version?.get().parse().ok()
    }
}

/// Reads the changes of a line in the order in which they were made. That is the order of the list, except that several
/// definitions of one market take their places in the order of their versions.
pub fn read_changes<'a>(
    rows: &[&'a RawValue],
    rejects: &mut RejectedRows,
) -> Vec<ParsedChange<'a>> {
    let read = rows
        .iter()
        .filter_map(|raw| ParsedChange::read(raw, rejects));
    let mut changes: Vec<Option<ParsedChange<'a>>> = read.map(Some).collect();
    let mut versions: HashMap<&str, Vec<(usize, i64)>> = HashMap::new();
    for (place, change) in changes.iter().enumerate() {
        if let Some(change) = change
            && let Some(version) = change.version()
        {
            versions
                .entry(&change.id)
                .or_default()
                .push((place, version));
        }
    }
    let mut order: Vec<usize> = (0..changes.len()).collect();
    for mut places in versions.into_values() {
        let listed: Vec<usize> = places.iter().map(|(place, _)| *place).collect();
        places.sort_by_key(|(_, version)| *version);
        for (place, (from, _)) in listed.into_iter().zip(places) {
            order[place] = from;
        }
    }
    order
        .into_iter()
        .filter_map(|place| changes[place].take())
        .collect()
}
