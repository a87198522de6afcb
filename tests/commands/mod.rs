//! The commands as operators and scripts use them: their output, their effects and their exit codes.

mod check;
mod demo;
mod invalidate;
mod migrate;
mod record;
mod rules;
mod status;
mod targets;
mod usage;

use crate::harness::program::Program;
use oddsd_testkit::postgres;

/// A simulated race day in SQLite, without a read API.
fn simulated() -> Program {
    Program::new()
        .with("FEED", "simulator")
        .with("LISTEN", "off")
}

/// The same on a new Postgres database.
async fn on_postgres() -> Program {
    simulated().with("DATABASE_URL", postgres::database().await)
}
