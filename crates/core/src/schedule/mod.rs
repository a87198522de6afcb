//! When the feed is polled next, as pure decisions that take `now` as an argument. The poller, the relay and the
//! settings call them; `clock` does the waiting.

mod backoff;
mod cadence;
mod cron;
mod plan;
mod scheduler;

pub use backoff::{Backoff, FailureKind};
pub use cadence::{Cadence, next_poll};
pub use cron::{Cron, CronTicks};
pub use plan::{DuePoll, PollPlanner, TrackedRace};
pub use scheduler::{ClockReading, NextPoll, PollRule, PollScheduler};
