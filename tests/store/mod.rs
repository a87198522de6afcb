//! Tests of the store, most of them on every backend: committed rows are read back, a cycle is all or
//! nothing, and other writers do not interfere.

mod adopt;
mod backlog;
mod cycle;
mod exact_values;
mod faults;
pub mod fixture;
mod freshness;
mod large;
mod lease;
mod migrate;
mod outbox;
mod pooler;
mod random_cycles;
mod read;
mod rejected_rows;
mod retention;
mod round_trips;
mod sqlite;
mod status;
mod views;

pub use fixture::DatabaseBackend;
use oddsd_store::{BatchOutcome, LogFilter, Removal, RetryEntry};

/// The settlement of confirmed removals.
pub fn settlement(removals: &[Removal], again: Option<RetryEntry>) -> BatchOutcome {
    BatchOutcome {
        removals: removals.to_vec(),
        second_removal: again,
        ..BatchOutcome::default()
    }
}

/// Log entries after this one; -1 asks for the newest.
pub fn log_page(after: i64, limit: i64) -> LogFilter {
    LogFilter {
        after: (after >= 0).then_some(after),
        limit,
        ..LogFilter::default()
    }
}

/// Makes one test of each function and backend.
macro_rules! on_every_backend {
    ($($case:ident),+ $(,)?) => {
        mod on_postgres {
            $(#[tokio::test] async fn $case() { super::$case($crate::store::DatabaseBackend::Postgres).await })+
        }
        mod on_sqlite {
            $(#[tokio::test] async fn $case() { super::$case($crate::store::DatabaseBackend::Sqlite).await })+
        }
    };
}
pub(crate) use on_every_backend;
