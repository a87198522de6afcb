//! The members of a table, taken one by one; what nobody takes is unknown.

use super::Reading;
use crate::rules::fault::suggestion;
use crate::rules::tree::{Member, Node, Value};

/// A text and where it stands.
pub struct Text {
    pub text: String,
    pub at: usize,
}

pub struct Members(Vec<Member>);

impl Members {
    /// Reports what is not among `known`, and what is there twice.
    pub fn of(reading: &mut Reading, node: &Node, what: &str, known: &[&str]) -> Self {
        let members = Self::any(reading, node, what);
        for member in &members.0 {
            if !known.contains(&member.name.as_str()) {
                let near = suggestion(&member.name, known.iter().copied());
                reading.fault(
                    member.at,
                    format!("unknown field {:?} in {what}{near}", member.name),
                );
            }
        }
        members
    }

    /// Whatever their names are.
    pub fn any(reading: &mut Reading, node: &Node, what: &str) -> Self {
        match &node.value {
            Value::Table(members) => Self(members.clone()),
            other => {
                reading.fault(node.at, format!("{what} is a table, not {}", other.what()));
                Self(Vec::new())
            }
        }
    }

    pub fn take(&mut self, name: &str) -> Option<Member> {
        let at = self.0.iter().position(|member| member.name == name)?;
        Some(self.0.remove(at))
    }

    pub fn place(&self, name: &str) -> Option<usize> {
        let found = self.0.iter().find(|member| member.name == name);
        found.map(|member| member.at)
    }

    pub fn text(&mut self, reading: &mut Reading, name: &str) -> Option<String> {
        let member = self.take(name)?;
        match member.value.value {
            Value::Text(text) if !text.trim().is_empty() => Some(text),
            Value::Text(_) => {
                reading.fault(member.value.at, format!("{name} is empty"));
                None
            }
            other => {
                reading.fault(
                    member.value.at,
                    format!("{name} is a text, not {}", other.what()),
                );
                None
            }
        }
    }

    /// A text or a number, as text.
    pub fn scalar(&mut self, reading: &mut Reading, name: &str) -> Option<String> {
        let is_number = |member: &Member| matches!(member.value.value, Value::Number(_));
        match self.0.iter().find(|member| member.name == name) {
            Some(member) if is_number(member) => match self.take(name)?.value.value {
                Value::Number(number) => Some(number),
                _ => None,
            },
            _ => self.text(reading, name),
        }
    }

    pub fn flag(&mut self, reading: &mut Reading, name: &str) -> Option<bool> {
        let member = self.take(name)?;
        match member.value.value {
            Value::Bool(flag) => Some(flag),
            other => {
                reading.fault(
                    member.value.at,
                    format!("{name} is true or false, not {}", other.what()),
                );
                None
            }
        }
    }

    /// A list of texts; one text is a list of one.
    pub fn texts(&mut self, reading: &mut Reading, name: &str) -> Vec<Text> {
        let Some(member) = self.take(name) else {
            return Vec::new();
        };
        let items = match member.value.value {
            Value::List(items) => items,
            _ => vec![member.value],
        };
        let mut texts = Vec::new();
        for Node { at, value } in items {
            match value {
                Value::Text(text) => texts.push(Text { text, at }),
                Value::Number(text) if name != "on" => texts.push(Text { text, at }),
                other => reading.fault(at, format!("{name} holds texts, not {}", other.what())),
            }
        }
        texts
    }

    /// `[[name]]`
    pub fn tables(&mut self, reading: &mut Reading, name: &str) -> Vec<Node> {
        match self.take(name) {
            None => Vec::new(),
            Some(member) => match member.value.value {
                Value::List(items) => items,
                other => {
                    let message = format!(
                        "write [[{name}]]: there can be many; this is {}",
                        other.what()
                    );
                    reading.fault(member.at, message);
                    Vec::new()
                }
            },
        }
    }

    /// All members, each a text.
    pub fn all_texts(self, reading: &mut Reading) -> Vec<(String, Text)> {
        let mut texts = Vec::new();
        for Member { name, value, .. } in self.0 {
            let at = value.at;
            match value.value {
                Value::Text(text) => texts.push((name, Text { text, at })),
                other => reading.fault(at, format!("{name} is a text, not {}", other.what())),
            }
        }
        texts
    }

    /// All members, whatever they are.
    pub fn all(self) -> Vec<Member> {
        self.0
    }
}
