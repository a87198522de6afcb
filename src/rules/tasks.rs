//! The other spelling, as job systems have it: tasks, the caches that each makes wrong, and how those
//! caches' keys are spelt.
//!
//! `{"version"?, "rules": {"<task>": {"invalidates_cache": ["<cache>", …]}}, "cache_keys": {"<cache>":
//! "<template>"}}`. Members of other names are its owner's business.

use std::collections::BTreeSet;

use super::load::{Members, Placed, Reading};
use super::template::Spelt;
use super::tree::Node;
use super::{Rule, Then, When};
use crate::model::ChangeKind;

pub(super) fn read(reading: &mut Reading, root: &Node) {
    let mut members = Members::any(reading, root, "the file");
    reading.version = members.scalar(reading, "version");
    if let Some(caches) = members.take("cache_keys") {
        let caches = Members::any(reading, &caches.value, "cache_keys");
        for (name, key) in caches.all_texts(reading) {
            let spelt = if key.text.ends_with('*') {
                Spelt::Pattern
            } else {
                Spelt::Key
            };
            if let Some(template) = reading.template(spelt, &key.text, key.at) {
                reading.caches.push((name, template));
            }
        }
    }
    let Some(rules) = members.take("rules") else {
        return reading.fault(
            root.at,
            "\"rules\" is missing: {\"rules\": {\"<task>\": {\"invalidates_cache\": […]}}}",
        );
    };
    let on = BTreeSet::from([ChangeKind::TaskCompleted]);
    for task in Members::any(reading, &rules.value, "rules").all() {
        let mut fields = Members::any(reading, &task.value, "a task");
        let mut targets = Vec::new();
        for cache in fields.texts(reading, "invalidates_cache") {
            match reading.cache(&cache.text) {
                Some(template) => {
                    reading.placeholders(&template, &on, cache.at);
                    if !targets.contains(&template) {
                        targets.push(template);
                    }
                }
                None => reading.unknown_cache(&cache.text, cache.at),
            }
        }
        if targets.is_empty() {
            // A task that removes nothing does nothing.
            continue;
        }
        let rule = Rule {
            name: task.name.as_str().into(),
            on: on.clone(),
            when: When {
                tasks: vec![task.name],
                ..When::default()
            },
            targets,
            then: Then::Remove,
            reason: None,
        };
        let at = task.at;
        reading.rules.push(Placed { at, rule });
    }
}
