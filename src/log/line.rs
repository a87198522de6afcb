//! How one line is spelt: pure, and one line for any input.

use std::fmt::{self, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use tracing::Level;

use super::LogFormat;

/// Free text, quoted even where it happens to be one word, so that a reader's pattern need not
/// know which it is.
const ALWAYS_QUOTED: [&str; 2] = ["msg", "error"];

/// Names that the line itself uses: a foreign field of that name gets an underscore.
const RESERVED: [&str; 4] = ["ts", "level", "event", "msg"];

/// What one line says.
#[derive(Clone, Debug)]
pub struct Record {
    pub at: DateTime<Utc>,
    pub level: Level,
    /// The documented name of what happened; `None` for a library's line.
    pub event: Option<String>,
    pub message: String,
    pub fields: Vec<(String, Value)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    Whole(i128),
    Real(f64),
    Flag(bool),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Whole(number) => number.fmt(f),
            Self::Real(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
        }
    }
}

/// The line for `record`, without its newline. `color` concerns the pretty format only.
pub fn line(record: &Record, format: LogFormat, color: bool) -> String {
    match format {
        LogFormat::Pretty => pretty(record, color),
        LogFormat::Logfmt => logfmt(record),
        LogFormat::Json => json(record),
    }
}

fn logfmt(record: &Record) -> String {
    let mut out = format!("ts={} level={}", timestamp(record), level(record));
    if let Some(event) = &record.event {
        pair(&mut out, "event", &Value::Text(event.clone()));
    }
    pair(&mut out, "msg", &Value::Text(record.message.clone()));
    for (name, value) in fields(record) {
        pair(&mut out, &name, value);
    }
    out
}

fn pair(out: &mut String, name: &str, value: &Value) {
    out.push(' ');
    out.push_str(name);
    out.push('=');
    match value {
        Value::Text(text) if ALWAYS_QUOTED.contains(&name) || !is_bare(text) => quote(out, text),
        // Writing to a String cannot fail, here and below.
        value => drop(write!(out, "{value}")),
    }
}

fn json(record: &Record) -> String {
    let mut out = format!(
        r#"{{"ts":"{}","level":"{}""#,
        timestamp(record),
        level(record)
    );
    let mut member = |name: &str, value: &Value| {
        out.push(',');
        quote(&mut out, name);
        out.push(':');
        match value {
            Value::Whole(_) | Value::Flag(_) => drop(write!(out, "{value}")),
            // `{:?}` keeps `1e300` short; JSON has no NaN and no infinity.
            Value::Real(number) if number.is_finite() => drop(write!(out, "{number:?}")),
            value => quote(&mut out, &value.to_string()),
        }
    };
    if let Some(event) = &record.event {
        member("event", &Value::Text(event.clone()));
    }
    member("msg", &Value::Text(record.message.clone()));
    for (name, value) in fields(record) {
        member(&name, value);
    }
    out.push('}');
    out
}

fn pretty(record: &Record, color: bool) -> String {
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
        level(record).to_uppercase()
    );
    record.message.chars().for_each(|c| visible(&mut out, c));
    let mut rest = String::new();
    for (name, value) in fields(record) {
        pair(&mut rest, &name, value);
    }
    if !rest.is_empty() {
        let _ = write!(out, " {dim}{rest}{off}");
    }
    out
}

fn timestamp(record: &Record) -> String {
    record.at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn level(record: &Record) -> &'static str {
    match record.level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// Fields under names that need no quoting and occur once; of two equal names the later value is
/// kept, at the place of the first.
fn fields(record: &Record) -> Vec<(String, &Value)> {
    let mut fields: Vec<(String, &Value)> = Vec::with_capacity(record.fields.len());
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

/// Text that logfmt takes without quotes.
fn is_bare(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| !c.is_whitespace() && !is_hidden(c) && !matches!(c, '"' | '=' | '\\'))
}

/// What could move a cursor, end a line or reverse the reading direction.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A JSON string; logfmt readers understand the same escapes.
fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c => visible(out, c),
        }
    }
    out.push('"');
}

fn visible(out: &mut String, c: char) {
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        // All hidden characters lie below U+10000, so four digits are enough.
        c if is_hidden(c) => drop(write!(out, "\\u{:04x}", u32::from(c))),
        c => out.push(c),
    }
}
