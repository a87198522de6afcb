//! The door to whoever knows the odds: the closed set of feeds, what can be asked of them, and
//! the kinds of failure. A failed answer is an error here, never an empty snapshot: "no races
//! today" is something only a well-formed answer can say.

pub mod betfair;
pub mod number;
pub mod odds_api;
pub mod recording;
pub mod replay;

use std::time::Duration;

use crate::model::{EventId, Snapshot};

/// What to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The feed's whole scope: every polled day, or the whole league.
    Everything,
    /// Only these events, where the provider has a call for one event.
    Events(Vec<EventId>),
}

/// One answer, parsed, with the bodies it was read from (for `oddsd record`).
#[derive(Debug)]
pub struct Fetched {
    pub snapshot: Snapshot,
    /// Raw JSON bodies, in the order in which they arrived.
    pub bodies: Vec<String>,
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
