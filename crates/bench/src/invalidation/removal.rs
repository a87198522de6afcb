//! From another program's acknowledged commit to the moment at which the cache has confirmed that the
//! answer is gone: the notification, the claim and the removal, by the production relay.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use chrono::Utc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Sizes;
use crate::freshness::bars::relaying::{Relaying, key, loaded, open, policy};
use crate::postgres::{Database, Tlog};
use crate::redis::RedisServer;
use crate::report::{Bar, Measure, median, p99};
use oddsd::live::{DaemonEvent, Delivery};
use oddsd_store::WatchRequest;

pub const MEASURES: [&str; 2] = ["others_commit_to_gone_p50", "others_commit_to_gone_p99"];
const EVERY: Duration = Duration::from_millis(10);
const KEYS: usize = 500;

pub async fn measure(db: &Database, sizes: &Sizes) -> anyhow::Result<Vec<Measure>> {
    let redis = RedisServer::start().await?;
    let store = db.store().await?;
    let relaying = Relaying::start(store.clone(), open(&redis.url(), 16 << 20).await?).await?;
    let stop = CancellationToken::new();
    let listening = tokio::spawn({
        let (store, bell, stop) = (
            store.clone(),
            Arc::clone(&relaying.poke.outbox_wakeup),
            stop.clone(),
        );
        async move { store.listen(bell, stop).await }
    });
    let writer = Tlog::new(db, "watched").await?;
    let asked = WatchRequest {
        table: writer.name().to_owned(),
        columns: vec!["id".into()],
        bulk: 1_000,
        quiet: false,
    };
    store.watch(&asked, false).await?;
    let relaying = Arc::new(relaying);
    // A task of the runtime's workers, as the daemon's are.
    let gone = tokio::spawn(commit(Arc::clone(&relaying), writer, sizes.committing));
    let gone = gone.await??;
    stop.cancel();
    listening.await?;
    let relaying = Arc::into_inner(relaying).context("nobody else relays")?;
    relaying.end().await?;
    store.close().await;
    let ms = |name, value, bar| Measure::new(name, "ms", value, bar);
    Ok(vec![
        ms("others_commit_to_gone_p50", median(&gone), Bar::None).note(format!(
            "{} inserts of another session into a watched table, 100 a second; its transaction also names the key, so no \
             rule is asked",
            gone.len()
        )),
        ms("others_commit_to_gone_p99", p99(&gone), Bar::AtMost(20.0)).note("the same inserts"),
    ])
}

async fn commit(
    relaying: Arc<Relaying>,
    mut writer: Tlog,
    during: Duration,
) -> anyhow::Result<Vec<f64>> {
    let mut watcher = relaying.live.subscribe();
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut gone = Vec::new();
    let began = Instant::now();
    while gone.is_empty() || began.elapsed() < during {
        let key = key("others", gone.len() % KEYS);
        let store = relaying.store.clone();
        let load = move || {
            let store = store.clone();
            async move { loaded(&store, "an answer").await }
        };
        relaying.reader.read(&key, &policy(), load).await?;
        tick.tick().await;
        writer.insert_wrong(&key).await?;
        let committed = Utc::now();
        let confirmed = loop {
            match watcher.next().await {
                Some(Delivery::Event(said)) => match &said.event {
                    DaemonEvent::Invalidated { keys, .. } if keys.contains(&key) => break said.at,
                    _ => {}
                },
                Some(Delivery::Missed(n)) => bail!("{n} activities were missed"),
                None => bail!("the relay has ended"),
            }
        };
        let took = (confirmed - committed).to_std().unwrap_or_default();
        gone.push(took.as_secs_f64() * 1e3);
    }
    Ok(gone)
}
