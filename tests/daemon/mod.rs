//! The daemon end to end: the real program between a provider, a database and a cache, each of
//! which may fail.

mod cache_faults;
mod database_faults;
mod feed_faults;
mod law;
mod lease;
mod once;
mod reading;
mod stopping;
mod town;

use town::Town;
