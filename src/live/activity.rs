//! The closed set of things worth telling: what happened, with the values that a watcher shows.

use rust_decimal::Decimal;
use serde::{Serialize, Serializer};

use crate::key::Key;
use crate::model::{BookmakerId, Counts, EventId, EventStatus, SelectionId, StatusSource};

/// On the wire, `activity` is the name that the log line carries in `event`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "activity")]
pub enum Activity {
    #[serde(rename = "daemon.started")]
    Started {
        version: &'static str,
        feed: String,
        store: String,
        cache: String,
    },
    #[serde(rename = "daemon.stopped")]
    Stopped { reason: String },
    /// Once a cycle, also when nothing changed.
    #[serde(rename = "cycle.complete")]
    CycleComplete {
        cycle: u64,
        #[serde(flatten)]
        counts: Counts,
        /// Rows of events and selections written: going, jockey, off time, status.
        facts: u64,
        races: u64,
        horses: u64,
        bookmakers: u64,
        errors: u64,
        fetch_ms: u64,
        diff_ms: u64,
        write_ms: u64,
        /// Seconds until the next look.
        next_s: u64,
    },
    #[serde(rename = "cycle.fetch_failed")]
    FetchFailed {
        cycle: u64,
        feed: String,
        /// `unauthorized`, `rate_limited`, `server_error`, …
        failure: &'static str,
        /// Retrying alone will not cure it: logged as an error.
        needs_person: bool,
        attempt: u32,
        retry_ms: u64,
        error: String,
    },
    #[serde(rename = "cycle.store_failed")]
    StoreFailed {
        cycle: u64,
        attempt: u32,
        retry_ms: u64,
        error: String,
    },
    /// An answer that would have closed too many open prices was not believed yet.
    #[serde(rename = "cycle.removals_refused")]
    RefusedRemovals {
        cycle: u64,
        /// Open prices that the answer left out, of how many.
        removals: u64,
        open: u64,
    },
    /// A confirmed removal.
    #[serde(rename = "cache.invalidated")]
    Invalidated {
        /// `None`: a person or another program asked for it.
        cycle: Option<u64>,
        rule: String,
        backend: &'static str,
        #[serde(serialize_with = "key_texts")]
        keys: Vec<Key>,
        /// Tags and patterns.
        tags: Vec<String>,
        /// `PRICE_CHANGE`, `STATUS_CHANGE`, `EVENT_CHANGE`, `MANUAL`.
        reason: &'static str,
        /// 1 when the first try succeeded.
        attempts: u32,
        took_ms: u64,
        /// Who asked, where a person did.
        actor: Option<String>,
    },
    #[serde(rename = "cache.invalidate_failed")]
    InvalidateFailed {
        cycle: Option<u64>,
        backend: &'static str,
        keys: u64,
        attempt: u32,
        retry_ms: u64,
        /// The longest that a reader may be served the old answer: its time to live.
        stale_s: u64,
        error: String,
    },
    #[serde(rename = "cache.read")]
    Read {
        #[serde(serialize_with = "key_text")]
        key: Key,
        state: ReadState,
        took_ms: u64,
        /// The cycle whose data was served, where it is known.
        cycle: Option<u64>,
    },
    #[serde(rename = "price.moved")]
    PriceMoved {
        cycle: u64,
        event: EventId,
        selection: SelectionId,
        bookmaker: BookmakerId,
        /// `None`: there was no open price before.
        from: Option<Decimal>,
        /// `None`: withdrawn.
        to: Option<Decimal>,
        /// By how much, in percent of what it was; `None` for a change of state.
        percent: Option<Decimal>,
        /// By more than a tenth, or to another state.
        significant: bool,
    },
    /// Known events came to another status.
    #[serde(rename = "status.changed")]
    StatusChanged {
        cycle: u64,
        status: EventStatus,
        #[serde(serialize_with = "source_text")]
        by: StatusSource,
        events: u64,
    },
    /// This daemon holds the lease and works.
    #[serde(rename = "lease.leading")]
    Leading { holder: String, fence: u64 },
    /// Another daemon holds the lease; this one waits.
    #[serde(rename = "lease.standby")]
    StandingBy { holder: String },
}

/// How a read was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadState {
    Hit,
    /// From the cache past its time, while it is renewed or because that failed.
    Stale,
    /// Read from the store and, where it was still right, put into the cache.
    Miss,
    /// Read from the store past the cache: it is down, switched off, or the reader asked for it.
    Bypass,
}

impl ReadState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }
}

impl Activity {
    /// The documented event name (see [`super::LINES`]).
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "daemon.started",
            Self::Stopped { .. } => "daemon.stopped",
            Self::CycleComplete { .. } => "cycle.complete",
            Self::FetchFailed { .. } => "cycle.fetch_failed",
            Self::StoreFailed { .. } => "cycle.store_failed",
            Self::RefusedRemovals { .. } => "cycle.removals_refused",
            Self::Invalidated { .. } => "cache.invalidated",
            Self::InvalidateFailed { .. } => "cache.invalidate_failed",
            Self::Read { .. } => "cache.read",
            Self::PriceMoved { .. } => "price.moved",
            Self::StatusChanged { .. } => "status.changed",
            Self::Leading { .. } => "lease.leading",
            Self::StandingBy { .. } => "lease.standby",
        }
    }

    /// Why it failed, where it is a failure: equal ones share a log line.
    pub(super) fn error(&self) -> Option<&str> {
        match self {
            Self::FetchFailed { error, .. }
            | Self::StoreFailed { error, .. }
            | Self::InvalidateFailed { error, .. } => Some(error),
            _ => None,
        }
    }

    /// The failures that this success ends.
    pub(super) fn settles(&self) -> &'static [&'static str] {
        match self {
            Self::CycleComplete { .. } => &["cycle.fetch_failed", "cycle.store_failed"],
            Self::Invalidated { .. } => &["cache.invalidate_failed"],
            Self::Stopped { .. } => &[
                "cycle.fetch_failed",
                "cycle.store_failed",
                "cache.invalidate_failed",
            ],
            _ => &[],
        }
    }
}

fn source_text<S: Serializer>(source: &StatusSource, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(source.as_str())
}

fn key_text<S: Serializer>(key: &Key, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(key.as_str())
}

fn key_texts<S: Serializer>(keys: &[Key], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(keys.iter().map(Key::as_str))
}
