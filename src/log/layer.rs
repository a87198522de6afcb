//! From a tracing event to one written line.

use std::fmt;

use chrono::Utc;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::{LogFormat, Record, Value, line};

/// A layer that hands each event to `write` as one finished line, newline included.
pub struct Lines<W> {
    format: LogFormat,
    color: bool,
    write: W,
}

impl<W: Fn(&str)> Lines<W> {
    /// `color` concerns the pretty format only.
    pub fn new(format: LogFormat, color: bool, write: W) -> Self {
        Self {
            format,
            color,
            write,
        }
    }
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber,
    W: Fn(&str) + 'static,
{
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        // A line without an event name is a library's: its target says whose.
        if fields.event.is_none() {
            fields.rest.push((
                "target".into(),
                Value::Text(event.metadata().target().into()),
            ));
        }
        let record = Record {
            at: Utc::now(),
            level: *event.metadata().level(),
            event: fields.event,
            message: fields.message,
            fields: fields.rest,
        };
        let mut text = line(&record, self.format, self.color);
        text.push('\n');
        (self.write)(&text);
    }
}

#[derive(Default)]
struct Fields {
    event: Option<String>,
    message: String,
    rest: Vec<(String, Value)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", value) => self.message = value.to_string(),
            ("event", value) => self.event = Some(value.to_string()),
            (name, value) => self.rest.push((name.to_owned(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::Text(value.to_owned()));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::Whole(i128::from(value)));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::Whole(i128::from(value)));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::Real(value));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::Flag(value));
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::Text(format!("{value:?}")));
    }
}
