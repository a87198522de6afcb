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
