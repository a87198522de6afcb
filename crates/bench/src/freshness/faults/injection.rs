//! Injects the faults of a scenario into Redis and the database, and verifies that each took effect, because a fault
//! without effect proves nothing. The run under faults calls it.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::answer_table::AnswerTable;
use super::commit_log::CommitLog;
use super::scenario::{CacheFault, FaultScenario};
use super::schemes::Ours;
use oddsd_testkit::redis::RedisServer;
use oddsd_testkit::resp::{RespClient, RespReply};

const FILLED_WITHIN: Duration = Duration::from_secs(60);
const POLL_PAUSE: Duration = Duration::from_millis(1);

/// The faults so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct InjectedFaults {
    pub flushes: u64,
    /// Redis keys that the flushes deleted.
    pub flushed: i64,
    pub restarts_empty: u64,
    pub restarts_from_copy: u64,
    pub hangs: u64,
    pub hung: Duration,
    pub down: Duration,
}

pub async fn inject_faults(
    redis: &RedisServer,
    scenario: &FaultScenario,
    log: &CommitLog,
    began: Instant,
) -> anyhow::Result<InjectedFaults> {
    let mut injected = InjectedFaults::default();
    for (at, fault) in scenario.faults() {
        tokio::time::sleep_until((began + at).into()).await;
        injected
            .inject(redis, log, fault)
            .await
            .with_context(|| format!("{fault:?} had no effect"))?;
    }
    Ok(injected)
}

impl InjectedFaults {
    async fn inject(
        &mut self,
        redis: &RedisServer,
        log: &CommitLog,
        fault: CacheFault,
    ) -> anyhow::Result<()> {
        match fault {
            CacheFault::Flush => {
                let mut connection = redis.connect().await?;
                self.flushed += wait_for_keys(&mut connection).await?;
                let reply = connection.command(&["FLUSHALL"]).await?;
                ensure!(reply == RespReply::Status("OK".into()), "{}", reply.text());
                self.flushes += 1;
            }
            CacheFault::Copy => {
                wait_for_keys(&mut redis.connect().await?).await?;
                redis.copy().await;
            }
            CacheFault::RestartEmpty(time) => {
                let down = Instant::now();
                redis.kill().await;
                tokio::time::sleep(time).await;
                redis.restart().await;
                self.down += down.elapsed();
                self.restarts_empty += 1;
            }
            CacheFault::RestartFromCopy(time) => {
                let down = Instant::now();
                redis.kill().await;
                tokio::time::sleep(time).await;
                redis.restart_from_copy().await;
                self.down += down.elapsed();
                let restored = count_keys(&mut redis.connect().await?).await?;
                ensure!(restored > 0, "the copy was empty");
                self.restarts_from_copy += 1;
            }
            CacheFault::Hang(time) => {
                let mut connection = redis.connect().await?;
                let since = Instant::now();
                log.begin_hang(since);
                redis.pause();
                let answer = tokio::time::timeout(time, connection.command(&["PING"])).await;
                self.hung += since.elapsed();
                redis.resume();
                log.end_hang(Instant::now());
                ensure!(answer.is_err(), "Redis answered a PING");
                self.hangs += 1;
            }
        }
        Ok(())
    }

    pub fn describe(&self) -> String {
        format!(
            "{} flushes ({} keys gone); {} restarts empty and {} with an old copy ({} ms down); hung {} times ({} ms)",
            self.flushes,
            self.flushed,
            self.restarts_empty,
            self.restarts_from_copy,
            self.down.as_millis(),
            self.hangs,
            self.hung.as_millis(),
        )
    }

    pub fn count(&self) -> u64 {
        self.flushes + self.restarts_empty + self.restarts_from_copy + self.hangs
    }
}

/// Waits until Redis has a key: on a loaded machine a fault may come before the cache is filled again.
async fn wait_for_keys(connection: &mut RespClient) -> anyhow::Result<i64> {
    let began = Instant::now();
    while began.elapsed() < FILLED_WITHIN {
        match count_keys(connection).await? {
            0 => tokio::time::sleep(POLL_PAUSE).await,
            keys => return Ok(keys),
        }
    }
    bail!(
        "the cache was not filled within {} s",
        FILLED_WITHIN.as_secs()
    )
}

async fn count_keys(connection: &mut RespClient) -> anyhow::Result<i64> {
    match connection.command(&["DBSIZE"]).await? {
        RespReply::Int(keys) => Ok(keys),
        other => bail!("the private Redis answered {}", other.text()),
    }
}

/// Holds a transaction open in the middle of the run; returns for how long no snapshot included it.
pub async fn hold_transaction_open(
    answers: &AnswerTable,
    ours: &Ours,
    scenario: &FaultScenario,
    began: Instant,
) -> anyhow::Result<Duration> {
    let from = began + (scenario.lasts - scenario.open_for) / 2;
    tokio::time::sleep_until(from.into()).await;
    let open = answers.open_transaction().await?;
    let since = Instant::now();
    tokio::time::sleep(scenario.open_for).await;
    let snapshot = ours.current_snapshot().await?;
    ensure!(
        !snapshot.is_visible(open.id),
        "the transaction ended too early"
    );
    open.end().await?;
    Ok(since.elapsed())
}
