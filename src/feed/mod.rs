//! The door to whoever knows the odds: the closed set of feeds, what can be asked of them, and
//! the kinds of failure. A failed answer is an error here, never an empty snapshot: "no races
//! today" is something only a well-formed answer can say.

pub mod betfair;
mod cursor;
pub mod http;
pub mod number;
pub mod odds_api;
pub mod racing_api;
pub mod recording;
pub mod replay;
pub mod simulator;
pub mod slices;

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::diff::{Collected, Take};
use crate::model::{EventId, Look, Snapshot};
use odds_api::OddsApi;
use racing_api::RacingApi;
use replay::Replay;
use simulator::Simulator;

/// The closed set of feeds.
pub enum Feed {
    RacingApi(Box<RacingApi>),
    OddsApi(Box<OddsApi>),
    Simulator(Box<Simulator>),
    Replay(Box<Replay>),
}

impl Feed {
    /// One look, whose events are handed over as they are read. After an error, what was handed
    /// over is not an answer: the taker drops it.
    pub async fn read(
        &mut self,
        ask: &Ask,
        now: DateTime<Utc>,
        to: &mut dyn Take,
    ) -> Result<Looked, FeedError> {
        match self {
            Self::RacingApi(feed) => feed.read(ask, now, to).await,
            Self::OddsApi(feed) => feed.read(ask, now, to).await,
            Self::Simulator(feed) => feed.read(ask, now, to).await,
            Self::Replay(feed) => feed.read(ask, now, to).await,
        }
    }

    /// One look, in memory: for recorders and checks.
    pub async fn fetch(&mut self, ask: &Ask, now: DateTime<Utc>) -> Result<Fetched, FeedError> {
        let mut events = Collected::default();
        let looked = self.read(ask, now, &mut events).await?;
        Ok(looked.with(events))
    }

    /// As it stands in logs and in the cycles' table.
    pub fn name(&self) -> &'static str {
        match self {
            Self::RacingApi(_) => "racing_api",
            Self::OddsApi(_) => "odds_api",
            Self::Simulator(_) => "simulator",
            Self::Replay(_) => "replay",
        }
    }

    /// Whether one event can be asked for alone without paying for the rest.
    pub fn has_one_race_calls(&self) -> bool {
        matches!(self, Self::RacingApi(_) | Self::Simulator(_))
    }
}

/// What to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The feed's whole scope: every polled day, or the whole league.
    Everything,
    /// Only these events, where the provider has a call for one event.
    Events(Vec<EventId>),
}

/// One answer, whose events have been handed over.
#[derive(Debug)]
pub struct Looked {
    pub look: Look,
    /// Raw JSON bodies, in the order in which they arrived, where they are kept.
    pub bodies: Vec<String>,
}

impl Looked {
    /// Together with its events.
    pub fn with(self, events: Collected) -> Fetched {
        Fetched {
            snapshot: events.into_snapshot(self.look),
            bodies: self.bodies,
        }
    }
}

/// One answer, parsed, with the bodies it was read from (for `oddsd record`).
#[derive(Debug)]
pub struct Fetched {
    pub snapshot: Snapshot,
    /// See [`Looked::bodies`].
    pub bodies: Vec<String>,
}

impl Fetched {
    fn hand_over(self, to: &mut dyn Take) -> Looked {
        let snapshot = self.snapshot;
        to.begin(snapshot.as_of);
        for event in snapshot.events {
            to.take(event, None);
        }
        Looked {
            look: Look {
                source: snapshot.source,
                as_of: snapshot.as_of,
                scope: snapshot.scope,
                bookmakers: snapshot.bookmakers,
                rejects: snapshot.rejects,
            },
            bodies: self.bodies,
        }
    }
}

/// Why there is no answer. One variant for each way in which somebody reacts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedError {
    /// 401 or 403: the credentials or the plan are wrong. Retrying fast does not help.
    Unauthorized { detail: String },
    /// 422 or another 4xx: we asked for something that this provider does not take.
    BadRequest { detail: String },
    /// 404 on one event: the provider no longer knows it.
    NotFound { detail: String },
    /// 429, or the paid quota is spent.
    RateLimited {
        retry_after: Option<Duration>,
        detail: String,
    },
    /// 5xx.
    ServerError { status: u16, detail: String },
    /// Connection refused, name not found, timeout, connection reset.
    Unreachable { detail: String },
    /// An answer that is not what the provider documents: HTML, truncated JSON, wrong shape.
    BadAnswer { detail: String },
    /// A body larger than the limit, compressed or not.
    TooLarge { detail: String },
    /// A recording has come to its end.
    Ended,
}

impl FeedError {
    /// A second try may help although nobody changed anything: what a busy provider, a lost
    /// connection or a proxy in between does for a moment.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::RateLimited { .. }
            | Self::ServerError { .. }
            | Self::Unreachable { .. }
            | Self::BadAnswer { .. }
            | Self::TooLarge { .. } => true,
            Self::Unauthorized { .. }
            | Self::BadRequest { .. }
            | Self::NotFound { .. }
            | Self::Ended => false,
        }
    }

    /// The label in logs and metrics.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Unauthorized { .. } => "unauthorized",
            Self::BadRequest { .. } => "bad_request",
            Self::NotFound { .. } => "not_found",
            Self::RateLimited { .. } => "rate_limited",
            Self::ServerError { .. } => "server_error",
            Self::Unreachable { .. } => "unreachable",
            Self::BadAnswer { .. } => "bad_answer",
            Self::TooLarge { .. } => "too_large",
            Self::Ended => "ended",
        }
    }
}

/// One sentence: `detail` says who was asked and what came back, the rest what to do about it.
impl fmt::Display for FeedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unauthorized { detail } => write!(f, "credentials refused: {detail}"),
            Self::BadRequest { detail } => {
                write!(f, "request refused: {detail}; check the feed's settings")
            }
            Self::NotFound { detail } => write!(
                f,
                "not found: {detail}; it left the card, or the base URL is wrong"
            ),
            Self::RateLimited {
                retry_after: Some(wait),
                detail,
            } => write!(
                f,
                "rate limited: {detail}; ask again in {} s, or lower the request rate",
                wait.as_secs()
            ),
            Self::RateLimited { detail, .. } => write!(
                f,
                "rate limited: {detail}; ask again later, or lower the request rate"
            ),
            Self::ServerError { detail, .. } => {
                write!(f, "the provider failed: {detail}; ask again later")
            }
            Self::Unreachable { detail } => {
                write!(f, "no answer: {detail}; check the network and the base URL")
            }
            Self::BadAnswer { detail } => {
                write!(
                    f,
                    "unusable answer: {detail}; stored prices stay as they are"
                )
            }
            Self::TooLarge { detail } => {
                write!(
                    f,
                    "answer too large: {detail}; ask for smaller pages or fewer regions"
                )
            }
            Self::Ended => f.write_str("the recording has come to its end"),
        }
    }
}

impl std::error::Error for FeedError {}
