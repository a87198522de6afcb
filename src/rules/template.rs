//! How a target is spelt: literal text, and placeholders that a change fills in.
//!
//! A value is escaped before it goes in, so it can neither end its part early nor widen a pattern, and
//! an empty one is an error. A placeholder that the change leaves open ("any row of this table")
//! turns a key into its *family*: all keys that begin like it.

use crate::key::{self, Key, Tag, escape, escape_into};

/// What a placeholder stands for in one change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound<'a> {
    Values(&'a [String]),
    /// Each value there is.
    Any,
    /// The change should have said it.
    Missing,
}

/// What is removed. A pattern is the tag of a family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    Key(Key),
    Tag(Tag),
}

impl From<key::Target<'_>> for Target {
    /// What is only marked has its name, too.
    fn from(target: key::Target<'_>) -> Self {
        match target {
            key::Target::Key(key) | key::Target::Stale(key) => Self::Key(key.clone()),
            key::Target::Tag(tag) => Self::Tag(tag.clone()),
        }
    }
}

impl Target {
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Key(key) => Some(key),
            Self::Tag(_) => None,
        }
    }

    pub fn tag(&self) -> Option<&Tag> {
        match self {
            Self::Key(_) => None,
            Self::Tag(tag) => Some(tag),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spelt {
    Key,
    Tag,
    /// Ends with `:*`.
    Pattern,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Template {
    pub spelt: Spelt,
    /// As it was written.
    pub text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Part {
    Literal(String),
    Field(String),
}

/// A change can name many values for one placeholder; more keys than this are removed as a family.
const MOST_KEYS: usize = 1_000;
/// What ids take, beyond their placeholders.
const ROOM: usize = 24;

impl Template {
    /// A message for whoever wrote it, when it is none.
    pub fn parse(spelt: Spelt, text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err(
                "an empty target removes nothing; write a key such as \"odds:{event_id}\"".into(),
            );
        }
        if text.chars().any(|c| c.is_control() || c == ' ') {
            return Err(format!(
                "{text:?} holds a space or control character: no key of a cache does"
            ));
        }
        let literal = match spelt {
            Spelt::Pattern => text.strip_suffix('*').filter(|begins| begins.ends_with(':')).ok_or_else(|| {
                format!(
                    "the pattern {text:?} cannot be reached: a pattern is a beginning that ends with \":*\", such as \
                     \"sidebar:{{sport_id}}:*\"; for anything else use a tag"
                )
            })?,
            Spelt::Key | Spelt::Tag => text,
        };
        let mut parts = parts(literal)?;
        for part in &parts {
            if let Part::Literal(text) = part
                && let Some(glob) = text
                    .chars()
                    .find(|c| matches!(c, '*' | '?' | '[' | ']' | '\\'))
            {
                return Err(format!(
                    "{glob:?} in {text:?} would make a pattern of it: write it under `patterns`, ending with \":*\""
                ));
            }
        }
        if spelt == Spelt::Pattern
            && !matches!(parts.first(), Some(Part::Literal(begin)) if begin.contains(':'))
        {
            return Err(format!(
                "the pattern {text:?} would remove everything: begin it with a literal such as \"odds:\""
            ));
        }
        for part in &mut parts {
            if let (Part::Literal(text), Spelt::Tag) = (part, spelt) {
                *text = escape_parts(text);
            }
        }
        Ok(Self {
            spelt,
            text: text.to_owned(),
            parts,
        })
    }

    pub fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Field(name) => Some(name.as_str()),
            Part::Literal(_) => None,
        })
    }

    /// Whether its family can be named when one of `open` is left open.
    pub fn has_family(&self, open: impl Fn(&str) -> bool) -> bool {
        let mut before = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => before.push_str(text),
                Part::Field(name) if open(name) => break,
                Part::Field(_) => before.push('x'),
            }
        }
        before.contains(':')
    }

    /// Hands over all targets that it spells for one change.
    pub(super) fn render<'a>(
        &self,
        bound: &impl Fn(&str) -> Bound<'a>,
        each: &mut impl FnMut(Target),
    ) -> Result<(), String> {
        let text = String::with_capacity(self.text.len() + ROOM);
        self.go_on(&self.parts, text, MOST_KEYS, bound, each)
    }

    /// From here on, with `text` before it; `most` is how many targets may come of it.
    fn go_on<'a>(
        &self,
        parts: &[Part],
        mut text: String,
        most: usize,
        bound: &impl Fn(&str) -> Bound<'a>,
        each: &mut impl FnMut(Target),
    ) -> Result<(), String> {
        for (at, part) in parts.iter().enumerate() {
            let name = match part {
                Part::Literal(literal) => {
                    text.push_str(literal);
                    continue;
                }
                Part::Field(name) => name,
            };
            match bound(name) {
                Bound::Values([value]) => self.put(value, name, &mut text)?,
                Bound::Values(values) if values.len() <= most => {
                    for value in values {
                        let mut text = text.clone();
                        self.put(value, name, &mut text)?;
                        let most = most / values.len();
                        self.go_on(&parts[at + 1..], text, most, bound, each)?;
                    }
                    return Ok(());
                }
                Bound::Values(_) | Bound::Any => return self.end(text, true, each),
                Bound::Missing => return Err(format!("{}: the change has no {name:?}", self.text)),
            }
        }
        self.end(text, self.spelt == Spelt::Pattern, each)
    }

    fn put(&self, value: &str, name: &str, text: &mut String) -> Result<(), String> {
        if value.is_empty() {
            return Err(format!("{}: {name:?} is empty", self.text));
        }
        escape_into(value, text);
        Ok(())
    }

    fn end(&self, text: String, family: bool, each: &mut impl FnMut(Target)) -> Result<(), String> {
        let target = match (self.spelt, family) {
            (Spelt::Tag, false) => Tag::from_template(text).map(Target::Tag),
            (Spelt::Tag, true) => None,
            (_, false) => Key::from_template(text).map(Target::Key),
            (_, true) => {
                let end = text.rfind(':').map(|end| &text[..=end]);
                end.and_then(Tag::family).map(Target::Tag)
            }
        };
        match target {
            Some(target) => each(target),
            None => {
                return Err(format!(
                    "{}: no target comes of it (too long, or left open)",
                    self.text
                ));
            }
        }
        Ok(())
    }
}

fn parts(text: &str) -> Result<Vec<Part>, String> {
    let (mut parts, mut rest) = (Vec::new(), text);
    while let Some(open) = rest.find(['{', '}']) {
        let (literal, after) = rest.split_at(open);
        let inside = after
            .strip_prefix('{')
            .and_then(|after| after.split_once('}'));
        let Some((name, after)) = inside else {
            return Err(format!("{text:?} has a brace without its other half"));
        };
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(format!(
                "{{{name}}} in {text:?} is no placeholder: letters, digits and _ only"
            ));
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.to_owned()));
        }
        parts.push(Part::Field(name.to_owned()));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Literal(rest.to_owned()));
    }
    Ok(parts)
}

/// The `:` stay.
fn escape_parts(text: &str) -> String {
    let parts: Vec<String> = text.split(':').map(escape).collect();
    parts.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rendered(spelt: Spelt, text: &str, values: &[(&str, Bound)]) -> Result<Vec<Target>, String> {
        let template = Template::parse(spelt, text)?;
        let bound = |name: &str| {
            let found = values.iter().find(|(known, _)| *known == name);
            found.map_or(Bound::Missing, |(_, bound)| *bound)
        };
        let mut targets = Vec::new();
        template.render(&bound, &mut |target| targets.push(target))?;
        targets.sort();
        Ok(targets)
    }

    fn key(text: &str) -> Target {
        Target::Key(Key::from_person(text).expect("a key"))
    }

    #[test]
    fn values_go_in_escaped_each_of_them() {
        let (ids, statuses) = (["a:b*".to_owned()], ["live".to_owned(), "final".to_owned()]);
        let all = [
            ("event_id", Bound::Values(&ids)),
            ("status", Bound::Values(&statuses)),
        ];
        assert_eq!(
            rendered(Spelt::Key, "odds:{status}:{event_id}", &all),
            Ok(vec![key("odds:final:a%3Ab%2A"), key("odds:live:a%3Ab%2A")])
        );
        let family = Tag::family("sidebar:a%3Ab%2A:").expect("a family");
        assert_eq!(
            rendered(Spelt::Pattern, "sidebar:{event_id}:*", &all),
            Ok(vec![Target::Tag(family)])
        );
    }

    #[test]
    fn what_is_left_open_is_a_family_and_what_is_missing_an_error() {
        let ids = ["7".to_owned()];
        let some = [("user", Bound::Values(&ids)), ("log", Bound::Any)];
        let family = Tag::family("user:7:").expect("a family");
        assert_eq!(
            rendered(Spelt::Key, "user:{user}:log-{log}", &some),
            Ok(vec![Target::Tag(family)])
        );
        let why = rendered(Spelt::Key, "user:{nobody}", &some).expect_err("missing");
        assert!(why.contains("nobody"), "{why}");
        let empty = [String::new()];
        let why = rendered(Spelt::Key, "odds::{id}", &[("id", Bound::Values(&empty))]);
        assert!(why.expect_err("empty").contains("empty"));
    }

    #[test]
    fn what_is_no_template_is_refused_with_a_reason() {
        for (spelt, text, why) in [
            (Spelt::Key, "", "empty"),
            (Spelt::Key, "odds:{event_id", "brace"),
            (Spelt::Key, "odds:}", "brace"),
            (Spelt::Key, "odds:{event id}", "space"),
            (Spelt::Key, "odds:{}", "placeholder"),
            (Spelt::Key, "odds:*", "patterns"),
            (Spelt::Key, "a b", "space"),
            (Spelt::Pattern, "odds:*:x", "reached"),
            (Spelt::Pattern, "odds*", "reached"),
            (Spelt::Pattern, "{sport_id}:*", "everything"),
        ] {
            let said = Template::parse(spelt, text).expect_err(text);
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    proptest! {
        /// Whatever an id holds, it stays inside its part.
        #[test]
        fn an_id_never_widens_a_target(id in "[*?\\[\\]\\\\{}:%a-c ]{1,12}", other in "[*?\\[\\]\\\\{}:%a-c ]{1,12}") {
            let (ids, others) = ([id.clone()], [other.clone()]);
            let one = rendered(Spelt::Key, "x:{id}:v1", &[("id", Bound::Values(&ids))]).expect("a key");
            let two = rendered(Spelt::Key, "x:{id}:v1", &[("id", Bound::Values(&others))]).expect("a key");
            prop_assert_eq!(one == two, id == other);
            let Target::Key(key) = &one[0] else { panic!("a key") };
            prop_assert_eq!(key.as_str().matches(':').count(), 2);
            let special = key.as_str().contains(['*', '?', '[', ']', '\\', '{', '}', ' ']);
            prop_assert!(!special);
        }
    }
}
