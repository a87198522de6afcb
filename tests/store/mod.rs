//! One suite of stories for the store, told on every backend: what is committed is what is read,
//! a cycle is all or nothing, and nobody else's word gets in between.

mod home;
mod law;

pub use home::{Backend, Day, Home, cycle};

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
