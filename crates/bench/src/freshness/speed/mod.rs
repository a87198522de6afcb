//! The speed measures of `oddsd-bench freshness`, which calls it. Each section takes turns with a minimal implementation
//! of the same work, on a private Redis, and verifies its results, because a fast wrong answer is an error.

mod change_table;
mod l1_hits;
mod outage;
mod poll_cycles;
mod redis_hits;
mod removal;
mod sizes;
mod stampede;
mod tag_removal;

use std::time::Instant;

use self::sizes::{FULL, QUICK, SpeedSizes};
use crate::database::Database;
use crate::output::err;
use crate::report::Measure;
use oddsd_testkit::redis::RedisServer;

// Entry points of the processes that two sections start.
pub use self::outage::run_worker as run_relay_worker;
pub use self::stampede::run_worker as run_reader_worker;

#[derive(Clone, Copy, Debug)]
enum SpeedSection {
    Removal,
    L1Hits,
    RedisHits,
    Stampede,
    TagRemoval,
    PollCycles,
    Outage,
}

impl SpeedSection {
    const ALL: [Self; 7] = [
        Self::Removal,
        Self::L1Hits,
        Self::RedisHits,
        Self::Stampede,
        Self::TagRemoval,
        Self::PollCycles,
        Self::Outage,
    ];

    async fn measure(
        self,
        db: &Database,
        redis: &RedisServer,
        sizes: &SpeedSizes,
    ) -> anyhow::Result<Vec<Measure>> {
        match self {
            Self::Removal => removal::measure(db, redis, sizes).await,
            Self::L1Hits => l1_hits::measure(db, redis, sizes).await,
            Self::RedisHits => redis_hits::measure(db, redis, sizes).await,
            Self::Stampede => stampede::measure(db, redis, sizes).await,
            Self::TagRemoval => tag_removal::measure(db, redis, sizes).await,
            Self::PollCycles => poll_cycles::measure(db, redis, sizes).await,
            Self::Outage => outage::measure(db, redis, sizes).await,
        }
    }
}

pub async fn measure(
    db: &Database,
    redis: &RedisServer,
    quick: bool,
) -> anyhow::Result<Vec<Measure>> {
    let sizes = if quick { QUICK } else { FULL };
    let mut measures = Vec::new();
    for section in SpeedSection::ALL {
        let began = Instant::now();
        // Each section begins with an empty Redis.
        redis.restart().await;
        measures.extend(section.measure(db, redis, &sizes).await?);
        err!("  {section:?}: {:.1} s", began.elapsed().as_secs_f64());
    }
    Ok(measures)
}
