//! Turns each tracing event into one written line. [`super::start`] installs the layer for the process.

use std::fmt;

use chrono::Utc;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::{FieldValue, LogFormat, LogRecord, format_record};

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
            event: None,
            message: String::new(),
            fields: Vec::new(),
        });
        event.record(&mut visitor);
        let FieldVisitor(mut record) = visitor;
        // A line without an event name comes from a library; its target names the library.
        if record.event.is_none() {
            let target = FieldValue::Text(event.metadata().target().into());
            record.fields.push(("target".into(), target));
        }
        let mut text = format_record(&record, self.format, self.color);
        text.push('\n');
        (self.write)(&text);
    }
}

struct FieldVisitor(LogRecord);

impl FieldVisitor {
    fn put(&mut self, field: &Field, value: FieldValue) {
        match field.name() {
            "message" => self.0.message = value.to_string(),
            "event" => self.0.event = Some(value.to_string()),
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
