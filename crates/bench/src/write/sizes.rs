//! Sizes of `oddsd-bench write`. Its sections read them.

use std::time::Duration;

#[derive(Clone, Copy)]
pub struct WriteSizes {
    /// Prices of a real day.
    pub day: usize,
    /// Prices of the largest state.
    pub large: usize,
    pub runs: usize,
    /// Added to each round trip to the remote database.
    pub delay: Duration,
}

pub const FULL: WriteSizes = WriteSizes {
    day: 12_000,
    large: 1_000_000,
    runs: 7,
    delay: Duration::from_millis(20),
};
/// Verifies all results within seconds; its times mean nothing.
pub const QUICK: WriteSizes = WriteSizes {
    day: 600,
    large: 3_000,
    runs: 2,
    delay: Duration::from_millis(2),
};
