//! Reads while everything fails: one stream of commits, one Redis that is broken again and again, and four
//! ways to keep answers in it, side by side. What is counted are reads that show what had been
//! replaced for too long when they began, and keys that never come right.

mod breaking;
mod course;
mod ledger;
mod load;
mod schemes;
mod told;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Servers;
use crate::postgres::Answers;
use crate::report::Measure;
use breaking::{breaking, holding_open};
pub use course::Course;
use ledger::{Ledger, Tally};
use load::{KEYS, READERS, WRITERS, World};
use schemes::{Loader, Ours, PROCESSES, Scheme};
use told::Outcome;

/// After the last fault and the last removal: who is wrong then stays wrong.
const CALM: Duration = Duration::from_secs(1);
const AT_MOST_LONGER: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

pub async fn measure(servers: &Servers, course: Course) -> anyhow::Result<Vec<Measure>> {
    let answers = Arc::new(Answers::new(&servers.store, KEYS).await?);
    let (port, loader) = (servers.redis.port(), |whose| {
        Loader::new(Arc::clone(&answers), &course, whose)
    });
    let world = Arc::new(World {
        course,
        ledger: Ledger::new(KEYS, course.allowed),
        schemes: [
            Scheme::Ours(Ours::start(servers, loader(1)).await?),
            Scheme::after_commit(port, loader(2)),
            Scheme::stamps(port, loader(3)),
            Scheme::leases(port, loader(4)),
        ],
        tallies: std::array::from_fn(|_| Tally::default()),
        sent: load::Sent::default(),
    });
    let Scheme::Ours(ours) = &world.schemes[0] else {
        unreachable!("the first one is ours");
    };

    let (written, read) = (CancellationToken::new(), CancellationToken::new());
    // Whatever ends this early ends them.
    let _guards = (written.clone().drop_guard(), read.clone().drop_guard());
    let (mut writers, mut readers) = (JoinSet::new(), JoinSet::new());
    for n in 0..WRITERS {
        let writer = answers.writer().await?;
        writers.spawn(load::write(Arc::clone(&world), n, writer, written.clone()));
    }
    for scheme in 0..world.schemes.len() {
        for n in 0..READERS {
            readers.spawn(load::read(Arc::clone(&world), scheme, n, read.clone()));
        }
    }
    let metronome = tokio::spawn(load::longest_stall(read.clone()));

    let began = Instant::now();
    let (happened, open_for) = tokio::try_join!(
        breaking(&servers.redis, &course, &world.ledger, began),
        holding_open(&answers, ours, &course, began),
    )?;
    tokio::time::sleep_until((began + course.lasts).into()).await;
    // On a very busy machine a short run is over before enough was written.
    while !world.sent.all_kinds() && began.elapsed() < course.lasts + AT_MOST_LONGER {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    written.cancel();
    while let Some(ended) = writers.join_next().await {
        ended?.context("a writer")?;
    }
    // What is wrong from here on counts as stuck, not once more with every read.
    read.cancel();
    while let Some(ended) = readers.join_next().await {
        ended?;
    }
    ours.settled().await?;
    tokio::time::sleep(CALM).await;
    let mut stuck = [0; 4];
    for (scheme, stuck) in world.schemes.iter().zip(&mut stuck) {
        *stuck = stuck_keys(&world, scheme).await?;
    }
    let outcome = Outcome {
        course,
        happened,
        open_for,
        stuck,
        longest_stall: metronome.await?,
        told: std::array::from_fn(|n| world.tallies[n].told()),
        refused: std::array::from_fn(|n| world.schemes[n].refused()),
        forgotten: std::array::from_fn(|n| world.schemes[n].forgotten()),
        failed_loads: ours.failed_loads(),
    };
    answers.close().await;
    outcome.checked(&world.sent)?;
    Ok(outcome.measures(&world.sent))
}

/// Keys of which some process still shows what is no longer so.
async fn stuck_keys(world: &World, scheme: &Scheme) -> anyhow::Result<u64> {
    let mut stuck = 0;
    for row in 0..KEYS {
        let newest = world.ledger.newest(row);
        let mut is_stuck = false;
        for process in 0..PROCESSES {
            let read = scheme.read(process, row).await?;
            ensure!(read.version <= newest, "a version that nobody committed");
            is_stuck |= read.version < newest;
        }
        stuck += u64::from(is_stuck);
    }
    Ok(stuck)
}
