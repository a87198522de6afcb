//! Private servers on loopback, stand-ins for providers, a fault proxy, and the waits around them.
//! The integration tests and the benches use it; it does not depend on the daemon, so a change of the
//! daemon does not rebuild it.

pub mod lines;
pub mod log;
pub mod mutate;
pub mod odds_provider;
pub mod pipe;
pub mod ports;
pub mod postgres;
pub mod proxy;
pub mod racing_provider;
pub mod recordings;
pub mod redis;
pub mod resp;
pub mod upstash;
pub mod wait;

pub use wait::{WAIT_LIMIT, eventually, within};

/// The seed of randomized tests: `ODDSD_TEST_SEED`, which `./test` fixes.
pub fn seed() -> u64 {
    let seed = std::env::var("ODDSD_TEST_SEED").ok();
    seed.and_then(|seed| seed.parse().ok()).unwrap_or(1)
}
