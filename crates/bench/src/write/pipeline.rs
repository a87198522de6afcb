//! The production path inside this process: an answer is read while it comes in, compared with the
//! book, committed, and only then the book moves. What `ingest` does in a cycle, with a clock at
//! each step.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use chrono::{DateTime, NaiveDate, Utc};

use super::card::Card;
use oddsd_core::diff::{Changes, Differ, ShrinkGuard, compute_changes};
use oddsd_core::model::{Scope, Snapshot};
use oddsd_feeds::racing_api::{self, parse_cards, read_cards};
use oddsd_store::{AcquireResult, CycleMeta, InitialState, Store, WriterLease};

const LEASE_FOR: Duration = Duration::from_secs(3600);

/// A daemon without its loops.
pub struct Daemon {
    pub store: Store,
    lease: WriterLease,
    loaded: InitialState,
}

/// What one look cost.
pub struct Looked {
    /// Comparing; where the answer was read as well, both.
    pub diff: Duration,
    pub commit: Duration,
    pub changed: usize,
}

impl Looked {
    pub fn total(&self) -> Duration {
        self.diff + self.commit
    }
}

impl Daemon {
    pub async fn start(store: Store) -> anyhow::Result<Self> {
        let who = format!("bench-{}", std::process::id());
        let lease = match store.acquire_lease(&who, LEASE_FOR).await? {
            AcquireResult::Granted(lease) => lease,
            AcquireResult::HeldBy { holder, .. } => {
                bail!("{holder} holds the lease of a fresh database")
            }
        };
        let loaded = store.load().await?;
        Ok(Self {
            store,
            lease,
            loaded,
        })
    }

    /// Lets go of the lease, for whoever is next.
    pub async fn leave(self) -> anyhow::Result<()> {
        self.store.release_lease(&self.lease).await?;
        self.store.close().await;
        Ok(())
    }

    /// What a look at this card would write. Changes nothing.
    pub fn compare(&self, observed: &Snapshot) -> Changes {
        compute_changes(&self.loaded.state, observed, &ShrinkGuard::OFF)
    }

    /// A look at what has been read already.
    pub async fn look(&mut self, observed: &Snapshot) -> anyhow::Result<Looked> {
        let started = Instant::now();
        let changes = self.compare(observed);
        self.commit(changes, started.elapsed()).await
    }

    /// From the bytes of a day's answer to the commit.
    pub async fn answer(&mut self, body: &str, day: NaiveDate) -> anyhow::Result<Looked> {
        let started = Instant::now();
        let changes = self.read(body, day)?;
        self.commit(changes, started.elapsed()).await
    }

    /// A look at an answer in which nothing moved: all that is left to do with its bytes.
    pub fn quiet(&mut self, body: &str, day: NaiveDate) -> anyhow::Result<()> {
        let changes = self.read(body, day)?;
        ensure!(changes.is_empty(), "a quiet look found something to write");
        self.loaded.state.apply(changes);
        Ok(())
    }

    fn read(&mut self, body: &str, day: NaiveDate) -> anyhow::Result<Changes> {
        let mut differ = Differ::new(&self.loaded.state);
        let mut look = read_cards(body, Utc::now(), &mut differ)?;
        look.scope = Scope::Days {
            days: vec![day],
            regions: Vec::new(),
        };
        Ok(differ.finish(look, &ShrinkGuard::OFF))
    }

    async fn commit(&mut self, mut changes: Changes, diff: Duration) -> anyhow::Result<Looked> {
        let (changed, started) = (changes.prices.len(), Instant::now());
        ensure!(
            changes.rejected.is_empty(),
            "the bench's own card was not read whole: {}",
            changes.rejected
        );
        if !changes.is_empty() {
            let extent = &changes.stats;
            let facts = CycleMeta {
                id: self.loaded.next_cycle,
                feed: racing_api::SOURCE.into(),
                races: extent.events as i64,
                horses: extent.selections as i64,
                bookmakers: extent.bookmakers.iter().map(ToString::to_string).collect(),
                fetch_ms: 0,
                diff_ms: diff.as_millis() as i64,
            };
            self.loaded.next_cycle += 1;
            self.store.commit(&self.lease, &facts, &mut changes).await?;
        }
        let commit = started.elapsed();
        self.loaded.state.apply(changes);
        Ok(Looked {
            diff,
            commit,
            changed,
        })
    }
}

/// The whole card as the production parser reads it, in memory.
pub fn observed(card: &Card) -> anyhow::Result<Snapshot> {
    let now = Utc::now();
    let mut snapshot = empty(now);
    for page in card.pages() {
        let page = parse_cards(&page, now)?;
        snapshot.events.extend(page.events);
        for bookmaker in page.bookmakers {
            if !snapshot.bookmakers.contains(&bookmaker) {
                snapshot.bookmakers.push(bookmaker);
            }
        }
        snapshot.rejected.merge(page.rejected);
    }
    // As in production: what is stored of these days and is missing here would be gone.
    let days: BTreeSet<_> = snapshot.events.iter().filter_map(|e| e.event.day).collect();
    snapshot.scope = Scope::Days {
        days: days.into_iter().collect(),
        regions: Vec::new(),
    };
    Ok(snapshot)
}

fn empty(now: DateTime<Utc>) -> Snapshot {
    Snapshot {
        source: racing_api::SOURCE.into(),
        as_of: now,
        scope: Scope::Listed,
        events: Vec::new(),
        bookmakers: Vec::new(),
        rejected: Default::default(),
    }
}
