//! The stories: what oddsd does, told on real servers and against stand-ins for what lies outside.

mod audit;
mod cache;
mod cache_faults;
mod cache_read;
mod cache_stale;
mod cache_tags;
mod cache_upstash;
mod changes;
mod commands;
mod daemon;
mod engine;
mod examples;
mod floors;
mod logs;
mod odds_api;
mod racing_api;
mod recordings;
mod replay;
mod rules_file;
mod schedule;
mod secrets;
mod settings;
mod stages;
mod store;
mod watch;
mod world;
