//! Does what the course says to the cache and to the database, and makes sure that it happened: a fault
//! that did not happen proves nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::course::{Course, Fault};
use super::ledger::Ledger;
use super::schemes::Ours;
use crate::postgres::Answers;
use crate::redis::{RedisServer, Reply, Resp};

const FILLED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Happened {
    pub flushes: u64,
    /// Names that were gone with them.
    pub flushed: i64,
    pub emptied: u64,
    pub brought_back: u64,
    pub hangs: u64,
    pub hung: Duration,
    pub away: Duration,
}

pub async fn breaking(
    redis: &RedisServer,
    course: &Course,
    ledger: &Ledger,
    began: Instant,
) -> anyhow::Result<Happened> {
    let mut happened = Happened::default();
    for (at, fault) in course.faults() {
        tokio::time::sleep_until((began + at).into()).await;
        happened
            .add(redis, ledger, fault)
            .await
            .with_context(|| format!("{fault:?} did not happen"))?;
    }
    Ok(happened)
}

impl Happened {
    async fn add(
        &mut self,
        redis: &RedisServer,
        ledger: &Ledger,
        fault: Fault,
    ) -> anyhow::Result<()> {
        match fault {
            Fault::Flush => {
                let mut connection = redis.connect().await?;
                self.flushed += something(&mut connection).await?;
                connection.ok(&["FLUSHALL"]).await?;
                self.flushes += 1;
            }
            Fault::Copy => {
                something(&mut redis.connect().await?).await?;
                redis.copy().await?;
            }
            Fault::Empty(away) => {
                let down = Instant::now();
                redis.kill()?;
                tokio::time::sleep(away).await;
                redis.restart_empty().await?;
                self.away += down.elapsed();
                self.emptied += 1;
            }
            Fault::Old(away) => {
                let down = Instant::now();
                redis.kill()?;
                tokio::time::sleep(away).await;
                redis.restart_from_copy().await?;
                self.away += down.elapsed();
                let back = names(&mut redis.connect().await?).await?;
                ensure!(back > 0, "the copy was empty");
                self.brought_back += 1;
            }
            Fault::Hang(how_long) => {
                let mut connection = redis.connect().await?;
                let since = Instant::now();
                ledger.hangs(since);
                redis.pause()?;
                let answer = tokio::time::timeout(how_long, connection.command(&["PING"])).await;
                self.hung += since.elapsed();
                redis.resume()?;
                ledger.answers_again(Instant::now());
                ensure!(answer.is_err(), "it answered all the same");
                self.hangs += 1;
            }
        }
        Ok(())
    }

    pub fn told(&self) -> String {
        format!(
            "{} flushes ({} names gone); {} restarts empty and {} with an old copy ({} ms away); hung {} times ({} ms)",
            self.flushes,
            self.flushed,
            self.emptied,
            self.brought_back,
            self.away.as_millis(),
            self.hangs,
            self.hung.as_millis(),
        )
    }

    pub fn count(&self) -> u64 {
        self.flushes + self.emptied + self.brought_back + self.hangs
    }
}

/// Waits until there is anything in the cache: on a busy machine faults may follow each other closely.
async fn something(connection: &mut Resp) -> anyhow::Result<i64> {
    let began = Instant::now();
    while began.elapsed() < FILLED_WITHIN {
        match names(connection).await? {
            0 => tokio::time::sleep(LOOK_AGAIN).await,
            names => return Ok(names),
        }
    }
    anyhow::bail!(
        "nobody fills the cache within {} s",
        FILLED_WITHIN.as_secs()
    )
}

async fn names(connection: &mut Resp) -> anyhow::Result<i64> {
    match connection.command(&["DBSIZE"]).await? {
        Reply::Int(names) => Ok(names),
        other => anyhow::bail!("the private Redis said {}", other.text()),
    }
}

/// Holds a transaction open in the middle of the run; says for how long readers could not see past it.
pub async fn holding_open(
    answers: &Answers,
    ours: &Ours,
    course: &Course,
    began: Instant,
) -> anyhow::Result<Duration> {
    let from = began + (course.lasts - course.open_for) / 2;
    tokio::time::sleep_until(from.into()).await;
    let open = answers.open_transaction().await?;
    let since = Instant::now();
    tokio::time::sleep(course.open_for).await;
    let view = ours.view().await?;
    ensure!(
        !view.is_visible(open.id),
        "the transaction that was to be open is not"
    );
    open.end().await?;
    Ok(since.elapsed())
}
