//! In-process notifications of commits and of removals that the cache confirmed.
//! The poller, the relay and the canary send them; the relay and the auditor receive them.

use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, mpsc};

use super::ClaimedBatch;
use oddsd_core::model::DbSnapshot;

/// The receivers of this process's commits. A full queue loses nothing: the rows are in the outbox.
#[derive(Clone, Default)]
pub struct CommitNotifier {
    /// A relay that can remove the rows at once.
    pub relay: Option<mpsc::Sender<ClaimedBatch>>,
    /// The auditor, which checks the removals.
    pub auditor: Option<mpsc::Sender<AuditEvent>>,
    /// Wakes the relay to claim rows.
    pub outbox_wakeup: Arc<Notify>,
}

/// An event for the auditor. They are sent in the order in which they happened.
#[derive(Clone, Debug)]
pub enum AuditEvent {
    Committed(CommitEvent),
    Removed(SettledRows),
}

/// One committed cycle, and the time of the feed's snapshot.
#[derive(Clone, Debug)]
pub struct CommitEvent {
    pub batch: ClaimedBatch,
    /// By the clock of the feed, which may be a simulated day's.
    pub observed_at: DateTime<Utc>,
    /// When the database had confirmed, by the wall clock and by the monotonic one.
    pub committed_at: DateTime<Utc>,
    pub at: Instant,
}

/// Outbox rows whose removal the cache has confirmed, and when.
#[derive(Clone, Debug)]
pub struct SettledRows {
    pub rows: RowSet,
    pub at: Instant,
}

#[derive(Clone, Debug)]
pub enum RowSet {
    Ids(Vec<i64>),
    /// Rows up to this one whose transactions are visible in the snapshot.
    Through(i64, DbSnapshot),
}

impl CommitNotifier {
    /// Announces a commit to the auditor, and hands its rows to the relay or wakes it.
    pub fn notify_commit(&self, batch: Option<ClaimedBatch>, observed_at: DateTime<Utc>) {
        if let (Some(auditor), Some(claim)) = (&self.auditor, &batch) {
            let _ = auditor.try_send(AuditEvent::Committed(CommitEvent {
                batch: claim.clone(),
                observed_at,
                committed_at: Utc::now(),
                at: Instant::now(),
            }));
        }
        let handed_over = match (&self.relay, batch) {
            (Some(relay), Some(batch)) => relay.try_send(batch).is_ok(),
            _ => false,
        };
        if !handed_over {
            self.outbox_wakeup.notify_one();
        }
    }
}

impl SettledRows {
    pub fn settled_now(rows: RowSet) -> Self {
        let at = Instant::now();
        Self { rows, at }
    }
}
