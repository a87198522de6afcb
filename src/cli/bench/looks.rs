//! The production path inside this process: a body is read, compared with the book, committed, and
//! only then the book moves. What `ingest` does in a cycle, with a clock at each step.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use chrono::{DateTime, Utc};

use super::card::Card;
use crate::diff::{Changes, Guard, diff};
use crate::feed::racing_api::{self, parse_cards};
use crate::model::{Scope, Snapshot};
use crate::store::{Acquired, CycleFacts, Lease, Loaded, Store, Written};

const LEASE_FOR: Duration = Duration::from_secs(3600);

/// A daemon without its loops.
pub struct Daemon {
    pub store: Store,
    lease: Lease,
    loaded: Loaded,
}

/// What one look cost.
pub struct Look {
    pub diff: Duration,
    pub commit: Duration,
    pub changed: usize,
}

impl Look {
    pub fn total(&self) -> Duration {
        self.diff + self.commit
    }
}

impl Daemon {
    pub async fn start(store: Store) -> anyhow::Result<Self> {
        let who = format!("bench-{}", std::process::id());
        let lease = match store.acquire(&who, LEASE_FOR).await? {
            Acquired::Mine(lease) => lease,
            Acquired::HeldBy { holder, .. } => {
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
        self.store.release(&self.lease).await?;
        self.store.close().await;
        Ok(())
    }

    /// What a look at this card would write. Changes nothing.
    pub fn compare(&self, observed: &Snapshot) -> Changes {
        diff(&self.loaded.book, observed, &Guard::OFF)
    }

    /// Diff and commit, then the book moves.
    pub async fn look(&mut self, observed: &Snapshot) -> anyhow::Result<Look> {
        let started = Instant::now();
        let changes = self.compare(observed);
        let diff = started.elapsed();
        let (changed, started) = (changes.prices.len(), Instant::now());
        if !changes.is_quiet() {
            self.commit(observed, &changes).await?;
        }
        let commit = started.elapsed();
        self.loaded.book.apply(changes);
        Ok(Look {
            diff,
            commit,
            changed,
        })
    }

    /// From the bytes of an answer to the commit.
    pub async fn answer(&mut self, body: &str) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let observed = read([body], Utc::now())?;
        let changes = self.compare(&observed);
        if !changes.is_quiet() {
            self.commit(&observed, &changes).await?;
        }
        let took = started.elapsed();
        self.loaded.book.apply(changes);
        Ok(took)
    }

    /// A look at an answer in which nothing moved: what is left to do when the body is there.
    pub fn quiet(&mut self, body: &str) -> anyhow::Result<()> {
        let observed = read([body], Utc::now())?;
        let changes = self.compare(&observed);
        ensure!(changes.is_quiet(), "a quiet look found something to write");
        self.loaded.book.apply(changes);
        Ok(())
    }

    async fn commit(&mut self, observed: &Snapshot, changes: &Changes) -> anyhow::Result<Written> {
        let facts = CycleFacts {
            id: self.loaded.next_cycle,
            feed: racing_api::SOURCE.into(),
            races: observed.events.len() as i64,
            horses: observed
                .events
                .iter()
                .map(|e| e.selections.len() as i64)
                .sum(),
            bookmakers: observed
                .bookmakers
                .iter()
                .map(|b| b.id.to_string())
                .collect(),
            fetch_ms: 0,
            diff_ms: 0,
        };
        self.loaded.next_cycle += 1;
        Ok(self.store.commit(&self.lease, &facts, changes).await?)
    }
}

/// What the production parser makes of these bodies.
pub fn read(
    bodies: impl IntoIterator<Item = impl AsRef<str>>,
    now: DateTime<Utc>,
) -> anyhow::Result<Snapshot> {
    let mut snapshot = Snapshot {
        source: racing_api::SOURCE.into(),
        as_of: now,
        scope: Scope::Listed,
        events: Vec::new(),
        bookmakers: Vec::new(),
        rejects: Default::default(),
    };
    for body in bodies {
        let page = parse_cards(body.as_ref(), now)?;
        snapshot.events.extend(page.events);
        for bookmaker in page.bookmakers {
            if !snapshot.bookmakers.contains(&bookmaker) {
                snapshot.bookmakers.push(bookmaker);
            }
        }
        snapshot.rejects.merge(page.rejects);
    }
    // As in production: what is stored of these days and is missing here would be gone.
    let days: BTreeSet<_> = snapshot.events.iter().filter_map(|e| e.event.day).collect();
    snapshot.scope = Scope::Days {
        days: days.into_iter().collect(),
        regions: Vec::new(),
    };
    ensure!(
        snapshot.rejects.is_empty(),
        "the bench's own card was not read whole: {}",
        snapshot.rejects
    );
    Ok(snapshot)
}

/// The whole card, a page at a time.
pub fn observed(card: &Card) -> anyhow::Result<Snapshot> {
    read(card.pages(), Utc::now())
}
