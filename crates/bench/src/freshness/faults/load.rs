//! Who writes and who reads while everything fails, and how removals reach each scheme: to all of them the
//! same, at the same moments.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::course::{Course, changed, deliveries};
use super::ledger::{Ledger, Tally};
use super::schemes::{self, Change, Scheme};
use crate::postgres::Writer;

pub const KEYS: usize = 20;
pub const WRITERS: usize = 4;
/// Of each scheme; the processes take them in turns.
pub const READERS: usize = 6;
/// A reader that never had to wait would leave the processor to nobody else: after so many reads it
/// rests.
const READS_IN_A_ROW: u32 = 64;
const REST: Duration = Duration::from_millis(1);
const METRONOME: Duration = Duration::from_millis(5);

/// What all tasks of a run share.
pub struct World {
    pub course: Course,
    pub ledger: Ledger,
    pub schemes: [Scheme; 4],
    pub tallies: [Tally; 4],
    pub sent: Sent,
}

/// How removals went on their way.
#[derive(Default)]
pub struct Sent {
    pub commits: AtomicU64,
    pub late: AtomicU64,
    pub twice: AtomicU64,
    pub disordered: AtomicU64,
    /// The newest version that was sent, by key.
    newest: [AtomicU64; KEYS],
}

impl World {
    async fn send(&self, change: &Change, again: bool) {
        if self.sent.newest[change.row].fetch_max(change.version, Relaxed) > change.version {
            self.sent.disordered.fetch_add(1, Relaxed);
        }
        join_all(self.schemes.iter().map(|s| s.removed(change, again))).await;
    }
}

impl Sent {
    /// Removals were late, came twice and in another order than their commits.
    pub fn all_kinds(&self) -> bool {
        [&self.late, &self.twice, &self.disordered]
            .iter()
            .all(|count| count.load(Relaxed) > 0)
    }
}

/// Commits at a steady rate until `over`, and then until every removal is on its way.
pub async fn write(
    world: Arc<World>,
    n: usize,
    mut writer: Writer,
    over: CancellationToken,
) -> anyhow::Result<()> {
    let mut dice = world.course.dice(10 + n as u64);
    let every = Duration::from_secs(1) * WRITERS as u32 / world.course.commits_a_second;
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sending = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = over.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let row = changed(&mut dice, KEYS);
        let key = schemes::key(row);
        let wrote = writer.commit(row, &key).await?;
        let at = Instant::now();
        world.ledger.committed(row, wrote.version, at);
        world.sent.commits.fetch_add(1, Relaxed);
        let (late, again) = deliveries(&mut dice);
        let change = Change::new(row, key, &wrote);
        sending.spawn(send(Arc::clone(&world), change, at, late, again));
        while let Some(sent) = sending.try_join_next() {
            sent?;
        }
    }
    while let Some(sent) = sending.join_next().await {
        sent?;
    }
    Ok(())
}

async fn send(
    world: Arc<World>,
    change: Change,
    committed: Instant,
    late: Duration,
    again: Option<Duration>,
) {
    tokio::time::sleep_until((committed + late).into()).await;
    world
        .sent
        .late
        .fetch_add(u64::from(!late.is_zero()), Relaxed);
    world.send(&change, false).await;
    if let Some(again) = again {
        tokio::time::sleep_until((committed + again).into()).await;
        world.sent.twice.fetch_add(1, Relaxed);
        world.send(&change, true).await;
    }
}

/// Reads any answer, again and again, until `over`.
pub async fn read(world: Arc<World>, scheme: usize, n: usize, over: CancellationToken) {
    let mut dice = world.course.dice(100 + (scheme * READERS + n) as u64);
    let mut in_a_row = 0;
    while !over.is_cancelled() {
        let row = dice.usize(0..KEYS);
        let began = Instant::now();
        let read = world.schemes[scheme].read(n, row).await;
        world.tallies[scheme].read(&world.ledger, row, began, read);
        in_a_row += 1;
        if in_a_row % READS_IN_A_ROW == 0 {
            tokio::time::sleep(REST).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

/// For how long, at most, a task of this process that could have run had to wait.
pub async fn longest_stall(over: CancellationToken) -> Duration {
    let mut longest = Duration::ZERO;
    while !over.is_cancelled() {
        let due = Instant::now() + METRONOME;
        tokio::time::sleep_until(due.into()).await;
        longest = longest.max(due.elapsed());
    }
    longest
}
