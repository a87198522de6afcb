//! Reads a rules file in either syntax, checks it as a whole, and reports every mistake at once.
//! Called through [`super::Rules::parse`].
//!
//! TOML has `[[rule]]` tables. JSON is the syntax of job systems: the caches that each task makes wrong, and the keys
//! of these caches: `{"version"?, "rules": {"<task>": {"invalidates_cache": ["<cache>", …]}}, "cache_keys":
//! {"<cache>": "<template>"}}`. In JSON, fields of other names belong to the job system and are ignored.

use std::collections::BTreeSet;

use rust_decimal::Decimal;

use super::Rules;
use super::change::{EVENT_FIELDS, RuleChange, parse_kind};
use super::diagnostic::{Diagnostic, Diagnostics, suggestion, unknown};
use super::document::{self, Node, TableReader};
use super::movement::{PriceDelta, parse_percent};
use super::rule::{Action, Conditions, FIELD_CONDITIONS, REASONS, Rule};
use super::rule_test::RuleTest;
use super::template::{TargetKind, Template};
use crate::key::BUILTIN_KEYS;
use crate::model::{ChangeKind, suggest};

/// Reads a file. The `builtin` rules are added unless it excludes them.
pub(super) fn parse(text: &str, builtin: &[Rule]) -> Result<Rules, Vec<Diagnostic>> {
    let list = Vec::new();
    let mut loader = RulesLoader {
        out: Diagnostics { text, list },
        version: None,
        builtin: true,
        threshold: PriceDelta::SIGNIFICANT,
        caches: Vec::new(),
        rules: Vec::new(),
        tests: Vec::new(),
    };
    if document::is_json(text) {
        if let Some(root) = loader.out.ok(document::parse_json(text)) {
            loader.read_json(&root);
        }
    } else if let Some(root) = loader.out.ok(document::parse_toml(text)) {
        loader.read_toml(&root);
    }
    let builtin = if loader.builtin { builtin } else { &[] };
    loader.report_duplicates(builtin);
    if !loader.out.list.is_empty() {
        return Err(loader.out.list);
    }
    let hash = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()));
    let version = match loader.version {
        Some(version) => format!("{version} {hash}"),
        None => hash,
    };
    let own = loader.rules.into_iter().map(|(_, rule)| rule);
    let rules = builtin.iter().cloned().chain(own).collect();
    Ok(Rules::new(version.into(), rules, loader.tests))
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
    /// With their offsets.
    rules: Vec<(usize, Rule)>,
    tests: Vec<RuleTest>,
}

impl RulesLoader<'_> {
    fn read_toml(&mut self, root: &Node) {
        let known = ["version", "builtin", "movement", "caches", "rule", "test"];
        let file = TableReader::new(&mut self.out, root, "the file", &known);
        self.version = file.text_or_number(&mut self.out, "version");
        self.builtin = file.flag(&mut self.out, "builtin").unwrap_or(true);
        if let Some(movement) = file.get("movement") {
            let table = TableReader::new(&mut self.out, movement, "[movement]", &["threshold"]);
            let threshold = table.get("threshold");
            let threshold = threshold.and_then(|threshold| self.read_percent(threshold));
            self.threshold = threshold.unwrap_or(self.threshold);
        }
        if let Some(caches) = file.get("caches") {
            self.read_caches(caches, "[caches]", |_| TargetKind::Key);
        }
        for rule in file.tables(&mut self.out, "rule") {
            self.read_rule(rule);
        }
        for test in file.tables(&mut self.out, "test") {
            self.read_test(test);
        }
    }

    fn read_json(&mut self, root: &Node) {
        let file = TableReader::any(&mut self.out, root, "the file");
        self.version = file.text_or_number(&mut self.out, "version");
        if let Some(caches) = file.get("cache_keys") {
            self.read_caches(caches, "cache_keys", |text| match text.ends_with('*') {
                true => TargetKind::Pattern,
                false => TargetKind::Key,
            });
        }
        let Some(rules) = file.get("rules") else {
            let message =
                "\"rules\" is missing: {\"rules\": {\"<task>\": {\"invalidates_cache\": […]}}}";
            return self.out.report(root.span().start, message);
        };
        let on = BTreeSet::from([ChangeKind::TaskCompleted]);
        for (task, node) in TableReader::any(&mut self.out, rules, "rules").members() {
            let fields = TableReader::any(&mut self.out, node, "a task");
            let mut targets = Vec::new();
            for template in self.named_caches(fields, "invalidates_cache", &on) {
                if !targets.contains(&template) {
                    targets.push(template);
                }
            }
            // A task without caches is allowed and removes nothing.
            if targets.is_empty() {
                continue;
            }
            let tasks = FIELD_CONDITIONS.map(|(name, _)| match name {
                "task" => vec![task.to_owned()],
                _ => Vec::new(),
            });
            let rule = Rule {
                name: task.into(),
                on: on.clone(),
                when: Conditions {
                    fields: tasks,
                    ..Conditions::default()
                },
                targets,
                action: Action::Remove,
                reason: None,
            };
            self.rules.push((node.span().start, rule));
        }
    }

    fn read_caches(&mut self, node: &Node, what: &str, kind: fn(&str) -> TargetKind) {
        let names = TableReader::any(&mut self.out, node, what);
        for (name, (at, text)) in names.all_texts(&mut self.out) {
            if let Some(template) = self.template(kind(&text), at, &text) {
                self.caches.push((name.to_owned(), template));
            }
        }
    }

    fn template(&mut self, kind: TargetKind, at: usize, text: &str) -> Option<Template> {
        let template = Template::parse(kind, text);
        self.out.ok(template.map_err(|why| (at, why)))
    }

    fn read_rule(&mut self, node: &Node) {
        let known = [
            "name", "on", "when", "keys", "tags", "patterns", "caches", "then", "reason",
        ];
        let at = node.span().start;
        let fields = TableReader::new(&mut self.out, node, "a rule", &known);
        let name = fields.text(&mut self.out, "name");
        let on = self.read_kinds(fields, at);
        let when = fields.get("when");
        let when = when.map(|when| self.read_conditions(when, &on));
        let targets = self.read_targets(fields, &on);
        let actions = Action::ALL.map(|then| (then.as_str(), then));
        let then = self.read_word(fields, "then", &actions);
        let reasons = REASONS.map(|reason| (reason, reason));
        let reason = self.read_word(fields, "reason", &reasons);
        let Some(name) = name else {
            let message = "a rule needs a name: logs and `oddsd rules explain` call it by that";
            return self.out.report(at, message);
        };
        if targets.is_empty() && self.out.list.is_empty() {
            let message =
                format!("rule {name:?} removes nothing: give it keys, tags, patterns or caches");
            self.out.report(at, message);
        }
        let then = then.unwrap_or_default();
        self.check_action(then, &targets, at);
        let rule = Rule {
            name: name.into(),
            on,
            when: when.unwrap_or_default(),
            targets,
            action: then,
            reason,
        };
        self.rules.push((at, rule));
    }

    fn read_targets(&mut self, fields: TableReader, on: &BTreeSet<ChangeKind>) -> Vec<Template> {
        let mut targets = Vec::new();
        for (field, kind) in [
            ("keys", TargetKind::Key),
            ("tags", TargetKind::Tag),
            ("patterns", TargetKind::Pattern),
        ] {
            for (at, text) in fields.texts(&mut self.out, field) {
                if let Some(template) = self.template(kind, at, &text) {
                    self.check_spelling(&template, at);
                    self.check_placeholders(&template, on, at);
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
        fields: TableReader,
        field: &str,
        on: &BTreeSet<ChangeKind>,
    ) -> Vec<Template> {
        let mut templates = Vec::new();
        for (at, name) in fields.texts(&mut self.out, field) {
            let found = self.caches.iter().find(|(known, _)| *known == name);
            let Some((_, template)) = found.cloned() else {
                let known = self.caches.iter().map(|(known, _)| known.as_str());
                self.out.report(at, unknown("cache", &name, known));
                continue;
            };
            self.check_placeholders(&template, on, at);
            templates.push(template);
        }
        templates
    }

    fn read_kinds(&mut self, fields: TableReader, at: usize) -> BTreeSet<ChangeKind> {
        let words = fields.texts(&mut self.out, "on");
        if words.is_empty() {
            self.out.report(
                at,
                "a rule needs `on`: the changes that it is for, such as [\"price_changed\"]",
            );
        }
        let kinds = words.into_iter().filter_map(|(at, word)| {
            let kind = parse_kind(&word).map_err(|why| (at, why));
            self.out.ok(kind)
        });
        kinds.collect()
    }

    fn read_conditions(&mut self, node: &Node, on: &BTreeSet<ChangeKind>) -> Conditions {
        let known = [
            "sport", "league", "event", "market", "table", "task", "movement",
        ];
        let fields = TableReader::new(&mut self.out, node, "`when`", &known);
        for name in known {
            let Some(at) = fields.offset(name) else {
                continue;
            };
            if let Some(kind) = on.iter().find(|kind| !has_condition(**kind, name)) {
                let kind = kind.as_str();
                self.out.report(at, format!("{kind} has no {name}, so this can never be met: write a rule of its own for it"));
            }
        }
        let mut sorted_texts = |name| {
            let found = fields.texts(&mut self.out, name).into_iter();
            let mut found: Vec<String> = found.map(|(_, text)| text).collect();
            found.sort();
            found
        };
        Conditions {
            fields: FIELD_CONDITIONS.map(|(name, _)| sorted_texts(name)),
            markets: sorted_texts("market"),
            moved: fields
                .get("movement")
                .and_then(|movement| match movement.get_ref().as_str() {
                    Some("significant") => Some(self.threshold),
                    _ => self.read_percent(movement),
                }),
        }
    }

    fn read_percent(&mut self, node: &Node) -> Option<Decimal> {
        let Some(text) = document::text_or_number(node.get_ref()) else {
            let expected = "a percentage such as \"10%\" was expected";
            self.out.report_type(node, expected);
            return None;
        };
        let ratio = parse_percent(&text);
        self.out.ok(ratio.map_err(|why| (node.span().start, why)))
    }

    /// Reads one word of a closed set.
    fn read_word<T: Copy>(
        &mut self,
        fields: TableReader,
        field: &str,
        known: &[(&str, T)],
    ) -> Option<T> {
        let at = fields.offset(field)?;
        let word = fields.text(&mut self.out, field)?;
        let found = known.iter().find(|(name, _)| *name == word);
        if found.is_none() {
            let names = known.iter().map(|(name, _)| *name);
            self.out.report(at, unknown(field, &word, names));
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
        let at = node.span().start;
        let fields = TableReader::new(&mut self.out, node, "a test", &known);
        let name = fields.text(&mut self.out, "name").unwrap_or_default();
        let removes = fields.texts(&mut self.out, "removes");
        let Some(change) = fields.get("change") else {
            return self.out.report(at, "a test needs `change`: what happens, such as { change = \"price_changed\", event_id = \"x\" }");
        };
        match RuleChange::parse(&document::to_json(change.get_ref())) {
            Err(why) => self.out.report(change.span().start, why),
            Ok(change) => self.tests.push(RuleTest {
                line: Diagnostic::at(self.out.text, at, "").line,
                name,
                change,
                removes: removes.into_iter().map(|(_, text)| text).collect(),
            }),
        }
    }

    fn report_duplicates(&mut self, builtin: &[Rule]) {
        let mut seen: Vec<&Rule> = builtin.iter().collect();
        for (at, rule) in &self.rules {
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
