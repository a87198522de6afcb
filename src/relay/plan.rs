//! The plan for a batch of outbox rows by the rules in force: the targets, each once, and the records of the
//! removal log. The relay builds one for each removal and turns it into the settlement.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use serde_json::json;

use super::{Relay, retry_delay};
use oddsd_cache::{CacheError, InvalidationTargets, Removed};
use oddsd_core::key::Key;
use oddsd_core::model::{ChangeKind, EventStatus};
use oddsd_core::rules::{
    self, Action, MANUAL_RULE, MovementThreshold, PlannedTarget, PriceDelta, PriceLine, REASONS,
    RuleChange, RuleTarget, Rules,
};
use oddsd_store::{
    BatchOutcome, OutboxEntry, OutboxRow, PriceHistory, Purpose, Removal, RetryEntry, Store,
    StoreError,
};

/// Targets that a record of the removal log lists; the others are only counted.
const MOST_NAMED: usize = 500;
/// Rows of one event are close together; a record further back is not searched.
const LOOK_BACK: usize = 16;

#[derive(Default)]
pub(super) struct InvalidationPlan {
    pub targets: InvalidationTargets,
    /// Other programs' keys whose second removal is due.
    pub second_removals: Vec<Key>,
    /// To be loaded again after the removal.
    pub warm: Vec<Key>,
    /// Targets that could not be rendered, with the reason.
    pub faults: BTreeSet<String>,
    removals: Vec<PlannedRemoval>,
    /// Targets of movement rules that stay, with the cycle that they may show.
    kept: Vec<(String, i64)>,
    tracks_movement: bool,
    /// The database did not answer, and is not asked again for this plan.
    is_database_away: bool,
    version: Arc<str>,
}

/// Whether the targets of this row depend on stored prices.
pub(super) fn needs_database(row: &OutboxRow, rules: &Rules) -> bool {
    // A coalesced row (id 0) stands for many cycles.
    rules.have_price_conditions()
        && row.id > 0
        && row.entry.event.is_some()
        && row.entry.cycle.is_some()
        && rules.needs_price_changes(&row.change())
}

/// One record of the removal log before it is written: a change, the reason and the targets.
struct PlannedRemoval {
    /// The change, merged from its rows.
    entry: OutboxEntry,
    /// Field and value by which the log names the change.
    entity: Option<(&'static str, String)>,
    reason: &'static str,
    rules: BTreeSet<String>,
    targets: BTreeSet<RuleTarget>,
    rows: Vec<i64>,
}

impl PlannedRemoval {
    /// The record of the targets that are gone, and the outbox row of those that failed, to be retried on their own
    /// without the rules. `existed` has the entries that were in the cache; each counts for one record.
    fn settle(
        self,
        existed: &mut HashMap<RuleTarget, u64>,
        version: &str,
        context: &RemovalContext,
    ) -> (Option<Removal>, Option<RetryEntry>) {
        let entry = self.entry;
        let rule = self.rules.into_iter().collect::<Vec<_>>().join(",");
        let (failed, gone): (Vec<RuleTarget>, Vec<RuleTarget>) = self
            .targets
            .into_iter()
            .partition(|target| context.failed.contains_key(target));
        let retry = failed.first().map(|first| {
            let why = &context.failed[first];
            let mut detail = json!({ "reason": self.reason, "rule": rule });
            if let (None, Some((field, value))) = (&entry.event, &self.entity) {
                detail[*field] = json!(value);
            }
            let entry = OutboxEntry {
                detail: Some(detail.to_string()),
                keys: failed.iter().filter_map(RuleTarget::key).cloned().collect(),
                tags: failed.iter().filter_map(RuleTarget::tag).cloned().collect(),
                ..entry.clone()
            };
            RetryEntry {
                wait: retry_delay(entry.attempts, why),
                entry,
                error: Some(why.to_string()),
            }
        });
        let record = (!gone.is_empty()).then(|| {
            let listed = gone.iter().take(MOST_NAMED);
            let mut keys: Vec<String> = listed.map(ToString::to_string).collect();
            if gone.len() > MOST_NAMED {
                keys.push(format!("and {} more", gone.len() - MOST_NAMED));
            }
            let kinds: Vec<&str> = entry.kinds.iter().map(|kind| kind.as_str()).collect();
            let existed = gone.iter().filter_map(|target| existed.remove(target));
            Removal {
                id: 0,
                at: Utc::now(),
                cycle: entry.cycle,
                rule,
                reason: self.reason.into(),
                change: kinds.join(","),
                entity: self.entity.map(|(_, value)| value),
                existed: existed.sum::<u64>() as i64,
                keys,
                rules: version.into(),
                backend: context.backend.into(),
                attempts: entry.attempts,
                took_ms: context.took.as_millis() as i64,
                before: entry.before,
                after: entry.after,
            }
        });
        (record, retry)
    }
}

/// The answer of the cache to a removal.
pub(super) struct RemovalContext<'a> {
    pub removed: &'a Removed,
    pub failed: &'a FailedTargets,
    pub backend: &'static str,
    pub took: Duration,
    /// The delay of the second removals; `None`: there are none.
    pub second_removal_delay: Option<Duration>,
}

/// Targets that the cache did not confirm, with the error.
pub(super) type FailedTargets = BTreeMap<RuleTarget, CacheError>;

impl InvalidationPlan {
    /// Reads from the database only for rules with conditions on single prices. A condition that cannot be read
    /// counts as met: at once, while the database does not answer the relay.
    pub async fn build(rows: &[OutboxRow], rules: &Rules, relay: &Relay) -> Self {
        let mut plan = Self {
            tracks_movement: rules.tracks_movement(),
            version: Arc::clone(rules.version()),
            is_database_away: relay.database_waits.is_hung(),
            ..Self::default()
        };
        let (mut removed, mut stale) = (BTreeSet::new(), BTreeSet::new());
        for row in rows {
            let entry = &row.entry;
            let keys = entry.keys.iter().cloned();
            match entry.purpose {
                Purpose::SecondRemoval => plan.second_removals.extend(keys),
                Purpose::Canary => removed.extend(keys.map(RuleTarget::Key)),
                Purpose::Change if entry.keys.is_empty() && entry.tags.is_empty() => {
                    let adding = plan.add_by_rules(row, rules, relay, &mut removed, &mut stale);
                    adding.await;
                }
                Purpose::Change => {
                    let tags = entry.tags.iter().cloned().map(RuleTarget::Tag);
                    let targets: BTreeSet<RuleTarget> =
                        keys.map(RuleTarget::Key).chain(tags).collect();
                    let change = row.change();
                    let reason = rules::removal_reason(entry.kinds.iter().copied(), status(row));
                    let reason = requested_reason(&change).unwrap_or(reason);
                    let rule = change.fields.get("rule").first();
                    let rule = rule.map_or(MANUAL_RULE, String::as_str);
                    plan.add_removal(row, change.entity(), reason, rule, &targets);
                    removed.extend(targets);
                }
            }
        }
        for target in &removed {
            match target {
                RuleTarget::Key(key) => plan.targets.keys.push(key.clone()),
                RuleTarget::Tag(tag) => plan.targets.tags.push(tag.clone()),
            }
        }
        let only_stale = stale
            .into_iter()
            .filter(|key| !removed.contains(&RuleTarget::Key(key.clone())));
        plan.targets.mark_stale.extend(only_stale);
        plan.second_removals.sort();
        plan.second_removals.dedup();
        plan
    }

    async fn add_by_rules(
        &mut self,
        row: &OutboxRow,
        rules: &Rules,
        relay: &Relay,
        removed: &mut BTreeSet<RuleTarget>,
        stale: &mut BTreeSet<Key>,
    ) {
        let mut change = row.change();
        let histories = match (&row.entry.event, row.entry.cycle) {
            (Some(event), Some(cycle)) if needs_database(row, rules) => {
                let reading =
                    |store: Store| async move { store.price_histories_of(event, cycle).await };
                self.read(relay, reading).await
            }
            _ => Vec::new(),
        };
        if !histories.is_empty() {
            change.prices = Some(histories.iter().map(price_line).collect());
        }
        let matches = rules.match_change(&change, status(row));
        let conditional = matches.iter().flat_map(|matched| &matched.targets);
        let conditional = conditional.filter(|planned| planned.if_moved.is_some());
        let conditional: Vec<String> = conditional.map(|p| p.target.to_string()).collect();
        let last_shown = match conditional.is_empty() {
            true => HashMap::new(),
            false => {
                let targets = &conditional;
                let reading = |store: Store| async move { store.last_shown(targets).await };
                self.read(relay, reading).await
            }
        };
        for matched in matches {
            let faults = matched.errors.iter();
            let faults = faults.map(|why| format!("{}: {why}", matched.rule.name));
            self.faults.extend(faults);
            let mut targets = BTreeSet::new();
            for PlannedTarget { target, if_moved } in matched.targets {
                if let Some(if_moved) = &if_moved {
                    let name = target.to_string();
                    let before = row.entry.cycle.unwrap_or_default() - 1;
                    let since = last_shown.get(&name).copied().unwrap_or(before).min(before);
                    if !exceeds_threshold(if_moved, &histories, since) {
                        self.kept.push((name, before));
                        continue;
                    }
                }
                targets.insert(target);
            }
            if targets.is_empty() {
                continue;
            }
            let reason = requested_reason(&change).unwrap_or(matched.reason);
            let rule = matched.rule;
            self.add_removal(row, change.entity(), reason, &rule.name, &targets);
            for target in targets {
                match (rule.action, target) {
                    (Action::MarkStale, RuleTarget::Key(key)) => drop(stale.insert(key)),
                    (action, target) => {
                        if let (Action::RemoveAndWarm, RuleTarget::Key(key)) = (action, &target) {
                            self.warm.push(key.clone());
                        }
                        removed.insert(target);
                    }
                }
            }
        }
    }

    /// Nothing, if the database does not answer.
    async fn read<T: Default, F: Future<Output = Result<T, StoreError>>>(
        &mut self,
        relay: &Relay,
        statement: impl FnOnce(Store) -> F,
    ) -> T {
        if self.is_database_away {
            return T::default();
        }
        let read = relay.ask(statement).await;
        self.is_database_away = read.is_err();
        read.unwrap_or_default()
    }

    fn add_removal(
        &mut self,
        row: &OutboxRow,
        entity: Option<(&'static str, &str)>,
        reason: &'static str,
        rule: &str,
        targets: &BTreeSet<RuleTarget>,
    ) {
        let entry = &row.entry;
        let entity = entity.map(|(field, value)| (field, value.to_owned()));
        let is_same =
            |removal: &&mut PlannedRemoval| removal.reason == reason && removal.entity == entity;
        let mut recent = self.removals.iter_mut().rev().take(LOOK_BACK);
        let removal = match recent.find(is_same) {
            Some(removal) => removal,
            None => {
                self.removals.push(PlannedRemoval {
                    entry: OutboxEntry {
                        event: entry.event.clone(),
                        before: entry.before.clone(),
                        ..OutboxEntry::default()
                    },
                    entity,
                    reason,
                    rules: BTreeSet::new(),
                    targets: BTreeSet::new(),
                    rows: Vec::new(),
                });
                self.removals.last_mut().expect("just pushed")
            }
        };
        removal.rules.insert(rule.to_owned());
        removal.targets.extend(targets.iter().cloned());
        if removal.rows.last() != Some(&row.id) {
            removal.rows.push(row.id);
        }
        let merged = &mut removal.entry;
        merged.kinds.extend(&entry.kinds);
        merged.cycle = merged.cycle.max(entry.cycle);
        merged.after = entry.after.clone().or(merged.after.take());
        merged.attempts = merged.attempts.max(entry.attempts);
    }

    /// True for the canary and for second removals.
    pub fn is_unlogged(&self) -> bool {
        self.removals.is_empty()
    }

    /// The names of all rules that matched.
    pub fn rules(&self) -> String {
        let rules = self.removals.iter().flat_map(|removal| &removal.rules);
        let rules: BTreeSet<&str> = rules.map(String::as_str).collect();
        rules.into_iter().collect::<Vec<_>>().join(",")
    }

    /// The most important reason, by the order of `REASONS`.
    pub fn reason(&self) -> &'static str {
        let given: BTreeSet<&str> = self.removals.iter().map(|r| r.reason).collect();
        let mut known = REASONS.into_iter();
        let found = known.find(|reason| given.contains(reason));
        found.unwrap_or("EVENT_CHANGE")
    }

    pub fn cycle(&self) -> Option<u64> {
        let newest = self.removals.iter().map(|r| r.entry.cycle).max()?;
        newest.map(|cycle| cycle as u64)
    }

    pub fn attempts(&self) -> i32 {
        let attempts = self.removals.iter().map(|r| r.entry.attempts);
        attempts.max().unwrap_or(1)
    }

    pub fn failed(&self, removed: &Removed) -> FailedTargets {
        let failed = removed.failures(&self.targets);
        failed
            .map(|(target, why)| (target.into(), why.clone()))
            .collect()
    }

    /// The keys, and the tags as texts, of which the cache confirmed the removal.
    pub fn confirmed_targets(
        &self,
        is_confirmed: impl Fn(&RuleTarget) -> bool,
    ) -> (Vec<Key>, Vec<String>) {
        let (mut keys, mut tags) = (Vec::new(), Vec::new());
        for target in self
            .targets
            .iter()
            .map(RuleTarget::from)
            .filter(is_confirmed)
        {
            match target {
                RuleTarget::Key(key) => keys.push(key),
                RuleTarget::Tag(tag) => tags.push(tag.to_string()),
            }
        }
        (keys, tags)
    }

    /// How many changes have a confirmed target: the lines of the removal log.
    pub fn count_confirmed(&self, is_confirmed: impl Fn(&RuleTarget) -> bool) -> u64 {
        let removals = self.removals.iter();
        removals
            .filter(|removal| removal.targets.iter().any(&is_confirmed))
            .count() as u64
    }

    /// Rows of which a target was not confirmed.
    pub fn rows_left(&self, failed: &FailedTargets) -> BTreeSet<i64> {
        let is_failed = |target| failed.contains_key(target);
        let left = self.removals.iter();
        let left = left.filter(|removal| removal.targets.iter().any(is_failed));
        left.flat_map(|removal| removal.rows.iter().copied())
            .collect()
    }

    /// The changes to outbox, removal log and movement marks, to be written in one transaction.
    pub fn into_settlement(self, context: &RemovalContext) -> BatchOutcome {
        let counts = context.removed.results(&self.targets);
        let counts =
            counts.filter_map(|(target, count)| Some((target.into(), *count.as_ref().ok()?)));
        let mut existed: HashMap<RuleTarget, u64> = counts.collect();
        let (mut removals, mut retries) = (Vec::new(), Vec::new());
        for removal in self.removals {
            let (record, retry) = removal.settle(&mut existed, &self.version, context);
            removals.extend(record);
            retries.extend(retry);
        }
        let keys = self.targets.keys.iter().chain(&self.targets.mark_stale);
        // No other program fills the canary.
        let keys = keys.filter(|key| **key != Key::canary());
        let second_removal = context
            .second_removal_delay
            .map(|delay| RetryEntry::second_removal(keys.cloned().collect(), delay));
        let removed_targets: Vec<String> = match self.tracks_movement {
            true => {
                let targets = self.targets.iter().map(RuleTarget::from);
                targets.map(|target| target.to_string()).collect()
            }
            false => Vec::new(),
        };
        let mut kept_targets = self.kept;
        kept_targets.sort();
        kept_targets.dedup_by(|a, b| a.0 == b.0);
        kept_targets.retain(|(target, _)| !removed_targets.contains(target));
        BatchOutcome {
            removals,
            second_removal,
            retries,
            kept_targets,
            removed_targets,
            target_count: self.targets.len(),
        }
    }
}

/// The reason that the requester of a removal gave.
fn requested_reason(change: &RuleChange) -> Option<&'static str> {
    let given = change.fields.get("reason").first()?;
    REASONS.into_iter().find(|reason| reason == given)
}

/// The status after the change.
fn status(row: &OutboxRow) -> Option<EventStatus> {
    let changed = row.entry.after.as_deref().and_then(EventStatus::parse);
    changed.or(row.context.as_ref().and_then(|place| place.status))
}

fn price_line(history: &PriceHistory) -> PriceLine {
    PriceLine {
        market: history.market.clone(),
        bookmaker: history.bookmaker.clone(),
        kind: match history.withdrawn {
            true => ChangeKind::PriceWithdrawn,
            false => ChangeKind::PriceChanged,
        },
        moved: None,
    }
}

/// Whether a price moved far enough from any price that the target may show. The target was last known to show
/// cycle `since` and may have been filled at any time after it. So the price is compared with each one since then,
/// and the largest difference counts.
fn exceeds_threshold(if_moved: &MovementThreshold, all: &[PriceHistory], since: i64) -> bool {
    let mut histories = if_moved.prices.iter().map(|at| all.get(*at));
    histories.any(|history| {
        history.is_none_or(|history| {
            movements_since(history, since).any(|by| by.exceeds(if_moved.threshold))
        })
    })
}

fn movements_since(history: &PriceHistory, since: i64) -> impl Iterator<Item = PriceDelta> {
    let earlier = &history.earlier;
    let shown_then = earlier.iter().rposition(|(cycle, _)| *cycle <= since);
    // No price of that time is known: a change of state.
    let unknown = shown_then.is_none().then_some(PriceDelta::StateChange);
    let compared = earlier[shown_then.unwrap_or(0)..]
        .iter()
        .map(|(_, shown)| PriceDelta::between(Some(shown), Some(&history.current)));
    unknown.into_iter().chain(compared)
}
