//! What stories stand on: stand-ins for the systems outside, and ways to wait for real conditions.

pub mod racing_provider;
