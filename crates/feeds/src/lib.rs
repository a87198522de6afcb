//! The closed set of feeds, what can be requested of them, and the kinds of failure. The poller, recorders and
//! checks fetch through [`Feed`].
//!
//! A failed response is an error, never an empty snapshot: only a well-formed answer can say "no races today".

#[cfg(feature = "betfair")]
pub mod betfair;
pub mod http;
mod json;
pub mod number;
pub mod odds_api;
pub mod racing_api;
pub mod recording;
pub mod replay;
#[cfg(feature = "simulator")]
pub mod simulator;

use std::time::Duration;

use chrono::{DateTime, Utc};

use odds_api::OddsApi;
use oddsd_core::diff::{CollectingSink, EventSink};
pub use oddsd_core::model::FetchRequest;
use oddsd_core::model::{Snapshot, SnapshotMeta};
use racing_api::RacingApi;
use replay::Replay;
#[cfg(feature = "simulator")]
use simulator::RaceDay;
use strum::IntoStaticStr;
use thiserror::Error;

/// The closed set of feeds.
#[derive(IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Feed {
    RacingApi(Box<RacingApi>),
    OddsApi(Box<OddsApi>),
    #[cfg(feature = "simulator")]
    Simulator(Box<RaceDay>),
    Replay(Box<Replay>),
}

impl Feed {
    /// Fetches once, and hands the events over as they are parsed. After an error the sink drops what was handed
    /// over, because it is not an answer.
    pub async fn read(
        &mut self,
        request: &FetchRequest,
        now: DateTime<Utc>,
        to: &mut dyn EventSink,
    ) -> Result<FetchSummary, FeedError> {
        match self {
            Self::RacingApi(feed) => feed.read(request, now, to).await,
            Self::OddsApi(feed) => feed.read(request, now, to).await,
            #[cfg(feature = "simulator")]
            Self::Simulator(day) => Ok(day.fetch(request, now)?.hand_over(to)),
            // A replay has its next answer, whatever is asked for.
            Self::Replay(replay) => Ok(replay.fetch()?.hand_over(to)),
        }
    }

    /// Fetches into memory: for recorders and checks.
    pub async fn fetch(
        &mut self,
        request: &FetchRequest,
        now: DateTime<Utc>,
    ) -> Result<FetchResult, FeedError> {
        let mut events = CollectingSink::default();
        let summary = self.read(request, now, &mut events).await?;
        Ok(summary.with_events(events))
    }

    /// The name in logs and in the table of cycles.
    pub fn name(&self) -> &'static str {
        self.into()
    }

    /// Whether the last answer to [`FetchRequest::Everything`] covered all that this feed is ever asked for.
    pub fn covered_everything(&self) -> bool {
        match self {
            Self::RacingApi(_) => true,
            Self::OddsApi(feed) => feed.covered_everything(),
            #[cfg(feature = "simulator")]
            Self::Simulator(_) => true,
            Self::Replay(_) => false,
        }
    }

    /// Whether a part of the last answer failed, and the rest was used.
    pub fn failed_in_part(&self) -> bool {
        matches!(self, Self::OddsApi(feed) if !feed.failed_sports().is_empty())
    }

    /// True if the provider has a call for one event that costs less than the whole answer.
    pub fn has_single_event_calls(&self) -> bool {
        !matches!(self, Self::OddsApi(_) | Self::Replay(_))
    }
}

/// One answer apart from its events, which were handed over.
#[derive(Debug)]
pub struct FetchSummary {
    pub meta: SnapshotMeta,
    /// Raw JSON bodies in the order of arrival, if the feed is set to keep them.
    pub bodies: Vec<String>,
}

impl FetchSummary {
    /// Joins the collected events.
    pub fn with_events(self, events: CollectingSink) -> FetchResult {
        FetchResult {
            snapshot: events.into_snapshot(self.meta),
            bodies: self.bodies,
        }
    }
}

/// One parsed answer, with the bodies it was parsed from (for `oddsd record`).
#[derive(Debug)]
pub struct FetchResult {
    pub snapshot: Snapshot,
    /// See [`FetchSummary::bodies`].
    pub bodies: Vec<String>,
}

impl FetchResult {
    fn hand_over(self, to: &mut dyn EventSink) -> FetchSummary {
        let snapshot = self.snapshot;
        to.start(snapshot.as_of);
        for event in snapshot.events {
            to.push(event, None);
        }
        FetchSummary {
            meta: SnapshotMeta {
                source: snapshot.source,
                as_of: snapshot.as_of,
                scope: snapshot.scope,
                in_doubt: snapshot.in_doubt,
                bookmakers: snapshot.bookmakers,
                rejected: snapshot.rejected,
            },
            bodies: self.bodies,
        }
    }
}

/// Why there is no answer: one variant for each reaction. The text names the provider and its response, the rest
/// of the message is the next step.
#[derive(Clone, Debug, PartialEq, Eq, Error, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum FeedError {
    /// 401 or 403: the credentials or the plan are wrong. A fast retry does not help.
    #[error("credentials refused: {0}")]
    Unauthorized(String),
    /// 422 or another 4xx: the provider does not accept the request.
    #[error("request refused: {0}; check the feed's settings")]
    BadRequest(String),
    /// 404: the provider does not know the event, or has no card for any day that was asked for.
    #[error("not found: {0}; it left the card, or the base URL is wrong")]
    NotFound(String),
    /// 429, 503 with `Retry-After`, or the paid quota is spent.
    #[error("rate limited: {detail}; ask again {}, or lower the request rate", describe_wait(*.retry_after))]
    RateLimited {
        retry_after: Option<Duration>,
        detail: String,
    },
    /// 5xx.
    #[error("the provider failed: {0}; ask again later")]
    ServerError(String),
    /// Connection refused, name not found, timeout, connection reset.
    #[error("no answer: {0}; check the network and the base URL")]
    Unreachable(String),
    /// Not the documented content: HTML, truncated JSON, wrong shape.
    #[error("unusable answer: {0}; stored prices stay as they are")]
    BadAnswer(String),
    /// A body above the limit, compressed or not.
    #[error("answer too large: {0}; ask for smaller pages or fewer regions")]
    TooLarge(String),
    #[error("the recording has come to its end")]
    Ended,
}

impl FeedError {
    /// True if a second attempt may succeed without a change of settings: the failures that a busy provider, a
    /// lost connection or a proxy causes for a moment.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::RateLimited { .. }
            | Self::ServerError(_)
            | Self::Unreachable(_)
            | Self::BadAnswer(_)
            | Self::TooLarge(_) => true,
            Self::Unauthorized(_) | Self::BadRequest(_) | Self::NotFound(_) | Self::Ended => false,
        }
    }

    /// The label in logs and metrics.
    pub fn outcome(&self) -> &'static str {
        self.into()
    }
}

fn describe_wait(retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(wait) => format!("in {} s", wait.as_secs()),
        None => "later".into(),
    }
}
