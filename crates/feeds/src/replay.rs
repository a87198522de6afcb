//! A recording as a feed: its answers go through the live parsers, and snapshots keep the time at
//! which they were recorded. `oddsd replay` polls it like any other feed.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use chrono::{DateTime, NaiveDate, Utc};

#[cfg(feature = "betfair")]
use super::betfair::{LineOutcome, MarketStream};
use super::odds_api::{OddsFormat, ParsedOdds, find_sport, parse_odds};
use super::racing_api::{self, parse_pages};
use super::recording::{RecordedAnswer, RecordedFeed, Recording, RecordingEntry};
use super::{FeedError, FetchResult};
use oddsd_core::model::{EventsInDoubt, RejectedRows, Scope, Snapshot};

pub struct Replay {
    recording: Recording,
    feed: RecordedFeed,
    #[cfg(feature = "betfair")]
    stream: MarketStream,
    #[cfg(feature = "betfair")]
    is_end_logged: bool,
    /// League of the last answer that named one; an empty answer is taken to be of the same league.
    league: Option<String>,
    /// Read, and not yet replayed.
    ahead: VecDeque<RecordingEntry>,
    /// Rejected since the last record that was replayed.
    rejects: RejectedRows,
    failure: Option<anyhow::Error>,
    ended: bool,
}

/// The result of one record.
#[derive(Debug)]
pub struct ReplayedRecord {
    /// `None` if the record could not be read, or changed neither events nor prices.
    pub snapshot: Option<Snapshot>,
    /// Lines and answers that could not be read, up to and including this record. Rejected rows of a
    /// good answer are in its snapshot.
    pub rejected: RejectedRows,
    /// The raw bodies, as a live feed would have received them.
    pub bodies: Vec<String>,
}

impl Replay {
    /// Opens a recording and detects its feed. Fails if no record of it can be read.
    pub fn open(path: impl AsRef<Path>) -> anyhow::Result<Self> {
        Self::new(Recording::open(path)?)
    }

    /// [`Self::open`] for a recording that is open already.
    pub fn new(recording: Recording) -> anyhow::Result<Self> {
        let mut replay = Self {
            recording,
            feed: RecordedFeed::OddsApi,
            #[cfg(feature = "betfair")]
            stream: MarketStream::default(),
            #[cfg(feature = "betfair")]
            is_end_logged: false,
            league: None,
            ahead: VecDeque::new(),
            rejects: RejectedRows::default(),
            failure: None,
            ended: false,
        };
        replay.feed = match replay.peek() {
            Some(RecordingEntry::Answer(answer)) => answer.feed,
            Some(_) => RecordedFeed::Betfair,
            None => {
                let why = match replay.failure.take() {
                    Some(failure) => failure,
                    None if replay.rejects.is_empty() => anyhow::anyhow!("it is empty"),
                    None => anyhow::anyhow!("rejected: {}", replay.rejects),
                };
                return Err(why).with_context(|| {
                    format!(
                        "{} holds no record of a known shape (The Odds API, The Racing API, the exchange's mcm lines, or what `oddsd record` writes)",
                        replay.recording.name()
                    )
                });
            }
        };
        anyhow::ensure!(
            cfg!(feature = "betfair") || replay.feed != RecordedFeed::Betfair,
            "{} is a recording of the exchange, which needs a build with the feature `betfair`",
            replay.recording.name()
        );
        Ok(replay)
    }

    /// The feed of the first record.
    pub fn feed(&self) -> RecordedFeed {
        self.feed
    }

    /// Changes of last traded prices so far (recordings of the BASIC kind hold nothing else).
    #[cfg(feature = "betfair")]
    pub fn ltp_changes(&self) -> u64 {
        self.stream.ltp_changes()
    }

    /// Recording time of the next record; `None` at the end.
    pub fn next_at(&mut self) -> Option<DateTime<Utc>> {
        match self.peek()? {
            RecordingEntry::Answer(answer) => Some(answer.fetched_at),
            RecordingEntry::Message { at, .. } => *at,
            RecordingEntry::Unreadable { .. } => None,
        }
    }

    /// Replays the next record; `None` at the end. A truncated file is an error once, after all that
    /// could be read, and then the end.
    #[expect(clippy::should_implement_trait, reason = "it can fail")]
    pub fn next(&mut self) -> anyhow::Result<Option<ReplayedRecord>> {
        self.peek();
        let replayed = match self.ahead.pop_front() {
            Some(RecordingEntry::Message { line, .. }) => self.apply_message(line),
            Some(RecordingEntry::Answer(answer)) => self.parse_answer(answer),
            Some(RecordingEntry::Unreadable { .. }) | None => match self.failure.take() {
                Some(failure) => return Err(failure),
                None if self.rejects.is_empty() => {
                    self.log_end();
                    return Ok(None);
                }
                None => (None, Vec::new()),
            },
        };
        let (snapshot, bodies) = replayed;
        Ok(Some(ReplayedRecord {
            snapshot,
            rejected: std::mem::take(&mut self.rejects),
            bodies,
        }))
    }

    /// Says once that an exchange recording held no prices, and what it held instead.
    fn log_end(&mut self) {
        #[cfg(feature = "betfair")]
        if !std::mem::replace(&mut self.is_end_logged, true)
            && self.feed == RecordedFeed::Betfair
            && self.stream.prices_read() == 0
        {
            let fields = self.stream.other_fields().iter();
            let fields: Vec<_> = fields
                .map(|(name, rows)| format!("{rows}× {name}"))
                .collect();
            let held = match fields.is_empty() {
                true => "no prices of any kind for a defined runner".into(),
                false => format!("{}, which are no offers", fields.join(", ")),
            };
            tracing::warn!(
                event = "replay.no_prices",
                held,
                "No price was read: the recording holds {held}"
            );
        }
    }

    /// The next snapshot, as a feed's answer. Records that were rejected on the way are among its rejects.
    pub fn fetch(&mut self) -> Result<FetchResult, FeedError> {
        let mut rejects = RejectedRows::default();
        loop {
            let replayed = self.next();
            let replayed = replayed.map_err(|e| FeedError::BadAnswer(format!("{e:#}")))?;
            let (snapshot, bodies) = match replayed {
                Some(replayed) => {
                    rejects.merge(replayed.rejected);
                    (replayed.snapshot, replayed.bodies)
                }
                None if rejects.is_empty() => return Err(FeedError::Ended),
                // The last lines could not be read: an empty snapshot reports them once.
                None => {
                    let snapshot = Snapshot {
                        source: "".into(),
                        as_of: DateTime::UNIX_EPOCH,
                        scope: Scope::Listed,
                        events: Vec::new(),
                        in_doubt: EventsInDoubt::default(),
                        bookmakers: Vec::new(),
                        rejected: RejectedRows::default(),
                    };
                    (Some(snapshot), Vec::new())
                }
            };
            if let Some(mut snapshot) = snapshot {
                snapshot.rejected.merge(rejects);
                return Ok(FetchResult { snapshot, bodies });
            }
        }
    }

    /// Reads until a record that can be replayed is ahead.
    fn peek(&mut self) -> Option<&RecordingEntry> {
        while self.ahead.is_empty() && !self.ended {
            match self.recording.read_entry() {
                Ok(Some(RecordingEntry::Unreadable { reason, sample })) => {
                    self.rejects.add(reason, sample);
                }
                // The bodies of a recorded exchange answer are `mcm` lines.
                Ok(Some(RecordingEntry::Answer(answer)))
                    if answer.feed == RecordedFeed::Betfair =>
                {
                    let at = Some(answer.fetched_at);
                    let lines = answer.bodies.into_iter();
                    self.ahead
                        .extend(lines.map(|line| RecordingEntry::Message { at, line }));
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

    #[cfg(not(feature = "betfair"))]
    fn apply_message(&mut self, line: String) -> (Option<Snapshot>, Vec<String>) {
        self.rejects
            .add("unsupported_feed", RecordedFeed::Betfair.as_str());
        (None, vec![line])
    }

    #[cfg(feature = "betfair")]
    fn apply_message(&mut self, line: String) -> (Option<Snapshot>, Vec<String>) {
        let snapshot = match self.stream.apply_line(&line) {
            LineOutcome::Snapshot(snapshot) => Some(snapshot),
            LineOutcome::NoChange => None,
            LineOutcome::Rejected(rejects) => {
                self.rejects.merge(rejects);
                None
            }
        };
        (snapshot, vec![line])
    }

    fn parse_answer(&mut self, answer: RecordedAnswer) -> (Option<Snapshot>, Vec<String>) {
        let snapshot = match answer.feed {
            RecordedFeed::OddsApi => self.parse_odds_api(&answer),
            RecordedFeed::RacingApi => parse_racing_api(&answer),
            // `peek` has split it into messages.
            RecordedFeed::Betfair => return (None, answer.bodies),
        };
        let snapshot = snapshot.map_err(|error| self.rejects.add("unusable_answer", error));
        (snapshot.ok(), answer.bodies)
    }

    fn parse_odds_api(&mut self, answer: &RecordedAnswer) -> Result<Snapshot, FeedError> {
        let at = answer.fetched_at;
        let recorded: &[String] = match &answer.scope {
            Some(Scope::League(league)) => std::slice::from_ref(league),
            Some(Scope::Leagues(leagues)) => leagues,
            _ => &[],
        };
        let empty = ["[]".to_owned()];
        let bodies = match answer.bodies.is_empty() {
            true => &empty[..],
            false => &answer.bodies[..],
        };
        // An answer without a readable event is outside the scope, so there may be fewer leagues than bodies.
        let is_each_recorded = recorded.len() == bodies.len();
        let mut all = ParsedOdds::default();
        for (n, body) in bodies.iter().enumerate() {
            let sport = match is_each_recorded {
                true => Some(recorded[n].clone()),
                false => find_sport(body),
            };
            if sport.is_some() {
                self.league = sport;
            }
            let league = self.league.as_deref().unwrap_or_default();
            all.merge(parse_any_format(body, at, league)?);
        }
        let league = self.league.as_deref().unwrap_or_default();
        let mut snapshot = all.into_snapshot(at, league);
        match &answer.scope {
            Some(recorded) => snapshot.scope = recorded.clone(),
            None if league.is_empty() || bodies.len() > 1 => snapshot.scope = Scope::Listed,
            None => {}
        }
        Ok(snapshot)
    }
}

fn parse_racing_api(answer: &RecordedAnswer) -> Result<Snapshot, FeedError> {
    let as_of = answer.fetched_at;
    let found = parse_pages(answer.bodies.iter().map(String::as_str), as_of)?;
    Ok(Snapshot {
        source: Arc::from(racing_api::SOURCE),
        as_of,
        scope: racing_scope(answer, &found),
        events: found.events,
        in_doubt: found.in_doubt,
        bookmakers: found.bookmakers,
        rejected: found.rejected,
    })
}

/// The requested scope, as far as the record answers it: a page that was not modified has no body,
/// and what it would have listed is not gone. With fewer bodies than days or races, the scope is
/// only those that occur.
fn racing_scope(answer: &RecordedAnswer, found: &racing_api::ParsedCards) -> Scope {
    let bodies = answer.bodies.len();
    let events = &found.events;
    let days_found: BTreeSet<NaiveDate> = events.iter().filter_map(|e| e.event.day).collect();
    match answer.scope.clone() {
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

/// A recording does not name the format of its prices. Nearly all prices of an answer are valid in
/// one format and nearly none in the other.
fn parse_any_format(
    body: &str,
    as_of: DateTime<Utc>,
    league: &str,
) -> Result<ParsedOdds, FeedError> {
    let american = parse_odds(body, as_of, league, OddsFormat::American)?;
    if american.rejected.is_empty() {
        return Ok(american);
    }
    let decimal = parse_odds(body, as_of, league, OddsFormat::Decimal)?;
    match decimal.rejected.total() < american.rejected.total() {
        true => Ok(decimal),
        false => Ok(american),
    }
}
