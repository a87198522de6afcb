//! The production path of a cycle inside this process, with a clock at each step: parse an answer, compare it with
//! the stored state, commit, and apply the changes to the state. The sections of `write` call it through a scenario.

use std::time::{Duration, Instant};

use anyhow::ensure;
use chrono::{NaiveDate, Utc};

use crate::database::acquire_lease;
use oddsd_core::diff::{Changes, Differ, ShrinkGuard, compute_changes};
use oddsd_core::model::{Scope, Snapshot};
use oddsd_feeds::racing_api::{self, read_cards};
use oddsd_store::{CycleMeta, InitialState, Store, WriterLease};

/// A daemon without its loops.
pub struct CyclePipeline {
    pub store: Store,
    lease: WriterLease,
    loaded: InitialState,
}

/// The cost of one cycle.
pub struct CycleTiming {
    /// The comparison, and the parsing where an answer was parsed.
    pub diff: Duration,
    pub commit: Duration,
    pub changed: usize,
}

impl CycleTiming {
    pub fn total(&self) -> Duration {
        self.diff + self.commit
    }
}

impl CyclePipeline {
    pub async fn start(store: Store) -> anyhow::Result<Self> {
        let lease = acquire_lease(&store).await?;
        let loaded = store.load().await?;
        Ok(Self {
            store,
            lease,
            loaded,
        })
    }

    /// Releases the lease for the next writer.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.store.release_lease(&self.lease).await?;
        self.store.close().await;
        Ok(())
    }

    /// The changes that a cycle would write. Changes nothing.
    pub fn compare(&self, snapshot: &Snapshot) -> Changes {
        compute_changes(&self.loaded.state, snapshot, &ShrinkGuard::OFF)
    }

    /// A cycle on a parsed snapshot.
    pub async fn run_cycle(&mut self, snapshot: &Snapshot) -> anyhow::Result<CycleTiming> {
        let started = Instant::now();
        let changes = self.compare(snapshot);
        self.commit(changes, started.elapsed()).await
    }

    /// A cycle from the bytes of a day's answer to the commit.
    pub async fn process_answer(
        &mut self,
        body: &str,
        day: NaiveDate,
    ) -> anyhow::Result<CycleTiming> {
        let started = Instant::now();
        let changes = self.parse(body, day)?;
        self.commit(changes, started.elapsed()).await
    }

    /// A cycle on an answer without changes; fails if there are any.
    pub fn process_unchanged(&mut self, body: &str, day: NaiveDate) -> anyhow::Result<()> {
        let changes = self.parse(body, day)?;
        ensure!(
            changes.is_empty(),
            "a cycle without changes found something to write"
        );
        self.loaded.state.apply(changes);
        Ok(())
    }

    fn parse(&mut self, body: &str, day: NaiveDate) -> anyhow::Result<Changes> {
        let mut differ = Differ::new(&self.loaded.state);
        let mut meta = read_cards(body, Utc::now(), &mut differ)?;
        meta.scope = Scope::Days {
            days: vec![day],
            regions: Vec::new(),
        };
        Ok(differ.finish(meta, &ShrinkGuard::OFF))
    }

    async fn commit(
        &mut self,
        mut changes: Changes,
        diff: Duration,
    ) -> anyhow::Result<CycleTiming> {
        let (changed, started) = (changes.prices.len(), Instant::now());
        ensure!(
            changes.rejected.is_empty(),
            "the parser rejected rows of the fixture: {}",
            changes.rejected
        );
        if !changes.is_empty() {
            let stats = &changes.stats;
            let meta = CycleMeta {
                id: self.loaded.next_cycle,
                feed: racing_api::SOURCE.into(),
                races: stats.events as i64,
                horses: stats.selections as i64,
                bookmakers: stats.bookmakers.iter().map(ToString::to_string).collect(),
                fetch_ms: 0,
                diff_ms: diff.as_millis() as i64,
            };
            self.loaded.next_cycle += 1;
            self.store.commit(&self.lease, &meta, &mut changes).await?;
        }
        let commit = started.elapsed();
        self.loaded.state.apply(changes);
        Ok(CycleTiming {
            diff,
            commit,
            changed,
        })
    }
}
