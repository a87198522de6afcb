//! The daemon's poll cycle in a process of its own, so that its memory and CPU time can be measured. The section
//! `process` starts it and requests its cycles; `main` runs it.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::database::{acquire_lease, open_store};
use crate::machine::{peak_memory, process_cpu};
use crate::provider::{FixtureProvider, build_poller};
use crate::worker::{Worker, WorkerKind, answer, read_task};
use oddsd::poller::CycleOutcome;
use oddsd_feeds::FetchRequest;
use oddsd_store::{CommitNotifier, StoreSettings};

/// The system accounts a thread's CPU time when the thread stops running.
const PAUSE: Duration = Duration::from_millis(10);
const MAX_CONNECTIONS: u32 = 4;

#[derive(Serialize, Deserialize)]
struct PollTask {
    database: String,
    provider: String,
    days: u16,
    statement_seconds: u64,
}

/// The result of one cycle.
#[derive(Debug, Serialize, Deserialize)]
pub struct WorkerCycle {
    pub changed: u64,
    pub unchanged: u64,
    pub seconds: f64,
    /// Of all threads, the parsing of the answer included; `None` if the system does not report it.
    pub cpu_ms: Option<f64>,
    pub peak_memory: Option<u64>,
    pub error: Option<String>,
}

/// The parent's side of the process.
pub struct PollWorker(Worker);

impl PollWorker {
    pub fn start(
        database: &StoreSettings,
        provider: &FixtureProvider,
        days: usize,
    ) -> anyhow::Result<Self> {
        let task = PollTask {
            database: database.url.expose_secret().into(),
            provider: provider.url(),
            days: u16::try_from(days).context("a few days")?,
            statement_seconds: database.statement_timeout.as_secs(),
        };
        Ok(Self(Worker::start(WorkerKind::Poller, &task)?))
    }

    pub async fn run_cycle(&mut self) -> anyhow::Result<WorkerCycle> {
        let cycle: WorkerCycle = self.0.request("cycle").await?;
        match &cycle.error {
            Some(why) => bail!("the measured process failed: {why}"),
            None => Ok(cycle),
        }
    }
}

/// The process's side.
pub async fn run() -> anyhow::Result<()> {
    let (task, lines) = read_task::<PollTask>()?;
    let timeout = Duration::from_secs(task.statement_seconds);
    let store = open_store(task.database, MAX_CONNECTIONS, timeout).await?;
    let lease = acquire_lease(&store).await?;
    let notifier = CommitNotifier::default();
    let mut poller = build_poller(task.provider, task.days, store.clone(), notifier)?;
    let stop = CancellationToken::new();
    for line in lines {
        line?;
        tokio::time::sleep(PAUSE).await;
        let (cpu, started) = (process_cpu(), Instant::now());
        let cycle = poller
            .run_cycle(&lease, &FetchRequest::Everything, None, &stop)
            .await;
        let seconds = started.elapsed().as_secs_f64();
        tokio::time::sleep(PAUSE).await;
        let cpu = process_cpu().and_then(|after| after.checked_sub(cpu?));
        let (counts, error) = match cycle {
            CycleOutcome::Unchanged(counts) | CycleOutcome::Committed(counts, _) => (counts, None),
            CycleOutcome::FetchFailed(why) => (Default::default(), Some(why.to_string())),
            CycleOutcome::StoreFailed(why) => (Default::default(), Some(why.to_string())),
            CycleOutcome::Stopped => bail!("the cycle stopped without a stop signal"),
        };
        answer(&WorkerCycle {
            changed: counts.written(),
            unchanged: counts.unchanged,
            seconds,
            cpu_ms: cpu.map(|cpu| cpu.as_secs_f64() * 1000.0),
            peak_memory: peak_memory(),
            error,
        })?;
    }
    store.close().await;
    Ok(())
}
