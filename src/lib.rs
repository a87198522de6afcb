//! oddsd keeps an odds database, and every cache in front of it, as fresh as the feed.
//!
//! A map of the modules, from the commands down. Imports go down, never sideways and never up:
//! `ARCHITECTURE.md` follows one price change through them, `tests/source_rules.rs` checks the imports.

// 6  commands
pub mod cli;
// 5  builds and runs the daemon
pub mod app;
// 4  API and settings
pub mod config;
pub mod http;
// 3  services: each a loop around one public step
pub mod audit;
pub mod leader;
pub mod poller;
pub mod relay;
// 2  adapters, one for each outside system, and what the services share
pub mod cache;
pub mod clock;
pub mod feed;
pub mod live;
pub mod log;
pub mod rules_file;
pub mod store;
pub mod wakeups;
// 1  pure logic: no await, no clock, no I/O
pub mod diff;
pub mod rules;
pub mod schedule;
pub mod stage;
// 0  domain model
pub mod key;
pub mod model;
