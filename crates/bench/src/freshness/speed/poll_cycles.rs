//! Measures the daemon's poll cycle while the cache hangs, refuses connections or is slow, against a healthy cache. The
//! relay runs beside it and must not delay it. It is a section of `oddsd-bench freshness`.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use fastrand::Rng;
use tokio_util::sync::CancellationToken;

use super::change_table::ChangeTable;
use super::sizes::SpeedSizes;
use crate::database::{Database, Probe};
use crate::fixture::{Fixture, SEED};
use crate::provider::{FixtureProvider, build_poller};
use crate::relay_harness::{POLL_PAUSE, RelayHarness, WAIT_LIMIT, open_cache};
use crate::report::{Measure, Target, median, millis};
use oddsd::poller::{CycleOutcome, Poller};
use oddsd_feeds::FetchRequest;
use oddsd_testkit::proxy::{FaultProxy, ProxyMode};
use oddsd_testkit::redis::RedisServer;
use oddsd_testkit::resp::RespClient;

const CHANGED_SHARE: f64 = 0.1;
/// The pause between two cycles, in which the relay mostly finishes its work.
const PAUSE_BETWEEN_CYCLES: Duration = Duration::from_millis(25);
const L1_BYTES: u64 = 16 << 20;

#[derive(Clone, Copy, Debug, PartialEq)]
enum CacheCondition {
    Healthy,
    Hung,
    Refused,
    Slow,
}

impl CacheCondition {
    const ALL: [Self; 4] = [Self::Healthy, Self::Hung, Self::Refused, Self::Slow];
}

struct CycleComparison<'a> {
    db: &'a Database,
    redis: &'a RedisServer,
    sizes: &'a SpeedSizes,
    provider: FixtureProvider,
    fixture: Fixture,
    rng: Rng,
    probe: Probe,
    /// For a look at the outbox; its own table is not used.
    outbox: ChangeTable,
    /// Milliseconds of each cycle, by turn and by `CacheCondition as usize`.
    times: Vec<[Vec<f64>; CacheCondition::ALL.len()]>,
}

pub async fn measure(
    db: &Database,
    redis: &RedisServer,
    sizes: &SpeedSizes,
) -> anyhow::Result<Vec<Measure>> {
    let fixture = Fixture::new(sizes.day, SEED, chrono::Utc::now());
    let mut comparison = CycleComparison {
        db,
        redis,
        sizes,
        provider: FixtureProvider::start(fixture.clone()).await?,
        fixture,
        rng: Rng::with_seed(SEED + 3),
        probe: db.probe().await?,
        outbox: ChangeTable::create(db, 1).await?,
        times: Vec::new(),
    };
    for turn in 0..=sizes.turns {
        comparison.times.push(Default::default());
        // The order rotates, so that no condition is always the first of a turn.
        for n in 0..CacheCondition::ALL.len() {
            let condition = CacheCondition::ALL[(turn + n) % CacheCondition::ALL.len()];
            comparison.measure_condition(condition).await?;
        }
    }
    // The first turn warms up; it counts only if it is the only one.
    let counted = &comparison.times[comparison.times.len().min(2) - 1..];
    let medians = |condition: CacheCondition| {
        counted
            .iter()
            .map(move |turn| median(&turn[condition as usize]))
    };
    let healthy_ms = median(&medians(CacheCondition::Healthy).collect::<Vec<_>>());
    let measure = |name, condition, note: &str| {
        // Turn by turn, because other load of the machine changes between turns.
        let ratios: Vec<f64> = medians(condition)
            .zip(medians(CacheCondition::Healthy))
            .map(|(faulty, healthy)| faulty / healthy)
            .collect();
        let faulty_ms = healthy_ms * median(&ratios);
        Measure::new(name, "ms", faulty_ms, Target::AtMostTimes(1.05))
            .against(healthy_ms)
            .note(format!(
                "{note}; the median of a healthy cache times the median ratio of {} turns of {} cycles; {} prices, {:.0} % changed, HTTP included",
                ratios.len(),
                sizes.cycles,
                sizes.day,
                CHANGED_SHARE * 100.0
            ))
    };
    Ok(vec![
        measure(
            "cycle_cache_hung",
            CacheCondition::Hung,
            "stopped: it accepts commands and never answers",
        ),
        measure("cycle_cache_refused", CacheCondition::Refused, "killed"),
        measure(
            "cycle_cache_slow",
            CacheCondition::Slow,
            &format!("{} ms added to each round trip", sizes.delay.as_millis()),
        ),
    ])
}

impl CycleComparison<'_> {
    async fn measure_condition(&mut self, condition: CacheCondition) -> anyhow::Result<()> {
        self.probe.vacuum().await?;
        let (_proxy, url) = match condition {
            CacheCondition::Slow => {
                let (proxy, url) = FaultProxy::in_front_of_url(&self.redis.url()).await;
                proxy.set(ProxyMode::Slow(self.sizes.delay));
                (Some(proxy), url)
            }
            _ => (None, self.redis.url()),
        };
        let store = self.db.store().await?;
        let cache = open_cache(&url, L1_BYTES, &store).await?;
        let harness = RelayHarness::start(store, cache).await?;
        let days = u16::try_from(self.fixture.days()).context("the fixture has too many days")?;
        let mut poller = build_poller(
            self.provider.url(),
            days,
            harness.store.clone(),
            harness.notifier.clone(),
        )?;
        // The first cycle loads the stored state, and in the first turn it stores all prices.
        time_cycle(&mut poller, &harness, None).await?;
        self.wait_until_outbox_is_empty().await?;
        match condition {
            CacheCondition::Healthy | CacheCondition::Slow => {}
            CacheCondition::Hung => self.redis.pause(),
            CacheCondition::Refused => self.redis.kill().await,
        }
        for _ in 0..self.sizes.cycles {
            let (fixture, changed) = self.fixture.with_changes(CHANGED_SHARE, &mut self.rng);
            self.fixture = fixture;
            self.provider.serve(self.fixture.clone());
            tokio::time::sleep(PAUSE_BETWEEN_CYCLES).await;
            let time = time_cycle(&mut poller, &harness, Some(changed.len())).await?;
            let turn = self.times.last_mut().context("no turn was begun")?;
            turn[condition as usize].push(millis(time));
        }
        match condition {
            CacheCondition::Healthy | CacheCondition::Slow => {
                self.wait_until_outbox_is_empty().await?
            }
            CacheCondition::Hung => {
                ensure!(!self.redis_answers().await, "the cache did not hang");
                ensure!(self.outbox.has_changes().await?, "a removal was confirmed");
                self.redis.resume();
            }
            CacheCondition::Refused => {
                ensure!(!self.redis_answers().await, "the cache was not killed");
                ensure!(self.outbox.has_changes().await?, "a removal was confirmed");
                self.redis.restart().await;
            }
        }
        self.probe.verify(&self.fixture).await?;
        let store = harness.store.clone();
        harness.stop().await?;
        store.close().await;
        Ok(())
    }

    async fn redis_answers(&self) -> bool {
        let ping = async {
            let mut client = RespClient::connect(self.redis.port()).await?;
            client.command(&["PING"]).await
        };
        let answer = tokio::time::timeout(PAUSE_BETWEEN_CYCLES, ping).await;
        matches!(answer, Ok(Ok(_)))
    }

    async fn wait_until_outbox_is_empty(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.outbox.has_changes().await? {
            ensure!(
                began.elapsed() < WAIT_LIMIT,
                "removals wait although the cache answers"
            );
            tokio::time::sleep(POLL_PAUSE).await;
        }
        Ok(())
    }
}

async fn time_cycle(
    poller: &mut Poller,
    harness: &RelayHarness,
    changed: Option<usize>,
) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let stop = CancellationToken::new();
    let cycle = poller
        .run_cycle(&harness.lease, &FetchRequest::Everything, None, &stop)
        .await;
    let time = began.elapsed();
    let written = match cycle {
        CycleOutcome::Unchanged(counts) | CycleOutcome::Committed(counts, _) => counts.written(),
        other => bail!("a cycle failed: {other:?}"),
    };
    if let Some(changed) = changed {
        ensure!(
            written == changed as u64,
            "the daemon wrote {written} prices, and {changed} had changed"
        );
    }
    Ok(time)
}
