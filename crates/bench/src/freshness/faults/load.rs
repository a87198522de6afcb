//! The writers and readers of the run under faults, and the delivery of removals: every scheme receives the same ones
//! at the same moments.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::answer_table::AnswerWriter;
use super::commit_log::{CommitLog, ReadCounter};
use super::scenario::{FaultScenario, deliveries, next_row};
use super::schemes::{CommittedChange, Scheme, answer_key};

pub const KEYS: usize = 20;
pub const WRITERS: usize = 4;
/// Of each scheme, spread over the processes.
pub const READERS: usize = 6;
/// A reader whose reads never wait would use all CPU time, so it pauses after so many reads.
const READS_IN_A_ROW: u32 = 64;
const PAUSE: Duration = Duration::from_millis(1);
const STALL_PROBE: Duration = Duration::from_millis(5);

/// The state that all tasks of a run share.
pub struct FaultRun {
    pub scenario: FaultScenario,
    pub log: CommitLog,
    pub schemes: [Scheme; 4],
    pub counters: [ReadCounter; 4],
    pub sent: DeliveryCounts,
}

/// Counts of commits and of the deliveries of their removals.
#[derive(Default)]
pub struct DeliveryCounts {
    pub commits: AtomicU64,
    pub late: AtomicU64,
    pub twice: AtomicU64,
    pub disordered: AtomicU64,
    /// The newest version that was sent, by key.
    newest: [AtomicU64; KEYS],
}

impl FaultRun {
    async fn send(&self, change: &CommittedChange, again: bool) {
        if self.sent.newest[change.row].fetch_max(change.version, Relaxed) > change.version {
            self.sent.disordered.fetch_add(1, Relaxed);
        }
        join_all(self.schemes.iter().map(|s| s.remove(change, again))).await;
    }
}

impl DeliveryCounts {
    /// Whether removals were late, delivered twice, and out of order.
    pub fn all_kinds(&self) -> bool {
        [&self.late, &self.twice, &self.disordered]
            .iter()
            .all(|count| count.load(Relaxed) > 0)
    }
}

/// Commits at a fixed rate until `over`, then waits until every removal is delivered.
pub async fn write(
    run: Arc<FaultRun>,
    n: usize,
    mut writer: AnswerWriter,
    over: CancellationToken,
) -> anyhow::Result<()> {
    let mut rng = run.scenario.rng(10 + n as u64);
    let every = Duration::from_secs(1) * WRITERS as u32 / run.scenario.commits_a_second;
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sending = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = over.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let row = next_row(&mut rng, KEYS);
        let key = answer_key(row);
        let committed = writer.commit(row, &key).await?;
        let at = Instant::now();
        run.log.record_commit(row, committed.version, at);
        run.sent.commits.fetch_add(1, Relaxed);
        let (late, again) = deliveries(&mut rng);
        let change = CommittedChange::new(row, key, &committed);
        sending.spawn(send(Arc::clone(&run), change, at, late, again));
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
    run: Arc<FaultRun>,
    change: CommittedChange,
    committed: Instant,
    late: Duration,
    again: Option<Duration>,
) {
    tokio::time::sleep_until((committed + late).into()).await;
    run.sent.late.fetch_add(u64::from(!late.is_zero()), Relaxed);
    run.send(&change, false).await;
    if let Some(again) = again {
        tokio::time::sleep_until((committed + again).into()).await;
        run.sent.twice.fetch_add(1, Relaxed);
        run.send(&change, true).await;
    }
}

/// Reads random answers until `over`.
pub async fn read(run: Arc<FaultRun>, scheme: usize, n: usize, over: CancellationToken) {
    let mut rng = run.scenario.rng(100 + (scheme * READERS + n) as u64);
    let mut in_a_row = 0;
    while !over.is_cancelled() {
        let row = rng.usize(0..KEYS);
        let began = Instant::now();
        let read = run.schemes[scheme].read(n, row).await;
        run.counters[scheme].record(&run.log, row, began, read);
        in_a_row += 1;
        if in_a_row % READS_IN_A_ROW == 0 {
            tokio::time::sleep(PAUSE).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

/// The longest time for which a task of this process that was ready had to wait for a CPU.
pub async fn longest_stall(over: CancellationToken) -> Duration {
    let mut longest = Duration::ZERO;
    while !over.is_cancelled() {
        let due = Instant::now() + STALL_PROBE;
        tokio::time::sleep_until(due.into()).await;
        longest = longest.max(due.elapsed());
    }
    longest
}
