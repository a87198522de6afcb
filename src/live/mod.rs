//! What the daemon just did, for whoever is watching: one [`Activity`] goes to the watchers, into
//! the counters, and into the log as one line. Whoever did something says it here, once, so page,
//! metrics and log cannot disagree.

mod activity;
mod counters;
mod lines;
mod repeats;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::broadcast;

pub use activity::{Activity, ReadState};
pub use counters::Counters;
pub use lines::{LINES, Line};
pub use repeats::{Collapsed, Hearing, Repeats};

/// Activities kept for a slow watcher. One that falls further behind is told how many it missed;
/// the daemon never waits for it.
const BACKLOG: usize = 1024;

/// Clones are the same stream.
#[derive(Clone)]
pub struct Live(Arc<Inner>);

struct Inner {
    /// Guards numbering and sending together, so watchers hear activities in the order of `seq`.
    seq: Mutex<u64>,
    watchers: broadcast::Sender<Arc<Said>>,
    counters: counters::Tally,
    repeats: Mutex<Repeats>,
}

/// One activity as it was said.
#[derive(Clone, Debug, Serialize)]
pub struct Said {
    /// 1, 2, 3, … since start: a gap is something that this watcher missed.
    pub seq: u64,
    pub at: DateTime<Utc>,
    #[serde(flatten)]
    pub activity: Activity,
}

impl Live {
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            seq: Mutex::new(0),
            watchers: broadcast::Sender::new(BACKLOG),
            counters: counters::Tally::default(),
            repeats: Mutex::new(Repeats::new(repeats::WINDOW)),
        }))
    }

    /// Counts it, writes its line and tells the watchers. Never blocks on any of them.
    pub fn say(&self, activity: Activity) {
        self.0.counters.count(&activity);
        self.log(&activity);
        let mut seq = lock(&self.0.seq);
        *seq += 1;
        if self.0.watchers.receiver_count() > 0 {
            let said = Said {
                seq: *seq,
                at: Utc::now(),
                activity,
            };
            // Fails only when the last watcher has just left.
            let _ = self.0.watchers.send(Arc::new(said));
        }
    }

    /// Hears everything said from now on.
    pub fn watch(&self) -> Watcher {
        Watcher(self.0.watchers.subscribe())
    }

    /// Totals since start.
    pub fn counters(&self) -> Counters {
        self.0.counters.snapshot()
    }

    /// A failure that repeats is one line with a count; a success first settles what was held back.
    fn log(&self, activity: &Activity) {
        let now = Instant::now();
        if let Some(error) = activity.error() {
            match lock(&self.0.repeats).hear(activity.name(), error, now) {
                Hearing::Say { collapsed } => lines::write(activity, collapsed),
                Hearing::Hold => {}
            }
            return;
        }
        for settled in activity.settles() {
            for collapsed in lock(&self.0.repeats).settle(settled) {
                lines::write_collapsed(&collapsed);
            }
        }
        lines::write(activity, 0);
    }
}

impl Default for Live {
    fn default() -> Self {
        Self::new()
    }
}

/// Both guarded values are whole at every step, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One listener's place in the stream.
pub struct Watcher(broadcast::Receiver<Arc<Said>>);

#[derive(Clone, Debug)]
pub enum Heard {
    Said(Arc<Said>),
    /// This many activities passed while the watcher was busy: what it shows needs a fresh look.
    Missed(u64),
}

impl Watcher {
    /// The next activity; `None` once every [`Live`] is gone. Safe to drop mid-wait.
    pub async fn next(&mut self) -> Option<Heard> {
        match self.0.recv().await {
            Ok(said) => Some(Heard::Said(said)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Heard::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;

    fn read(state: ReadState) -> Activity {
        Activity::Read {
            key: Key::races_by_stage(),
            state,
            took_ms: 1,
            cycle: Some(7),
        }
    }

    #[tokio::test]
    async fn a_watcher_hears_what_is_said_after_it_came_in_order() {
        let live = Live::new();
        live.say(read(ReadState::Miss));
        let mut watcher = live.watch();
        live.clone().say(read(ReadState::Hit));
        live.say(read(ReadState::Bypass));
        drop(live);
        for expected in [2, 3] {
            match watcher.next().await {
                Some(Heard::Said(said)) => assert_eq!(said.seq, expected),
                other => panic!("expected activity {expected}, heard {other:?}"),
            }
        }
        assert!(watcher.next().await.is_none());
    }

    #[tokio::test]
    async fn a_slow_watcher_is_told_how_much_it_missed_and_the_rest_still_comes() {
        let live = Live::new();
        let mut watcher = live.watch();
        for _ in 0..BACKLOG + 3 {
            live.say(read(ReadState::Hit));
        }
        assert!(matches!(watcher.next().await, Some(Heard::Missed(3))));
        assert!(matches!(watcher.next().await, Some(Heard::Said(said)) if said.seq == 4));
        assert_eq!(live.counters().hits, BACKLOG as u64 + 3);
    }

    #[test]
    fn an_activity_reads_on_the_wire_as_its_log_line_is_called() {
        let said = Said {
            seq: 1,
            at: DateTime::UNIX_EPOCH,
            activity: read(ReadState::Hit),
        };
        assert_eq!(
            serde_json::to_value(&said).expect("serialises"),
            serde_json::json!({
                "seq": 1, "at": "1970-01-01T00:00:00Z", "activity": "cache.read",
                "key": "races:by-stage:v1", "state": "hit", "took_ms": 1, "cycle": 7,
            })
        );
    }
}
