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
mod trips;
mod views;

use home::Backend;

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
use on_every_backend;
