//! One rule: its conditions, its action, and the targets that it gives for a change.
//! The loader builds rules; [`super::Rules`] matches changes with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rust_decimal::Decimal;
use strum::{EnumString, IntoStaticStr, VariantArray};

use super::change::{PriceLine, RuleChange};
use super::template::{Binding, RuleTarget, Template};
use crate::model::{ChangeKind, EventStatus, text_forms};

/// The rule name that is logged for targets that an operator named.
pub const MANUAL_RULE: &str = "manual";

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Shown in logs and by `oddsd rules explain`.
    pub name: Arc<str>,
    /// The kinds of change that it is for.
    pub on: BTreeSet<ChangeKind>,
    pub(super) when: Conditions,
    /// The targets that it invalidates.
    pub targets: Vec<Template>,
    /// How it invalidates them.
    pub action: Action,
    /// The recorded reason; `None`: derived from the change.
    pub(super) reason: Option<&'static str>,
}

/// The action on the targets.
#[derive(EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Remove them.
    #[default]
    Remove,
    /// Remove them and load them again, so that the next reader finds them.
    RemoveAndWarm,
    /// Readers whose policy allows it get the old answer while it is loaded again.
    MarkStale,
}

text_forms!(Action);

/// Conditions on a field of a change: their name in a rules file, and the field. The most selective one is first.
pub(super) const FIELD_CONDITIONS: [(&str, &str); 5] = [
    ("task", "task"),
    ("table", "table"),
    ("event", "event_id"),
    ("league", "league_id"),
    ("sport", "sport_id"),
];

/// Conditions of a rule; an empty list accepts every value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Conditions {
    /// One list for each of [`FIELD_CONDITIONS`].
    pub(super) fields: [Vec<String>; FIELD_CONDITIONS.len()],
    pub(super) markets: Vec<String>,
    /// Movements over this ratio, and changes of state.
    pub(super) moved: Option<Decimal>,
}

/// A rule that matches a change, and its targets.
#[derive(Clone, Debug)]
pub struct RuleMatch<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// The reason to record.
    pub reason: &'static str,
    /// Its targets.
    pub targets: Vec<PlannedTarget>,
    /// Why targets could not be rendered. The other targets are not affected.
    pub errors: Vec<String>,
}

/// A target, and the movement that it depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedTarget {
    /// The target.
    pub target: RuleTarget,
    /// Only if one of these prices moved by more than this. `None`: in any case.
    pub if_moved: Option<MovementThreshold>,
}

/// A movement threshold and the prices that it applies to.
#[derive(Clone, Debug, PartialEq)]
pub struct MovementThreshold {
    /// As a ratio; 0.1 is 10 %.
    pub threshold: Decimal,
    /// Indices in [`RuleChange::prices`].
    pub prices: Vec<usize>,
}

impl Rule {
    /// Whether its result depends on the single prices of a change.
    pub(super) fn needs_lines(&self) -> bool {
        let of_line = |name: &str| matches!(name, "market" | "bookmaker");
        let placeholders = |target: &Template| target.placeholders().any(of_line);
        !self.when.markets.is_empty()
            || self.when.moved.is_some()
            || self.targets.iter().any(placeholders)
    }

    /// Whether the change meets the conditions on its fields.
    pub(super) fn accepts(&self, change: &RuleChange) -> bool {
        self.unmet_field(change).is_none()
    }

    /// The first condition on a field that is not met. An unknown value counts as met: a removal too many costs one
    /// load, one too few leaves an old answer.
    fn unmet_field(&self, change: &RuleChange) -> Option<(&'static str, &[String])> {
        let conditions = FIELD_CONDITIONS.iter().zip(&self.when.fields).rev();
        let mut unmet = conditions.filter(|((_, field), wanted)| {
            let values = change.fields.get(field);
            !wanted.is_empty()
                && !values.is_empty()
                && !values.iter().any(|value| wanted.contains(value))
        });
        let ((name, _), wanted) = unmet.next()?;
        Some((*name, wanted))
    }

    /// Explains why the rule does not match the change; `None` if it does.
    pub(super) fn unmet_condition(&self, change: &RuleChange) -> Option<String> {
        if let Some((name, wanted)) = self.unmet_field(change) {
            return Some(format!("only for {name} {}", wanted.join(", ")));
        }
        let lines = change.prices.as_ref()?;
        let accepted: Vec<&PriceLine> = lines
            .iter()
            .filter(|line| self.accepts_line(line))
            .collect();
        if self.needs_lines() && accepted.is_empty() {
            return Some(format!("only for market {}", self.when.markets.join(", ")));
        }
        let over = self.when.moved?;
        let is_minor = |line: &&PriceLine| line.moved.is_some_and(|moved| !moved.exceeds(over));
        let percent = (over * Decimal::ONE_HUNDRED).normalize();
        let minor = accepted.iter().all(is_minor);
        minor.then(|| format!("only for movements over {percent} %"))
    }

    fn accepts_line(&self, line: &PriceLine) -> bool {
        self.on.contains(&line.kind)
            && (self.when.markets.is_empty() || self.when.markets.contains(&line.market))
    }

    /// The targets for a change; `None` if it does not accept the change's fields or any of its prices.
    pub(super) fn match_change(
        &self,
        change: &RuleChange,
        after: Option<EventStatus>,
    ) -> Option<RuleMatch<'_>> {
        if !self.accepts(change) {
            return None;
        }
        let mut hit = RuleMatch {
            rule: self,
            reason: self.reason_for(change, after),
            targets: Vec::with_capacity(self.targets.len()),
            errors: Vec::new(),
        };
        let by_line = change.prices.as_ref().filter(|_| self.needs_lines());
        let Some(lines) = by_line else {
            self.add_targets(&mut hit, change, None);
            return Some(hit);
        };
        // Other kinds in the same change (a new status, a non-runner) do not depend on prices.
        let other = |kind: &ChangeKind| !kind.is_price_change();
        if self.when.markets.is_empty() && change.kinds.intersection(&self.on).any(other) {
            self.add_targets(&mut hit, change, None);
        }
        let mut accepted: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
        for (at, line) in lines.iter().enumerate() {
            if self.accepts_line(line) {
                let key = (line.market.as_str(), line.bookmaker.as_str());
                accepted.entry(key).or_default().push(at);
            }
        }
        for ((market, bookmaker), lines) in accepted {
            self.add_targets(&mut hit, change, Some((market, bookmaker, lines)));
        }
        (!hit.targets.is_empty() || !hit.errors.is_empty()).then_some(hit)
    }

    /// Renders the targets; `line` is a market, a bookmaker and the prices that the targets depend on.
    fn add_targets(
        &self,
        hit: &mut RuleMatch,
        change: &RuleChange,
        line: Option<(&str, &str, Vec<usize>)>,
    ) {
        let own: Option<[(&str, [String; 1]); 2]> = line.as_ref().map(|(market, bookmaker, _)| {
            [
                ("market", [(*market).to_owned()]),
                ("bookmaker", [(*bookmaker).to_owned()]),
            ]
        });
        let binding = |name: &str| {
            let of_line = own.iter().flatten().find(|(known, _)| *known == name);
            of_line.map_or_else(|| change.binding(name), |(_, value)| Binding::Values(value))
        };
        let lines = line.as_ref().map(|(.., lines)| lines);
        for template in &self.targets {
            let rendered = template.render(&binding, &mut |target| {
                let if_moved =
                    self.when
                        .moved
                        .zip(lines)
                        .map(|(threshold, lines)| MovementThreshold {
                            threshold,
                            prices: lines.clone(),
                        });
                // Only different prices can give one target several times.
                let known =
                    lines.and_then(|_| hit.targets.iter_mut().find(|known| known.target == target));
                match known {
                    None => hit.targets.push(PlannedTarget { target, if_moved }),
                    Some(known) => match (&mut known.if_moved, if_moved) {
                        (Some(known), Some(more)) => known.prices.extend(more.prices),
                        (known, _) => *known = None,
                    },
                }
            });
            if let Err(why) = rendered
                && !hit.errors.contains(&why)
            {
                hit.errors.push(why);
            }
        }
    }

    fn reason_for(&self, change: &RuleChange, after: Option<EventStatus>) -> &'static str {
        if let Some(reason) = self.reason {
            return reason;
        }
        let kinds = || change.kinds.intersection(&self.on).copied();
        if self.when.moved.is_some() && kinds().all(ChangeKind::is_price_change) {
            return "ODDS_MOVEMENT";
        }
        removal_reason(kinds(), after)
    }
}

impl RuleChange {
    /// Whether the movement that a target depends on has happened. An unknown movement counts as one.
    pub fn moved_enough_for(&self, planned: &PlannedTarget) -> bool {
        let Some(if_moved) = &planned.if_moved else {
            return true;
        };
        let lines = self.prices.as_deref().unwrap_or_default();
        if_moved.prices.iter().any(|at| {
            let moved = lines.get(*at).and_then(|line| line.moved);
            moved.is_none_or(|moved| moved.exceeds(if_moved.threshold))
        })
    }
}

/// All reasons of a removal. Of several, the first in this order is recorded.
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

/// The reason that a removal records for these kinds of change. `after` is the new status, if it changed.
pub fn removal_reason(
    kinds: impl IntoIterator<Item = ChangeKind>,
    after: Option<EventStatus>,
) -> &'static str {
    use {ChangeKind::*, EventStatus::*};
    let of = |kind: ChangeKind| match kind {
        StatusChanged => match after {
            Some(Cancelled | Abandoned) => "CANCELLED",
            Some(Postponed) => "POSTPONED",
            _ => "STATUS_CHANGE",
        },
        EventAdded | EventChanged | EventRemoved | SelectionChanged | RoundEnded => "EVENT_CHANGE",
        PriceChanged | PriceWithdrawn => "PRICE_CHANGE",
        RowChanged => "ROW_CHANGE",
        TaskCompleted => "TASK_COMPLETED",
        Manual => "MANUAL",
    };
    let rank = |reason: &&str| REASONS.iter().position(|known| known == reason);
    let first = kinds.into_iter().map(of).min_by_key(rank);
    first.unwrap_or("EVENT_CHANGE")
}
