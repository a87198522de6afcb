//! The integration tests: one binary, real servers on loopback, stand-ins for other companies' services.
//! `./test` starts the private PostgreSQL that they need.

mod audit;
mod cache;
mod cache_faults;
mod cache_identity;
mod cache_read;
mod cache_stale;
mod cache_tags;
mod cache_upstash;
mod changes;
mod commands;
mod daemon;
mod engine;
mod examples;
mod harness;
mod logs;
mod odds_api;
mod poller;
mod racing_api;
mod recordings;
mod replay;
mod rules_file;
mod schedule;
mod secrets;
mod settings;
mod source_rules;
mod stages;
mod store;
mod watch;
