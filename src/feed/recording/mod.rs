//! Recorded answers: what a feed said and when, one JSON object a line, plain or compressed. Four
//! shapes are read: The Odds API (`{fetched_at, body:[…]}`), The Racing API (`{endpoint, params,
//! fetched_at, body:{…}}`, also pretty-printed as the whole file), the exchange's raw `mcm` lines,
//! and our own, which `oddsd record` writes: `{seq, feed, fetched_at, scope, bodies:["…"]}`, with
//! the bodies as they arrived.
//!
//! A line that cannot be read costs that line. A file that breaks off says so after its last good
//! line.

mod lines;
mod recorder;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::feed::{betfair, odds_api, racing_api};
use crate::model::Scope;
use lines::{At, Lines, MAX_RECORD};
pub use recorder::Recorder;

/// Whose answers a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordedFeed {
    OddsApi,
    RacingApi,
    Betfair,
}

impl RecordedFeed {
    pub const ALL: [Self; 3] = [Self::OddsApi, Self::RacingApi, Self::Betfair];

    /// The feed's name, as in `Snapshot::source`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OddsApi => odds_api::SOURCE,
            Self::RacingApi => racing_api::SOURCE,
            Self::Betfair => betfair::SOURCE,
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|feed| feed.as_str() == text)
    }
}

/// One line of a recording.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    Answer(Answer),
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
pub struct Answer {
    pub feed: RecordedFeed,
    pub fetched_at: DateTime<Utc>,
    /// What was asked for, where the record says so.
    pub scope: Option<Scope>,
    pub bodies: Vec<String>,
}

/// A recording, read from front to back.
pub struct Recording {
    path: PathBuf,
    lines: Lines,
    line: Vec<u8>,
    number: u64,
    last_at: Option<DateTime<Utc>>,
}

impl Recording {
    pub fn open(path: impl AsRef<Path>) -> anyhow::Result<Self> {
        let path = path.as_ref().to_owned();
        Ok(Self {
            lines: Lines::open(&path)?,
            path,
            line: Vec::new(),
            number: 0,
            last_at: None,
        })
    }

    /// The next record; `None` at the end. Fails when the file itself does, as one that was cut
    /// off inside its compression does.
    #[expect(clippy::should_implement_trait, reason = "fails, and then is over")]
    pub fn next(&mut self) -> anyhow::Result<Option<Record>> {
        loop {
            self.number += 1;
            let mut at = self.lines.read(&mut self.line);
            if self.number == 1 && matches!(at, Ok(At::Line)) && self.line == b"{" {
                at = self.lines.read_rest(&mut self.line);
            }
            let at = at.with_context(|| {
                format!(
                    "{} ends badly after {} lines: it is cut off or damaged there; what came before is good",
                    self.path.display(),
                    self.number - 1
                )
            })?;
            match at {
                At::End => return Ok(None),
                At::TooLong if self.number == 1 && !self.line.is_empty() => bail!(
                    "{} is one object of more than {MAX_RECORD} bytes; write it as one record a line",
                    self.path.display()
                ),
                At::TooLong => return Ok(Some(unreadable("line_too_long", self.number))),
                At::Line if self.line.is_empty() => {}
                At::Line => {
                    let line = std::mem::take(&mut self.line);
                    let record = self.record(&line);
                    self.line = line;
                    return Ok(Some(record));
                }
            }
        }
    }

    fn record(&mut self, line: &[u8]) -> Record {
        let Ok(text) = std::str::from_utf8(line) else {
            return unreadable("not_utf8", self.number);
        };
        let envelope: Envelope = match serde_json::from_str(text) {
            Ok(envelope) => envelope,
            Err(error) => {
                let sample = format!("line {}: {error}", self.number);
                return unreadable("corrupt_line", sample);
            }
        };
        if envelope.op.is_some() {
            return Record::Message {
                at: envelope
                    .pt
                    .and_then(DateTime::from_timestamp_millis)
                    .and_then(plausible),
                line: text.to_owned(),
            };
        }
        let times = [&envelope.fetched_at, &envelope.committed_at];
        let told = times.into_iter().find_map(|t| instant(t.as_deref()?));
        let next = self.last_at.map(|at| at + TimeDelta::milliseconds(1));
        let Some(fetched_at) = told.or(next) else {
            return unreadable("record_without_time", self.number);
        };
        match envelope.answer(fetched_at) {
            Ok(answer) => {
                self.last_at = Some(fetched_at);
                Record::Answer(answer)
            }
            Err(reason) => unreadable(reason, self.number),
        }
    }
}

fn unreadable(reason: &'static str, sample: impl ToString) -> Record {
    Record::Unreadable {
        reason,
        sample: sample.to_string(),
    }
}

/// Every shape at once; which one a record has is told by the fields that are there.
#[derive(Deserialize)]
struct Envelope<'a> {
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

impl Envelope<'_> {
    fn answer(self, fetched_at: DateTime<Utc>) -> Result<Answer, &'static str> {
        let answer = |feed, scope, bodies| Answer {
            feed,
            fetched_at,
            scope,
            bodies,
        };
        if let Some(bodies) = self.bodies {
            let feed = self.feed.as_deref().and_then(RecordedFeed::parse);
            let feed = feed.ok_or("unknown_feed")?;
            return Ok(answer(feed, self.scope, bodies));
        }
        let body = self.body.ok_or("record_without_body")?.get();
        match self.endpoint.as_deref() {
            None if body.starts_with('[') => {
                Ok(answer(RecordedFeed::OddsApi, None, vec![body.into()]))
            }
            Some(endpoint) if endpoint.contains("/racecards") => Ok(answer(
                RecordedFeed::RacingApi,
                self.params.and_then(|params| days_asked(params.get())),
                vec![body.into()],
            )),
            _ => Err("unknown_shape"),
        }
    }
}

/// `{"date": "2025-10-14"}` as a scope.
fn days_asked(params: &str) -> Option<Scope> {
    #[derive(Deserialize)]
    struct Params {
        date: NaiveDate,
    }
    let asked: Params = serde_json::from_str(params).ok()?;
    Some(Scope::Days {
        days: vec![asked.date],
        regions: Vec::new(),
    })
}

/// With a zone, or without one in UTC.
fn instant(text: &str) -> Option<DateTime<Utc>> {
    let time = match DateTime::parse_from_rfc3339(text) {
        Ok(time) => time.to_utc(),
        Err(_) => text.parse::<NaiveDateTime>().ok()?.and_utc(),
    };
    plausible(time)
}

/// A time at the end of the calendar would overflow in the first sum.
fn plausible(time: DateTime<Utc>) -> Option<DateTime<Utc>> {
    (1970..3000).contains(&time.year()).then_some(time)
}
