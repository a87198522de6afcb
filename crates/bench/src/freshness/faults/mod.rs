//! The run under faults of `oddsd-bench freshness`: one stream of commits, one Redis that fails again and again, and
//! four schemes that cache answers in it, side by side. It counts stale reads, and keys that stay wrong.

mod answer_table;
mod commit_log;
mod injection;
mod load;
mod outcome;
mod scenario;
mod schemes;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::answer_table::AnswerTable;
use self::commit_log::{CommitLog, ReadCounter};
use self::injection::{hold_transaction_open, inject_faults};
use self::load::{DeliveryCounts, FaultRun, KEYS, READERS, WRITERS};
use self::outcome::FaultOutcome;
use self::schemes::{Ours, PROCESSES, Scheme, SlowLoader};
use crate::database::Database;
use crate::report::Measure;
use oddsd_testkit::redis::RedisServer;

pub use self::scenario::FaultScenario;

/// The pause after the last fault and the last removal. A key that is wrong after it stays wrong.
pub const SETTLE_TIME: Duration = Duration::from_secs(1);
const EXTENDED_BY: Duration = Duration::from_secs(60);
const POLL_PAUSE: Duration = Duration::from_millis(10);

pub async fn measure(
    db: &Database,
    redis: &RedisServer,
    scenario: FaultScenario,
) -> anyhow::Result<Vec<Measure>> {
    let answers = Arc::new(AnswerTable::create(&db.settings(), KEYS).await?);
    let loader = |reader| SlowLoader::new(Arc::clone(&answers), &scenario, reader);
    let port = redis.port();
    let ours = Ours::start(db.store().await?, &redis.url(), loader(1)).await?;
    let ours = Arc::new(ours);
    let run = Arc::new(FaultRun {
        scenario,
        log: CommitLog::new(KEYS, scenario.allowed),
        schemes: [
            Scheme::Ours(Arc::clone(&ours)),
            Scheme::after_commit(port, loader(2)),
            Scheme::stamps(port, loader(3)),
            Scheme::leases(port, loader(4)),
        ],
        counters: std::array::from_fn(|_| ReadCounter::default()),
        sent: DeliveryCounts::default(),
    });

    let (written, read) = (CancellationToken::new(), CancellationToken::new());
    // An early return stops the writers and readers.
    let _guards = (written.clone().drop_guard(), read.clone().drop_guard());
    let (mut writers, mut readers) = (JoinSet::new(), JoinSet::new());
    for n in 0..WRITERS {
        let writer = answers.writer().await?;
        writers.spawn(load::write(Arc::clone(&run), n, writer, written.clone()));
    }
    for scheme in 0..run.schemes.len() {
        for n in 0..READERS {
            readers.spawn(load::read(Arc::clone(&run), scheme, n, read.clone()));
        }
    }
    let stall = tokio::spawn(load::longest_stall(read.clone()));

    let began = Instant::now();
    let (injected, open_for) = tokio::try_join!(
        inject_faults(redis, &scenario, &run.log, began),
        hold_transaction_open(&answers, &ours, &scenario, began),
    )?;
    tokio::time::sleep_until((began + scenario.lasts).into()).await;
    // On a heavily loaded machine a short run ends before every kind of delivery happened.
    while !run.sent.all_kinds() && began.elapsed() < scenario.lasts + EXTENDED_BY {
        tokio::time::sleep(POLL_PAUSE).await;
    }
    written.cancel();
    while let Some(ended) = writers.join_next().await {
        ended?.context("a writer")?;
    }
    // A key that is wrong from here on counts as stuck, not again with every read.
    read.cancel();
    while let Some(ended) = readers.join_next().await {
        ended?;
    }
    ours.wait_until_removed().await?;
    tokio::time::sleep(SETTLE_TIME).await;
    let mut stuck = [0; 4];
    for (scheme, stuck) in run.schemes.iter().zip(&mut stuck) {
        *stuck = count_stuck_keys(&run.log, scheme).await?;
    }
    let outcome = FaultOutcome {
        scenario,
        injected,
        open_for,
        stuck_keys: stuck,
        longest_stall: stall.await?,
        totals: std::array::from_fn(|n| run.counters[n].totals()),
        refused_fills: std::array::from_fn(|n| run.schemes[n].refused_fills()),
        failed_removals: std::array::from_fn(|n| run.schemes[n].failed_removals()),
        failed_loads: ours.failed_loads(),
    };
    answers.close().await;
    outcome.verify(&run.sent)?;
    Ok(outcome.measures(&run.sent))
}

/// Keys with an old answer in at least one process.
async fn count_stuck_keys(log: &CommitLog, scheme: &Scheme) -> anyhow::Result<u64> {
    let mut stuck = 0;
    for row in 0..KEYS {
        let newest = log.newest(row);
        let mut is_stuck = false;
        for process in 0..PROCESSES {
            let read = scheme.read(process, row).await?;
            ensure!(read.version <= newest, "a version that no writer committed");
            is_stuck |= read.version < newest;
        }
        stuck += u64::from(is_stuck);
    }
    Ok(stuck)
}
