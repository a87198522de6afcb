//! How the loops hear of each other: of a commit of this process, and of a removal that the cache has
//! confirmed.

use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, mpsc};

use super::Claim;
use crate::model::View;

/// Whom to tell. Queues that are full are no loss: the rows are in the outbox.
#[derive(Clone, Default)]
pub struct Poke {
    /// A relay that can remove it at once.
    pub relay: Option<mpsc::Sender<Claim>>,
    /// Somebody who checks what became of it.
    pub auditor: Option<mpsc::Sender<Told>>,
    /// There is something to claim.
    pub bell: Arc<Notify>,
}

/// What whoever checks is told, in the order in which it happened.
#[derive(Clone, Debug)]
pub enum Told {
    Committed(Commit),
    Removed(Gone),
}

/// What was committed, and when the feed had said it.
#[derive(Clone, Debug)]
pub struct Commit {
    pub claim: Claim,
    /// Of the clock that the feed is asked by, which may be a simulated day's.
    pub observed_at: DateTime<Utc>,
    /// When the database had confirmed, on the wall and as a moment.
    pub committed_at: DateTime<Utc>,
    pub at: Instant,
}

/// What of the outbox no reader can be wrong about any more, and since when.
#[derive(Clone, Debug)]
pub struct Gone {
    pub rows: Rows,
    pub at: Instant,
}

#[derive(Clone, Debug)]
pub enum Rows {
    These(Vec<i64>),
    /// Rows up to this one, as far as the view saw their transactions.
    Through(i64, View),
}

impl Poke {
    pub fn committed(&self, told: Option<Claim>, observed_at: DateTime<Utc>) {
        if let (Some(auditor), Some(claim)) = (&self.auditor, &told) {
            let _ = auditor.try_send(Told::Committed(Commit {
                claim: claim.clone(),
                observed_at,
                committed_at: Utc::now(),
                at: Instant::now(),
            }));
        }
        let handed_over = match (&self.relay, told) {
            (Some(relay), Some(told)) => relay.try_send(told).is_ok(),
            _ => false,
        };
        if !handed_over {
            self.bell.notify_one();
        }
    }
}

impl Gone {
    pub fn now(rows: Rows) -> Self {
        let at = Instant::now();
        Self { rows, at }
    }
}
