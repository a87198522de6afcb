//! Sizes of `oddsd-bench invalidation`. Its sections read them.

use std::time::Duration;

#[derive(Clone, Copy)]
pub struct InvalidationSizes {
    /// Blocks of single inserts of each kind, and inserts of a block.
    pub blocks: usize,
    pub block: usize,
    /// Rows of a bulk statement, and statements of each kind.
    pub bulk: i64,
    pub turns: usize,
    /// Evaluations of the rules in one turn.
    pub changes: usize,
    /// The time for which another session commits, and for which clients report changes.
    pub committing: Duration,
    pub reporting: Duration,
}

pub const FULL: InvalidationSizes = InvalidationSizes {
    blocks: 60,
    block: 200,
    bulk: 1_000_000,
    turns: 5,
    changes: 100_000,
    committing: Duration::from_secs(15),
    reporting: Duration::from_secs(10),
};
/// Verifies all results within seconds; its times mean nothing.
pub const QUICK: InvalidationSizes = InvalidationSizes {
    blocks: 2,
    block: 20,
    bulk: 3_000,
    turns: 1,
    changes: 500,
    committing: Duration::from_millis(200),
    reporting: Duration::from_millis(200),
};
