//! oddsd keeps an odds database, and every cache in front of it, as fresh as the feed.
//!
//! The map of the house, from the street down. Imports go down, never sideways and never up
//! (`ARCHITECTURE.md` walks one price change through it, `tests/floors.rs` keeps it so).

// Futures within futures: the compiler works their sizes out by recursion.
#![recursion_limit = "256"]

// 6  the street: commands
pub mod cli;
// 5  builds the house, opens and closes it
pub mod app;
// 4  the faces: pages, API, settings
pub mod config;
pub mod http;
// 3  the loops: one cycle, one batch, one check, one lease
pub mod audit;
pub mod ingest;
pub mod invalidate;
pub mod lead;
// 2  the doors: one outside system each
pub mod cache;
pub mod feed;
pub mod live;
pub mod log;
pub mod rulebook;
pub mod schedule;
pub mod store;
// 1  pure thought: no await, no clock, no I/O
pub mod diff;
pub mod rules;
pub mod stage;
// 0  words
pub mod key;
pub mod model;
