//! In-process notifications of commits and of removals that the cache confirmed.
//! The poller, the relay and the canary send them; the relay and the auditor receive them.

use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, mpsc};

use super::Claim;
use oddsd_core::model::View;

/// The receivers of this process's commits. A full queue loses nothing: the rows are in the outbox.
#[derive(Clone, Default)]
pub struct Poke {
    /// A relay that can remove the rows at once.
    pub relay: Option<mpsc::Sender<Claim>>,
    /// The auditor, which checks the removals.
    pub auditor: Option<mpsc::Sender<Told>>,
    /// Wakes the relay to claim rows.
    pub bell: Arc<Notify>,
}

/// An event for the auditor. They are sent in the order in which they happened.
#[derive(Clone, Debug)]
pub enum Told {
    Committed(Commit),
    Removed(Gone),
}

/// One committed cycle, and the time of the feed's snapshot.
#[derive(Clone, Debug)]
pub struct Commit {
    pub claim: Claim,
    /// By the clock of the feed, which may be a simulated day's.
    pub observed_at: DateTime<Utc>,
    /// When the database had confirmed, by the wall clock and by the monotonic one.
    pub committed_at: DateTime<Utc>,
    pub at: Instant,
}

/// Outbox rows whose removal the cache has confirmed, and when.
#[derive(Clone, Debug)]
pub struct Gone {
    pub rows: Rows,
    pub at: Instant,
}

#[derive(Clone, Debug)]
pub enum Rows {
    These(Vec<i64>),
    /// Rows up to this one whose transactions are visible in the snapshot.
    Through(i64, View),
}

impl Poke {
    /// Announces a commit to the auditor, and hands its rows to the relay or wakes it.
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
