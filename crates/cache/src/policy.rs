//! How long an answer may be served, and under which conditions. Callers of `Reader` pass a policy for each
//! key.

use std::time::Duration;

use oddsd_core::key::Tag;

/// How one answer is cached. Start with `Policy::fresh_for` and change what differs.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Served as a hit for this long after its load (soft time to live).
    pub fresh: Duration,
    /// Then, for this much longer, served as stale while one load renews it. Zero: never.
    pub while_revalidating: Duration,
    /// After `fresh`, for this long, served as stale when the load that should renew it fails.
    pub on_error: Duration,
    /// How long the answer "there is none" is kept.
    pub absent: Duration,
    /// Each time to live is cut at random by up to this share, so that entries made together do not
    /// end together; 0 to 0.5.
    pub jitter: f64,
    /// Renews a hit early, more likely the nearer its end and the longer its load took (XFetch, Vattani,
    /// Chierichetti and Lowenstein, 2015); 1 is their recommendation, 0 is never.
    pub early: f64,
    /// Bodies from this size in bytes on are compressed.
    pub compress_from: usize,
    /// A load that takes longer has failed.
    pub load_within: Duration,
    /// How long to wait for another process that loads the same key before loading, too.
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

    /// Serves stale answers for this long after `fresh`, while one load renews them.
    pub fn while_revalidating(mut self, longer: Duration) -> Self {
        self.while_revalidating = longer;
        self
    }

    /// Serves stale answers for this long after `fresh` when the load fails.
    pub fn on_error(mut self, longer: Duration) -> Self {
        self.on_error = longer;
        self
    }

    /// Removing one of these tags removes the answer.
    pub fn tagged(mut self, tags: impl IntoIterator<Item = Tag>) -> Self {
        self.tags = tags.into_iter().collect();
        self
    }
}
