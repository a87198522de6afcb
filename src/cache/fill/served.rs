//! What a loader brings, and what a reader gets.

use std::sync::Arc;
use std::time::Duration;

use super::super::Bytes;
use super::super::entry::Entry;
use crate::model::View;

/// What a loader brought, and what the database had shown it, at least: a view taken before the data, or
/// in the same statement, never after.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub body: Bytes,
    pub view: View,
    /// There is none: kept for a short time only.
    pub absent: bool,
    /// Shorter than the policy says, where the answer itself knows its end. Zero: not kept.
    pub fresh: Option<Duration>,
}

impl Loaded {
    pub fn new(body: impl Into<Bytes>, view: View) -> Self {
        Self {
            body: body.into(),
            view,
            absent: false,
            fresh: None,
        }
    }

    pub fn absent(view: View) -> Self {
        Self {
            absent: true,
            ..Self::new(Bytes::new(), view)
        }
    }
}

#[derive(Clone, Debug)]
pub struct Served {
    pub entry: Arc<Entry>,
    pub state: ReadState,
    pub level: Level,
}

impl Served {
    pub fn body(&self) -> &Bytes {
        &self.entry.body
    }

    /// How long it may still be served as fresh, now.
    pub fn remaining(&self) -> Duration {
        self.entry.fresh.saturating_sub(self.age())
    }

    pub fn age(&self) -> Duration {
        self.entry.age(std::time::Instant::now())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadState {
    /// From the cache, and fresh.
    Hit,
    /// From the cache, past its time, as the policy allows: while it is renewed, or because renewing
    /// failed.
    Stale,
    /// Loaded: the cache was asked and had nothing.
    Miss,
    /// Loaded: the cache is off, did not answer, or nobody vouches for its memory.
    Bypass,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// This process's memory.
    First,
    /// The remote cache.
    Second,
    Loader,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum ReadError {
    /// The loader's own words.
    Failed(Arc<anyhow::Error>),
    Panicked,
    TookTooLong(Duration),
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(why) => write!(f, "{why:#}"),
            Self::Panicked => f.write_str("the loader panicked; its own message is in the log"),
            Self::TookTooLong(limit) => {
                write!(
                    f,
                    "the loader had no answer within {} ms",
                    limit.as_millis()
                )
            }
        }
    }
}

impl std::error::Error for ReadError {}
