//! The world that stories happen in: real servers on loopback, and stand-ins for what lies outside.

pub mod command;
pub mod daemon;
pub mod odds_provider;
pub mod postgres;
pub mod proxy;
pub mod racing_provider;
pub mod recordings;
pub mod redis;
pub mod resp;
pub mod taker;
pub mod upstash;
