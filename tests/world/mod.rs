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

/// Polls until the answer is there, with a pause between the polls, for at most 30 s.
#[track_caller]
pub fn poll_until<T>(
    condition: &str,
    poll: impl AsyncFn() -> Option<T>,
) -> impl Future<Output = T> {
    const PAUSE: Duration = Duration::from_millis(20);
    const LIMIT: Duration = Duration::from_secs(30);
    let caller = std::panic::Location::caller();
    async move {
        let polling = async {
            loop {
                if let Some(found) = poll().await {
                    return found;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let polled = tokio::time::timeout(LIMIT, polling).await;
        polled.unwrap_or_else(|_| panic!("{caller}: not within 30 s: {condition}"))
    }
}
