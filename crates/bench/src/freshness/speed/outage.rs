//! After an outage of the cache: everything that waits is removed, quickly, and by a process that did not
//! grow with it.

use std::io::{Lines, StdinLock};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::relaying::{LOOK_AGAIN, PATIENCE, Relaying, open};
use super::{Servers, Sizes};
use crate::child::{Child, Task};
use crate::machine::memory_of;
use crate::output::print_line;
use crate::postgres::{Changes, Database};
use crate::report::{Bar, Measure};
use oddsd_store::{Store, StoreSettings, Tls};

const EVENTS: i64 = 2_000;
/// Removed before the outage, so that the process has its usual size.
const BEFORE: i64 = 1_000;
const FIRST_LEVEL: u64 = 16 << 20;
const MEGABYTE: f64 = 1024.0 * 1024.0;

#[derive(Serialize, Deserialize)]
pub struct Relayed {
    database: String,
    redis: String,
}

#[derive(Serialize, Deserialize)]
struct Up;

pub async fn measure(
    db: &Database,
    servers: &Servers,
    sizes: &Sizes,
) -> anyhow::Result<Vec<Measure>> {
    let mut child = Child::start(&Task::Relay(Relayed {
        database: db.settings().url.expose_secret().into(),
        redis: servers.redis.url(),
    }))?;
    child.ask::<Up>("").await?;
    let mut outbox = Changes::of(db, 1).await?;
    outbox.pile_up(BEFORE, BEFORE).await?;
    empty(&mut outbox).await?;
    let memory = || memory_of(child.id()).context("the memory of a process");
    let (before, _) = memory()?;

    let away = Instant::now();
    servers.redis.kill()?;
    outbox.pile_up(sizes.pending, EVENTS).await?;
    ensure!(outbox.waiting().await?, "the relay had a cache");
    let away = away.elapsed();
    servers.redis.restart_empty().await?;
    let back = Instant::now();
    empty(&mut outbox).await?;
    let drained = back.elapsed();
    let (_, peak) = memory()?;
    let what = format!(
        "{} removals of {EVENTS} events waited after {:.0} s without a cache",
        sizes.pending,
        away.as_secs_f64()
    );
    Ok(vec![
        Measure::new(
            "outage_drained",
            "s",
            drained.as_secs_f64(),
            Bar::AtMost(5.0),
        )
        .note(format!(
            "{what}; from the first PONG to an outbox in which no change waits"
        )),
        Measure::new(
            "outage_memory",
            "MB",
            peak.saturating_sub(before) as f64 / MEGABYTE,
            Bar::AtMost(64.0),
        )
        .note(format!(
            "{what}; the peak of the relay's own process over its size of {:.1} MB before",
            before as f64 / MEGABYTE
        )),
    ])
}

async fn empty(outbox: &mut Changes) -> anyhow::Result<()> {
    let began = Instant::now();
    while outbox.waiting().await? {
        ensure!(
            began.elapsed() < PATIENCE,
            "changes wait with a cache that is there"
        );
        tokio::time::sleep(LOOK_AGAIN * 5).await;
    }
    Ok(())
}

/// The process: a relay and nothing else, until its input ends.
pub async fn child(task: Relayed, lines: Lines<StdinLock<'static>>) -> anyhow::Result<()> {
    let store = Store::open(&StoreSettings {
        url: SecretString::from(task.database),
        tls: Tls::VerifyFull,
        max_connections: 4,
        statement_timeout: Duration::from_secs(60),
    })
    .await?;
    let relaying = Relaying::start(store.clone(), open(&task.redis, FIRST_LEVEL).await?).await?;
    for line in lines {
        line?;
        print_line(serde_json::to_string(&Up)?);
    }
    relaying.end().await?;
    store.close().await;
    Ok(())
}
