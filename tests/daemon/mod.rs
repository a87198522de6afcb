//! End-to-end tests of the daemon: the real program between a provider, a database and a cache, each of
//! which may fail.

mod cache_faults;
mod database_faults;
mod feed_faults;
pub mod fixture;
mod freshness;
mod lease;
mod log_output;
mod metrics;
mod once;
mod random_faults;
mod reading;
mod rules;
mod shared_cache;
mod shutdown;
mod status;

use fixture::DaemonStack;
