//! Measures the removal of one tag on half a million answers, and the delay of another client meanwhile. It is a
//! section of `oddsd-bench freshness`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::change_table::ChangeTable;
use super::sizes::SpeedSizes;
use crate::database::Database;
use crate::relay_harness::{RelayHarness, bench_key, long_policy, open_cache};
use crate::report::{Measure, Target, median, millis, p99};
use oddsd_cache::{InvalidationTargets, Policy};
use oddsd_core::key::{Key, Tag};
use oddsd_testkit::proxy::FaultProxy;
use oddsd_testkit::redis::RedisServer;

/// A single server has one shard.
const SHARDS: u16 = 1;
const PIPELINED: usize = 1_000;
/// Removals after the first, each of a newer change.
const REMOVALS: usize = 20;
const SERIES: usize = 7;
/// Answers that are verified.
const VERIFIED: usize = 100;
/// The least baseline of a delay, in ms.
const NO_DELAY: f64 = 0.001;
const BETWEEN: Duration = Duration::from_millis(20);
const PING_EVERY: Duration = Duration::from_micros(100);

pub async fn measure(
    db: &Database,
    redis: &RedisServer,
    sizes: &SpeedSizes,
) -> anyhow::Result<Vec<Measure>> {
    let store = db.store().await?;
    let cache = open_cache(&redis.url(), 0, &store).await?;
    let harness = RelayHarness::start(store, cache).await?;
    let tag = Tag::from_text("bench:everything").context("a tag")?;
    let tagged = long_policy().tagged([tag.clone()]);
    let keys = fill_tagged(&harness, redis, &tagged, sizes.tagged).await?;
    ensure!(
        count_served(&harness, &keys, &tag).await? == VERIFIED,
        "the filled answers are not served"
    );

    let (proxy, url) = FaultProxy::in_front_of_url(&redis.url()).await;
    let counted = open_cache(&url, 0, &harness.store).await?;
    counted.connected().await;
    let mut changes = ChangeTable::create(db, 1).await?;
    let targets = InvalidationTargets {
        tags: vec![tag.clone()],
        ..InvalidationTargets::default()
    };
    let pings = PingThread::start(redis.port())?;
    let (mut times, mut during, mut between) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..=REMOVALS {
        let snapshot = changes.commit(&[0], &[&keys[0]]).await?.snapshot;
        let began = Instant::now();
        harness.cache().remove(&targets, &snapshot).await?;
        let ended = Instant::now();
        times.push(millis(ended - began));
        if n == 0 {
            let served = count_served(&harness, &keys, &tag).await?;
            ensure!(
                served == 0,
                "{served} of {VERIFIED} answers are served after the removal of their tag"
            );
        }
        tokio::time::sleep(BETWEEN).await;
        during.push((began, ended));
        between.push((ended + BETWEEN / 2, ended + BETWEEN / 2 + (ended - began)));
    }
    let snapshot = changes.commit(&[0], &[&keys[0]]).await?.snapshot;
    let before = proxy.round_trips();
    counted.remove(&targets, &snapshot).await?;
    let trips = proxy.round_trips() - before;
    counted.close().await;
    let pings = pings.stop()?;
    // A delay by removals is in each series; a delay by other load of the machine is in some.
    let best_series = |spans: &[TimeSpan]| {
        spans
            .chunks(SERIES)
            .map(|spans| slowest(&pings, spans))
            .fold(f64::MAX, f64::min)
    };
    let (during, between) = (best_series(&during), best_series(&between));
    ensure!(!pings.is_empty(), "no PING was sent");
    harness.stop().await?;
    let note = format!("{} answers under one tag", keys.len());
    let ping_times: Vec<f64> = pings
        .iter()
        .map(|(asked, answered)| millis(*answered - *asked))
        .collect();
    Ok(vec![
        Measure::new("tag_removal", "ms", median(&times), Target::AtMost(2.0)).note(format!(
            "{note}, the first removal, which ends them all, {:.2} ms, the slowest of {} {:.2} ms",
            times[0],
            times.len(),
            times.iter().copied().fold(0.0, f64::max)
        )),
        Measure::new("tag_removal_round_trips", "trips", trips as f64, Target::AtMost(1.0)).note(note),
        Measure::new("tag_removal_delays", "ms", during, Target::AtMost(2.0))
            .against(between.max(NO_DELAY))
            .note(format!(
                "the slowest PING of another connection during {SERIES} removals, of the best of {} series; against the same between removals, for as long; p99 of all {} PINGs {:.3} ms",
                times.len() / SERIES,
                pings.len(),
                p99(&ping_times)
            )),
    ])
}

/// Fills one answer through a reader, and copies it under the other keys.
async fn fill_tagged(
    harness: &RelayHarness,
    redis: &RedisServer,
    policy: &Policy,
    answers: usize,
) -> anyhow::Result<Vec<Key>> {
    let keys: Vec<Key> = (0..answers).map(|n| bench_key("tagged", n)).collect();
    harness
        .read_through(&keys[0], policy, "an answer with a tag")
        .await?;
    let stored = harness
        .cache()
        .stored(&keys[0])
        .await?
        .context("it was filled")?;
    let mut redis = redis.connect().await?;
    for keys in keys.chunks(PIPELINED) {
        for key in keys {
            let name = key.value_key(key.shard(SHARDS));
            redis.write(&[b"SET", name.as_bytes(), &stored]).await?;
        }
        redis.flush().await?;
        for _ in keys {
            redis.reply().await?;
        }
    }
    Ok(keys)
}

/// The number of served answers among those that are verified.
async fn count_served(harness: &RelayHarness, keys: &[Key], tag: &Tag) -> anyhow::Result<usize> {
    let mut served = 0;
    for key in keys.iter().step_by(keys.len() / VERIFIED).take(VERIFIED) {
        let lookup = harness.cache().get(key, std::slice::from_ref(tag)).await?;
        served += usize::from(lookup.entry.is_some());
    }
    Ok(served)
}

type TimeSpan = (Instant, Instant);

/// Another client that sends PINGs on a thread of its own.
struct PingThread {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<std::io::Result<Vec<TimeSpan>>>,
}

impl PingThread {
    fn start(port: u16) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut pings, mut pong) = (Vec::new(), [0; 7]);
            while !stopped.load(SeqCst) {
                let asked = Instant::now();
                stream.write_all(b"PING\r\n")?;
                stream.read_exact(&mut pong)?;
                pings.push((asked, Instant::now()));
                std::thread::sleep(PING_EVERY);
            }
            Ok(pings)
        });
        Ok(Self { stop, thread })
    }

    /// Returns when each PING was sent and answered.
    fn stop(self) -> anyhow::Result<Vec<TimeSpan>> {
        self.stop.store(true, SeqCst);
        let pings = self.thread.join().ok();
        Ok(pings.context("the pinging thread ended early")??)
    }
}

/// The slowest of the pings that were under way in one of these spans, in ms.
fn slowest(pings: &[TimeSpan], spans: &[TimeSpan]) -> f64 {
    let under_way = pings.iter().filter(|(asked, answered)| {
        spans
            .iter()
            .any(|(began, ended)| asked < ended && answered > began)
    });
    under_way
        .map(|(asked, answered)| millis(*answered - *asked))
        .fold(0.0, f64::max)
}
