//! How fast it is: each figure against the least that the same work can cost, in turns within one run,
//! on a Postgres and a Redis of our own. What is timed is checked as well: a fast wrong answer is an
//! error, not a result.

pub mod crowd;
mod cycles;
mod first;
pub mod outage;
pub mod relaying;
mod removal;
mod second;
mod tag;

use std::time::{Duration, Instant};

use anyhow::bail;
use tokio_util::sync::CancellationToken;

use super::Servers;
use crate::output::err;
use crate::postgres::Database;
use crate::report::Measure;

pub use crowd::Reading;
pub use outage::Relayed;

/// How much of everything.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// How long changes are committed, at each rate.
    changing: Duration,
    /// Reads of one turn, of the first level and of the second.
    first_reads: u32,
    second_reads: u32,
    /// After one that warms up; with none, that one counts.
    turns: usize,
    readers: usize,
    tagged: usize,
    /// Prices of a cycle, and cycles of one turn.
    day: usize,
    cycles: usize,
    /// What a slow cache adds to each round trip.
    delay: Duration,
    /// What waits after the outage.
    pending: i64,
}

const FULL: Sizes = Sizes {
    changing: Duration::from_secs(20),
    first_reads: 500_000,
    second_reads: 1_000,
    turns: 21,
    readers: 1_000,
    tagged: 500_000,
    day: 12_000,
    cycles: 5,
    delay: Duration::from_millis(100),
    pending: 1_000_000,
};
/// Proves that all of it works and is right, and says nothing about speed.
const QUICK: Sizes = Sizes {
    changing: Duration::from_millis(200),
    first_reads: 2_000,
    second_reads: 50,
    turns: 0,
    readers: 100,
    tagged: 5_000,
    day: 600,
    cycles: 1,
    delay: Duration::from_millis(5),
    pending: 20_000,
};

#[derive(Clone, Copy, Debug)]
enum Section {
    Removal,
    First,
    Second,
    Crowd,
    Tag,
    Cycles,
    Outage,
}

impl Section {
    const ALL: [Self; 7] = [
        Self::Removal,
        Self::First,
        Self::Second,
        Self::Crowd,
        Self::Tag,
        Self::Cycles,
        Self::Outage,
    ];

    async fn measure(
        self,
        db: &Database,
        servers: &Servers,
        sizes: &Sizes,
    ) -> anyhow::Result<Vec<Measure>> {
        match self {
            Self::Removal => removal::measure(db, servers, sizes).await,
            Self::First => first::measure(db, servers, sizes).await,
            Self::Second => second::measure(db, servers, sizes).await,
            Self::Crowd => crowd::measure(db, servers, sizes).await,
            Self::Tag => tag::measure(db, servers, sizes).await,
            Self::Cycles => cycles::measure(db, servers, sizes).await,
            Self::Outage => outage::measure(db, servers, sizes).await,
        }
    }
}

pub async fn measure(
    servers: &Servers,
    quick: bool,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<Measure>> {
    let sizes = if quick { QUICK } else { FULL };
    let db = Database::at(&servers.store);
    let mut measures = Vec::new();
    for section in Section::ALL {
        let began = Instant::now();
        servers.redis.restart_empty().await?;
        tokio::select! {
            outcome = section.measure(&db, servers, &sizes) => measures.extend(outcome?),
            () = stop.cancelled() => bail!("stopped before the end"),
        }
        err!("  {section:?}: {:.1} s", began.elapsed().as_secs_f64());
    }
    Ok(measures)
}
