//! The commands, each as a person or a script would use it: what it says, what it leaves, and the
//! code it ends with.

mod bench;
mod check;
mod demo;
mod invalidate;
mod looking;
mod migrate;
mod record;
mod rules;
mod targets;
mod usage;

use crate::harness::program::Oddsd;
use oddsd_testkit::postgres;

/// A simulated race day in SQLite, with nobody listening.
fn simulated() -> Oddsd {
    Oddsd::new().with("FEED", "simulator").with("LISTEN", "off")
}

/// The same with a Postgres database of its own.
async fn on_postgres() -> Oddsd {
    simulated().with("DATABASE_URL", postgres::database().await)
}
