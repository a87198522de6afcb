//! The text of a rules file as a tree of values with their positions, from TOML and JSON alike, and the reading of
//! its tables. The loader uses it; unknown and mistyped fields become diagnostics.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostics, Spanned, suggestion};

pub(super) type Node = Spanned<NodeValue>;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum NodeValue {
    Text(String),
    /// As written.
    Number(String),
    Bool(bool),
    List(Vec<Node>),
    /// In the order of the text.
    Table(Vec<NamedNode>),
    /// A date or null, which rules never use.
    Other,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct NamedNode {
    pub(super) name: String,
    /// Offset of the name; in JSON, of its value.
    pub(super) at: usize,
    pub(super) node: Node,
}

/// A syntax error and its offset.
pub(super) type SyntaxError = Spanned<String>;

/// JSON begins with a brace; no TOML table does.
pub(super) fn is_json(text: &str) -> bool {
    text.trim_start_matches('\u{feff}')
        .trim_start()
        .starts_with('{')
}

pub(super) fn parse_toml(text: &str) -> Result<Node, SyntaxError> {
    let error = |why: toml::de::Error| Spanned {
        at: why.span().map_or(text.len(), |span| span.start),
        value: why.message().trim().replace('\n', "; "),
    };
    let root = DeTable::parse(text).map_err(error)?;
    let at = root.span().start;
    let value = toml_table(root.into_inner());
    Ok(Node { at, value })
}

fn toml_table(table: DeTable<'_>) -> NodeValue {
    let members = table.into_iter().map(|(name, value)| NamedNode {
        at: name.span().start,
        name: name.into_inner().into_owned(),
        node: toml_node(value),
    });
    let mut members: Vec<NamedNode> = members.collect();
    members.sort_by_key(|member| member.at);
    NodeValue::Table(members)
}

fn toml_node(value: toml::Spanned<DeValue<'_>>) -> Node {
    let at = value.span().start;
    let value = match value.into_inner() {
        DeValue::String(text) => NodeValue::Text(text.into_owned()),
        DeValue::Integer(number) => NodeValue::Number(number.to_string()),
        DeValue::Float(number) => NodeValue::Number(number.as_str().to_owned()),
        DeValue::Boolean(flag) => NodeValue::Bool(flag),
        DeValue::Array(list) => NodeValue::List(list.into_iter().map(toml_node).collect()),
        DeValue::Table(inner) => toml_table(inner),
        DeValue::Datetime(_) => NodeValue::Other,
    };
    Node { at, value }
}

pub(super) fn parse_json(text: &str) -> Result<Node, SyntaxError> {
    json_node(text, text.trim_start_matches('\u{feff}'))
}

/// `part` is a slice of `whole`, so that their addresses give its offset.
fn json_node(whole: &str, part: &str) -> Result<Node, SyntaxError> {
    let offset = part.as_ptr() as usize - whole.as_ptr() as usize;
    let at = offset + (part.len() - part.trim_start().len());
    let error = |why: serde_json::Error| {
        let lines = part.split_inclusive('\n');
        let lines_before = lines.take(why.line().saturating_sub(1));
        let line_start: usize = lines_before.map(str::len).sum();
        let inside = (line_start + why.column().saturating_sub(1)).min(part.len());
        let text = why.to_string();
        let message = text.split(" at line ").next().unwrap_or_default();
        Spanned {
            at: offset + inside,
            value: message.to_owned(),
        }
    };
    let value = match part.trim_start().as_bytes().first() {
        Some(b'{') => {
            let members: BTreeMap<Cow<'_, str>, &RawValue> = read(part).map_err(error)?;
            let members = members.into_iter().map(|(name, raw)| {
                let node = json_node(whole, raw.get())?;
                Ok(NamedNode {
                    name: name.into_owned(),
                    at: node.at,
                    node,
                })
            });
            let mut members = members.collect::<Result<Vec<_>, SyntaxError>>()?;
            members.sort_by_key(|member| member.at);
            NodeValue::Table(members)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = read(part).map_err(error)?;
            let items = items.into_iter().map(|raw| json_node(whole, raw.get()));
            NodeValue::List(items.collect::<Result<_, _>>()?)
        }
        _ => match read::<serde_json::Value>(part).map_err(error)? {
            serde_json::Value::String(text) => NodeValue::Text(text),
            serde_json::Value::Number(_) => NodeValue::Number(part.trim().to_owned()),
            serde_json::Value::Bool(flag) => NodeValue::Bool(flag),
            _ => NodeValue::Other,
        },
    };
    Ok(Node { at, value })
}

fn read<'a, T: Deserialize<'a>>(part: &'a str) -> serde_json::Result<T> {
    serde_json::from_str(part)
}

impl NodeValue {
    /// Its type, for "a text was expected, not …".
    pub(super) fn type_name(&self) -> &'static str {
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
    /// Converts it for readers that accept fields of any type.
    pub(super) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            NodeValue::Text(text) => Json::String(text.clone()),
            NodeValue::Number(number) => {
                serde_json::from_str(number).unwrap_or_else(|_| Json::String(number.clone()))
            }
            NodeValue::Bool(flag) => Json::Bool(*flag),
            NodeValue::List(items) => items.iter().map(Self::to_json).collect(),
            NodeValue::Table(members) => members
                .iter()
                .map(|member| (member.name.clone(), member.node.to_json()))
                .collect(),
            NodeValue::Other => Json::Null,
        }
    }
}

/// The fields of one table, which are taken one by one.
pub(super) struct TableReader(Vec<NamedNode>);

impl TableReader {
    /// Accepts only the `known` fields; others are reported.
    pub(super) fn new(out: &mut Diagnostics, node: &Node, what: &str, known: &[&str]) -> Self {
        let table = Self::any(out, node, what);
        for member in &table.0 {
            if !known.contains(&member.name.as_str()) {
                let near = suggestion(&member.name, known.iter().copied());
                let message = format!("unknown field {:?} in {what}{near}", member.name);
                out.report(member.at, message);
            }
        }
        table
    }

    /// Accepts fields of any name.
    pub(super) fn any(out: &mut Diagnostics, node: &Node, what: &str) -> Self {
        match &node.value {
            NodeValue::Table(members) => Self(members.clone()),
            other => {
                let message = format!("{what} is a table, not {}", other.type_name());
                out.report(node.at, message);
                Self(Vec::new())
            }
        }
    }

    pub(super) fn take(&mut self, name: &str) -> Option<NamedNode> {
        let at = self.0.iter().position(|member| member.name == name)?;
        Some(self.0.remove(at))
    }

    /// The offset of a field that is still there.
    pub(super) fn offset(&self, name: &str) -> Option<usize> {
        let found = self.0.iter().find(|member| member.name == name);
        found.map(|member| member.at)
    }

    pub(super) fn text(&mut self, out: &mut Diagnostics, name: &str) -> Option<String> {
        let Node { at, value } = self.take(name)?.node;
        match value {
            NodeValue::Text(text) if !text.trim().is_empty() => return Some(text),
            NodeValue::Text(_) => out.report(at, format!("{name} is empty")),
            other => out.report(at, format!("{name} is a text, not {}", other.type_name())),
        }
        None
    }

    /// A text or a number, as text.
    pub(super) fn scalar(&mut self, out: &mut Diagnostics, name: &str) -> Option<String> {
        let found = self.0.iter().find(|member| member.name == name)?;
        match found.node.value.clone() {
            NodeValue::Number(number) => self.take(name).map(|_| number),
            _ => self.text(out, name),
        }
    }

    pub(super) fn flag(&mut self, out: &mut Diagnostics, name: &str) -> Option<bool> {
        let Node { at, value } = self.take(name)?.node;
        match value {
            NodeValue::Bool(flag) => Some(flag),
            other => {
                let message = format!("{name} is true or false, not {}", other.type_name());
                out.report(at, message);
                None
            }
        }
    }

    /// A list of texts; one text is a list of one.
    pub(super) fn texts(&mut self, out: &mut Diagnostics, name: &str) -> Vec<Spanned<String>> {
        let Some(member) = self.take(name) else {
            return Vec::new();
        };
        let items = match member.node.value {
            NodeValue::List(items) => items,
            _ => vec![member.node],
        };
        let mut texts = Vec::new();
        for Node { at, value } in items {
            match value {
                NodeValue::Text(value) => texts.push(Spanned { at, value }),
                NodeValue::Number(value) if name != "on" => texts.push(Spanned { at, value }),
                other => out.report(at, format!("{name} holds texts, not {}", other.type_name())),
            }
        }
        texts
    }

    /// `[[name]]`
    pub(super) fn tables(&mut self, out: &mut Diagnostics, name: &str) -> Vec<Node> {
        let Some(member) = self.take(name) else {
            return Vec::new();
        };
        match member.node.value {
            NodeValue::List(items) => items,
            other => {
                let found = other.type_name();
                let message = format!("write [[{name}]]: there can be many; this is {found}");
                out.report(member.at, message);
                Vec::new()
            }
        }
    }

    /// All fields, each a text.
    pub(super) fn all_texts(self, out: &mut Diagnostics) -> Vec<(String, Spanned<String>)> {
        let mut texts = Vec::new();
        for NamedNode { name, node, .. } in self.0 {
            let at = node.at;
            match node.value {
                NodeValue::Text(value) => texts.push((name, Spanned { at, value })),
                other => out.report(at, format!("{name} is a text, not {}", other.type_name())),
            }
        }
        texts
    }

    /// All fields of any type.
    pub(super) fn into_members(self) -> Vec<NamedNode> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member<'a>(node: &'a Node, name: &str) -> &'a NamedNode {
        let NodeValue::Table(members) = &node.value else {
            panic!("no table");
        };
        members
            .iter()
            .find(|member| member.name == name)
            .expect(name)
    }

    #[test]
    fn document_knows_the_offsets_of_its_parts() {
        let text = "version = 3\n[[rule]]\nname = \"x\"\n";
        let tree = parse_toml(text).expect("toml");
        let version = member(&tree, "version");
        assert_eq!(
            (version.at, &version.node.value),
            (0, &NodeValue::Number("3".into()))
        );
        let NodeValue::List(rules) = &member(&tree, "rule").node.value else {
            panic!("no list");
        };
        let name = member(&rules[0], "name");
        assert_eq!(&text[name.node.at..name.node.at + 3], "\"x\"");

        let text = "{ \"rules\": {\n  \"build\": { \"invalidates_cache\": [\"a\", \"b\"] } } }";
        assert!(is_json(text) && !is_json("[rules]"));
        let tree = parse_json(text).expect("json");
        let task = member(&member(&tree, "rules").node, "build");
        let NodeValue::List(caches) = &member(&task.node, "invalidates_cache").node.value else {
            panic!("no list");
        };
        assert_eq!(&text[caches[1].at..caches[1].at + 3], "\"b\"");
    }

    #[test]
    fn document_reports_where_a_syntax_error_is() {
        let SyntaxError { at, value: why } = parse_toml("a = 1\nb = = 2\n").expect_err("broken");
        assert_eq!(at, 10, "{why}");
        let text = "{\n  \"rules\": {\n    \"x\" 1\n  }\n}";
        let SyntaxError { at, value: why } = parse_json(text).expect_err("broken");
        assert!(text[..at].matches('\n').count() == 2, "{at} {why}");
        assert!(!why.contains("line"), "{why}");
    }
}
