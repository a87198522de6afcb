//! A rules file, read and checked as a whole: whoever made five mistakes is told of five.

mod fields;

use std::collections::BTreeSet;
use std::sync::Arc;

use rust_decimal::Decimal;

pub(super) use self::fields::Members;
use super::case::Case;
use super::change::{Change, EVENT_FIELDS};
use super::fault::{Fault, suggestion};
use super::movement::Movement;
use super::template::{Spelt, Template};
use super::tree::{self, Node};
use super::{REASONS, Rule, Rules, Then, When, tasks};
use crate::key::READERS;
use crate::model::{ChangeKind, nearest};

const BUILTIN: &str = include_str!("default.toml");

pub(super) fn builtin() -> Result<Rules, Vec<Fault>> {
    let mut reading = Reading::new(BUILTIN);
    let root = tree::toml(BUILTIN).map_err(|(at, why)| vec![Fault::at(BUILTIN, at, why)])?;
    reading.file(&root);
    reading.end(Arc::from("built-in"), &[])
}

pub(super) fn parse(text: &str) -> Result<Rules, Vec<Fault>> {
    let json = tree::is_json(text);
    let read = if json {
        tree::json(text)
    } else {
        tree::toml(text)
    };
    let root = read.map_err(|(at, why)| vec![Fault::at(text, at, why)])?;
    let mut reading = Reading::new(text);
    if json {
        tasks::read(&mut reading, &root);
    } else {
        reading.file(&root);
    }
    let hash = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()));
    let version = match &reading.version {
        Some(version) => format!("{version} {hash}"),
        None => hash,
    };
    let builtin: &[Rule] = match reading.builtin {
        true => &Rules::builtin().rules,
        false => &[],
    };
    reading.end(version.into(), builtin)
}

/// One file being read.
pub(super) struct Reading<'a> {
    text: &'a str,
    pub faults: Vec<Fault>,
    pub version: Option<String>,
    builtin: bool,
    threshold: Decimal,
    /// Named templates.
    pub caches: Vec<(String, Template)>,
    pub rules: Vec<Placed>,
    cases: Vec<Case>,
}

/// A rule and where it stands.
pub(super) struct Placed {
    pub at: usize,
    pub rule: Rule,
}

impl<'a> Reading<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            faults: Vec::new(),
            version: None,
            builtin: true,
            threshold: Movement::SIGNIFICANT,
            caches: Vec::new(),
            rules: Vec::new(),
            cases: Vec::new(),
        }
    }

    pub fn fault(&mut self, at: usize, message: impl Into<String>) {
        self.faults.push(Fault::at(self.text, at, message));
    }

    fn file(&mut self, root: &Node) {
        let known = ["version", "builtin", "movement", "caches", "rule", "test"];
        let mut members = Members::of(self, root, "the file", &known);
        self.version = members.scalar(self, "version");
        if let Some(builtin) = members.flag(self, "builtin") {
            self.builtin = builtin;
        }
        if let Some(movement) = members.take("movement") {
            let mut movement = Members::of(self, &movement.value, "[movement]", &["threshold"]);
            if let Some(threshold) = movement.take("threshold") {
                match percent_of(&threshold.value) {
                    Ok(threshold) => self.threshold = threshold,
                    Err(why) => self.fault(threshold.value.at, why),
                }
            }
        }
        if let Some(caches) = members.take("caches") {
            let names = Members::any(self, &caches.value, "[caches]");
            for (name, value) in names.all_texts(self) {
                if let Some(template) = self.template(Spelt::Key, &value.text, value.at) {
                    self.caches.push((name, template));
                }
            }
        }
        for rule in members.tables(self, "rule") {
            self.rule(&rule);
        }
        for test in members.tables(self, "test") {
            self.case(&test);
        }
    }

    /// A key or pattern, by how it ends.
    pub fn template(&mut self, spelt: Spelt, text: &str, at: usize) -> Option<Template> {
        Template::parse(spelt, text)
            .map_err(|why| self.fault(at, why))
            .ok()
    }

    fn rule(&mut self, node: &Node) {
        let known = [
            "name", "on", "when", "keys", "tags", "patterns", "caches", "then", "reason",
        ];
        let mut members = Members::of(self, node, "a rule", &known);
        let name = members.text(self, "name");
        let on = self.kinds(&mut members, node.at);
        let when = members.take("when");
        let when = when
            .map(|when| self.conditions(&when.value, &on))
            .unwrap_or_default();
        let mut targets = Vec::new();
        for (field, spelt) in [
            ("keys", Spelt::Key),
            ("tags", Spelt::Tag),
            ("patterns", Spelt::Pattern),
        ] {
            for text in members.texts(self, field) {
                if let Some(template) = self.template(spelt, &text.text, text.at) {
                    self.misspelt_key(&template, text.at);
                    self.placeholders(&template, &on, text.at);
                    targets.push(template);
                }
            }
        }
        for cache in members.texts(self, "caches") {
            match self.cache(&cache.text) {
                Some(template) => {
                    self.placeholders(&template, &on, cache.at);
                    targets.push(template);
                }
                None => self.unknown_cache(&cache.text, cache.at),
            }
        }
        let then = self.word(
            &mut members,
            "then",
            &Then::ALL.map(|then| (then.as_str(), then)),
        );
        let reason = self.word(
            &mut members,
            "reason",
            &REASONS.map(|reason| (reason, reason)),
        );
        let then = then.unwrap_or_default();
        let Some(name) = name else {
            return self.fault(
                node.at,
                "a rule needs a name: logs and `oddsd rules explain` call it by that",
            );
        };
        if targets.is_empty() && self.faults.is_empty() {
            self.fault(
                node.at,
                format!("rule {name:?} removes nothing: give it keys, tags, patterns or caches"),
            );
        }
        self.consequence(then, &targets, node.at);
        let rule = Rule {
            name: name.into(),
            on,
            when,
            targets,
            then,
            reason,
        };
        self.rules.push(Placed { at: node.at, rule });
    }

    pub fn cache(&self, name: &str) -> Option<Template> {
        let found = self.caches.iter().find(|(known, _)| known == name);
        found.map(|(_, template)| template.clone())
    }

    pub fn unknown_cache(&mut self, name: &str, at: usize) {
        let known = self.caches.iter().map(|(known, _)| known.as_str());
        let message = format!("unknown cache {name:?}{}", suggestion(name, known));
        self.fault(at, message);
    }

    fn kinds(&mut self, members: &mut Members, at: usize) -> BTreeSet<ChangeKind> {
        let words = members.texts(self, "on");
        if words.is_empty() {
            self.fault(
                at,
                "a rule needs `on`: the changes that it is for, such as [\"price_changed\"]",
            );
        }
        let known = ChangeKind::ALL.map(|kind| (kind.as_str(), kind));
        let mut kinds = BTreeSet::new();
        for word in words {
            match known.iter().find(|(name, _)| *name == word.text) {
                Some((_, kind)) => {
                    kinds.insert(*kind);
                }
                None => {
                    let known = known.iter().map(|(name, _)| *name);
                    let message = format!(
                        "unknown change {:?}{}",
                        word.text,
                        suggestion(&word.text, known)
                    );
                    self.fault(word.at, message);
                }
            }
        }
        kinds
    }

    fn conditions(&mut self, node: &Node, on: &BTreeSet<ChangeKind>) -> When {
        let known = [
            "sport", "league", "event", "market", "table", "task", "movement",
        ];
        let mut members = Members::of(self, node, "`when`", &known);
        for name in known {
            let Some(at) = members.place(name) else {
                continue;
            };
            if let Some(kind) = on.iter().find(|kind| !can_ask(**kind, name)) {
                let kind = kind.as_str();
                self.fault(at, format!("{kind} has no {name}, so this can never be met: write a rule of its own for it"));
            }
        }
        let mut texts = |name| {
            let found = members.texts(self, name);
            let mut found: Vec<String> = found.into_iter().map(|text| text.text).collect();
            found.sort();
            found
        };
        let mut when = When {
            sports: texts("sport"),
            leagues: texts("league"),
            events: texts("event"),
            markets: texts("market"),
            tables: texts("table"),
            tasks: texts("task"),
            moved: None,
        };
        if let Some(movement) = members.take("movement") {
            let asked = match &movement.value.value {
                tree::Value::Text(word) if word == "significant" => Ok(self.threshold),
                _ => percent_of(&movement.value),
            };
            match asked {
                Ok(threshold) => when.moved = Some(threshold),
                Err(why) => self.fault(movement.value.at, why),
            }
        }
        when
    }

    /// One word of a few.
    fn word<T: Copy>(
        &mut self,
        members: &mut Members,
        field: &str,
        known: &[(&str, T)],
    ) -> Option<T> {
        let at = members.place(field)?;
        let word = members.text(self, field)?;
        let found = known
            .iter()
            .find(|(name, _)| *name == word)
            .map(|(_, value)| *value);
        if found.is_none() {
            let names = known.iter().map(|(name, _)| *name);
            let message = format!("unknown {field} {word:?}{}", suggestion(&word, names));
            self.fault(at, message);
        }
        found
    }

    /// A key that is one of our own readers' but for one part is a slip. Other programs' keys that look
    /// like that are named under `[caches]`.
    fn misspelt_key(&mut self, template: &Template, at: usize) {
        let meant = READERS
            .into_iter()
            .find(|known| is_slip(&template.text, known));
        if let Some(meant) = meant.filter(|_| template.spelt == Spelt::Key) {
            let message = format!(
                "unknown key {:?}: no reader has it (did you mean {meant:?}? another program's key is named under [caches])",
                template.text
            );
            self.fault(at, message);
        }
    }

    /// Every change that the rule is for has to have what the target asks for.
    pub fn placeholders(&mut self, template: &Template, on: &BTreeSet<ChangeKind>, at: usize) {
        for kind in on {
            for name in template.placeholders() {
                let own = own_fields(*kind);
                if !own && !EVENT_FIELDS.contains(&name) {
                    let known = EVENT_FIELDS;
                    let kind = kind.as_str();
                    let message = format!("{kind} has no {{{name}}}{}", suggestion(name, known));
                    return self.fault(at, message);
                }
                if matches!(name, "market" | "bookmaker") && !own && !kind.is_of_price() {
                    let message = format!(
                        "{} has no {{{name}}}: only changes of a price have",
                        kind.as_str()
                    );
                    return self.fault(at, message);
                }
            }
            let open = |name: &str| match kind {
                ChangeKind::RowChanged => !matches!(name, "table" | "op" | "status"),
                ChangeKind::TaskCompleted | ChangeKind::RoundEnded => false,
                _ => !matches!(name, "event_id" | "status" | "current_status"),
            };
            let leaves_open = template.placeholders().any(open);
            if leaves_open && (template.spelt == Spelt::Tag || !template.has_family(open)) {
                let message = format!(
                    "{:?} cannot be reached when {}: it has to be a key or pattern that begins with a literal part, \
                     such as \"user:{{user_id}}\"",
                    template.text,
                    match kind {
                        ChangeKind::RowChanged => "one statement changes many rows",
                        _ => "the event is not stored any more",
                    }
                );
                return self.fault(at, message);
            }
        }
    }

    fn consequence(&mut self, then: Then, targets: &[Template], at: usize) {
        let ours = |template: &Template| READERS.contains(&template.text.as_str());
        match then {
            Then::Remove => {}
            Then::MarkStale => {
                if let Some(target) = targets.iter().find(|target| target.spelt != Spelt::Key) {
                    let message = format!("mark_stale takes keys only; {:?} is none", target.text);
                    self.fault(at, message);
                }
            }
            Then::RemoveAndWarm => {
                if let Some(target) = targets.iter().find(|target| !ours(target)) {
                    let message = format!(
                        "oddsd can warm what its own readers load ({}), and not {:?}: use remove",
                        READERS.join(", "),
                        target.text
                    );
                    self.fault(at, message);
                }
            }
        }
    }

    fn case(&mut self, node: &Node) {
        let mut members = Members::of(self, node, "a test", &["name", "change", "removes"]);
        let name = members.text(self, "name").unwrap_or_default();
        let removes = members.texts(self, "removes");
        let Some(change) = members.take("change") else {
            return self.fault(node.at, "a test needs `change`: what happens, such as { change = \"price_changed\", event_id = \"x\" }");
        };
        match Change::parse(&change.value.to_json()) {
            Err(why) => self.fault(change.value.at, why),
            Ok(change) => self.cases.push(Case {
                line: Fault::at(self.text, node.at, "").line,
                name,
                change,
                removes: removes.into_iter().map(|text| text.text).collect(),
            }),
        }
    }

    fn end(mut self, version: Arc<str>, builtin: &[Rule]) -> Result<Rules, Vec<Fault>> {
        let mut seen: Vec<&Rule> = builtin.iter().collect();
        let mut faults = Vec::new();
        for Placed { at, rule } in &self.rules {
            let same = |other: &&&Rule| {
                other.name == rule.name
                    || (&other.on, &other.when, &other.targets, other.then)
                        == (&rule.on, &rule.when, &rule.targets, rule.then)
            };
            if let Some(other) = seen.iter().find(same) {
                let built_in = builtin.iter().any(|rule| rule.name == other.name);
                let built_in = if built_in {
                    " (built in; `builtin = false` leaves those out)"
                } else {
                    ""
                };
                let message = format!(
                    "duplicate rule {:?}: {:?} says the same{built_in}",
                    rule.name, other.name
                );
                faults.push(Fault::at(self.text, *at, message));
            }
            seen.push(rule);
        }
        self.faults.extend(faults);
        if !self.faults.is_empty() {
            return Err(self.faults);
        }
        let own = self.rules.into_iter().map(|placed| placed.rule);
        Ok(Rules::new(
            version,
            builtin.iter().cloned().chain(own).collect(),
            self.cases,
        ))
    }
}

/// The same parts but one, and that one misspelt; `v2` is no slip for `v1`, and neither is `{id}` for `live`.
fn is_slip(written: &str, known: &str) -> bool {
    let (one, other): (Vec<&str>, Vec<&str>) =
        (written.split(':').collect(), known.split(':').collect());
    if one.len() != other.len() {
        return false;
    }
    let mut differ = one.iter().zip(&other).filter(|(one, other)| one != other);
    let (Some((one, other)), None) = (differ.next(), differ.next()) else {
        return false;
    };
    let letters = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
    !one.contains('{')
        && !other.contains('{')
        && letters(one) != letters(other)
        && nearest(one, [*other]).is_some()
}

/// Changes whose fields are their reporter's own.
fn own_fields(kind: ChangeKind) -> bool {
    matches!(
        kind,
        ChangeKind::RowChanged | ChangeKind::TaskCompleted | ChangeKind::RoundEnded
    )
}

fn can_ask(kind: ChangeKind, condition: &str) -> bool {
    match condition {
        "table" => kind == ChangeKind::RowChanged,
        "task" => kind == ChangeKind::TaskCompleted,
        "market" | "movement" => kind.is_of_price(),
        _ => !own_fields(kind),
    }
}

fn percent_of(node: &Node) -> Result<Decimal, String> {
    match &node.value {
        tree::Value::Text(text) => percent(text),
        tree::Value::Number(number) => percent(number),
        other => Err(format!(
            "a percentage such as \"10%\" was expected, not {}",
            other.what()
        )),
    }
}

/// `10%` or `10` is 0.1.
pub(super) fn percent(text: &str) -> Result<Decimal, String> {
    let number = text.trim().trim_end_matches('%').trim();
    let percent = Decimal::from_str_exact(number).ok();
    let ratio = percent.and_then(|percent| percent.checked_div(Decimal::ONE_HUNDRED));
    ratio
        .filter(|ratio| !ratio.is_sign_negative() && ratio.scale() <= 12)
        .map(|ratio| ratio.normalize())
        .ok_or_else(|| format!("{text:?} is no percentage: write \"10%\" or \"significant\""))
}
