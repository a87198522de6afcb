//! The text of a rules file as a tree whose parts know where they stand, for both spellings alike.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use toml::de::{DeTable, DeValue};

/// One value and where it begins, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub at: usize,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    /// As it was written.
    Number(String),
    Bool(bool),
    List(Vec<Node>),
    /// In the order of the text.
    Table(Vec<Member>),
    /// A date or nothing: rules have no use for them.
    Other,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Member {
    pub name: String,
    /// Where the name stands; in JSON, where its value does.
    pub at: usize,
    pub value: Node,
}

/// Not a text of this spelling: where, and why.
pub(super) type Broken = (usize, String);

/// JSON begins with a brace; no table of TOML does.
pub(super) fn is_json(text: &str) -> bool {
    text.trim_start_matches('\u{feff}')
        .trim_start()
        .starts_with('{')
}

pub(super) fn toml(text: &str) -> Result<Node, Broken> {
    let broken = |why: toml::de::Error| {
        let at = why.span().map_or(text.len(), |span| span.start);
        (at, why.message().trim().replace('\n', "; "))
    };
    let root = DeTable::parse(text).map_err(broken)?;
    let at = root.span().start;
    let value = table(root.into_inner());
    Ok(Node { at, value })
}

fn table(table: DeTable<'_>) -> Value {
    let members = table.into_iter().map(|(name, value)| Member {
        at: name.span().start,
        name: name.into_inner().into_owned(),
        value: toml_node(value),
    });
    let mut members: Vec<Member> = members.collect();
    members.sort_by_key(|member| member.at);
    Value::Table(members)
}

fn toml_node(value: toml::Spanned<DeValue<'_>>) -> Node {
    let at = value.span().start;
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => Value::Number(number.to_string()),
        DeValue::Float(number) => Value::Number(number.as_str().to_owned()),
        DeValue::Boolean(flag) => Value::Bool(flag),
        DeValue::Array(list) => Value::List(list.into_iter().map(toml_node).collect()),
        DeValue::Table(inner) => table(inner),
        DeValue::Datetime(_) => Value::Other,
    };
    Node { at, value }
}

pub(super) fn json(text: &str) -> Result<Node, Broken> {
    let body = text.trim_start_matches('\u{feff}');
    json_node(text, body)
}

/// `part` lies inside `whole`, which tells where it stands.
fn json_node(whole: &str, part: &str) -> Result<Node, Broken> {
    let at = part.as_ptr() as usize - whole.as_ptr() as usize;
    let at = at + (part.len() - part.trim_start().len());
    let broken = |why: serde_json::Error| {
        let line_start: usize = part
            .split_inclusive('\n')
            .take(why.line().saturating_sub(1))
            .map(str::len)
            .sum();
        let inside = (line_start + why.column().saturating_sub(1)).min(part.len());
        let text = why.to_string();
        let text = text
            .split(" at line ")
            .next()
            .unwrap_or_default()
            .to_owned();
        (
            part.as_ptr() as usize - whole.as_ptr() as usize + inside,
            text,
        )
    };
    let value = match part.trim_start().as_bytes().first() {
        Some(b'{') => {
            let members: BTreeMap<Cow<'_, str>, &RawValue> = read(part).map_err(broken)?;
            let members = members.into_iter().map(|(name, raw)| {
                let value = json_node(whole, raw.get())?;
                Ok(Member {
                    name: name.into_owned(),
                    at: value.at,
                    value,
                })
            });
            let mut members = members.collect::<Result<Vec<_>, Broken>>()?;
            members.sort_by_key(|member| member.at);
            Value::Table(members)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = read(part).map_err(broken)?;
            let items = items.into_iter().map(|raw| json_node(whole, raw.get()));
            Value::List(items.collect::<Result<_, _>>()?)
        }
        _ => match read::<serde_json::Value>(part).map_err(broken)? {
            serde_json::Value::String(text) => Value::Text(text),
            serde_json::Value::Number(_) => Value::Number(part.trim().to_owned()),
            serde_json::Value::Bool(flag) => Value::Bool(flag),
            _ => Value::Other,
        },
    };
    Ok(Node { at, value })
}

fn read<'a, T: Deserialize<'a>>(part: &'a str) -> serde_json::Result<T> {
    serde_json::from_str(part)
}

impl Value {
    /// For "a text was expected, not …".
    pub fn what(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Number(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other => "a date or nothing",
        }
    }
}

impl Node {
    /// For what takes fields of any shape.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Text(text) => Json::String(text.clone()),
            Value::Number(number) => {
                serde_json::from_str(number).unwrap_or_else(|_| Json::String(number.clone()))
            }
            Value::Bool(flag) => Json::Bool(*flag),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Table(members) => members
                .iter()
                .map(|member| (member.name.clone(), member.value.to_json()))
                .collect(),
            Value::Other => Json::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member<'a>(node: &'a Node, name: &str) -> &'a Member {
        let Value::Table(members) = &node.value else {
            panic!("no table");
        };
        members
            .iter()
            .find(|member| member.name == name)
            .expect(name)
    }

    #[test]
    fn both_spellings_know_where_their_parts_stand() {
        let text = "version = 3\n[[rule]]\nname = \"x\"\n";
        let tree = toml(text).expect("toml");
        let version = member(&tree, "version");
        assert_eq!(
            (version.at, &version.value.value),
            (0, &Value::Number("3".into()))
        );
        let Value::List(rules) = &member(&tree, "rule").value.value else {
            panic!("no list");
        };
        let name = member(&rules[0], "name");
        assert_eq!(&text[name.value.at..name.value.at + 3], "\"x\"");

        let text = "{ \"rules\": {\n  \"build\": { \"invalidates_cache\": [\"a\", \"b\"] } } }";
        assert!(is_json(text) && !is_json("[rules]"));
        let tree = json(text).expect("json");
        let task = member(&member(&tree, "rules").value, "build");
        let Value::List(caches) = &member(&task.value, "invalidates_cache").value.value else {
            panic!("no list");
        };
        assert_eq!(&text[caches[1].at..caches[1].at + 3], "\"b\"");
    }

    #[test]
    fn broken_texts_say_where() {
        let (at, why) = toml("a = 1\nb = = 2\n").expect_err("broken");
        assert_eq!(at, 10, "{why}");
        let text = "{\n  \"rules\": {\n    \"x\" 1\n  }\n}";
        let (at, why) = json(text).expect_err("broken");
        assert!(text[..at].matches('\n').count() == 2, "{at} {why}");
        assert!(!why.contains("line"), "{why}");
    }
}
