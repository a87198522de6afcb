//! Tests inside a rules file: given this change, exactly these targets are removed.
//! `oddsd rules test` and the loader's own tests run them.

use std::collections::BTreeSet;
use std::fmt;

use super::change::RuleChange;
use super::rule::{PlannedTarget, RuleMatch};

#[derive(Clone, Debug)]
pub(super) struct RuleTest {
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) change: RuleChange,
    pub(super) removes: BTreeSet<String>,
}

/// A test of the file that its rules do not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedTest {
    /// The line of the test.
    pub line: usize,
    /// The name of the test.
    pub name: String,
    /// Expected, and not removed.
    pub missing: Vec<String>,
    /// Removed, and not expected.
    pub extra: Vec<String>,
    /// Why targets could not be rendered.
    pub faults: Vec<String>,
}

impl RuleTest {
    /// Compares the expected targets with those of the rules that match the test's change.
    pub(super) fn check(&self, matches: Vec<RuleMatch<'_>>) -> Option<FailedTest> {
        let (mut removed, mut faults) = (BTreeSet::new(), Vec::new());
        for matched in matches {
            let moved = |planned: &&PlannedTarget| self.change.moved_enough_for(planned);
            let planned = matched.targets.iter().filter(moved);
            removed.extend(planned.map(|planned| planned.target.to_string()));
            faults.extend(matched.errors);
        }
        let missing: Vec<String> = self.removes.difference(&removed).cloned().collect();
        let extra: Vec<String> = removed.difference(&self.removes).cloned().collect();
        let failed = !missing.is_empty() || !extra.is_empty() || !faults.is_empty();
        failed.then(|| FailedTest {
            line: self.line,
            name: self.name.clone(),
            missing,
            extra,
            faults,
        })
    }
}

impl fmt::Display for FailedTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: test {:?} fails", self.line, self.name)?;
        for (label, list) in [
            ("not removed", &self.missing),
            ("removed as well", &self.extra),
            ("not rendered", &self.faults),
        ] {
            if !list.is_empty() {
                write!(f, "; {label}: {}", list.join(", "))?;
            }
        }
        Ok(())
    }
}
