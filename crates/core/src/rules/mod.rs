//! The rules of invalidation: a rules file becomes [`Rules`], and a [`RuleChange`] gives the cached answers that it makes
//! wrong. The relay asks for every outbox row; the CLI checks, tests and explains rules files.
//!
//! Rules are indexed by what a change is about (its task, table, event, league, sport), so that a thousand of them
//! cost only what the few cost that can match.

mod change;
mod diagnostic;
mod document;
mod load;
mod movement;
mod rule;
mod rule_test;
mod template;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

pub use change::{FieldValues, PriceLine, RuleChange};
pub use diagnostic::{Diagnostic, RulesError, suggestion};
pub use movement::{DisplayedPrice, PriceDelta};
pub use rule::{
    Action, MANUAL_RULE, MovementThreshold, PlannedTarget, REASONS, Rule, RuleMatch, removal_reason,
};
pub use rule_test::FailedTest;
pub use template::{RuleTarget, TargetKind, Template};

use crate::model::{ChangeKind, EventStatus};
use rule::FIELD_CONDITIONS;
use rule_test::RuleTest;

/// The rules in force.
#[derive(Clone, Debug)]
pub struct Rules {
    version: Arc<str>,
    rules: Vec<Rule>,
    index: RuleIndex,
    /// Whether any rule depends on single prices, or on the size of movements: most files have none, and then no
    /// change has to be asked.
    needs_lines: bool,
    tracks_movement: bool,
    tests: Vec<RuleTest>,
}

impl Rules {
    fn new(version: Arc<str>, rules: Vec<Rule>, tests: Vec<RuleTest>) -> Self {
        Self {
            version,
            index: RuleIndex::new(&rules),
            needs_lines: rules.iter().any(Rule::needs_lines),
            tracks_movement: rules.iter().any(|rule| rule.when.moved.is_some()),
            rules,
            tests,
        }
    }

    /// The built-in rules.
    pub fn builtin() -> &'static Arc<Self> {
        static RULES: LazyLock<Arc<Rules>> = LazyLock::new(|| {
            let rules = load::parse(include_str!("default.toml"), &[]);
            let rules = rules.expect("a test loads the built-in rules");
            let version = Arc::from("built-in");
            Arc::new(Rules { version, ..rules })
        });
        &RULES
    }

    /// Reads a rules file in TOML or JSON. `file` is the name that its diagnostics show.
    pub fn parse(file: &str, text: &str) -> Result<Self, RulesError> {
        load::parse(text, &Self::builtin().rules).map_err(|mut diagnostics| {
            diagnostics.sort();
            diagnostics.dedup();
            let file = file.to_owned();
            RulesError { file, diagnostics }
        })
    }

    /// The file's own version, if it names one, and a fingerprint of its text.
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// The rules, built-in ones first.
    pub fn iter(&self) -> std::slice::Iter<'_, Rule> {
        self.rules.iter()
    }

    /// Whether any rule depends on single prices.
    pub fn have_price_conditions(&self) -> bool {
        self.needs_lines
    }

    /// Whether the result for this change depends on its single prices.
    pub fn needs_price_changes(&self, change: &RuleChange) -> bool {
        let needs = |rule: &Rule| rule.needs_lines() && rule.accepts(change);
        self.needs_lines && self.candidates(change).any(needs)
    }

    /// Whether any rule ignores small movements.
    pub fn tracks_movement(&self) -> bool {
        self.tracks_movement
    }

    /// The rules that match this change, with their targets. `after` is the new status, if it changed.
    pub fn match_change(
        &self,
        change: &RuleChange,
        after: Option<EventStatus>,
    ) -> Vec<RuleMatch<'_>> {
        let candidates = self.candidates(change);
        candidates
            .filter_map(|rule| rule.match_change(change, after))
            .collect()
    }

    /// Rules for this kind of change that do not match it, with the condition that fails.
    pub fn near_misses(&self, change: &RuleChange) -> Vec<(&Rule, String)> {
        let of_kind = self
            .rules
            .iter()
            .filter(|rule| !rule.on.is_disjoint(&change.kinds));
        of_kind
            .filter_map(|rule| rule.unmet_condition(change).map(|why| (rule, why)))
            .collect()
    }

    /// Runs the tests of the file: returns their number and those that fail.
    pub fn run_tests(&self) -> (usize, Vec<FailedTest>) {
        let tests = self.tests.iter();
        let failed = tests.filter_map(|test| test.check(self.match_change(&test.change, None)));
        (self.tests.len(), failed.collect())
    }

    /// In the order of the file, each once.
    fn candidates(&self, change: &RuleChange) -> impl Iterator<Item = &Rule> + use<'_> {
        let found = self.index.find(change);
        found.into_iter().map(|at| &self.rules[at])
    }
}

/// Rules by the kind of change, and by the most selective field that they restrict.
#[derive(Clone, Debug, Default)]
struct RuleIndex([KindIndex; ChangeKind::ALL.len()]);

/// Positions of the rules for one kind of change.
#[derive(Clone, Debug, Default)]
struct KindIndex {
    /// Rules without any of [`FIELD_CONDITIONS`].
    unrestricted: Vec<usize>,
    by_value: [HashMap<String, Vec<usize>>; FIELD_CONDITIONS.len()],
}

impl RuleIndex {
    fn new(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (at, rule) in rules.iter().enumerate() {
            let mut conditions = rule.when.fields.iter().enumerate();
            let first = conditions.find(|(_, wanted)| !wanted.is_empty());
            for kind in &rule.on {
                let of_kind = &mut index.0[*kind as usize];
                let Some((field, wanted)) = first else {
                    of_kind.unrestricted.push(at);
                    continue;
                };
                for value in wanted {
                    let by_value = &mut of_kind.by_value[field];
                    by_value.entry(value.clone()).or_default().push(at);
                }
            }
        }
        index
    }

    /// In the order of the rules, each once.
    fn find(&self, change: &RuleChange) -> Vec<usize> {
        let mut found = Vec::with_capacity(8);
        for kind in &change.kinds {
            let of_kind = &self.0[*kind as usize];
            found.extend(&of_kind.unrestricted);
            for ((_, field), by_value) in FIELD_CONDITIONS.iter().zip(&of_kind.by_value) {
                if by_value.is_empty() {
                    continue;
                }
                match change.fields.get(field) {
                    // An unknown value may be any of them.
                    [] => found.extend(by_value.values().flatten()),
                    known => {
                        let rules = known.iter().filter_map(|value| by_value.get(value));
                        found.extend(rules.flatten());
                    }
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

#[cfg(test)]
mod tests;
