//! A recording as a feed: the same parsers, the same snapshots, at whatever pace the caller likes.
//! Snapshots keep the time at which they were recorded.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use chrono::{DateTime, NaiveDate, Utc};

use super::betfair::{Line, Stream};
use super::odds_api::{self, OddsFormat, league_of, parse_odds};
use super::racing_api::{self, parse_cards};
use super::recording::{Answer, Record, RecordedFeed, Recording};
use super::{Ask, FeedError, Fetched, Looked};
use crate::diff::Take;
use crate::model::{Rejects, Scope, Snapshot};

pub struct Replay {
    recording: Recording,
    feed: RecordedFeed,
    stream: Stream,
    /// League of the last answer that named one: an empty answer speaks for it too.
    league: Option<String>,
    /// Read, and not yet replayed.
    ahead: VecDeque<Record>,
    /// Set aside since the last record that was replayed.
    set_aside: Rejects,
    failure: Option<anyhow::Error>,
    ended: bool,
}

/// What became of one record.
#[derive(Debug)]
pub struct Replayed {
    /// `None`: it said nothing about events or prices, or could not be read.
    pub snapshot: Option<Snapshot>,
    /// Lines and answers that could not be read, up to and including this record. Rows that were
    /// set aside inside a good answer are in its snapshot.
    pub set_aside: Rejects,
    /// The raw bodies, as a live feed would have received them.
    pub bodies: Vec<String>,
}

impl Replay {
    /// Opens a recording and finds out whose it is. Fails when nothing in it can be read.
    pub fn open(path: impl AsRef<Path>) -> anyhow::Result<Self> {
        let path = path.as_ref();
        let mut replay = Self {
            recording: Recording::open(path)?,
            feed: RecordedFeed::OddsApi,
            stream: Stream::new(),
            league: None,
            ahead: VecDeque::new(),
            set_aside: Rejects::default(),
            failure: None,
            ended: false,
        };
        replay.feed = match replay.peek() {
            Some(Record::Answer(answer)) => answer.feed,
            Some(_) => RecordedFeed::Betfair,
            None => {
                let why = match replay.failure.take() {
                    Some(failure) => failure,
                    None if replay.set_aside.is_empty() => anyhow::anyhow!("it is empty"),
                    None => anyhow::anyhow!("set aside: {}", replay.set_aside),
                };
                return Err(why).with_context(|| {
                    format!(
                        "{} holds no record of a known shape (The Odds API, The Racing API, the exchange's mcm lines, or what `oddsd record` writes)",
                        path.display()
                    )
                });
            }
        };
        Ok(replay)
    }

    /// Whose answers these are, by the first record.
    pub fn feed(&self) -> RecordedFeed {
        self.feed
    }

    /// Changes of last traded prices so far (recordings of the BASIC kind hold nothing else).
    pub fn ltp_changes(&self) -> u64 {
        self.stream.ltp_changes()
    }

    /// When the next record was recorded; `None` at the end.
    pub fn next_at(&mut self) -> Option<DateTime<Utc>> {
        match self.peek()? {
            Record::Answer(answer) => Some(answer.fetched_at),
            Record::Message { at, .. } => *at,
            Record::Unreadable { .. } => None,
        }
    }

    /// Replays the next record; `None` at the end. A file that breaks off is an error once, after
    /// all that could be read, and then the end.
    #[expect(clippy::should_implement_trait, reason = "fails, and then is over")]
    pub fn next(&mut self) -> anyhow::Result<Option<Replayed>> {
        self.peek();
        let replayed = match self.ahead.pop_front() {
            Some(Record::Message { line, .. }) => self.message(line),
            Some(Record::Answer(answer)) => self.answer(answer),
            Some(Record::Unreadable { .. }) | None => match self.failure.take() {
                Some(failure) => return Err(failure),
                None if self.set_aside.is_empty() => return Ok(None),
                None => (None, Vec::new()),
            },
        };
        let (snapshot, bodies) = replayed;
        Ok(Some(Replayed {
            snapshot,
            set_aside: std::mem::take(&mut self.set_aside),
            bodies,
        }))
    }

    /// [`Self::fetch`], event by event.
    pub async fn read(
        &mut self,
        ask: &Ask,
        now: DateTime<Utc>,
        to: &mut dyn Take,
    ) -> Result<Looked, FeedError> {
        Ok(self.fetch(ask, now).await?.hand_over(to))
    }

    /// The next snapshot, whatever is asked: a recording has one story. What was set aside on the
    /// way is among the snapshot's rejects.
    pub async fn fetch(&mut self, _ask: &Ask, _now: DateTime<Utc>) -> Result<Fetched, FeedError> {
        let mut set_aside = Rejects::default();
        loop {
            let replayed = self.next().map_err(|error| FeedError::BadAnswer {
                detail: format!("{error:#}"),
            })?;
            let Some(replayed) = replayed else {
                if set_aside.is_empty() {
                    return Err(FeedError::Ended);
                }
                // The last lines could not be read: told once, by a snapshot of nothing.
                return Ok(Fetched {
                    snapshot: Self::nothing(set_aside),
                    bodies: Vec::new(),
                });
            };
            set_aside.merge(replayed.set_aside);
            if let Some(mut snapshot) = replayed.snapshot {
                snapshot.rejects.merge(set_aside);
                return Ok(Fetched {
                    snapshot,
                    bodies: replayed.bodies,
                });
            }
        }
    }

    fn nothing(rejects: Rejects) -> Snapshot {
        Snapshot {
            source: "".into(),
            as_of: DateTime::UNIX_EPOCH,
            scope: Scope::Listed,
            events: Vec::new(),
            bookmakers: Vec::new(),
            rejects,
        }
    }

    /// Reads until something replayable is ahead.
    fn peek(&mut self) -> Option<&Record> {
        while self.ahead.is_empty() && !self.ended {
            match self.recording.next() {
                Ok(Some(Record::Unreadable { reason, sample })) => {
                    self.set_aside.add(reason, sample);
                }
                // Many lines in one record are still as many messages.
                Ok(Some(Record::Answer(answer))) if answer.feed == RecordedFeed::Betfair => {
                    let at = Some(answer.fetched_at);
                    let lines = answer.bodies.into_iter();
                    self.ahead
                        .extend(lines.map(|line| Record::Message { at, line }));
                }
                Ok(Some(record)) => self.ahead.push_back(record),
                Ok(None) => self.ended = true,
                Err(failure) => {
                    self.ended = true;
                    self.failure = Some(failure);
                }
            }
        }
        self.ahead.front()
    }

    fn message(&mut self, line: String) -> (Option<Snapshot>, Vec<String>) {
        let snapshot = match self.stream.line(&line) {
            Line::Snapshot(snapshot) => Some(snapshot),
            Line::Nothing => None,
            Line::SetAside(rejects) => {
                self.set_aside.merge(rejects);
                None
            }
        };
        (snapshot, vec![line])
    }

    fn answer(&mut self, answer: Answer) -> (Option<Snapshot>, Vec<String>) {
        let snapshot = match answer.feed {
            RecordedFeed::OddsApi => self.odds_api(&answer),
            RecordedFeed::RacingApi => racing(&answer),
            // `peek` has made messages of it.
            RecordedFeed::Betfair => return (None, answer.bodies),
        };
        let snapshot = snapshot.map_err(|error| self.set_aside.add("unusable_answer", error));
        (snapshot.ok(), answer.bodies)
    }

    fn odds_api(&mut self, answer: &Answer) -> Result<Snapshot, FeedError> {
        let body = answer.bodies.first().map_or("[]", String::as_str);
        let league = match &answer.scope {
            Some(Scope::League(league)) => Some(league.clone()),
            _ => league_of(body),
        };
        if league.is_some() {
            self.league = league;
        }
        let league = self.league.as_deref().unwrap_or_default();
        let parsed = parse_either(body, answer.fetched_at, league)?;
        let mut snapshot = parsed.into_snapshot(answer.fetched_at, league);
        match &answer.scope {
            Some(recorded) => snapshot.scope = recorded.clone(),
            None if league.is_empty() => snapshot.scope = Scope::Listed,
            None => {}
        }
        Ok(snapshot)
    }
}

fn racing(answer: &Answer) -> Result<Snapshot, FeedError> {
    let as_of = answer.fetched_at;
    let mut found = racing_api::Parsed::default();
    for body in &answer.bodies {
        found.append(parse_cards(body, as_of)?);
    }
    Ok(Snapshot {
        source: Arc::from(racing_api::SOURCE),
        as_of,
        scope: racing_scope(answer, &found),
        events: found.events,
        bookmakers: found.bookmakers,
        rejects: found.rejects,
    })
}

/// What was asked for, as far as the record holds answers to it: a page that the provider called
/// unmodified has no body, and what it would have listed is not gone. With fewer bodies than days
/// or races, only those that occur are spoken for.
fn racing_scope(answer: &Answer, found: &racing_api::Parsed) -> Scope {
    let bodies = answer.bodies.len();
    let events = &found.events;
    let days_found: BTreeSet<NaiveDate> = events.iter().filter_map(|e| e.event.day).collect();
    match answer.scope.clone() {
        // A race that could not be read must not look like one that left the card.
        Some(Scope::Days { .. }) | None if found.partial => Scope::Listed,
        Some(Scope::Days { mut days, regions }) => {
            if bodies < days.len() {
                days.retain(|day| days_found.contains(day));
            }
            Scope::Days { days, regions }
        }
        Some(Scope::Events(mut ids)) => {
            if bodies < ids.len() {
                ids.retain(|id| events.iter().any(|e| e.event.id == *id));
            }
            Scope::Events(ids)
        }
        Some(scope) => scope,
        None => Scope::Days {
            days: days_found.into_iter().collect(),
            regions: Vec::new(),
        },
    }
}

/// A recording does not say how its prices are written. In one format nearly all of an answer's
/// prices make sense, in the other nearly none do.
fn parse_either(
    body: &str,
    as_of: DateTime<Utc>,
    league: &str,
) -> Result<odds_api::Parsed, FeedError> {
    let american = parse_odds(body, as_of, league, OddsFormat::American)?;
    if american.rejects.is_empty() {
        return Ok(american);
    }
    let decimal = parse_odds(body, as_of, league, OddsFormat::Decimal)?;
    match decimal.rejects.total() < american.rejects.total() {
        true => Ok(decimal),
        false => Ok(american),
    }
}
