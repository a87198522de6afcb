//! What a batch of outbox rows comes to, by the rules in force: targets, each once, and what the log
//! will say of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use serde_json::json;

use super::retry::retry_after;
use crate::cache::{CacheError, Removed, Targets};
use crate::key::Key;
use crate::model::{ChangeKind, EventId, EventStatus};
use crate::rules::{
    self, Aim, Change, IfMoved, Line, MANUAL, Movement, REASONS, Rules, Target, Then,
};
use crate::store::{Again, Claimed, Left, Moved, Purpose, Removal, Settlement, Store};

/// Targets that a line of the log names; of more it says how many.
const MOST_NAMED: usize = 500;
/// Rows of one thing lie together; further back is another line of the log.
const LOOK_BACK: usize = 16;

/// What is to be done for some rows.
#[derive(Default)]
pub(super) struct Plan {
    pub targets: Targets,
    /// Plain keys that are only to be removed again.
    pub again: Vec<Key>,
    /// To be loaded again once they are removed.
    pub warm: Vec<Key>,
    /// Targets that could not be spelt, and why.
    pub faults: BTreeSet<String>,
    entries: Vec<Entry>,
    held: Vec<(String, i64)>,
    watches_movement: bool,
    version: Arc<str>,
}

/// A line of the log that is to be: what changed, why it matters, and what goes for it.
struct Entry {
    event: Option<EventId>,
    /// What the log calls it: which field that is, and its value.
    entity: Option<(&'static str, String)>,
    reason: &'static str,
    rules: BTreeSet<String>,
    kinds: BTreeSet<ChangeKind>,
    targets: BTreeSet<Target>,
    rows: Vec<i64>,
    cycle: Option<i64>,
    before: Option<String>,
    after: Option<String>,
    attempts: i32,
}

impl Entry {
    /// For targets that are tried again on their own: nobody asks the rules then.
    fn detail(&self) -> String {
        let rules: Vec<&str> = self.rules.iter().map(String::as_str).collect();
        let mut detail = json!({ "reason": self.reason, "rule": rules.join(",") });
        if let (None, Some((field, value))) = (&self.event, &self.entity) {
            detail[*field] = json!(value);
        }
        detail.to_string()
    }
}

/// What was true of a removal as a whole.
pub(super) struct Done<'a> {
    pub removed: &'a Removed,
    pub failed: &'a Failed,
    pub backend: &'static str,
    pub took: Duration,
    /// Keys are removed once more after this; `None`: not.
    pub again_after: Option<Duration>,
}

/// Targets that the cache did not confirm, and why.
pub(super) type Failed = BTreeMap<Target, CacheError>;

impl Plan {
    /// Asks the database only for rules that look at single prices. What it does not answer counts as
    /// met.
    pub async fn of(rows: &[Claimed], rules: &Rules, store: &Store) -> Self {
        let mut plan = Self {
            watches_movement: rules.watch_movement(),
            version: Arc::clone(rules.version()),
            ..Self::default()
        };
        let (mut removed, mut stale) = (BTreeSet::new(), BTreeSet::new());
        for row in rows {
            match row.purpose {
                Purpose::Again => plan.again.extend(row.keys.iter().cloned()),
                Purpose::Canary => removed.extend(row.keys.iter().cloned().map(Target::Key)),
                Purpose::Change if row.keys.is_empty() && row.tags.is_empty() => {
                    plan.by_rules(row, rules, store, &mut removed, &mut stale)
                        .await;
                }
                Purpose::Change => {
                    let keys = row.keys.iter().cloned().map(Target::Key);
                    let tags = row.tags.iter().cloned().map(Target::Tag);
                    let targets: BTreeSet<Target> = keys.chain(tags).collect();
                    let change = row.change();
                    let reason = rules::reason(row.kinds.iter().copied(), status(row));
                    let reason = told_reason(&change).unwrap_or(reason);
                    let rule = change.fields.get("rule").first();
                    let rule = rule.map_or(MANUAL, String::as_str);
                    plan.enter(row, change.entity(), reason, rule, &targets);
                    removed.extend(targets);
                }
            }
        }
        for target in &removed {
            match target {
                Target::Key(key) => plan.targets.keys.push(key.clone()),
                Target::Tag(tag) => plan.targets.tags.push(tag.clone()),
            }
        }
        let only_stale = stale
            .into_iter()
            .filter(|key| !removed.contains(&Target::Key(key.clone())));
        plan.targets.stale.extend(only_stale);
        plan.again.sort();
        plan.again.dedup();
        plan
    }

    async fn by_rules(
        &mut self,
        row: &Claimed,
        rules: &Rules,
        store: &Store,
        removed: &mut BTreeSet<Target>,
        stale: &mut BTreeSet<Key>,
    ) {
        let mut change = row.change();
        let moved = match (&row.event, row.cycle) {
            // Rows that the database put together speak of many cycles.
            (Some(event), Some(cycle)) if row.id > 0 && rules.ask_for_lines(&change) => store
                .moved(event, cycle)
                .await
                .ok()
                .filter(|moved| !moved.is_empty()),
            _ => None,
        };
        if let Some(moved) = &moved {
            change.lines = Some(moved.iter().map(line).collect());
        }
        let hits = rules.decide(&change, status(row));
        let waiting = hits.iter().flat_map(|hit| &hit.aims);
        let waiting = waiting.filter(|aim| aim.if_moved.is_some());
        let waiting: Vec<String> = waiting.map(|aim| aim.target.to_string()).collect();
        let marks = match waiting.is_empty() {
            true => HashMap::new(),
            false => store.marks(&waiting).await.unwrap_or_default(),
        };
        for hit in hits {
            self.faults.extend(
                hit.faults
                    .iter()
                    .map(|why| format!("{}: {why}", hit.rule.name)),
            );
            let mut targets = BTreeSet::new();
            for Aim { target, if_moved } in hit.aims {
                if let Some(if_moved) = &if_moved {
                    let name = target.to_string();
                    let before = row.cycle.unwrap_or_default() - 1;
                    let since = marks.get(&name).copied().unwrap_or(before).min(before);
                    if !is_far(if_moved, moved.as_deref().unwrap_or_default(), since) {
                        self.held.push((name, before));
                        continue;
                    }
                }
                targets.insert(target);
            }
            if targets.is_empty() {
                continue;
            }
            let reason = told_reason(&change).unwrap_or(hit.reason);
            self.enter(row, change.entity(), reason, &hit.rule.name, &targets);
            for target in targets {
                match (hit.rule.then, target) {
                    (Then::MarkStale, Target::Key(key)) => {
                        stale.insert(key);
                    }
                    (then, target) => {
                        if let (Then::RemoveAndWarm, Target::Key(key)) = (then, &target) {
                            self.warm.push(key.clone());
                        }
                        removed.insert(target);
                    }
                }
            }
        }
    }

    fn enter(
        &mut self,
        row: &Claimed,
        entity: Option<(&'static str, &str)>,
        reason: &'static str,
        rule: &str,
        targets: &BTreeSet<Target>,
    ) {
        let entity = entity.map(|(field, value)| (field, value.to_owned()));
        let same = |entry: &&mut Entry| entry.reason == reason && entry.entity == entity;
        let entry = match self.entries.iter_mut().rev().take(LOOK_BACK).find(same) {
            Some(entry) => entry,
            None => {
                self.entries.push(Entry {
                    event: row.event.clone(),
                    entity,
                    reason,
                    rules: BTreeSet::new(),
                    kinds: BTreeSet::new(),
                    targets: BTreeSet::new(),
                    rows: Vec::new(),
                    cycle: None,
                    before: row.before.clone(),
                    after: None,
                    attempts: 0,
                });
                self.entries.last_mut().expect("just pushed")
            }
        };
        entry.rules.insert(rule.to_owned());
        entry.kinds.extend(&row.kinds);
        entry.targets.extend(targets.iter().cloned());
        if entry.rows.last() != Some(&row.id) {
            entry.rows.push(row.id);
        }
        entry.cycle = entry.cycle.max(row.cycle);
        entry.after = row.after.clone().or(entry.after.take());
        entry.attempts = entry.attempts.max(row.attempts);
    }

    /// Only the canary, or nothing that anybody waits for.
    pub fn tells_nobody(&self) -> bool {
        self.entries.is_empty()
    }

    /// All rules that had a say.
    pub fn rules(&self) -> String {
        let rules = self.entries.iter().flat_map(|entry| &entry.rules);
        let rules: BTreeSet<&str> = rules.map(String::as_str).collect();
        rules.into_iter().collect::<Vec<_>>().join(",")
    }

    /// What readers care about most.
    pub fn reason(&self) -> &'static str {
        let mut known = REASONS.into_iter();
        let found = known.find(|reason| self.entries.iter().any(|entry| entry.reason == *reason));
        found.unwrap_or("EVENT_CHANGE")
    }

    pub fn cycle(&self) -> Option<u64> {
        let newest = self.entries.iter().filter_map(|entry| entry.cycle).max();
        newest.map(|cycle| cycle as u64)
    }

    pub fn attempts(&self) -> i32 {
        self.entries
            .iter()
            .map(|entry| entry.attempts)
            .max()
            .unwrap_or(1)
    }

    pub fn failed(&self, removed: &Removed) -> Failed {
        let failed = removed.failed(&self.targets);
        failed
            .map(|(target, why)| (target.into(), why.clone()))
            .collect()
    }

    /// Rows of which a target was not confirmed.
    pub fn rows_left(&self, failed: &Failed) -> BTreeSet<i64> {
        let left = self.entries.iter().filter(|entry| {
            entry
                .targets
                .iter()
                .any(|target| failed.contains_key(target))
        });
        left.flat_map(|entry| entry.rows.iter().copied()).collect()
    }

    /// What is written down when it is done.
    pub fn settlement(self, done: &Done) -> Settlement {
        let counts = done.removed.of(&self.targets);
        let counts =
            counts.filter_map(|(target, count)| Some((target.into(), *count.as_ref().ok()?)));
        let mut existed: HashMap<Target, u64> = counts.collect();
        let (mut removals, mut left) = (Vec::new(), Vec::new());
        for entry in self.entries {
            let (lost, gone): (Vec<Target>, Vec<Target>) = entry
                .targets
                .iter()
                .cloned()
                .partition(|target| done.failed.contains_key(target));
            if let Some(first) = lost.first() {
                let why = &done.failed[first];
                left.push(Left {
                    cycle: entry.cycle,
                    event: entry.event.clone(),
                    kinds: entry.kinds.clone(),
                    detail: entry.detail(),
                    before: entry.before.clone(),
                    after: entry.after.clone(),
                    keys: lost.iter().filter_map(Target::key).cloned().collect(),
                    tags: lost.iter().filter_map(Target::tag).cloned().collect(),
                    attempts: entry.attempts,
                    wait: retry_after(entry.attempts, why.is_retryable()),
                    error: why.detail().to_owned(),
                });
            }
            if gone.is_empty() {
                continue;
            }
            let mut names: Vec<String> = gone
                .iter()
                .take(MOST_NAMED)
                .map(ToString::to_string)
                .collect();
            if gone.len() > MOST_NAMED {
                names.push(format!("and {} more", gone.len() - MOST_NAMED));
            }
            let kinds: Vec<&str> = entry.kinds.iter().map(|kind| kind.as_str()).collect();
            removals.push(Removal {
                id: 0,
                at: Utc::now(),
                cycle: entry.cycle,
                rule: entry.rules.into_iter().collect::<Vec<_>>().join(","),
                reason: entry.reason.into(),
                change: kinds.join(","),
                entity: entry.entity.map(|(_, value)| value),
                existed: gone
                    .iter()
                    .filter_map(|target| existed.remove(target))
                    .sum::<u64>() as i64,
                keys: names,
                rules: self.version.to_string(),
                backend: done.backend.into(),
                attempts: entry.attempts,
                took_ms: done.took.as_millis() as i64,
                before: entry.before,
                after: entry.after,
            });
        }
        let plain = self.targets.keys.iter().chain(&self.targets.stale);
        // Nobody else fills the canary.
        let plain = plain.filter(|key| **key != Key::canary());
        let again = done.again_after.map(|after| Again {
            keys: plain.cloned().collect(),
            after,
        });
        let unmarked: Vec<String> = match self.watches_movement {
            true => {
                let targets = self.targets.each().map(Target::from);
                targets.map(|target| target.to_string()).collect()
            }
            false => Vec::new(),
        };
        let mut held = self.held;
        held.sort();
        held.dedup_by(|a, b| a.0 == b.0);
        held.retain(|(target, _)| !unmarked.contains(target));
        Settlement {
            removals,
            again,
            left,
            held,
            unmarked,
        }
    }
}

/// Whoever asked may have said why.
fn told_reason(change: &Change) -> Option<&'static str> {
    let told = change.fields.get("reason").first()?;
    REASONS.into_iter().find(|reason| reason == told)
}

/// The status that a change left.
fn status(row: &Claimed) -> Option<EventStatus> {
    let told = row.after.as_deref().and_then(EventStatus::parse);
    told.or(row.place.as_ref().and_then(|place| place.status))
}

fn line(moved: &Moved) -> Line {
    Line {
        market: moved.market.clone(),
        bookmaker: moved.bookmaker.clone(),
        kind: match moved.withdrawn {
            true => ChangeKind::PriceWithdrawn,
            false => ChangeKind::PriceChanged,
        },
        moved: None,
    }
}

/// Whether a target is far enough from what it may show. It was last known to be no older than
/// cycle `since`, and may have been filled at any time after: so each price that the line has had
/// since then is compared with, and the furthest counts.
fn is_far(if_moved: &IfMoved, moved: &[Moved], since: i64) -> bool {
    let mut lines = if_moved.lines.iter().map(|at| moved.get(*at));
    lines.any(|line| {
        line.is_none_or(|line| furthest(line, since).any(|by| by.is_over(if_moved.over)))
    })
}

fn furthest(line: &Moved, since: i64) -> impl Iterator<Item = Movement> {
    let shown_then = line.past.iter().rposition(|(cycle, _)| *cycle <= since);
    // Not known any more, or never there: a change of state.
    let unknown = shown_then.is_none().then_some(Movement::State);
    let later = &line.past[shown_then.unwrap_or(0)..];
    let compared = later
        .iter()
        .map(|(_, shown)| Movement::between(Some(shown), Some(&line.now)));
    // The newest of them is the price itself.
    unknown.into_iter().chain(compared)
}
