//! The world that stories happen in: real servers on loopback, and stand-ins for what lies outside.

use std::time::Duration;

pub mod command;
pub mod daemon;
pub mod log;
pub mod odds_provider;
pub mod ports;
pub mod postgres;
pub mod proxy;
pub mod racing_provider;
pub mod recordings;
pub mod redis;
pub mod resp;
pub mod taker;
pub mod upstash;

/// Before a story gives up. Only a broken one ever takes it, however loaded the machine is.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Polls `probe` with a pause until it returns `Ok`. Panics with the last `Err` after 30 s.
#[track_caller]
pub fn eventually<T, S: std::fmt::Debug>(
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<T, S>,
) -> impl Future<Output = T> {
    const PAUSE: Duration = Duration::from_millis(20);
    const LIMIT: Duration = Duration::from_secs(30);
    let caller = std::panic::Location::caller();
    async move {
        let limit = tokio::time::Instant::now() + LIMIT;
        loop {
            match probe().await {
                Ok(value) => return value,
                Err(state) if tokio::time::Instant::now() > limit => {
                    panic!("{caller}: waited for {what}; last state: {state:?}")
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}
