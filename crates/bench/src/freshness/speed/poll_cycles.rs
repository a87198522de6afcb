//! The daemon's cycle while the cache hangs, refuses or is slow, against a cache that is well: the relay
//! runs beside it, and nothing of it may be felt.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use fastrand::Rng;
use tokio_util::sync::CancellationToken;

use super::relaying::{LOOK_AGAIN, PATIENCE, Relaying, open};
use super::{Servers, Sizes};
use crate::card::Card;
use crate::child::ingest;
use crate::course::SEED;
use crate::postgres::{Changes, Database, Eye};
use crate::provider::Provider;
use crate::report::{Bar, Measure, median};
use crate::wire::Wire;
use oddsd::poller::{CycleOutcome, Poller};
use oddsd_feeds::FetchRequest;

const SHARE: f64 = 0.1;
/// Between two cycles; what the relay does after one is mostly done then.
const BETWEEN: Duration = Duration::from_millis(25);
const FIRST_LEVEL: u64 = 16 << 20;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Cache {
    Well,
    Hung,
    Refused,
    Slow,
}

impl Cache {
    const ALL: [Self; 4] = [Self::Well, Self::Hung, Self::Refused, Self::Slow];
}

struct Course<'a> {
    db: &'a Database,
    servers: &'a Servers,
    sizes: &'a Sizes,
    provider: Provider,
    card: Card,
    rng: Rng,
    eye: Eye,
    outbox: Changes,
    /// By turn and by state of the cache.
    took: Vec<[Vec<f64>; 4]>,
}

pub async fn measure(
    db: &Database,
    servers: &Servers,
    sizes: &Sizes,
) -> anyhow::Result<Vec<Measure>> {
    let card = Card::new(sizes.day, SEED, chrono::Utc::now());
    let mut course = Course {
        db,
        servers,
        sizes,
        provider: Provider::serving(card.clone()).await?,
        card,
        rng: Rng::with_seed(SEED + 3),
        eye: db.eye().await?,
        outbox: Changes::of(db, 1).await?,
        took: Vec::new(),
    };
    for turn in 0..=sizes.turns {
        course.took.push(Default::default());
        // Whoever is first in a turn is another one in the next.
        for n in 0..Cache::ALL.len() {
            let cache = Cache::ALL[(turn + n) % Cache::ALL.len()];
            course.cycles(cache).await?;
        }
    }
    // The first turn only warms up, where there are others.
    let counted = &course.took[course.took.len().min(2) - 1..];
    let of = |cache: Cache| {
        counted
            .iter()
            .map(move |turn| median(&turn[cache as usize]))
    };
    let well = median(&of(Cache::Well).collect::<Vec<_>>());
    let measure = |name, cache: Cache, note: &str| {
        // Turn by turn: what else the machine does changes from one to the next.
        let ratios: Vec<f64> = of(cache)
            .zip(of(Cache::Well))
            .map(|(ours, well)| ours / well)
            .collect();
        Measure::new(name, "ms", well * median(&ratios), Bar::AtMostTimes(1.05))
            .against(well)
            .note(format!(
                "{note}; the median ratio of {} turns of {} cycles, {} prices, 10 % changed, HTTP included; against a cache that is well",
                ratios.len(),
                sizes.cycles,
                sizes.day
            ))
    };
    Ok(vec![
        measure(
            "cycle_cache_hung",
            Cache::Hung,
            "stopped: it takes commands and never answers",
        ),
        measure("cycle_cache_refused", Cache::Refused, "killed"),
        measure(
            "cycle_cache_slow",
            Cache::Slow,
            &format!("{} ms added to each round trip", sizes.delay.as_millis()),
        ),
    ])
}

impl Course<'_> {
    async fn cycles(&mut self, cache: Cache) -> anyhow::Result<()> {
        let redis = &self.servers.redis;
        self.eye.settle().await?;
        let wire = match cache {
            Cache::Slow => {
                Some(Wire::before(([127, 0, 0, 1], redis.port()).into(), self.sizes.delay).await?)
            }
            _ => None,
        };
        let url = match &wire {
            Some(wire) => format!("redis://127.0.0.1:{}", wire.port),
            None => redis.url(),
        };
        let relaying =
            Relaying::start(self.db.store().await?, open(&url, FIRST_LEVEL).await?).await?;
        let days = u16::try_from(self.card.days()).context("a few days")?;
        let mut ingest = ingest(
            self.provider.url(),
            days,
            relaying.store.clone(),
            relaying.poke.clone(),
        )?;
        // The first loads what is stored, and in the first turn stores all of it.
        cycle(&mut ingest, &relaying, None).await?;
        self.relayed().await?;
        match cache {
            Cache::Well | Cache::Slow => {}
            Cache::Hung => redis.pause()?,
            Cache::Refused => redis.kill()?,
        }
        for _ in 0..self.sizes.cycles {
            let (card, moved) = self.card.moved(SHARE, &mut self.rng);
            self.card = card;
            self.provider.serve(self.card.clone());
            tokio::time::sleep(BETWEEN).await;
            let took = cycle(&mut ingest, &relaying, Some(moved.len())).await?;
            let turn = self.took.last_mut().context("a turn")?;
            turn[cache as usize].push(took.as_secs_f64() * 1000.0);
        }
        match cache {
            Cache::Well | Cache::Slow => self.relayed().await?,
            Cache::Hung => {
                ensure!(self.outbox.waiting().await?, "the cache did not hang");
                redis.resume()?;
            }
            Cache::Refused => {
                ensure!(self.outbox.waiting().await?, "the cache was not away");
                redis.restart_empty().await?;
            }
        }
        let (stored, expected) = (self.eye.stored().await?, self.card.check());
        ensure!(
            stored == expected,
            "the daemon stored {stored:?} where the card says {expected:?}"
        );
        let store = relaying.store.clone();
        relaying.end().await?;
        store.close().await;
        Ok(())
    }

    /// Waits until nothing is left to remove.
    async fn relayed(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.outbox.waiting().await? {
            ensure!(
                began.elapsed() < PATIENCE,
                "removals wait with a cache that is there"
            );
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }
}

async fn cycle(
    ingest: &mut Poller,
    relaying: &Relaying,
    changed: Option<usize>,
) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let stop = CancellationToken::new();
    let cycle = ingest
        .run_cycle(&relaying.lease, &FetchRequest::Everything, None, &stop)
        .await;
    let took = began.elapsed();
    let written = match cycle {
        CycleOutcome::Unchanged(counts) | CycleOutcome::Committed(counts, _) => counts.written(),
        other => bail!("a cycle failed: {other:?}"),
    };
    let changed = changed.map_or(written, |changed| changed as u64);
    ensure!(
        written == changed,
        "the daemon changed {written} prices where {changed} had moved"
    );
    Ok(took)
}
