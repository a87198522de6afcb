//! The stories: what oddsd promises, told against real servers.

mod world;

mod cache;
mod cache_faults;
mod cache_read;
mod cache_upstash;
