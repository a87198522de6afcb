//! When to look again. The decisions are pure, with `now` as an argument; the waiting is thin:
//! [`Clock`] for the adaptive cadence, [`Ticker`] for a cron line.

mod cadence;
mod clock;
mod cron;
mod plan;
mod retry;
mod ticker;

pub use cadence::{Cadence, Tier, next_poll};
pub use clock::{Clock, Wait};
pub use cron::Cron;
pub use plan::{Due, Plan, Watched};
pub use retry::{Failure, backoff};
pub use ticker::Ticker;
