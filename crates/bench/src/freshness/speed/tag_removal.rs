//! One tag on half a million answers is removed: how long that takes, and what others notice of it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::relaying::{Relaying, key, loaded, open, policy};
use super::{Servers, Sizes};
use crate::postgres::{Changes, Database};
use crate::report::{Bar, Measure, median, p99};
use crate::wire::Wire;
use oddsd_cache::{InvalidationTargets, Policy};
use oddsd_core::key::{Key, Tag};

/// A single server keeps all in one.
const BUCKETS: u16 = 1;
const PIPELINED: usize = 1_000;
/// Removals after the first, each of a newer change.
const REMOVALS: usize = 20;
const SERIES: usize = 7;
/// Answers that are looked at.
const LOOKED_AT: usize = 100;
/// In ms: as good as no delay.
const NOTHING: f64 = 0.001;
const BETWEEN: Duration = Duration::from_millis(20);
const PING_EVERY: Duration = Duration::from_micros(100);

pub async fn measure(
    db: &Database,
    servers: &Servers,
    sizes: &Sizes,
) -> anyhow::Result<Vec<Measure>> {
    let relaying = Relaying::start(db.store().await?, open(&servers.redis.url(), 0).await?).await?;
    let tag = Tag::from_text("bench:everything").context("a tag")?;
    let tagged = policy().tagged([tag.clone()]);
    let keys = fill(&relaying, servers, &tagged, sizes.tagged).await?;
    ensure!(
        standing(&relaying, &keys, &tag).await? == LOOKED_AT,
        "what was filled is not served"
    );

    let server = ([127, 0, 0, 1], servers.redis.port()).into();
    let wire = Wire::before(server, Duration::ZERO).await?;
    let counted = open(&format!("redis://127.0.0.1:{}", wire.port), 0).await?;
    counted.connected().await;
    let mut changes = Changes::of(db, 1).await?;
    let targets = InvalidationTargets {
        tags: vec![tag.clone()],
        ..InvalidationTargets::default()
    };
    let pings = Pings::of(servers.redis.port())?;
    let (mut took, mut others, mut calm) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..=REMOVALS {
        let view = changes.commit(&[0], &[&keys[0]]).await?.snapshot;
        let began = Instant::now();
        relaying.cache().remove(&targets, &view).await?;
        let ended = Instant::now();
        took.push(millis(ended - began));
        if n == 0 {
            let left = standing(&relaying, &keys, &tag).await?;
            ensure!(
                left == 0,
                "{left} of {LOOKED_AT} answers outlive the removal of their tag"
            );
        }
        tokio::time::sleep(BETWEEN).await;
        others.push((began, ended));
        calm.push((ended + BETWEEN / 2, ended + BETWEEN / 2 + (ended - began)));
    }
    let view = changes.commit(&[0], &[&keys[0]]).await?.snapshot;
    let before = wire.round_trips();
    counted.remove(&targets, &view).await?;
    let trips = wire.round_trips() - before;
    counted.close().await;
    let pings = pings.end()?;
    // What a removal does to others it does in each series; what the machine does, in some.
    let worst = |spans: &[Span]| {
        spans
            .chunks(SERIES)
            .map(|spans| slowest(&pings, spans))
            .fold(f64::MAX, f64::min)
    };
    let (during, beside) = (worst(&others), worst(&calm));
    ensure!(!pings.is_empty(), "nobody was there to notice");
    relaying.end().await?;
    let many = format!("{} answers under one tag", keys.len());
    Ok(vec![
        Measure::new("tag_removal", "ms", median(&took), Bar::AtMost(2.0)).note(format!(
            "{many}, the first removal, which ends them all, {:.2} ms, the slowest of {} {:.2} ms",
            took[0],
            took.len(),
            took.iter().copied().fold(0.0, f64::max)
        )),
        Measure::new("tag_removal_round_trips", "trips", trips as f64, Bar::AtMost(1.0)).note(many),
        Measure::new("tag_removal_delays", "ms", during, Bar::AtMost(2.0)).against(beside.max(NOTHING)).note(format!(
            "the slowest PING of another connection during {SERIES} removals, of the best of {} series; against the same in between, for as long; p99 of all {} PINGs {:.3} ms",
            took.len() / SERIES,
            pings.len(),
            p99(&pings.iter().map(|(asked, answered)| millis(*answered - *asked)).collect::<Vec<_>>())
        )),
    ])
}

/// One answer the usual way, and copies of it under as many names.
async fn fill(
    relaying: &Relaying,
    servers: &Servers,
    policy: &Policy,
    answers: usize,
) -> anyhow::Result<Vec<Key>> {
    let keys: Vec<Key> = (0..answers).map(|n| key("tagged", n)).collect();
    let store = relaying.store.clone();
    let load = move || {
        let store = store.clone();
        async move { loaded(&store, "an answer with a tag").await }
    };
    relaying.reader.read(&keys[0], policy, load).await?;
    let stored = relaying
        .cache()
        .stored(&keys[0])
        .await?
        .context("it was filled")?;
    let mut redis = servers.redis.connect().await?;
    for keys in keys.chunks(PIPELINED) {
        for key in keys {
            let name = key.value_key(key.shard(BUCKETS));
            redis.write(&[b"SET", name.as_bytes(), &stored]).await?;
        }
        redis.flush().await?;
        for _ in keys {
            redis.reply().await?;
        }
    }
    Ok(keys)
}

/// How many of some answers are served.
async fn standing(relaying: &Relaying, keys: &[Key], tag: &Tag) -> anyhow::Result<usize> {
    let mut standing = 0;
    for key in keys.iter().step_by(keys.len() / LOOKED_AT).take(LOOKED_AT) {
        let looked = relaying.cache().get(key, std::slice::from_ref(tag)).await?;
        standing += usize::from(looked.entry.is_some());
    }
    Ok(standing)
}

type Span = (Instant, Instant);

/// Another client, in a thread of its own.
struct Pings {
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<std::io::Result<Vec<Span>>>,
}

impl Pings {
    fn of(port: u16) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let (mut pings, mut pong) = (Vec::new(), [0; 7]);
            while !is_over.load(SeqCst) {
                let asked = Instant::now();
                stream.write_all(b"PING\r\n")?;
                stream.read_exact(&mut pong)?;
                pings.push((asked, Instant::now()));
                std::thread::sleep(PING_EVERY);
            }
            Ok(pings)
        });
        Ok(Self { over, thread })
    }

    fn end(self) -> anyhow::Result<Vec<Span>> {
        self.over.store(true, SeqCst);
        let pings = self
            .thread
            .join()
            .ok()
            .context("the pinging thread ended early")?;
        Ok(pings?)
    }
}

/// The slowest of the pings that were under way in one of these spans, in ms.
fn slowest(pings: &[Span], spans: &[Span]) -> f64 {
    let under_way = pings.iter().filter(|(asked, answered)| {
        spans
            .iter()
            .any(|(began, ended)| asked < ended && answered > began)
    });
    under_way
        .map(|(asked, answered)| millis(*answered - *asked))
        .fold(0.0, f64::max)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
