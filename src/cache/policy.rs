//! How long an answer may be served, and under which circumstances.

use std::time::Duration;

use crate::key::Tag;

/// What a reader asks of one cached answer. `Policy::fresh_for` and what differs from it.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Served as a hit for this long after its load (soft time to live).
    pub fresh: Duration,
    /// Then, for this much longer, served as stale while one load renews it.
    pub while_revalidating: Duration,
    /// After `fresh`, for this long, served as stale when the load that should renew it fails.
    pub on_error: Duration,
    /// How long "there is none" is kept.
    pub absent: Duration,
    /// Each time to live is cut at random by up to this share, so that entries made together do not
    /// end together; 0 to 0.5.
    pub jitter: f64,
    /// Renews a hit early, the likelier the nearer its end and the longer its load took (XFetch, Vattani,
    /// Chierichetti and Lowenstein, 2015); 1 is their recommendation, 0 is never.
    pub early: f64,
    /// Bodies from this size in bytes on are compressed.
    pub compress_from: usize,
    /// A load that takes longer has failed.
    pub load_within: Duration,
    /// How long to wait for another process that loads the same before loading, too.
    pub wait_for_others: Duration,
    /// Removing one of these removes the answer.
    pub tags: Vec<Tag>,
}

impl Policy {
    /// Served for `fresh`, and never after.
    pub fn fresh_for(fresh: Duration) -> Self {
        Self {
            fresh,
            while_revalidating: Duration::ZERO,
            on_error: Duration::ZERO,
            absent: fresh.min(Duration::from_secs(5)),
            jitter: 0.1,
            early: 1.0,
            compress_from: 16 * 1024,
            load_within: Duration::from_secs(10),
            wait_for_others: Duration::from_secs(2),
            tags: Vec::new(),
        }
    }

    pub fn while_revalidating(self, longer: Duration) -> Self {
        Self {
            while_revalidating: longer,
            ..self
        }
    }

    pub fn on_error(self, longer: Duration) -> Self {
        Self {
            on_error: longer,
            ..self
        }
    }

    pub fn tagged(self, tags: impl IntoIterator<Item = Tag>) -> Self {
        Self {
            tags: tags.into_iter().collect(),
            ..self
        }
    }
}
