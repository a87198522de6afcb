//! The world that stories happen in: real servers on loopback, and stand-ins for what lies outside.

pub mod postgres;
pub mod proxy;
