//! Reads a rules file in either syntax, checks it as a whole, and reports every mistake at once.
//! Called through [`super::Rules::parse`].
//!
//! TOML has `[[rule]]` tables. JSON is the syntax of job systems: the caches that each task makes wrong, and the keys
//! of these caches: `{"version"?, "rules": {"<task>": {"invalidates_cache": ["<cache>", …]}}, "cache_keys":
//! {"<cache>": "<template>"}}`. In JSON, fields of other names belong to the job system and are ignored.

use std::collections::BTreeSet;
use std::sync::Arc;

use rust_decimal::Decimal;

use super::change::{EVENT_FIELDS, RuleChange};
use super::diagnostic::{Diagnostic, Diagnostics, Spanned, suggestion};
use super::document::{self, Node, NodeValue, TableReader};
use super::movement::{PriceDelta, parse_percent};
use super::rule::{Action, Conditions, REASONS, Rule};
use super::rule_test::RuleTest;
use super::template::{TargetKind, Template};
use crate::key::BUILTIN_KEYS;
use crate::model::{ChangeKind, suggest};

const BUILTIN: &str = include_str!("default.toml");

/// The content of a valid file.
pub(super) struct LoadedRules {
    pub(super) version: Arc<str>,
    pub(super) rules: Vec<Rule>,
    pub(super) tests: Vec<RuleTest>,
}

/// Reads the built-in rules.
pub(super) fn builtin() -> Result<LoadedRules, Vec<Diagnostic>> {
    let mut loader = RulesLoader::new(BUILTIN);
    let root = document::parse_toml(BUILTIN);
    if let Some(root) = loader.out.ok(root) {
        loader.read_toml(&root);
    }
    loader.finish(Arc::from("built-in"), &[])
}

/// Reads a file. The `builtin` rules are added unless it excludes them.
pub(super) fn parse(text: &str, builtin: &[Rule]) -> Result<LoadedRules, Vec<Diagnostic>> {
    let mut loader = RulesLoader::new(text);
    if document::is_json(text) {
        if let Some(root) = loader.out.ok(document::parse_json(text)) {
            loader.read_json(&root);
        }
    } else if let Some(root) = loader.out.ok(document::parse_toml(text)) {
        loader.read_toml(&root);
    }
    let hash = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()));
    let version = match &loader.version {
        Some(version) => format!("{version} {hash}"),
        None => hash,
    };
    let builtin = if loader.builtin { builtin } else { &[] };
    loader.finish(version.into(), builtin)
}

/// The state of reading one file.
struct RulesLoader<'a> {
    out: Diagnostics<'a>,
    version: Option<String>,
    /// Whether the built-in rules stay in force.
    builtin: bool,
    /// The threshold of significant movements.
    threshold: Decimal,
    /// Named templates.
    caches: Vec<(String, Template)>,
    rules: Vec<Spanned<Rule>>,
    tests: Vec<RuleTest>,
}

impl<'a> RulesLoader<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            out: Diagnostics::new(text),
            version: None,
            builtin: true,
            threshold: PriceDelta::SIGNIFICANT,
            caches: Vec::new(),
            rules: Vec::new(),
            tests: Vec::new(),
        }
    }

    fn read_toml(&mut self, root: &Node) {
        let known = ["version", "builtin", "movement", "caches", "rule", "test"];
        let mut file = TableReader::new(&mut self.out, root, "the file", &known);
        self.version = file.scalar(&mut self.out, "version");
        if let Some(builtin) = file.flag(&mut self.out, "builtin") {
            self.builtin = builtin;
        }
        if let Some(movement) = file.take("movement") {
            let known = ["threshold"];
            let mut table = TableReader::new(&mut self.out, &movement.node, "[movement]", &known);
            let threshold = table.take("threshold");
            let threshold = threshold.and_then(|field| self.out.ok(percent(&field.node)));
            self.threshold = threshold.unwrap_or(self.threshold);
        }
        if let Some(caches) = file.take("caches") {
            let names = TableReader::any(&mut self.out, &caches.node, "[caches]");
            for (name, text) in names.all_texts(&mut self.out) {
                if let Some(template) = self.template(TargetKind::Key, &text) {
                    self.caches.push((name, template));
                }
            }
        }
        for rule in file.tables(&mut self.out, "rule") {
            self.read_rule(&rule);
        }
        for test in file.tables(&mut self.out, "test") {
            self.read_test(&test);
        }
    }

    fn read_json(&mut self, root: &Node) {
        let mut file = TableReader::any(&mut self.out, root, "the file");
        self.version = file.scalar(&mut self.out, "version");
        if let Some(caches) = file.take("cache_keys") {
            let caches = TableReader::any(&mut self.out, &caches.node, "cache_keys");
            for (name, text) in caches.all_texts(&mut self.out) {
                let kind = match text.value.ends_with('*') {
                    true => TargetKind::Pattern,
                    false => TargetKind::Key,
                };
                if let Some(template) = self.template(kind, &text) {
                    self.caches.push((name, template));
                }
            }
        }
        let Some(rules) = file.take("rules") else {
            let message =
                "\"rules\" is missing: {\"rules\": {\"<task>\": {\"invalidates_cache\": […]}}}";
            return self.out.report(root.at, message);
        };
        let on = BTreeSet::from([ChangeKind::TaskCompleted]);
        let rules = TableReader::any(&mut self.out, &rules.node, "rules");
        for task in rules.into_members() {
            let mut fields = TableReader::any(&mut self.out, &task.node, "a task");
            let mut targets = Vec::new();
            for template in self.named_caches(&mut fields, "invalidates_cache", &on) {
                if !targets.contains(&template) {
                    targets.push(template);
                }
            }
            // A task without caches is allowed and removes nothing.
            if targets.is_empty() {
                continue;
            }
            let rule = Rule {
                name: task.name.as_str().into(),
                on: on.clone(),
                when: Conditions {
                    tasks: vec![task.name],
                    ..Conditions::default()
                },
                targets,
                action: Action::Remove,
                reason: None,
            };
            let at = task.at;
            self.rules.push(Spanned { at, value: rule });
        }
    }

    fn template(&mut self, kind: TargetKind, text: &Spanned<String>) -> Option<Template> {
        let error = |value| Spanned { at: text.at, value };
        let template = Template::parse(kind, &text.value).map_err(error);
        self.out.ok(template)
    }

    fn read_rule(&mut self, node: &Node) {
        let known = [
            "name", "on", "when", "keys", "tags", "patterns", "caches", "then", "reason",
        ];
        let mut fields = TableReader::new(&mut self.out, node, "a rule", &known);
        let name = fields.text(&mut self.out, "name");
        let on = self.read_kinds(&mut fields, node.at);
        let when = fields.take("when");
        let when = when.map(|when| self.read_conditions(&when.node, &on));
        let targets = self.read_targets(&mut fields, &on);
        let actions = Action::ALL.map(|then| (then.as_str(), then));
        let then = self.read_word(&mut fields, "then", &actions);
        let reasons = REASONS.map(|reason| (reason, reason));
        let reason = self.read_word(&mut fields, "reason", &reasons);
        let Some(name) = name else {
            let message = "a rule needs a name: logs and `oddsd rules explain` call it by that";
            return self.out.report(node.at, message);
        };
        if targets.is_empty() && self.out.list.is_empty() {
            let message =
                format!("rule {name:?} removes nothing: give it keys, tags, patterns or caches");
            self.out.report(node.at, message);
        }
        let then = then.unwrap_or_default();
        self.check_action(then, &targets, node.at);
        let rule = Rule {
            name: name.into(),
            on,
            when: when.unwrap_or_default(),
            targets,
            action: then,
            reason,
        };
        let at = node.at;
        self.rules.push(Spanned { at, value: rule });
    }

    fn read_targets(
        &mut self,
        fields: &mut TableReader,
        on: &BTreeSet<ChangeKind>,
    ) -> Vec<Template> {
        let mut targets = Vec::new();
        for (field, kind) in [
            ("keys", TargetKind::Key),
            ("tags", TargetKind::Tag),
            ("patterns", TargetKind::Pattern),
        ] {
            for text in fields.texts(&mut self.out, field) {
                if let Some(template) = self.template(kind, &text) {
                    self.check_spelling(&template, text.at);
                    self.check_placeholders(&template, on, text.at);
                    targets.push(template);
                }
            }
        }
        targets.extend(self.named_caches(fields, "caches", on));
        targets
    }

    /// The templates of the caches that a field names.
    fn named_caches(
        &mut self,
        fields: &mut TableReader,
        field: &str,
        on: &BTreeSet<ChangeKind>,
    ) -> Vec<Template> {
        let mut templates = Vec::new();
        for Spanned { at, value: name } in fields.texts(&mut self.out, field) {
            let found = self.caches.iter().find(|(known, _)| *known == name);
            let Some((_, template)) = found.cloned() else {
                let known = self.caches.iter().map(|(known, _)| known.as_str());
                let message = format!("unknown cache {name:?}{}", suggestion(&name, known));
                self.out.report(at, message);
                continue;
            };
            self.check_placeholders(&template, on, at);
            templates.push(template);
        }
        templates
    }

    fn read_kinds(&mut self, fields: &mut TableReader, at: usize) -> BTreeSet<ChangeKind> {
        let words = fields.texts(&mut self.out, "on");
        if words.is_empty() {
            self.out.report(
                at,
                "a rule needs `on`: the changes that it is for, such as [\"price_changed\"]",
            );
        }
        let mut kinds = BTreeSet::new();
        for Spanned { at, value: word } in words {
            match ChangeKind::parse(&word) {
                Some(kind) => drop(kinds.insert(kind)),
                None => {
                    let known = ChangeKind::ALL.map(ChangeKind::as_str);
                    let message = format!("unknown change {word:?}{}", suggestion(&word, known));
                    self.out.report(at, message);
                }
            }
        }
        kinds
    }

    fn read_conditions(&mut self, node: &Node, on: &BTreeSet<ChangeKind>) -> Conditions {
        let known = [
            "sport", "league", "event", "market", "table", "task", "movement",
        ];
        let mut fields = TableReader::new(&mut self.out, node, "`when`", &known);
        for name in known {
            let Some(at) = fields.offset(name) else {
                continue;
            };
            if let Some(kind) = on.iter().find(|kind| !has_condition(**kind, name)) {
                let kind = kind.as_str();
                self.out.report(at, format!("{kind} has no {name}, so this can never be met: write a rule of its own for it"));
            }
        }
        let mut texts = |name| {
            let found = fields.texts(&mut self.out, name);
            let mut found: Vec<String> = found.into_iter().map(|text| text.value).collect();
            found.sort();
            found
        };
        let mut when = Conditions {
            sports: texts("sport"),
            leagues: texts("league"),
            events: texts("event"),
            markets: texts("market"),
            tables: texts("table"),
            tasks: texts("task"),
            moved: None,
        };
        if let Some(movement) = fields.take("movement") {
            when.moved = match &movement.node.value {
                NodeValue::Text(word) if word == "significant" => Some(self.threshold),
                _ => self.out.ok(percent(&movement.node)),
            };
        }
        when
    }

    /// Reads one word of a closed set.
    fn read_word<T: Copy>(
        &mut self,
        fields: &mut TableReader,
        field: &str,
        known: &[(&str, T)],
    ) -> Option<T> {
        let at = fields.offset(field)?;
        let word = fields.text(&mut self.out, field)?;
        let found = known.iter().find(|(name, _)| *name == word);
        if found.is_none() {
            let names = known.iter().map(|(name, _)| *name);
            let message = format!("unknown {field} {word:?}{}", suggestion(&word, names));
            self.out.report(at, message);
        }
        found.map(|(_, value)| *value)
    }

    /// Reports a key that differs from one of the read API's keys by a typo in one part. Another program's key that
    /// looks like that can be named under `[caches]`.
    fn check_spelling(&mut self, template: &Template, at: usize) {
        let meant = BUILTIN_KEYS
            .into_iter()
            .find(|known| is_typo(&template.text, known));
        if let Some(meant) = meant.filter(|_| template.kind == TargetKind::Key) {
            let message = format!(
                "unknown key {:?}: no reader has it (did you mean {meant:?}? another program's key is named under [caches])",
                template.text
            );
            self.out.report(at, message);
        }
    }

    /// Reports a placeholder for which one of the rule's changes has no value.
    fn check_placeholders(&mut self, template: &Template, on: &BTreeSet<ChangeKind>, at: usize) {
        let error = on.iter().find_map(|kind| unfilled(template, *kind));
        if let Some(message) = error {
            self.out.report(at, message);
        }
    }

    /// Reports targets to which the action cannot be applied.
    fn check_action(&mut self, then: Action, targets: &[Template], at: usize) {
        let own = |template: &Template| BUILTIN_KEYS.contains(&template.text.as_str());
        let message = match then {
            Action::Remove => None,
            Action::MarkStale => {
                let other = targets.iter().find(|target| target.kind != TargetKind::Key);
                other.map(|target| format!("mark_stale takes keys only; {:?} is none", target.text))
            }
            Action::RemoveAndWarm => {
                let other = targets.iter().find(|target| !own(target));
                other.map(|target| {
                    format!(
                        "oddsd can warm what its own readers load ({}), and not {:?}: use remove",
                        BUILTIN_KEYS.join(", "),
                        target.text
                    )
                })
            }
        };
        if let Some(message) = message {
            self.out.report(at, message);
        }
    }

    fn read_test(&mut self, node: &Node) {
        let known = ["name", "change", "removes"];
        let mut fields = TableReader::new(&mut self.out, node, "a test", &known);
        let name = fields.text(&mut self.out, "name").unwrap_or_default();
        let removes = fields.texts(&mut self.out, "removes");
        let Some(change) = fields.take("change") else {
            return self.out.report(node.at, "a test needs `change`: what happens, such as { change = \"price_changed\", event_id = \"x\" }");
        };
        match RuleChange::parse(&change.node.to_json()) {
            Err(why) => self.out.report(change.node.at, why),
            Ok(change) => self.tests.push(RuleTest {
                line: self.out.line(node.at),
                name,
                change,
                removes: removes.into_iter().map(|text| text.value).collect(),
            }),
        }
    }

    fn finish(
        mut self,
        version: Arc<str>,
        builtin: &[Rule],
    ) -> Result<LoadedRules, Vec<Diagnostic>> {
        let mut seen: Vec<&Rule> = builtin.iter().collect();
        for Spanned { at, value: rule } in &self.rules {
            let same = |other: &&&Rule| {
                other.name == rule.name
                    || (&other.on, &other.when, &other.targets, other.action)
                        == (&rule.on, &rule.when, &rule.targets, rule.action)
            };
            if let Some(other) = seen.iter().find(same) {
                let built_in = match builtin.iter().any(|rule| rule.name == other.name) {
                    true => " (built in; `builtin = false` leaves those out)",
                    false => "",
                };
                let message = format!(
                    "duplicate rule {:?}: {:?} says the same{built_in}",
                    rule.name, other.name
                );
                self.out.report(*at, message);
            }
            seen.push(rule);
        }
        if !self.out.list.is_empty() {
            return Err(self.out.list);
        }
        let own = self.rules.into_iter().map(|rule| rule.value);
        Ok(LoadedRules {
            version,
            rules: builtin.iter().cloned().chain(own).collect(),
            tests: self.tests,
        })
    }
}

/// Explains why a change of this kind cannot fill the template's placeholders.
fn unfilled(template: &Template, kind: ChangeKind) -> Option<String> {
    let (kind_name, own) = (kind.as_str(), has_own_fields(kind));
    for name in template.placeholders() {
        if !own && !EVENT_FIELDS.contains(&name) {
            let near = suggestion(name, EVENT_FIELDS);
            return Some(format!("{kind_name} has no {{{name}}}{near}"));
        }
        if matches!(name, "market" | "bookmaker") && !own && !kind.is_price_change() {
            return Some(format!(
                "{kind_name} has no {{{name}}}: only changes of a price have"
            ));
        }
    }
    let may_be_unknown = |name: &str| match kind {
        ChangeKind::RowChanged => !matches!(name, "table" | "op" | "status"),
        ChangeKind::TaskCompleted | ChangeKind::RoundEnded => false,
        _ => !matches!(name, "event_id" | "status" | "current_status"),
    };
    if !template.placeholders().any(may_be_unknown)
        || (template.kind != TargetKind::Tag && template.has_prefix_tag(may_be_unknown))
    {
        return None;
    }
    let when = match kind {
        ChangeKind::RowChanged => "one statement changes many rows",
        _ => "the event is not stored any more",
    };
    Some(format!(
        "{:?} cannot be reached when {when}: it has to be a key or pattern that begins with a literal part, \
         such as \"user:{{user_id}}\"",
        template.text
    ))
}

/// Whether the two differ by a typo in one part. `v2` is no typo for `v1`, and neither is `{id}` for `live`.
fn is_typo(written: &str, known: &str) -> bool {
    let (written, known): (Vec<&str>, Vec<&str>) =
        (written.split(':').collect(), known.split(':').collect());
    if written.len() != known.len() {
        return false;
    }
    let parts = written.iter().zip(&known);
    let mut different = parts.filter(|(written, known)| written != known);
    let (Some((written, known)), None) = (different.next(), different.next()) else {
        return false;
    };
    let letters = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
    !written.contains('{')
        && !known.contains('{')
        && letters(written) != letters(known)
        && suggest(written, [*known]).is_some()
}

/// Whether the fields of such changes are defined by the reporting program.
fn has_own_fields(kind: ChangeKind) -> bool {
    matches!(
        kind,
        ChangeKind::RowChanged | ChangeKind::TaskCompleted | ChangeKind::RoundEnded
    )
}

/// Whether changes of this kind can meet the condition.
fn has_condition(kind: ChangeKind, condition: &str) -> bool {
    match condition {
        "table" => kind == ChangeKind::RowChanged,
        "task" => kind == ChangeKind::TaskCompleted,
        "market" | "movement" => kind.is_price_change(),
        _ => !has_own_fields(kind),
    }
}

fn percent(node: &Node) -> Result<Decimal, Spanned<String>> {
    let ratio = match &node.value {
        NodeValue::Text(text) | NodeValue::Number(text) => parse_percent(text),
        other => Err(format!(
            "a percentage such as \"10%\" was expected, not {}",
            other.type_name()
        )),
    };
    ratio.map_err(|value| Spanned { at: node.at, value })
}
