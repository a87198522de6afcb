//! Sizes of the speed measures of `oddsd-bench freshness`. Its sections read them.

use std::time::Duration;

#[derive(Clone, Copy)]
pub struct SpeedSizes {
    /// The time for which changes are committed, at each rate.
    pub changing: Duration,
    /// Reads of one turn, from L1 and from Redis.
    pub l1_reads: u32,
    pub redis_reads: u32,
    /// Turns after one that warms up; with none, that one counts.
    pub turns: usize,
    pub readers: usize,
    pub tagged: usize,
    /// Prices of a cycle, and cycles of one turn.
    pub day: usize,
    pub cycles: usize,
    /// Added to each round trip to a slow cache.
    pub delay: Duration,
    /// Outbox rows that wait after the outage.
    pub pending: i64,
}

pub const FULL: SpeedSizes = SpeedSizes {
    changing: Duration::from_secs(20),
    l1_reads: 500_000,
    redis_reads: 1_000,
    turns: 21,
    readers: 1_000,
    tagged: 500_000,
    day: 12_000,
    cycles: 5,
    delay: Duration::from_millis(100),
    pending: 1_000_000,
};
/// Verifies all results within seconds; its times mean nothing.
pub const QUICK: SpeedSizes = SpeedSizes {
    changing: Duration::from_millis(200),
    l1_reads: 2_000,
    redis_reads: 50,
    turns: 0,
    readers: 100,
    tagged: 5_000,
    day: 600,
    cycles: 1,
    delay: Duration::from_millis(5),
    pending: 20_000,
};
