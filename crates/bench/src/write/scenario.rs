//! Where a measurement is run: a database of its own, a daemon in front of it, and the card that
//! both follow. After each turn the stored rows are compared with the card: a fast wrong answer is
//! an error, not a result.

use anyhow::ensure;
use fastrand::Rng;

use super::card::Card;
use super::looks::{Daemon, Looked, observed};
use super::postgres::{Database, Eye, Wide};
use oddsd_core::model::Snapshot;

/// The card is the same in every run, and so are its changes.
pub const SEED: u64 = 20_251_013;

pub struct Course {
    pub daemon: Daemon,
    pub card: Card,
    pub eye: Eye,
    rng: Rng,
}

impl Course {
    /// All prices of the card are stored, and the database has had its rest.
    pub async fn set(db: &Database, prices: usize) -> anyhow::Result<Self> {
        let mut course = Self {
            daemon: Daemon::start(db.store().await?).await?,
            card: Card::new(prices, SEED, chrono::Utc::now()),
            eye: db.eye().await?,
            rng: Rng::with_seed(SEED + 1),
        };
        let first = observed(&course.card)?;
        course.look(&first, prices).await?;
        course.eye.settle().await?;
        Ok(course)
    }

    /// The card moves on; what the feed would say now, and which prices moved.
    pub fn next(&mut self, share: f64) -> anyhow::Result<(Snapshot, Vec<usize>)> {
        let moved = self.next_card(share);
        Ok((observed(&self.card)?, moved))
    }

    pub fn next_card(&mut self, share: f64) -> Vec<usize> {
        let moved;
        (self.card, moved) = self.card.moved(share, &mut self.rng);
        moved
    }

    /// One look of the daemon, and the proof that it wrote what it had to.
    pub async fn look(&mut self, observed: &Snapshot, changed: usize) -> anyhow::Result<Looked> {
        let look = self.daemon.look(observed).await?;
        ensure!(
            look.changed == changed,
            "{} changes were found where {changed} were made",
            look.changed
        );
        self.stored().await?;
        Ok(look)
    }

    pub async fn stored(&mut self) -> anyhow::Result<()> {
        let (stored, expected) = (self.eye.stored().await?, self.card.check());
        ensure!(
            stored == expected,
            "oddsd stored {stored:?} where the card says {expected:?}"
        );
        Ok(())
    }

    pub async fn holds(&mut self, wide: &Wide) -> anyhow::Result<()> {
        let (stored, expected) = (self.eye.wide(&wide.table).await?, self.card.check());
        ensure!(
            stored == expected,
            "{} holds {stored:?} where the card says {expected:?}",
            wide.table
        );
        Ok(())
    }
}
