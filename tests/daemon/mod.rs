//! The daemon end to end: the real program between a provider, a database and a cache, each of
//! which may fail.

mod cache_faults;
mod database_faults;
mod feed_faults;
mod freshness;
mod law;
mod lease;
mod metrics;
mod once;
mod reading;
mod rules;
mod status;
mod stopping;
pub mod town;

use town::Town;
