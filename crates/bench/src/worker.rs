//! A process of our own with nothing in it but the production path, so that its memory and its CPU
//! time are those of the daemon. The parent says on its standard input when it looks; it answers
//! with one line of JSON for each look.

use std::io::{BufRead, BufReader, Lines, StdinLock, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::freshness::bars::{Reading, Relayed, crowd, outage};
use super::machine::{peak_memory, process_cpu};
use super::provider::Provider;
use crate::output::print_line;
use oddsd::clock::Clock;
use oddsd::live::EventBus;
use oddsd::poller::{CycleOutcome, Poller, PollerSettings};
use oddsd_feeds::racing_api::{RacingApi, RacingApiSettings};
use oddsd_feeds::{Feed, FetchRequest};
use oddsd_store::{
    AcquireResult, CommitNotifier, LastChecked, Retention, Store, StoreSettings, Tls,
};

/// What a running thread used is only known after it has rested.
const REST: Duration = Duration::from_millis(10);
const LEASE_FOR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Nobody limits the rate on loopback.
const UNLIMITED: f64 = 1_000_000.0;

/// The first line that the parent writes. Not on the command line: others can read that.
#[derive(Serialize, Deserialize)]
pub enum Task {
    /// Cycles of the daemon.
    Look(Looking),
    /// Readers of one answer.
    Read(Reading),
    /// The relay and the keeper of the floor.
    Relay(Relayed),
}

#[derive(Serialize, Deserialize)]
pub struct Looking {
    database: String,
    provider: String,
    days: u16,
    statement_seconds: u64,
}

/// What a look came to.
#[derive(Debug, Serialize, Deserialize)]
pub struct Looked {
    pub changed: u64,
    pub unchanged: u64,
    pub seconds: f64,
    /// All threads, the reading of the answer included; absent where the system does not say.
    pub cpu_ms: Option<f64>,
    pub peak_memory: Option<u64>,
    pub error: Option<String>,
}

/// It ends with this value.
pub struct Child {
    process: std::process::Child,
    input: ChildStdin,
    /// Away while an answer is waited for.
    output: Option<BufReader<ChildStdout>>,
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Child {
    /// Starts this program again.
    pub fn start(task: &Task) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("where this program is")?;
        let mut process = Command::new(program)
            .arg("child")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("this program could not be started once more")?;
        let input = process.stdin.take().context("a pipe was asked for")?;
        let output = process.stdout.take().context("a pipe was asked for")?;
        let mut child = Self {
            process,
            input,
            output: Some(BufReader::new(output)),
        };
        child.say(&serde_json::to_string(task)?)?;
        Ok(child)
    }

    /// One that looks at what `provider` serves.
    pub fn looking(
        database: &StoreSettings,
        provider: &Provider,
        days: usize,
    ) -> anyhow::Result<Self> {
        Self::start(&Task::Look(Looking {
            database: database.url.expose_secret().into(),
            provider: provider.url(),
            days: u16::try_from(days).context("a few days")?,
            statement_seconds: database.statement_timeout.as_secs(),
        }))
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// One cycle of the daemon.
    pub async fn look(&mut self) -> anyhow::Result<Looked> {
        let looked: Looked = self.ask("look").await?;
        match &looked.error {
            Some(why) => bail!("the measured process failed: {why}"),
            None => Ok(looked),
        }
    }

    /// Says a line, and waits for the line that answers it.
    pub async fn ask<T: DeserializeOwned>(&mut self, line: &str) -> anyhow::Result<T> {
        self.say(line)?;
        let mut output = self.output.take().context("one question at a time")?;
        // A thread may wait for the answer; the tasks that serve the child may not.
        let (output, line) = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            output.read_line(&mut line).map(|_| (output, line))
        })
        .await??;
        self.output = Some(output);
        if line.is_empty() {
            bail!("the measured process ended with {}", self.process.wait()?);
        }
        serde_json::from_str(&line).context("an answer of our own")
    }

    fn say(&mut self, line: &str) -> anyhow::Result<()> {
        writeln!(self.input, "{line}")?;
        Ok(self.input.flush()?)
    }
}

/// The child's own side, until its input ends.
pub async fn run() -> anyhow::Result<()> {
    let mut lines = std::io::stdin().lines();
    let task = lines.next().context("a task to do")??;
    match serde_json::from_str(&task).context("a task of our own")? {
        Task::Look(task) => look(task, lines).await,
        Task::Read(task) => crowd::child(task, lines).await,
        Task::Relay(task) => outage::child(task, lines).await,
    }
}

async fn look(task: Looking, lines: Lines<StdinLock<'static>>) -> anyhow::Result<()> {
    let store = Store::open(&StoreSettings {
        url: SecretString::from(task.database),
        tls: Tls::VerifyFull,
        max_connections: 4,
        statement_timeout: Duration::from_secs(task.statement_seconds),
    })
    .await?;
    let lease = match store
        .acquire_lease(&format!("child-{}", std::process::id()), LEASE_FOR)
        .await?
    {
        AcquireResult::Granted(lease) => lease,
        AcquireResult::HeldBy { holder, .. } => bail!("{holder} holds the lease"),
    };
    let mut ingest = ingest(
        task.provider,
        task.days,
        store.clone(),
        CommitNotifier::default(),
    )?;
    let stop = CancellationToken::new();
    for line in lines {
        line?;
        tokio::time::sleep(REST).await;
        let (cpu, started) = (process_cpu(), Instant::now());
        let cycle = ingest
            .run_cycle(&lease, &FetchRequest::Everything, None, &stop)
            .await;
        let seconds = started.elapsed().as_secs_f64();
        tokio::time::sleep(REST).await;
        let cpu = process_cpu().and_then(|after| after.checked_sub(cpu?));
        let (counts, error) = match cycle {
            CycleOutcome::Unchanged(counts) | CycleOutcome::Committed(counts, _) => (counts, None),
            CycleOutcome::FetchFailed(why) => (Default::default(), Some(why.to_string())),
            CycleOutcome::StoreFailed(why) => (Default::default(), Some(why.to_string())),
            CycleOutcome::Stopped => bail!("nobody asked to stop"),
        };
        print_line(serde_json::to_string(&Looked {
            changed: counts.written(),
            unchanged: counts.unchanged,
            seconds,
            cpu_ms: cpu.map(|cpu| cpu.as_secs_f64() * 1000.0),
            peak_memory: peak_memory(),
            error,
        })?);
    }
    store.close().await;
    Ok(())
}

/// The daemon's cycle, looking at `provider` as often as it likes.
pub fn ingest(
    provider: String,
    days: u16,
    store: Store,
    poke: CommitNotifier,
) -> anyhow::Result<Poller> {
    let feed = RacingApi::new(RacingApiSettings {
        base_url: provider,
        days,
        cards_per_second: UNLIMITED,
        ..RacingApiSettings::new("bench".to_owned().into(), "bench".to_owned().into())
    })?;
    let settings = PollerSettings {
        max_removed_fraction: 0.5,
        retention: Retention {
            history: YEAR,
            finished_events: YEAR,
        },
    };
    Ok(Poller::new(
        Feed::RacingApi(Box::new(feed)),
        store,
        EventBus::new(),
        Clock::Real,
        settings,
        poke,
        LastChecked::default(),
    ))
}
