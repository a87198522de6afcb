//! Recordings of a feed's answers, one JSON object a line, plain or compressed. `Replay` reads them
//! and `oddsd record` writes them.
//!
//! Four formats are read: The Odds API (`{fetched_at, body:[…]}`), The Racing API (`{endpoint, params,
//! fetched_at, body:{…}}`, also pretty-printed as the whole file), the exchange's raw `mcm` lines,
//! and the format that [`Recorder`] writes: `{seq, feed, fetched_at, scope, bodies:["…"]}`, with
//! the bodies as they arrived.
//!
//! An unreadable line costs that line only. A truncated file is an error after its last good line.

mod line_reader;
mod recorder;

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, bail};
use chrono::{DateTime, Datelike, NaiveDateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use line_reader::{LineRead, LineReader, MAX_RECORD};
use oddsd_core::model::Scope;
pub use recorder::Recorder;

/// The feed that a record is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, strum::EnumString, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum RecordedFeed {
    OddsApi,
    RacingApi,
    Betfair,
}

impl RecordedFeed {
    /// The feed's name, as in `Snapshot::source`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One line of a recording.
#[derive(Clone, Debug, PartialEq)]
pub enum RecordingEntry {
    Answer(RecordedAnswer),
    /// A raw `mcm` line, and the exchange's time in it.
    Message {
        at: Option<DateTime<Utc>>,
        line: String,
    },
    Unreadable {
        reason: &'static str,
        sample: String,
    },
}

/// One answer: the bodies of one fetch.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedAnswer {
    pub feed: RecordedFeed,
    pub fetched_at: DateTime<Utc>,
    /// The scope of the request, if the record has it.
    pub scope: Option<Scope>,
    pub bodies: Vec<String>,
}

/// A recording, read from front to back.
pub struct Recording {
    /// The file's path, for error messages.
    name: String,
    lines: LineReader,
    line: Vec<u8>,
    number: u64,
    last_at: Option<DateTime<Utc>>,
}

impl Recording {
    pub fn open(path: impl AsRef<Path>) -> anyhow::Result<Self> {
        let name = path.as_ref().display().to_string();
        let file = File::open(path).map_err(anyhow::Error::from);
        file.and_then(|file| Self::from_reader(&name, BufReader::new(file)))
            .with_context(|| format!("cannot open the recording {name}"))
    }

    /// Reads a recording that is not a file. `name` stands for the path in errors.
    pub fn from_reader(name: &str, source: impl BufRead + Send + 'static) -> anyhow::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            lines: LineReader::new(source)?,
            line: Vec::new(),
            number: 0,
            last_at: None,
        })
    }

    /// The path that it was opened by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads the next record; `None` at the end. Fails if the file cannot be read on, e.g. because
    /// its compressed data is cut off.
    pub fn read_entry(&mut self) -> anyhow::Result<Option<RecordingEntry>> {
        loop {
            self.number += 1;
            let mut read = self.lines.read_line(&mut self.line);
            if self.number == 1 && matches!(read, Ok(LineRead::Line)) && self.line == b"{" {
                read = self.lines.read_rest(&mut self.line);
            }
            let read = read.with_context(|| {
                format!(
                    "{} ends badly after {} lines: it is cut off or damaged there; what came before is good",
                    self.name,
                    self.number - 1
                )
            })?;
            match read {
                LineRead::End => return Ok(None),
                LineRead::TooLong if self.number == 1 && !self.line.is_empty() => bail!(
                    "{} is one object of more than {MAX_RECORD} bytes; write it as one record a line",
                    self.name
                ),
                LineRead::TooLong => return Ok(Some(unreadable("line_too_long", self.number))),
                LineRead::Line if self.line.is_empty() => {}
                LineRead::Line => {
                    let line = std::mem::take(&mut self.line);
                    let entry = self.parse_line(&line);
                    self.line = line;
                    return Ok(Some(entry));
                }
            }
        }
    }

    fn parse_line(&mut self, line: &[u8]) -> RecordingEntry {
        let Ok(text) = std::str::from_utf8(line) else {
            return unreadable("not_utf8", self.number);
        };
        let envelope: RecordEnvelope = match serde_json::from_str(text) {
            Ok(envelope) => envelope,
            Err(error) => {
                let sample = format!("line {}: {error}", self.number);
                return unreadable("corrupt_line", sample);
            }
        };
        if envelope.op.is_some() {
            return RecordingEntry::Message {
                at: envelope
                    .pt
                    .and_then(DateTime::from_timestamp_millis)
                    .and_then(plausible),
                line: text.to_owned(),
            };
        }
        let times = [&envelope.fetched_at, &envelope.committed_at];
        let recorded = times.into_iter().find_map(|t| parse_time(t.as_deref()?));
        let next = self.last_at.map(|at| at + TimeDelta::milliseconds(1));
        let Some(fetched_at) = recorded.or(next) else {
            return unreadable("record_without_time", self.number);
        };
        match envelope.into_answer(fetched_at) {
            Ok(answer) => {
                self.last_at = Some(fetched_at);
                RecordingEntry::Answer(answer)
            }
            Err(reason) => unreadable(reason, self.number),
        }
    }
}

fn unreadable(reason: &'static str, sample: impl ToString) -> RecordingEntry {
    RecordingEntry::Unreadable {
        reason,
        sample: sample.to_string(),
    }
}

/// The fields of all four formats; those that are present tell which one a record has.
#[derive(Deserialize)]
struct RecordEnvelope<'a> {
    #[serde(borrow, default)]
    op: Option<Cow<'a, str>>,
    #[serde(default)]
    pt: Option<i64>,
    #[serde(borrow, default)]
    feed: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    endpoint: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default)]
    fetched_at: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    committed_at: Option<Cow<'a, str>>,
    #[serde(default)]
    scope: Option<Scope>,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
    #[serde(default)]
    bodies: Option<Vec<String>>,
}

impl RecordEnvelope<'_> {
    fn into_answer(self, fetched_at: DateTime<Utc>) -> Result<RecordedAnswer, &'static str> {
        let answer = |feed, scope, bodies| RecordedAnswer {
            feed,
            fetched_at,
            scope,
            bodies,
        };
        if let Some(bodies) = self.bodies {
            let feed = self.feed.as_deref().unwrap_or_default();
            let feed = feed.parse().map_err(|_| "unknown_feed")?;
            // As they arrived: a live body loses its mark in the HTTP client.
            let bodies = bodies.into_iter();
            let bodies = bodies.map(|body| match body.strip_prefix('\u{feff}') {
                Some(text) => text.to_owned(),
                None => body,
            });
            return Ok(answer(feed, self.scope, bodies.collect()));
        }
        let body = self.body.ok_or("record_without_body")?.get();
        match self.endpoint.as_deref() {
            None if body.starts_with('[') => {
                Ok(answer(RecordedFeed::OddsApi, None, vec![body.into()]))
            }
            Some(endpoint) if endpoint.contains("/racecards") => Ok(answer(
                RecordedFeed::RacingApi,
                self.params.and_then(|params| requested_day(params.get())),
                vec![body.into()],
            )),
            _ => Err("unknown_shape"),
        }
    }
}

/// The scope of the request parameters `{"date": "2025-10-14"}`.
fn requested_day(params: &str) -> Option<Scope> {
    let params: serde_json::Value = serde_json::from_str(params).ok()?;
    let day = params["date"].as_str()?.parse().ok()?;
    Some(Scope::Days {
        days: vec![day],
        regions: Vec::new(),
    })
}

/// A time with a zone, or in UTC without one.
fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    let time = match DateTime::parse_from_rfc3339(text) {
        Ok(time) => time.to_utc(),
        Err(_) => text.parse::<NaiveDateTime>().ok()?.and_utc(),
    };
    plausible(time)
}

/// A time near the end of the calendar would overflow when a duration is added.
fn plausible(time: DateTime<Utc>) -> Option<DateTime<Utc>> {
    (1970..3000).contains(&time.year()).then_some(time)
}
