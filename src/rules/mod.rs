//! What a change makes wrong. Pure: a text becomes [`Rules`], a [`Change`] goes in, targets come out.
//!
//! Rules are looked up by what a change is about (its task, table, event, league, sport), so a thousand of
//! them cost what the few cost that can apply.

mod case;
mod change;
mod fault;
mod index;
mod load;
mod movement;
mod tasks;
mod template;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use rust_decimal::Decimal;

pub use case::Failed;
pub use change::{Change, Fields, Line};
pub use fault::{BadRules, Fault, suggestion};
pub use movement::{Movement, Shown};
pub use template::{Spelt, Target, Template};

use crate::model::{ChangeKind, EventStatus};
use case::Case;
use index::Index;
use template::Bound;

/// The "rule" behind keys that a person named.
pub const MANUAL: &str = "manual";

/// The rules in force.
#[derive(Clone, Debug)]
pub struct Rules {
    version: Arc<str>,
    rules: Vec<Rule>,
    index: Index,
    /// What every change would have to be asked otherwise: does any rule look at single prices, or
    /// leave small movements?
    ask_for_lines: bool,
    watch_movement: bool,
    cases: Vec<Case>,
}

#[derive(Clone, Debug)]
pub struct Rule {
    pub name: Arc<str>,
    pub on: BTreeSet<ChangeKind>,
    when: When,
    pub targets: Vec<Template>,
    pub then: Then,
    reason: Option<&'static str>,
}

/// What becomes of the targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Then {
    #[default]
    Remove,
    /// And load it again, so that the next reader finds it.
    RemoveAndWarm,
    /// Readers that agreed to it get the old answer once more, while it is loaded anew.
    MarkStale,
}

impl Then {
    pub const ALL: [Self; 3] = [Self::Remove, Self::RemoveAndWarm, Self::MarkStale];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Remove => "remove",
            Self::RemoveAndWarm => "remove_and_warm",
            Self::MarkStale => "mark_stale",
        }
    }
}

/// Conditions; an empty one is met by all.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct When {
    sports: Vec<String>,
    leagues: Vec<String>,
    events: Vec<String>,
    markets: Vec<String>,
    tables: Vec<String>,
    tasks: Vec<String>,
    /// Movements over this ratio, and changes of state.
    moved: Option<Decimal>,
}

/// What one rule says about one change.
#[derive(Clone, Debug)]
pub struct Hit<'a> {
    pub rule: &'a Rule,
    pub reason: &'static str,
    pub aims: Vec<Aim>,
    /// Targets that could not be spelt, and why. The others are not stopped by it.
    pub faults: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Aim {
    pub target: Target,
    /// Only if one of these lines of the change moved by more than this. `None`: in any case.
    pub if_moved: Option<IfMoved>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct IfMoved {
    pub over: Decimal,
    /// Places in [`Change::lines`].
    pub lines: Vec<usize>,
}

impl Rules {
    /// The rules that are built in.
    pub fn builtin() -> &'static Arc<Self> {
        static RULES: std::sync::LazyLock<Arc<Rules>> = std::sync::LazyLock::new(|| {
            let rules = load::builtin().expect("the built-in rules are valid");
            Arc::new(rules)
        });
        &RULES
    }

    /// Reads a rules file of either spelling. `file` is what its faults are reported under.
    pub fn parse(file: &str, text: &str) -> Result<Self, BadRules> {
        load::parse(text).map_err(|mut faults| {
            faults.sort();
            faults.dedup();
            let file = file.to_owned();
            BadRules { file, faults }
        })
    }

    /// The file's own version, if it names one, and a fingerprint of its text.
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    pub fn len(&self) -> usize {
        self.rules.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether what they say of this change depends on the single prices in it.
    pub fn ask_for_lines(&self, change: &Change) -> bool {
        let asks = |rule: &Rule| rule.asks_for_lines() && rule.meets(change);
        self.ask_for_lines && self.candidates(change).any(asks)
    }

    /// Whether any rule leaves small movements.
    pub fn watch_movement(&self) -> bool {
        self.watch_movement
    }

    /// Everything that this change makes wrong. `after` is the status that it left, if it changed.
    pub fn decide(&self, change: &Change, after: Option<EventStatus>) -> Vec<Hit<'_>> {
        let met = self.candidates(change).filter(|rule| rule.meets(change));
        met.filter_map(|rule| rule.hit(change, after)).collect()
    }

    /// Rules for this kind of change whose conditions it does not meet, with the one that fails.
    pub fn near_misses(&self, change: &Change) -> Vec<(&Rule, String)> {
        let of_kind = self
            .rules
            .iter()
            .filter(|rule| !rule.on.is_disjoint(&change.kinds));
        of_kind
            .filter_map(|rule| rule.unmet(change).map(|why| (rule, why)))
            .collect()
    }

    /// Runs the tests that the file holds: how many there are, and those that fail.
    pub fn test(&self) -> (usize, Vec<Failed>) {
        let failed = self.cases.iter().filter_map(|case| case.run(self));
        (self.cases.len(), failed.collect())
    }

    /// In the order of the file, each once.
    fn candidates(&self, change: &Change) -> impl Iterator<Item = &Rule> + use<'_> {
        let found = self.index.find(change);
        found.into_iter().map(|at| &self.rules[at])
    }

    fn new(version: Arc<str>, rules: Vec<Rule>, cases: Vec<Case>) -> Self {
        let index = Index::of(&rules);
        Self {
            version,
            ask_for_lines: rules.iter().any(Rule::asks_for_lines),
            watch_movement: rules.iter().any(|rule| rule.when.moved.is_some()),
            rules,
            index,
            cases,
        }
    }
}

impl Rule {
    fn asks_for_lines(&self) -> bool {
        let named = |name: &str| matches!(name, "market" | "bookmaker");
        !self.when.markets.is_empty()
            || self.when.moved.is_some()
            || self
                .targets
                .iter()
                .any(|target| target.placeholders().any(named))
    }

    fn meets(&self, change: &Change) -> bool {
        self.unmet_field(change).is_none()
    }

    /// Conditions on the change as a whole: which one is not met. What nobody knows counts as met: a
    /// removal too many harms nobody.
    fn unmet_field(&self, change: &Change) -> Option<(&'static str, &[String])> {
        let when = &self.when;
        let all: [(&'static str, &'static str, &[String]); 5] = [
            ("sport", "sport_id", &when.sports),
            ("league", "league_id", &when.leagues),
            ("event", "event_id", &when.events),
            ("table", "table", &when.tables),
            ("task", "task", &when.tasks),
        ];
        let unmet = all.into_iter().find(|(_, field, wanted)| {
            let values = change.fields.get(field);
            !wanted.is_empty()
                && !values.is_empty()
                && !values.iter().any(|value| wanted.contains(value))
        });
        unmet.map(|(name, _, wanted)| (name, wanted))
    }

    fn unmet(&self, change: &Change) -> Option<String> {
        if let Some((name, wanted)) = self.unmet_field(change) {
            return Some(format!("only for {name} {}", wanted.join(", ")));
        }
        let lines = change.lines.as_ref()?;
        if !self.asks_for_lines() || lines.iter().any(|line| self.takes(line)) {
            let minor = |line: &Line| {
                let over = self.when.moved.zip(line.moved);
                over.is_some_and(|(over, moved)| !moved.is_over(over))
            };
            let moved = lines.iter().filter(|line| self.takes(line));
            let all_minor = self.when.moved.is_some() && moved.clone().all(minor);
            return all_minor.then(|| format!("only for movements over {}", self.percent()));
        }
        Some(format!("only for market {}", self.when.markets.join(", ")))
    }

    fn percent(&self) -> String {
        let percent = self.when.moved.unwrap_or_default() * Decimal::ONE_HUNDRED;
        format!("{} %", percent.normalize())
    }

    fn takes(&self, line: &Line) -> bool {
        self.on.contains(&line.kind)
            && (self.when.markets.is_empty() || self.when.markets.contains(&line.market))
    }

    fn hit(&self, change: &Change, after: Option<EventStatus>) -> Option<Hit<'_>> {
        let mut hit = Hit {
            rule: self,
            reason: self.reason_for(change, after),
            aims: Vec::with_capacity(self.targets.len()),
            faults: Vec::new(),
        };
        let by_line = change.lines.as_ref().filter(|_| self.asks_for_lines());
        let Some(lines) = by_line else {
            self.aim(&mut hit, change, None);
            return Some(hit);
        };
        // Other kinds in the same row (a new status, a runner out) are no matter of lines.
        let other = |kind: &ChangeKind| !kind.is_of_price();
        if self.when.markets.is_empty() && change.kinds.intersection(&self.on).any(other) {
            self.aim(&mut hit, change, None);
        }
        let mut taken: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
        for (at, line) in lines
            .iter()
            .enumerate()
            .filter(|(_, line)| self.takes(line))
        {
            taken
                .entry((&line.market, &line.bookmaker))
                .or_default()
                .push(at);
        }
        for ((market, bookmaker), lines) in taken {
            self.aim(&mut hit, change, Some((market, bookmaker, lines)));
        }
        (!hit.aims.is_empty() || !hit.faults.is_empty()).then_some(hit)
    }

    /// The targets, with the lines that they depend on.
    fn aim(&self, hit: &mut Hit, change: &Change, line: Option<(&str, &str, Vec<usize>)>) {
        let own: Option<[(&str, [String; 1]); 2]> = line.as_ref().map(|(market, bookmaker, _)| {
            [
                ("market", [(*market).to_owned()]),
                ("bookmaker", [(*bookmaker).to_owned()]),
            ]
        });
        let bound = |name: &str| {
            let of_line = own.iter().flatten().find(|(known, _)| *known == name);
            of_line.map_or_else(|| change.bound(name), |(_, value)| Bound::Values(value))
        };
        let lines = line.as_ref().map(|(.., lines)| lines);
        for template in &self.targets {
            let rendered = template.render(&bound, &mut |target| {
                let if_moved = self.when.moved.zip(lines).map(|(over, lines)| IfMoved {
                    over,
                    lines: lines.clone(),
                });
                // Only lines come to the same target again and again.
                let known =
                    lines.and_then(|_| hit.aims.iter_mut().find(|aim| aim.target == target));
                match known {
                    None => hit.aims.push(Aim { target, if_moved }),
                    Some(known) => match (&mut known.if_moved, if_moved) {
                        (Some(known), Some(more)) => known.lines.extend(more.lines),
                        (known, _) => *known = None,
                    },
                }
            });
            if let Err(why) = rendered
                && !hit.faults.contains(&why)
            {
                hit.faults.push(why);
            }
        }
    }

    fn reason_for(&self, change: &Change, after: Option<EventStatus>) -> &'static str {
        if let Some(reason) = self.reason {
            return reason;
        }
        let kinds = || change.kinds.intersection(&self.on).copied();
        if self.when.moved.is_some() && kinds().all(ChangeKind::is_of_price) {
            return "ODDS_MOVEMENT";
        }
        reason(kinds(), after)
    }
}

/// Everything that a removal can be for, what readers care about most first.
pub const REASONS: [&str; 11] = [
    "MANUAL",
    "CANCELLED",
    "POSTPONED",
    "STATUS_CHANGE",
    "ODDS_MOVEMENT",
    "PRICE_CHANGE",
    "EVENT_CHANGE",
    "SIDEBAR_REFRESH",
    "ROW_CHANGE",
    "TASK_COMPLETED",
    "EXPIRED",
];

/// The reason that a removal records for such changes.
pub fn reason(
    kinds: impl IntoIterator<Item = ChangeKind>,
    after: Option<EventStatus>,
) -> &'static str {
    let of = |kind: ChangeKind| match (kind, after) {
        (ChangeKind::StatusChanged, Some(EventStatus::Cancelled | EventStatus::Abandoned)) => {
            "CANCELLED"
        }
        (ChangeKind::StatusChanged, Some(EventStatus::Postponed)) => "POSTPONED",
        (kind, _) => kind.reason(),
    };
    let rank = |reason: &&str| REASONS.iter().position(|known| known == reason);
    let first = kinds.into_iter().map(of).min_by_key(rank);
    first.unwrap_or("EVENT_CHANGE")
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => key.fmt(f),
            Self::Tag(tag) if tag.is_family() => tag.fmt(f),
            Self::Tag(tag) => write!(f, "tag {tag}"),
        }
    }
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
