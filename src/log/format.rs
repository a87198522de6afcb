//! Formats a log record as one line of text, for any input. The log layer calls it for each event.
//!
//! Operators and alerts search for these lines: the order `ts level event msg …`, the quoting and the escapes may not
//! change, and `tests/logs.rs` fixes them.

use std::fmt::{self, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use tracing::Level;

use super::LogFormat;

/// Free text. It is always quoted, so that one search pattern matches texts with and without spaces.
const ALWAYS_QUOTED: [&str; 2] = ["msg", "error"];

/// Names that the line itself uses. A field of that name gets an underscore.
const RESERVED: [&str; 4] = ["ts", "level", "event", "msg"];

/// The content of one line.
#[derive(Clone, Debug)]
pub struct LogRecord {
    pub at: DateTime<Utc>,
    pub level: Level,
    /// The documented name of the event.
    pub event: String,
    pub message: String,
    pub fields: Vec<(String, FieldValue)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue {
    Text(String),
    Integer(i128),
    Float(f64),
    Bool(bool),
}

impl fmt::Display for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Integer(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
            Self::Bool(flag) => flag.fmt(f),
        }
    }
}

/// Formats `record` as a line without its newline. `color` applies to the pretty format only.
pub fn format_record(record: &LogRecord, format: LogFormat, color: bool) -> String {
    match format {
        LogFormat::Pretty => pretty(record, color),
        LogFormat::Logfmt => logfmt(record),
        LogFormat::Json => json(record),
    }
}

fn logfmt(record: &LogRecord) -> String {
    let mut out = format!("ts={} level={}", timestamp(record), level(record));
    pair(&mut out, "event", &FieldValue::Text(record.event.clone()));
    pair(&mut out, "msg", &FieldValue::Text(record.message.clone()));
    for (name, value) in fields(record) {
        pair(&mut out, &name, value);
    }
    out
}

fn pair(out: &mut String, name: &str, value: &FieldValue) {
    out.push(' ');
    out.push_str(name);
    out.push('=');
    match value {
        FieldValue::Text(text) if ALWAYS_QUOTED.contains(&name) || !is_bare(text) => {
            quote(out, text)
        }
        // Writing to a String cannot fail, here and below.
        value => drop(write!(out, "{value}")),
    }
}

fn json(record: &LogRecord) -> String {
    let mut out = format!(
        r#"{{"ts":"{}","level":"{}""#,
        timestamp(record),
        level(record)
    );
    let mut member = |name: &str, value: &FieldValue| {
        out.push(',');
        quote(&mut out, name);
        out.push(':');
        match value {
            FieldValue::Integer(_) | FieldValue::Bool(_) => drop(write!(out, "{value}")),
            // `{:?}` keeps `1e300` short; JSON has no NaN and no infinity.
            FieldValue::Float(number) if number.is_finite() => drop(write!(out, "{number:?}")),
            value => quote(&mut out, &value.to_string()),
        }
    };
    member("event", &FieldValue::Text(record.event.clone()));
    member("msg", &FieldValue::Text(record.message.clone()));
    for (name, value) in fields(record) {
        member(&name, value);
    }
    out.push('}');
    out
}

fn pretty(record: &LogRecord, color: bool) -> String {
    let paint = |code: &str| match color {
        true => format!("\u{1b}[{code}m"),
        false => String::new(),
    };
    let (dim, off) = (paint("2"), paint("0"));
    let hue = paint(match record.level {
        Level::ERROR => "1;31",
        Level::WARN => "33",
        Level::INFO => "32",
        _ => "36",
    });
    let mut out = format!(
        "{dim}{}{off} {hue}{:<5}{off} ",
        record.at.format("%H:%M:%S"),
        record.level.as_str()
    );
    record
        .message
        .chars()
        .for_each(|c| push_escaped(&mut out, c));
    let mut rest = String::new();
    for (name, value) in fields(record) {
        pair(&mut rest, &name, value);
    }
    if !rest.is_empty() {
        let _ = write!(out, " {dim}{rest}{off}");
    }
    out
}

fn timestamp(record: &LogRecord) -> String {
    record.at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn level(record: &LogRecord) -> String {
    record.level.as_str().to_ascii_lowercase()
}

/// The fields under names that need no quoting and occur once. Of two equal names the later value
/// replaces the earlier one.
fn fields(record: &LogRecord) -> Vec<(String, &FieldValue)> {
    let mut fields: Vec<(String, &FieldValue)> = Vec::with_capacity(record.fields.len());
    for (name, value) in &record.fields {
        let name = plain_name(name);
        match fields.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => fields.push((name, value)),
        }
    }
    fields
}

fn plain_name(name: &str) -> String {
    let mut plain: String = name
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '.' | '-' => c,
            _ => '_',
        })
        .collect();
    if plain.is_empty() || RESERVED.contains(&plain.as_str()) {
        plain.push('_');
    }
    plain
}

/// Whether logfmt takes the text without quotes.
fn is_bare(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| !c.is_whitespace() && !is_hidden(c) && !matches!(c, '"' | '=' | '\\'))
}

/// Control characters, line separators, bidirectional controls and some that have no width.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Appends a JSON string. Readers of logfmt understand the same escapes.
fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c => push_escaped(out, c),
        }
    }
    out.push('"');
}

fn push_escaped(out: &mut String, c: char) {
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        // All hidden characters lie below U+10000, so four digits are enough.
        c if is_hidden(c) => drop(write!(out, "\\u{:04x}", u32::from(c))),
        c => out.push(c),
    }
}
