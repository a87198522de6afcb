//! The world that the stories play in: real servers and stand-ins, all on loopback.

pub mod redis;
pub mod resp;
pub mod upstash;
