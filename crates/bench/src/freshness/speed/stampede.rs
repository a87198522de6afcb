//! A thousand readers in four processes want one answer that nobody has, and that is slow to load.

use std::io::{Lines, StdinLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures_util::future::try_join_all;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::relaying::{Relaying, key, loaded, open, policy};
use super::{Servers, Sizes};
use crate::child::{Child, Task};
use crate::output::print_line;
use crate::postgres::Database;
use crate::report::{Bar, Measure, median};
use oddsd_cache::Reader;
use oddsd_store::{Store, StoreSettings, Tls};

const PROCESSES: usize = 4;
const SLOW: Duration = Duration::from_millis(50);
const BODY: &str = "what everybody wants";
const FIRST_LEVEL: u64 = 16 << 20;

#[derive(Serialize, Deserialize)]
pub struct Reading {
    database: String,
    redis: String,
    readers: usize,
}

/// What became of the readers of one process.
#[derive(Debug, Serialize, Deserialize)]
struct Read {
    loads: u64,
    slowest_ms: f64,
}

pub async fn measure(
    db: &Database,
    servers: &Servers,
    sizes: &Sizes,
) -> anyhow::Result<Vec<Measure>> {
    let relaying = Relaying::start(db.store().await?, open(&servers.redis.url(), 0).await?).await?;
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        let reading = Reading {
            database: db.settings().url.expose_secret().into(),
            redis: servers.redis.url(),
            readers: sizes.readers / PROCESSES,
        };
        let mut child = Child::start(&Task::Read(reading))?;
        // One answer of its own: it is connected, and the cache has a floor for it.
        child
            .ask::<Read>(&format!("{}", usize::MAX - processes.len()))
            .await?;
        processes.push(child);
    }
    let (mut loads, mut slowest) = (Vec::new(), Vec::new());
    for turn in 0..=sizes.turns {
        let key = turn.to_string();
        let asked = processes.iter_mut().map(|child| child.ask::<Read>(&key));
        let read = try_join_all(asked).await?;
        loads.push(read.iter().map(|read| read.loads).sum::<u64>() as f64);
        slowest.push(read.iter().map(|read| read.slowest_ms).fold(0.0, f64::max));
    }
    relaying.end().await?;
    let most = loads.iter().copied().fold(0.0, f64::max);
    Ok(vec![
        Measure::new("cold_readers_loads", "loads", most, Bar::AtMost(1.0))
            .against(sizes.readers as f64)
            .note(format!(
                "the most of {} turns: {} cold readers at once in {PROCESSES} processes, one key, a load takes {} ms; \
                 the last reader has its answer after {:.0} ms; against a load each",
                loads.len(),
                sizes.readers,
                SLOW.as_millis(),
                median(&slowest)
            )),
    ])
}

/// One of the processes: a line names the key that all of its readers want.
pub async fn child(task: Reading, lines: Lines<StdinLock<'static>>) -> anyhow::Result<()> {
    let store = Store::open(&StoreSettings {
        url: SecretString::from(task.database),
        tls: Tls::VerifyFull,
        max_connections: 2,
        statement_timeout: Duration::from_secs(60),
    })
    .await?;
    let reader = Reader::new(Arc::new(open(&task.redis, FIRST_LEVEL).await?));
    reader.cache().connected().await;
    for line in lines {
        let key = key("crowd", line?.parse()?);
        let loads = Arc::new(AtomicU64::new(0));
        let reads: Vec<_> = (0..task.readers)
            .map(|_| {
                let (reader, key) = (reader.clone(), key.clone());
                let (store, loads) = (store.clone(), Arc::clone(&loads));
                let load = move || {
                    loads.fetch_add(1, SeqCst);
                    let store = store.clone();
                    async move {
                        let loaded = loaded(&store, BODY).await;
                        tokio::time::sleep(SLOW).await;
                        loaded
                    }
                };
                tokio::spawn(async move {
                    let asked = Instant::now();
                    let served = reader.read(&key, &policy(), load).await?;
                    ensure!(**served.body() == *BODY.as_bytes(), "another answer");
                    anyhow::Ok(asked.elapsed())
                })
            })
            .collect();
        let mut slowest = Duration::ZERO;
        for read in reads {
            slowest = slowest.max(read.await??);
        }
        print_line(serde_json::to_string(&Read {
            loads: loads.load(SeqCst),
            slowest_ms: slowest.as_secs_f64() * 1000.0,
        })?);
    }
    store.close().await;
    Ok(())
}
