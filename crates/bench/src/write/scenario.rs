//! A measurement's setting: a database of its own, the daemon's cycle on it, and the fixture that both follow. The
//! sections of `write` use it; it compares the stored rows with the fixture, because a fast wrong answer is an error.

use anyhow::ensure;
use fastrand::Rng;

use super::baseline_table::BaselineTable;
use super::pipeline::{CyclePipeline, CycleTiming};
use crate::database::{Database, Probe};
use crate::fixture::{Fixture, SEED};
use oddsd_core::model::Snapshot;

pub struct Scenario {
    pub daemon: CyclePipeline,
    pub fixture: Fixture,
    pub probe: Probe,
    rng: Rng,
}

impl Scenario {
    /// Stores all prices of a new fixture and vacuums the database.
    pub async fn prepare(db: &Database, prices: usize) -> anyhow::Result<Self> {
        let mut scenario = Self {
            daemon: CyclePipeline::start(db.store().await?).await?,
            fixture: Fixture::new(prices, SEED, chrono::Utc::now()),
            probe: db.probe().await?,
            rng: Rng::with_seed(SEED + 1),
        };
        let first = scenario.fixture.snapshot()?;
        scenario.run_cycle(&first, prices).await?;
        scenario.probe.vacuum().await?;
        Ok(scenario)
    }

    /// Changes this share of the fixture's prices. Returns the feed's snapshot and the positions of the changes.
    pub fn next_snapshot(&mut self, share: f64) -> anyhow::Result<(Snapshot, Vec<usize>)> {
        let changed = self.advance(share);
        Ok((self.fixture.snapshot()?, changed))
    }

    pub fn advance(&mut self, share: f64) -> Vec<usize> {
        let changed;
        (self.fixture, changed) = self.fixture.with_changes(share, &mut self.rng);
        changed
    }

    /// One cycle of the daemon; fails unless it wrote exactly the changes.
    pub async fn run_cycle(
        &mut self,
        snapshot: &Snapshot,
        changed: usize,
    ) -> anyhow::Result<CycleTiming> {
        let timing = self.daemon.run_cycle(snapshot).await?;
        ensure!(
            timing.changed == changed,
            "{} changes were found where {changed} were made",
            timing.changed
        );
        self.verify().await?;
        Ok(timing)
    }

    /// Fails unless the daemon's tables hold the fixture's prices.
    pub async fn verify(&mut self) -> anyhow::Result<()> {
        self.probe.verify(&self.fixture).await
    }

    /// Fails unless a baseline's table holds the fixture's prices.
    pub async fn verify_baseline(&mut self, baseline: &BaselineTable) -> anyhow::Result<()> {
        let stored = self.probe.baseline_prices(&baseline.table).await?;
        let expected = self.fixture.price_sum();
        ensure!(
            stored == expected,
            "{} holds {stored:?}; the fixture has {expected:?}",
            baseline.table
        );
        Ok(())
    }
}
