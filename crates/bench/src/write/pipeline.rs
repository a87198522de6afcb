//! The production path of a cycle inside this process: parse an answer, compare it with the stored state, commit, and
//! apply the changes to the state. It times the comparison (with the parsing, if an answer was parsed) and the commit.
//! `Scenario` and the SQLite section of `write` own one.

use std::time::{Duration, Instant};

use anyhow::ensure;
use chrono::{NaiveDate, Utc};

use crate::database::acquire_lease;
use oddsd_core::diff::{Changes, Differ, ShrinkGuard, compute_changes};
use oddsd_core::model::{Scope, Snapshot};
use oddsd_feeds::racing_api::{self, CardsReader};
use oddsd_store::{CycleMeta, InitialState, Store, WriterLease};

/// What one cycle needs: the store, the writer lease, and the stored state in memory.
pub struct CyclePipeline {
    /// Public because `remote` replaces it by a slower connection to the same database.
    pub store: Store,
    cards: CardsReader,
    lease: WriterLease,
    current: InitialState,
}

/// The cost of one cycle.
pub struct CycleTiming {
    /// The comparison, and the parsing where an answer was parsed.
    pub diff: Duration,
    pub commit: Duration,
    /// The number of price changes found.
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
        let current = store.load().await?;
        Ok(Self {
            store,
            cards: CardsReader::default(),
            lease,
            current,
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
        let current = &self.current;
        compute_changes(
            &current.state,
            current.next_cycle,
            snapshot,
            &ShrinkGuard::OFF,
        )
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
        let changes = self.parse_and_compare(body, day)?;
        self.commit(changes, started.elapsed()).await
    }

    /// Processes an answer that must have no changes and no rejected rows, and marks its events as checked.
    pub fn process_unchanged(&mut self, body: &str, day: NaiveDate) -> anyhow::Result<()> {
        let changes = self.parse_and_compare(body, day)?;
        ensure_all_accepted(&changes)?;
        ensure!(
            changes.is_empty(),
            "a cycle without changes found something to write"
        );
        self.current.state.apply(changes);
        Ok(())
    }

    fn parse_and_compare(&mut self, body: &str, day: NaiveDate) -> anyhow::Result<Changes> {
        let mut differ = Differ::new(&self.current.state, self.current.next_cycle);
        let mut meta = self.cards.read(body, Utc::now(), &mut differ)?;
        // An answer does not say which day it covers; the feed sets the scope, too.
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
        ensure_all_accepted(&changes)?;
        let changed = changes.prices.len();
        let started = Instant::now();
        if !changes.is_empty() {
            let stats = &changes.stats;
            let meta = CycleMeta {
                id: self.current.next_cycle,
                feed: racing_api::SOURCE.into(),
                races: stats.events as i64,
                horses: stats.selections as i64,
                bookmakers: stats.bookmakers.iter().map(ToString::to_string).collect(),
                fetch_ms: 0,
                diff_ms: diff.as_millis() as i64,
            };
            self.current.next_cycle += 1;
            self.store.commit(&self.lease, &meta, &mut changes).await?;
        }
        let commit = started.elapsed();
        self.current.state.apply(changes);
        Ok(CycleTiming {
            diff,
            commit,
            changed,
        })
    }
}

fn ensure_all_accepted(changes: &Changes) -> anyhow::Result<()> {
    ensure!(
        changes.rejected.is_empty(),
        "the parser rejected rows of the fixture: {}",
        changes.rejected
    );
    Ok(())
}
