//! Templates of cache keys, tags and patterns: literal text, and placeholders that a change fills in.
//! The loader parses them; rules render them for each change.
//!
//! A value is escaped when it is inserted, so that it can neither end its part early nor widen a pattern; an empty
//! value is an error, but an event without a league, sport or venue has no target that names one. A
//! placeholder whose value is unknown ("any row of this table") turns a key into a prefix tag,
//! which covers all keys with the part before it.

use std::fmt;

use crate::key::{InvalidationTarget, Key, Tag, escape_into, escape_parts};

/// The values of a placeholder in one change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Binding<'a> {
    Values(&'a [String]),
    /// Values of an event's own field. An empty one means that the event has none, so no target names it.
    EventValues(&'a [String]),
    /// Any value: it is not known.
    Any,
    /// The change should have a value, but has none.
    Missing,
}

/// A rendered target. A pattern is a prefix tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleTarget {
    /// One key.
    Key(Key),
    /// All answers under a tag.
    Tag(Tag),
}

impl From<InvalidationTarget<'_>> for RuleTarget {
    /// Keys to remove and keys to mark stale alike become keys.
    fn from(target: InvalidationTarget<'_>) -> Self {
        match target {
            InvalidationTarget::Key(key) | InvalidationTarget::MarkStale(key) => {
                Self::Key(key.clone())
            }
            InvalidationTarget::Tag(tag) => Self::Tag(tag.clone()),
        }
    }
}

impl RuleTarget {
    /// The key, if it is one.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Key(key) => Some(key),
            Self::Tag(_) => None,
        }
    }

    /// The tag, if it is one.
    pub fn tag(&self) -> Option<&Tag> {
        match self {
            Self::Key(_) => None,
            Self::Tag(tag) => Some(tag),
        }
    }
}

impl fmt::Display for RuleTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => key.fmt(f),
            Self::Tag(tag) if tag.is_prefix_tag() => tag.fmt(f),
            Self::Tag(tag) => write!(f, "tag {tag}"),
        }
    }
}

/// The syntax of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetKind {
    /// An exact key.
    Key,
    /// A tag.
    Tag,
    /// Ends with `:*`.
    Pattern,
}

/// A template.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Template {
    /// Its syntax.
    pub(super) kind: TargetKind,
    /// As written in the file.
    pub text: String,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Segment {
    Literal(String),
    Placeholder(String),
}

/// If the values of a change would give more keys than this, the prefix tag is removed instead.
const MAX_KEYS: usize = 1_000;
/// Expected growth of the text by its values, in bytes.
const EXTRA_CAPACITY: usize = 24;

impl Template {
    /// Reads a template; the error is a message for its author.
    pub(super) fn parse(kind: TargetKind, text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err(
                "an empty target removes nothing; write a key such as \"odds:{event_id}\"".into(),
            );
        }
        if text.chars().any(|c| c.is_control() || c == ' ') {
            return Err(format!(
                "{text:?} holds a space or control character, which cache keys never do"
            ));
        }
        let literal = match kind {
            TargetKind::Pattern => text.strip_suffix('*').filter(|begins| begins.ends_with(':')).ok_or_else(|| {
                format!(
                    "the pattern {text:?} cannot be reached: a pattern is a beginning that ends with \":*\", such as \
                     \"sidebar:{{sport_id}}:*\"; for anything else use a tag"
                )
            })?,
            TargetKind::Key | TargetKind::Tag => text,
        };
        let mut segments = segments(literal)?;
        for segment in &segments {
            if let Segment::Literal(text) = segment
                && let Some(glob) = text
                    .chars()
                    .find(|c| matches!(c, '*' | '?' | '[' | ']' | '\\'))
            {
                return Err(format!(
                    "{glob:?} in {text:?} would make it a pattern: write it under `patterns`, ending with \":*\""
                ));
            }
        }
        if kind == TargetKind::Pattern
            && !matches!(segments.first(), Some(Segment::Literal(begin)) if begin.contains(':'))
        {
            return Err(format!(
                "the pattern {text:?} would remove everything: begin it with a literal such as \"odds:\""
            ));
        }
        for segment in &mut segments {
            if let (Segment::Literal(text), TargetKind::Tag) = (segment, kind) {
                *text = escape_parts(text);
            }
        }
        Ok(Self {
            kind,
            text: text.to_owned(),
            segments,
        })
    }

    pub(super) fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Placeholder(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// Whether it has a prefix tag if the values of the `open` placeholders are unknown.
    pub(super) fn has_prefix_tag(&self, open: impl Fn(&str) -> bool) -> bool {
        let mut before = String::new();
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => before.push_str(text),
                Segment::Placeholder(name) if open(name) => break,
                Segment::Placeholder(_) => before.push('x'),
            }
        }
        before.contains(':')
    }

    /// Passes each of its targets for one change to `each`.
    pub(super) fn render<'a>(
        &self,
        binding: &impl Fn(&str) -> Binding<'a>,
        each: &mut impl FnMut(RuleTarget),
    ) -> Result<(), String> {
        let text = String::with_capacity(self.text.len() + EXTRA_CAPACITY);
        self.render_rest(&self.segments, text, MAX_KEYS, binding, each)
    }

    /// Renders the remaining segments after `text`, into at most `max` targets.
    fn render_rest<'a>(
        &self,
        segments: &[Segment],
        mut text: String,
        max: usize,
        binding: &impl Fn(&str) -> Binding<'a>,
        each: &mut impl FnMut(RuleTarget),
    ) -> Result<(), String> {
        for (at, segment) in segments.iter().enumerate() {
            let name = match segment {
                Segment::Literal(literal) => {
                    text.push_str(literal);
                    continue;
                }
                Segment::Placeholder(name) => name,
            };
            let (values, is_optional) = match binding(name) {
                Binding::Values(values) => (values, false),
                Binding::EventValues(values) => (values, true),
                Binding::Any => return self.finish(text, true, each),
                Binding::Missing => {
                    return Err(format!("{}: the change has no {name:?}", self.text));
                }
            };
            match values {
                [value] if !(is_optional && value.is_empty()) => {
                    self.insert(value, name, &mut text)?;
                }
                values if values.len() > max => return self.finish(text, true, each),
                values => {
                    let named = values.iter().filter(|v| !(is_optional && v.is_empty()));
                    for value in named {
                        let mut text = text.clone();
                        self.insert(value, name, &mut text)?;
                        let max = max / values.len();
                        self.render_rest(&segments[at + 1..], text, max, binding, each)?;
                    }
                    return Ok(());
                }
            }
        }
        self.finish(text, self.kind == TargetKind::Pattern, each)
    }

    fn insert(&self, value: &str, name: &str, text: &mut String) -> Result<(), String> {
        if value.is_empty() {
            return Err(format!("{}: {name:?} is empty", self.text));
        }
        escape_into(value, text);
        Ok(())
    }

    fn finish(
        &self,
        text: String,
        prefix: bool,
        each: &mut impl FnMut(RuleTarget),
    ) -> Result<(), String> {
        let target = match (self.kind, prefix) {
            (TargetKind::Tag, false) => Tag::from_template(text).map(RuleTarget::Tag),
            (TargetKind::Tag, true) => None,
            (_, false) => Key::from_template(text).map(RuleTarget::Key),
            (_, true) => {
                let end = text.rfind(':').map(|end| &text[..=end]);
                end.and_then(Tag::prefix_tag).map(RuleTarget::Tag)
            }
        };
        let target = target.ok_or_else(|| {
            let text = &self.text;
            format!("{text}: it gives no target (too long, or a tag with an unknown value)")
        })?;
        each(target);
        Ok(())
    }
}

fn segments(text: &str) -> Result<Vec<Segment>, String> {
    let (mut segments, mut rest) = (Vec::new(), text);
    while let Some(open) = rest.find(['{', '}']) {
        let (literal, after) = rest.split_at(open);
        let inside = after
            .strip_prefix('{')
            .and_then(|after| after.split_once('}'));
        let Some((name, after)) = inside else {
            return Err(format!("{text:?} has an unmatched brace"));
        };
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(format!(
                "{{{name}}} in {text:?} is no placeholder: letters, digits and _ only"
            ));
        }
        if !literal.is_empty() {
            segments.push(Segment::Literal(literal.to_owned()));
        }
        segments.push(Segment::Placeholder(name.to_owned()));
        rest = after;
    }
    if !rest.is_empty() {
        segments.push(Segment::Literal(rest.to_owned()));
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rendered(
        kind: TargetKind,
        text: &str,
        values: &[(&str, Binding)],
    ) -> Result<Vec<RuleTarget>, String> {
        let template = Template::parse(kind, text)?;
        let binding = |name: &str| {
            let found = values.iter().find(|(known, _)| *known == name);
            found.map_or(Binding::Missing, |(_, binding)| *binding)
        };
        let mut targets = Vec::new();
        template.render(&binding, &mut |target| targets.push(target))?;
        targets.sort();
        Ok(targets)
    }

    fn key(text: &str) -> RuleTarget {
        RuleTarget::Key(Key::from_user_input(text).expect("a key"))
    }

    #[test]
    fn template_inserts_every_value_escaped() {
        let (ids, statuses) = (["a:b*".to_owned()], ["live".to_owned(), "final".to_owned()]);
        let all = [
            ("event_id", Binding::Values(&ids)),
            ("status", Binding::Values(&statuses)),
        ];
        assert_eq!(
            rendered(TargetKind::Key, "odds:{status}:{event_id}", &all),
            Ok(vec![key("odds:final:a%3Ab%2A"), key("odds:live:a%3Ab%2A")])
        );
        let prefix_tag = Tag::prefix_tag("sidebar:a%3Ab%2A:").expect("a prefix tag");
        assert_eq!(
            rendered(TargetKind::Pattern, "sidebar:{event_id}:*", &all),
            Ok(vec![RuleTarget::Tag(prefix_tag)])
        );
    }

    #[test]
    fn template_with_an_unknown_value_gives_a_prefix_tag_and_with_a_missing_one_an_error() {
        let ids = ["7".to_owned()];
        let some = [("user", Binding::Values(&ids)), ("log", Binding::Any)];
        let prefix_tag = Tag::prefix_tag("user:7:").expect("a prefix tag");
        assert_eq!(
            rendered(TargetKind::Key, "user:{user}:log-{log}", &some),
            Ok(vec![RuleTarget::Tag(prefix_tag)])
        );
        let why = rendered(TargetKind::Key, "user:{other}", &some).expect_err("missing");
        assert!(why.contains("other"), "{why}");
        let empty = [String::new()];
        let why = rendered(
            TargetKind::Key,
            "odds::{id}",
            &[("id", Binding::Values(&empty))],
        );
        assert!(why.expect_err("empty").contains("empty"));
    }

    #[test]
    fn template_with_an_empty_field_of_an_event_gives_no_target() {
        let (sports, moved) = (["tennis".to_owned()], [String::new(), "GB".to_owned()]);
        let none = [String::new()];
        let rendered = |leagues| {
            let values = [
                ("sport_id", Binding::EventValues(&sports)),
                ("league_id", Binding::EventValues(leagues)),
            ];
            let pattern = "sidebar:{sport_id}:{league_id}:*";
            rendered(TargetKind::Pattern, pattern, &values)
        };
        let prefix_tag = Tag::prefix_tag("sidebar:tennis:GB:").expect("a prefix tag");
        assert_eq!(rendered(&none), Ok(vec![]));
        assert_eq!(rendered(&moved), Ok(vec![RuleTarget::Tag(prefix_tag)]));
    }

    #[test]
    fn template_that_is_malformed_is_refused_with_a_reason() {
        for (kind, text, why) in [
            (TargetKind::Key, "", "empty"),
            (TargetKind::Key, "odds:{event_id", "brace"),
            (TargetKind::Key, "odds:}", "brace"),
            (TargetKind::Key, "odds:{event id}", "space"),
            (TargetKind::Key, "odds:{}", "placeholder"),
            (TargetKind::Key, "odds:*", "patterns"),
            (TargetKind::Key, "a b", "space"),
            (TargetKind::Pattern, "odds:*:x", "reached"),
            (TargetKind::Pattern, "odds*", "reached"),
            (TargetKind::Pattern, "{sport_id}:*", "everything"),
        ] {
            let error = Template::parse(kind, text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn template_value_stays_inside_its_part(id in "[*?\\[\\]\\\\{}:%a-c ]{1,12}", other in "[*?\\[\\]\\\\{}:%a-c ]{1,12}") {
            let (ids, others) = ([id.clone()], [other.clone()]);
            let one = rendered(TargetKind::Key, "x:{id}:v1", &[("id", Binding::Values(&ids))]).expect("a key");
            let two = rendered(TargetKind::Key, "x:{id}:v1", &[("id", Binding::Values(&others))]).expect("a key");
            prop_assert_eq!(one == two, id == other);
            let RuleTarget::Key(key) = &one[0] else { panic!("a key") };
            prop_assert_eq!(key.as_str().matches(':').count(), 2);
            let special = key.as_str().contains(['*', '?', '[', ']', '\\', '{', '}', ' ']);
            prop_assert!(!special);
        }
    }
}
