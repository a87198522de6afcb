//! The relay's statements: each has a short deadline, so that one session that hangs does not stop the removals.
//! [`Relay`](super::Relay) asks the database through [`DatabaseWaits`]; the auditor asks it why a removal is late.
//!
//! A statement without an answer in time is given up, and the store opens new sessions for the next ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use oddsd_store::{Store, StoreError};

/// The time for the answer to one statement, which takes milliseconds. After each one that is given up, the next has
/// twice the time: a server that is only slow must not be given up for ever.
const DEADLINE: Duration = Duration::from_secs(3);
const MOST_DOUBLINGS: u32 = 3;
/// A statement that waits for longer is a wait that delays removals.
const NOTABLE: Duration = Duration::from_millis(500);

/// The statements that wait for the database. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct DatabaseWaits(Arc<Mutex<WaitState>>);

#[derive(Debug, Default)]
struct WaitState {
    /// When the statements began that wait for an answer, in their order.
    open: BTreeMap<u64, Instant>,
    next: u64,
    /// Statements that were given up one after the other, since the last answer; and when the last of them was.
    given_up: u32,
    given_up_at: Option<Instant>,
    /// When the first of them began.
    since: Option<Instant>,
}

impl DatabaseWaits {
    /// True while a statement of the relay has waited for notably long, or the last one was given up.
    pub fn is_waiting(&self) -> bool {
        let state = self.0.lock();
        let mut open = state.open.values();
        state.since.is_some() || open.any(|began| began.elapsed() >= NOTABLE)
    }

    /// True from the first statement that was given up until the next answer.
    pub(super) fn is_hung(&self) -> bool {
        self.0.lock().since.is_some()
    }

    /// Runs one statement, or a few, on the store that `statement` is given.
    pub(super) async fn ask<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        store: &Store,
        statement: impl FnOnce(Store) -> F,
    ) -> Result<T, StoreError> {
        let (open, deadline) = self.begin();
        let began = Instant::now();
        let answer = statement(store.with_deadline(deadline)).await;
        drop(open);
        match &answer {
            Err(StoreError::Down(_)) if began.elapsed() >= deadline => self.note_given_up(began),
            // The poller logs it, and it is no answer either.
            Err(StoreError::Down(_)) => {}
            _ => self.note_answer(),
        }
        answer
    }

    fn begin(&self) -> (OpenStatement<'_>, Duration) {
        let mut state = self.0.lock();
        let id = state.next;
        state.next += 1;
        state.open.insert(id, Instant::now());
        let doublings = state.given_up.min(MOST_DOUBLINGS);
        (
            OpenStatement { waits: self, id },
            DEADLINE * (1 << doublings),
        )
    }

    fn note_given_up(&self, began: Instant) {
        let mut state = self.0.lock();
        // Statements that waited at the same time count once.
        state.given_up += u32::from(state.given_up_at.is_none_or(|last| began >= last));
        state.given_up_at = Some(Instant::now());
        if state.since.is_some() {
            return;
        }
        state.since = Some(began);
        let waited_s = began.elapsed().as_secs();
        tracing::warn!(
            event = "relay.database_hangs",
            waited_s,
            "The database has not answered the relay for {waited_s} s: the statement was given up and is repeated in a new \
             session. Removals right after a commit go on; those of other writers wait"
        );
    }

    fn note_answer(&self) {
        let mut state = self.0.lock();
        (state.given_up, state.given_up_at) = (0, None);
        if let Some(since) = state.since.take() {
            let waited_s = since.elapsed().as_secs();
            tracing::info!(
                event = "relay.database_answers",
                waited_s,
                "The database answers the relay again, after {waited_s} s"
            );
        }
    }
}

/// A statement that waits for its answer, or was cancelled.
struct OpenStatement<'a> {
    waits: &'a DatabaseWaits,
    id: u64,
}

impl Drop for OpenStatement<'_> {
    fn drop(&mut self) {
        self.waits.0.lock().open.remove(&self.id);
    }
}
