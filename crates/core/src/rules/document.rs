//! A rules file, TOML or JSON, as one tree of toml's values with their offsets, and the reading of its tables.
//! The loader uses it; unknown and mistyped fields become diagnostics.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value as Json;
use serde_json::value::RawValue;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostics, Mistake, suggestion};

pub(super) type Node<'a> = Spanned<DeValue<'a>>;

/// JSON's null, as a value that rules never use: TOML has none.
fn null<'a>() -> DeValue<'a> {
    let time = DeValue::parse("00:00:00").expect("a time of day");
    time.into_inner()
}

/// JSON begins with a brace; no TOML table does.
pub(super) fn is_json(text: &str) -> bool {
    text.trim_start_matches('\u{feff}')
        .trim_start()
        .starts_with('{')
}

pub(super) fn parse_toml(text: &str) -> Result<Node<'_>, Mistake> {
    let error = |why: toml::de::Error| {
        let at = why.span().map_or(text.len(), |span| span.start);
        (at, why.message().trim().replace('\n', "; "))
    };
    let root = DeTable::parse(text).map_err(error)?;
    Ok(Spanned::new(root.span(), DeValue::Table(root.into_inner())))
}

pub(super) fn parse_json(text: &str) -> Result<Node<'_>, Mistake> {
    json_node(text, text.trim_start_matches('\u{feff}'))
}

/// `part` is a slice of `whole`, so that their addresses give its offset.
fn json_node<'a>(whole: &'a str, part: &'a str) -> Result<Node<'a>, Mistake> {
    let offset = part.as_ptr() as usize - whole.as_ptr() as usize;
    let error = |why: serde_json::Error| {
        let lines = part.split_inclusive('\n');
        let lines_before = lines.take(why.line().saturating_sub(1));
        let line_start: usize = lines_before.map(str::len).sum();
        let inside = (line_start + why.column().saturating_sub(1)).min(part.len());
        let text = why.to_string();
        let message = text.split(" at line ").next().unwrap_or_default();
        (offset + inside, message.to_owned())
    };
    let value = match part.trim_start().as_bytes().first() {
        Some(b'{') => {
            let members: BTreeMap<Cow<'_, str>, &RawValue> =
                serde_json::from_str(part).map_err(error)?;
            let members = members.into_iter().map(|(name, raw)| {
                let node = json_node(whole, raw.get())?;
                Ok((Spanned::new(node.span(), name), node))
            });
            DeValue::Table(members.collect::<Result<_, Mistake>>()?)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(part).map_err(error)?;
            let items = items.into_iter().map(|raw| json_node(whole, raw.get()));
            DeValue::Array(items.collect::<Result<_, _>>()?)
        }
        _ => match serde_json::from_str::<Json>(part).map_err(error)? {
            Json::String(text) => DeValue::String(text.into()),
            Json::Bool(flag) => DeValue::Boolean(flag),
            // Every number of JSON is one of TOML.
            Json::Number(_) => {
                DeValue::parse(part.trim()).map_or_else(|_| null(), Spanned::into_inner)
            }
            _ => null(),
        },
    };
    let start = offset + (part.len() - part.trim_start().len());
    Ok(Spanned::new(start..offset + part.len(), value))
}

/// A number as written.
fn number(value: &DeValue) -> Option<String> {
    match value {
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A text, or a number as written.
pub(super) fn text_or_number(value: &DeValue) -> Option<String> {
    value.as_str().map(str::to_owned).or_else(|| number(value))
}

/// Converts it for readers that accept fields of any type.
pub(super) fn to_json(value: &DeValue) -> Json {
    let nested = |node: &Node| to_json(node.get_ref());
    match value {
        DeValue::String(text) => Json::String(text.to_string()),
        DeValue::Integer(_) | DeValue::Float(_) => {
            let number = number(value).unwrap_or_default();
            serde_json::from_str(&number).unwrap_or(Json::String(number))
        }
        DeValue::Boolean(flag) => Json::Bool(*flag),
        DeValue::Array(items) => items.iter().map(nested).collect(),
        DeValue::Table(table) => {
            let members = table.iter();
            members
                .map(|(name, node)| (name.get_ref().to_string(), nested(node)))
                .collect()
        }
        DeValue::Datetime(_) => Json::Null,
    }
}

impl Diagnostics<'_> {
    /// Reports a value of a wrong type: "`expected`, not a list".
    pub(super) fn report_type(&mut self, node: &Node, expected: &str) {
        let found = type_name(node.get_ref());
        self.report(node.span().start, format!("{expected}, not {found}"));
    }
}

fn type_name(value: &DeValue) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
        DeValue::Datetime(_) => "a date or nothing",
    }
}

/// The fields of one table; without any if the value is no table, which has been reported.
#[derive(Clone, Copy)]
pub(super) struct TableReader<'t>(Option<&'t DeTable<'t>>);

impl<'t> TableReader<'t> {
    /// Accepts only the `known` fields; others are reported.
    pub(super) fn new(
        out: &mut Diagnostics,
        node: &'t Node<'t>,
        what: &str,
        known: &[&str],
    ) -> Self {
        let table = Self::any(out, node, what);
        for (name, node) in table.members() {
            if !known.contains(&name) {
                let near = suggestion(name, known.iter().copied());
                let at = table.offset(name).unwrap_or(node.span().start);
                out.report(at, format!("unknown field {name:?} in {what}{near}"));
            }
        }
        table
    }

    /// Accepts fields of any name.
    pub(super) fn any(out: &mut Diagnostics, node: &'t Node<'t>, what: &str) -> Self {
        let table = node.get_ref().as_table();
        if table.is_none() {
            out.report_type(node, &format!("{what} is a table"));
        }
        Self(table)
    }

    pub(super) fn get(self, name: &str) -> Option<&'t Node<'t>> {
        self.0?.get(name)
    }

    /// The offset of a field's name; in JSON, of its value.
    pub(super) fn offset(self, name: &str) -> Option<usize> {
        let (name, _) = self.0?.get_key_value(name)?;
        Some(name.span().start)
    }

    /// All fields, in the order of the text.
    pub(super) fn members(self) -> Vec<(&'t str, &'t Node<'t>)> {
        let mut members: Vec<_> = self.0.into_iter().flatten().collect();
        members.sort_by_key(|(name, _)| name.span().start);
        let members = members.into_iter();
        members
            .map(|(name, node)| (&**name.get_ref(), node))
            .collect()
    }

    pub(super) fn text(self, out: &mut Diagnostics, name: &str) -> Option<String> {
        let node = self.get(name)?;
        match node.get_ref() {
            DeValue::String(text) if !text.trim().is_empty() => return Some(text.to_string()),
            DeValue::String(_) => out.report(node.span().start, format!("{name} is empty")),
            _ => out.report_type(node, &format!("{name} is a text")),
        }
        None
    }

    pub(super) fn text_or_number(self, out: &mut Diagnostics, name: &str) -> Option<String> {
        number(self.get(name)?.get_ref()).or_else(|| self.text(out, name))
    }

    pub(super) fn flag(self, out: &mut Diagnostics, name: &str) -> Option<bool> {
        let node = self.get(name)?;
        let flag = node.get_ref().as_bool();
        if flag.is_none() {
            out.report_type(node, &format!("{name} is true or false"));
        }
        flag
    }

    /// A list of texts with their offsets; one text is a list of one.
    pub(super) fn texts(self, out: &mut Diagnostics, name: &str) -> Vec<(usize, String)> {
        let items: &[Node] = match self.get(name).map(|node| (node, node.get_ref())) {
            None => &[],
            Some((_, DeValue::Array(items))) => &items[..],
            Some((node, _)) => std::slice::from_ref(node),
        };
        let mut texts = Vec::new();
        for item in items {
            match text_or_number(item.get_ref()) {
                Some(text) => texts.push((item.span().start, text)),
                None => out.report_type(item, &format!("{name} holds texts")),
            }
        }
        texts
    }

    /// `[[name]]`
    pub(super) fn tables(self, out: &mut Diagnostics, name: &str) -> &'t [Node<'t>] {
        match self.get(name).map(Spanned::get_ref) {
            None => &[],
            Some(DeValue::Array(items)) => &items[..],
            Some(other) => {
                let at = self.offset(name).unwrap_or_default();
                let found = type_name(other);
                let message = format!("write [[{name}]]: there can be many; this is {found}");
                out.report(at, message);
                &[]
            }
        }
    }

    /// All fields, each a text with its offset.
    pub(super) fn all_texts(self, out: &mut Diagnostics) -> Vec<(&'t str, (usize, String))> {
        let mut texts = Vec::new();
        for (name, node) in self.members() {
            match node.get_ref().as_str() {
                Some(text) => texts.push((name, (node.span().start, text.to_owned()))),
                None => out.report_type(node, &format!("{name} is a text")),
            }
        }
        texts
    }
}
