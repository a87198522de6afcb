//! The parts that all schemes share: a committed change, and the loader that they read the rows with.
//! The schemes and the load of the run use them.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::Utc;
use parking_lot::Mutex;

use crate::freshness::faults::answer_table::{AnswerTable, CommittedVersion};
use crate::freshness::faults::scenario::{FaultScenario, reader_lag};
use oddsd_core::key::Key;
use oddsd_core::model::DbSnapshot;
use oddsd_store::{ClaimedBatch, OutboxEntry, OutboxRow};

/// Processes with readers; the first of ours is the daemon itself.
pub const PROCESSES: usize = 3;
/// No scheme expires an answer before this, so that freshness does not come from expiry.
pub const TTL_SECONDS: u64 = 60;

/// A change that every scheme is notified of.
pub struct CommittedChange {
    pub row: usize,
    pub version: u64,
    /// The writer's wall clock after the commit, in ms.
    pub at_ms: u64,
    pub key: Key,
    /// The outbox row as if it had just been claimed, as the store passes on its own commits. `None` if the snapshot
    /// has too many open transactions; then the relay claims the row.
    pub batch: Option<ClaimedBatch>,
}

impl CommittedChange {
    pub fn new(row: usize, key: Key, committed: &CommittedVersion) -> Self {
        let entry = OutboxEntry {
            keys: vec![key.clone()],
            ..OutboxEntry::default()
        };
        let outbox_row = OutboxRow::new(
            committed.outbox_row,
            committed.transaction,
            Utc::now(),
            entry,
        );
        let snapshot = committed.snapshot.with_tx(committed.transaction);
        let batch = snapshot.map(|snapshot| ClaimedBatch {
            snapshot,
            rows: vec![outbox_row],
        });
        Self {
            row,
            version: committed.version,
            at_ms: wall_clock_ms(),
            key,
            batch,
        }
    }
}

/// Reads a row, and waits before it returns, as a slow reader does.
pub struct SlowLoader {
    answers: Arc<AnswerTable>,
    rng: Mutex<fastrand::Rng>,
}

impl SlowLoader {
    pub fn new(answers: Arc<AnswerTable>, scenario: &FaultScenario, reader: u64) -> Self {
        Self {
            answers,
            rng: Mutex::new(scenario.rng(reader)),
        }
    }

    pub async fn load(&self, row: usize) -> anyhow::Result<(DbSnapshot, u64)> {
        let loaded = self.answers.load(row).await?;
        let lag = reader_lag(&mut self.rng.lock());
        tokio::time::sleep(lag).await;
        Ok(loaded)
    }
}

/// The key of a row's answer.
pub fn answer_key(row: usize) -> Key {
    Key::from_user_input(&format!("bench:{row}")).expect("a short name")
}

pub fn wall_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as u64
}
