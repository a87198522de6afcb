//! Tests that stand in the rules file itself: given this change, exactly these targets.

use std::collections::BTreeSet;
use std::fmt;

use super::{Change, Rules};

#[derive(Clone, Debug)]
pub(super) struct Case {
    pub line: usize,
    pub name: String,
    pub change: Change,
    pub removes: BTreeSet<String>,
}

/// A test of the file that its rules do not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Where the test stands.
    pub line: usize,
    pub name: String,
    /// Expected, and not removed.
    pub missing: Vec<String>,
    /// Removed, and not expected.
    pub extra: Vec<String>,
    /// Targets that could not be spelt.
    pub faults: Vec<String>,
}

impl Case {
    pub fn run(&self, rules: &Rules) -> Option<Failed> {
        let (mut removed, mut faults) = (BTreeSet::new(), Vec::new());
        for hit in rules.decide(&self.change, None) {
            let aims = hit.aims.iter().filter(|aim| self.change.holds(aim));
            removed.extend(aims.map(|aim| aim.target.to_string()));
            faults.extend(hit.faults);
        }
        let missing: Vec<String> = self.removes.difference(&removed).cloned().collect();
        let extra: Vec<String> = removed.difference(&self.removes).cloned().collect();
        let failed = !missing.is_empty() || !extra.is_empty() || !faults.is_empty();
        failed.then(|| Failed {
            line: self.line,
            name: self.name.clone(),
            missing,
            extra,
            faults,
        })
    }
}

impl Change {
    /// Whether the movement that an aim waits for is there. Where nobody knows, it is.
    pub fn holds(&self, aim: &super::Aim) -> bool {
        let Some(if_moved) = &aim.if_moved else {
            return true;
        };
        let lines = self.lines.as_deref().unwrap_or_default();
        if_moved.lines.iter().any(|at| {
            let moved = lines.get(*at).and_then(|line| line.moved);
            moved.is_none_or(|moved| moved.is_over(if_moved.over))
        })
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: test {:?} fails", self.line, self.name)?;
        for (word, list) in [
            ("not removed", &self.missing),
            ("removed as well", &self.extra),
            ("not spelt", &self.faults),
        ] {
            if !list.is_empty() {
                write!(f, "; {word}: {}", list.join(", "))?;
            }
        }
        Ok(())
    }
}
