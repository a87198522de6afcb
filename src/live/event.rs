//! The closed set of events that the daemon publishes, each with the values that its log line and its
//! subscribers show. The loops and the read API construct them; [`super::EventBus::publish`] takes them.

use rust_decimal::Decimal;

use oddsd_cache::CacheReadState;
use oddsd_core::key::Key;
use oddsd_core::model::{
    BookmakerId, CycleCounts, EventId, EventStatus, SelectionId, StatusSource,
};

/// Something that the daemon did.
#[derive(Clone, Debug, PartialEq)]
pub enum DaemonEvent {
    Started {
        version: &'static str,
        feed: String,
        store: String,
        cache: String,
    },
    Stopped {
        reason: String,
    },
    /// Published once a cycle, also when nothing changed.
    CycleComplete {
        cycle: u64,
        counts: CycleCounts,
        /// Rows of events and selections that were written: going, jockey, start time, status.
        facts: u64,
        races: u64,
        horses: u64,
        bookmakers: u64,
        errors: u64,
        fetch_ms: u64,
        diff_ms: u64,
        write_ms: u64,
        /// Seconds until the next poll.
        next_s: u64,
    },
    FetchFailed {
        cycle: u64,
        feed: String,
        /// `unauthorized`, `rate_limited`, `server_error`, …
        failure: &'static str,
        /// A retry alone cannot succeed (wrong credentials or settings), so it is logged as an error.
        needs_operator: bool,
        attempt: u32,
        retry_ms: u64,
        error: String,
    },
    StoreFailed {
        cycle: u64,
        attempt: u32,
        retry_ms: u64,
        error: String,
    },
    /// An answer left out so many open prices that they stay open until a second answer agrees.
    RefusedRemovals {
        cycle: u64,
        /// Open prices that the answer left out.
        removals: u64,
        /// Open prices in all.
        open: u64,
    },
    /// The cache confirmed a removal.
    Invalidated {
        /// `None` if an operator or another program requested the removal.
        cycle: Option<u64>,
        rule: String,
        backend: &'static str,
        keys: Vec<Key>,
        /// Tags and patterns.
        tags: Vec<String>,
        /// `PRICE_CHANGE`, `STATUS_CHANGE`, `EVENT_CHANGE`, `MANUAL`.
        reason: &'static str,
        /// 1 if the first attempt succeeded.
        attempts: u32,
        took_ms: u64,
        /// Lines in the removal log: one for each change and reason.
        removals: u64,
        /// Cached answers that existed under the keys.
        deleted: u64,
    },
    InvalidateFailed {
        cycle: Option<u64>,
        backend: &'static str,
        keys: u64,
        attempt: u32,
        retry_ms: u64,
        /// The longest time for which readers may get the old answer: its time to live.
        stale_s: u64,
        error: String,
    },
    Read {
        key: Key,
        state: CacheReadState,
        took_ms: u64,
    },
    PriceMoved {
        cycle: u64,
        event: EventId,
        selection: SelectionId,
        bookmaker: BookmakerId,
        /// `None` if there was no open price before.
        from: Option<Decimal>,
        /// `None` if the price was withdrawn.
        to: Option<Decimal>,
        /// The change in percent of the old price; `None` for a change of state.
        percent: Option<Decimal>,
        /// The price changed by more than a tenth, or to another state.
        significant: bool,
    },
    /// A request could not be answered, because the database failed.
    RequestFailed {
        error: String,
    },
    /// A connection could not be accepted.
    AcceptFailed {
        error: String,
    },
    /// A rule's target could not be formatted for a change; the change's other targets were removed.
    TargetFailed {
        /// The version of the rules.
        version: String,
        error: String,
    },
    /// Stored events got another status.
    StatusChanged {
        cycle: u64,
        status: EventStatus,
        by: StatusSource,
        events: u64,
    },
    /// This daemon acquired the leader lease.
    Leading {
        holder: String,
        fence: u64,
    },
    /// Another daemon holds the leader lease; this one waits for it.
    Standby {
        holder: String,
    },
}

/// How a read was answered, as log lines and headers name it.
pub fn read_state_name(state: CacheReadState) -> &'static str {
    match state {
        CacheReadState::Hit => "hit",
        CacheReadState::Stale => "stale",
        CacheReadState::Miss => "miss",
        CacheReadState::Bypass => "bypass",
    }
}

impl DaemonEvent {
    /// The event name, documented in [`crate::log::LOG_EVENTS`].
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
            Self::RequestFailed { .. } => "http.store_failed",
            Self::AcceptFailed { .. } => "http.accept_failed",
            Self::TargetFailed { .. } => "rules.target_failed",
            Self::StatusChanged { .. } => "status.changed",
            Self::Leading { .. } => "lease.leading",
            Self::Standby { .. } => "lease.standby",
        }
    }

    /// The error text of a failure. Failures with equal name and text share a log line.
    pub(super) fn error(&self) -> Option<&str> {
        match self {
            Self::FetchFailed { error, .. }
            | Self::StoreFailed { error, .. }
            | Self::InvalidateFailed { error, .. }
            | Self::RequestFailed { error }
            | Self::AcceptFailed { error }
            | Self::TargetFailed { error, .. } => Some(error),
            _ => None,
        }
    }

    /// Names of the failures that this success ends.
    pub(super) fn ended_failures(&self) -> &'static [&'static str] {
        match self {
            Self::CycleComplete { .. } => &["cycle.fetch_failed", "cycle.store_failed"],
            Self::Invalidated { .. } => &["cache.invalidate_failed"],
            Self::Stopped { .. } => &[
                "cycle.fetch_failed",
                "cycle.store_failed",
                "cache.invalidate_failed",
                "http.store_failed",
                "http.accept_failed",
                "rules.target_failed",
            ],
            _ => &[],
        }
    }

    /// Names of the failures that end when they have not occurred for a while, because no single success ends them: other
    /// requests may fail still. Cycles are the occasion to look.
    pub(super) fn fading_failures(&self) -> &'static [&'static str] {
        match self {
            Self::CycleComplete { .. } => &[
                "http.store_failed",
                "http.accept_failed",
                "rules.target_failed",
            ],
            _ => &[],
        }
    }
}
