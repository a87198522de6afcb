//! oddsd keeps an odds database, and every cache in front of it, as fresh as the feed. This crate is the daemon: commands, HTTP
//! and the services; `main`, the benchmarks and the integration tests call it.
//!
//! `ARCHITECTURE.md` follows one price change through these modules.

// Commands.
pub mod cli;
// Builds, runs and shuts down the daemon.
pub mod app;
pub mod config;
pub mod dotenv;
pub mod http;
// Services: each is a loop around one public step.
pub mod audit;
pub mod leader;
pub mod poller;
pub mod relay;
// Shared by the services.
pub mod clock;
pub mod live;
pub mod log;
pub mod rules_file;
pub mod wakeups;
