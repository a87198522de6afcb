//! Runs the program under test, and adapts the stand-ins of the testkit to the daemon's own types.
//! Every integration test that starts `oddsd` or a feed uses it.

pub mod daemon;
pub mod event_sink;
pub mod program;
pub mod racing;

use std::time::Duration;

/// The longest run of a program that ends by itself: a bench, or a command that meets hanging servers.
pub const RUN_LIMIT: Duration = Duration::from_secs(120);
