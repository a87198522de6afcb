//! One suite of stories for the store, told on every backend: what is committed is what is read,
//! a cycle is all or nothing, and nobody else's word gets in between.

mod adopt;
mod backlog;
mod cycle;
mod exact;
mod faults;
mod freshness;
pub mod home;
mod large;
mod law;
mod lease;
mod migrate;
mod outbox;
mod pooler;
mod read;
mod refused;
mod retention;
mod sqlite;
mod status;
mod trips;
mod views;

pub use home::Backend;
use oddsd::store::{Again, Removal, Settlement, Wanted};

/// What becomes of rows whose removal was confirmed.
pub fn settlement(removals: &[Removal], again: Option<Again>) -> Settlement {
    Settlement {
        removals: removals.to_vec(),
        again,
        ..Settlement::default()
    }
}

/// Lines of the log after this one; of -1, the newest.
pub fn log_page(after: i64, limit: i64) -> Wanted {
    Wanted {
        after: (after >= 0).then_some(after),
        limit,
        ..Wanted::default()
    }
}

/// Each story runs on every backend, as a test of its own.
macro_rules! on_every_backend {
    ($($story:ident),+ $(,)?) => {
        mod on_postgres {
            $(#[tokio::test] async fn $story() { super::$story($crate::store::Backend::Postgres).await })+
        }
        mod on_sqlite {
            $(#[tokio::test] async fn $story() { super::$story($crate::store::Backend::Sqlite).await })+
        }
    };
}
pub(crate) use on_every_backend;
