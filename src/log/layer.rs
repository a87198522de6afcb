//! Turns each tracing event into one written line. [`super::start`] installs the layer for the process.

use std::fmt;

use chrono::Utc;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::{FieldValue, LogFormat, LogRecord, format_record};

/// The event of all lines of libraries.
const LIBRARY_EVENT: &str = "library.log";

/// A layer that hands each event to `write` as one finished line, newline included.
pub struct LogLayer<W> {
    format: LogFormat,
    color: bool,
    write: W,
}

impl<W: Fn(&str)> LogLayer<W> {
    /// `color` applies to the pretty format only.
    pub fn new(format: LogFormat, color: bool, write: W) -> Self {
        Self {
            format,
            color,
            write,
        }
    }
}

impl<S, W> Layer<S> for LogLayer<W>
where
    S: Subscriber,
    W: Fn(&str) + 'static,
{
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut visitor = FieldVisitor(LogRecord {
            at: Utc::now(),
            level: *event.metadata().level(),
            event: String::new(),
            message: String::new(),
            fields: Vec::new(),
        });
        event.record(&mut visitor);
        let FieldVisitor(mut record) = visitor;
        if record.event.is_empty() {
            name_library(&mut record, event.metadata().target());
        }
        let mut text = format_record(&record, self.format, self.color);
        text.push('\n');
        (self.write)(&text);
    }
}

/// A line without an event comes from a library, which `target` names. A library that uses the crate `log` has its target,
/// and its place in the source, in fields of that crate.
fn name_library(record: &mut LogRecord, target: &str) {
    record.event = LIBRARY_EVENT.into();
    let mut target = FieldValue::Text(target.into());
    record.fields.retain(|(name, value)| {
        if name == "log.target" {
            target = value.clone();
        }
        !name.starts_with("log.")
    });
    record.fields.push(("target".into(), target));
}

struct FieldVisitor(LogRecord);

impl FieldVisitor {
    fn put(&mut self, field: &Field, value: FieldValue) {
        match field.name() {
            "message" => self.0.message = value.to_string(),
            "event" => self.0.event = value.to_string(),
            name => self.0.fields.push((name.to_owned(), value)),
        }
    }
}

impl Visit for FieldVisitor {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, FieldValue::Text(value.to_owned()));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, FieldValue::Integer(i128::from(value)));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, FieldValue::Integer(i128::from(value)));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, FieldValue::Float(value));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, FieldValue::Bool(value));
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, FieldValue::Text(format!("{value:?}")));
    }
}
