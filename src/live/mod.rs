//! The event bus: each [`DaemonEvent`] is counted, written to the log (repeated failures as one line with a count) and
//! sent to the subscribers. Poller, relay, leader election, supervisor and read API publish to it, so that counters and
//! log agree; `demo` subscribes.
//!
//! The texts and fields of the lines are an interface, which `tests/logs.rs` fixes.

mod counters;
mod dedup;
mod event;
mod lines;
mod recent_rate;

use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::sync::broadcast;

pub use counters::Counters;
use counters::EventCounters;
use dedup::{LogDeduplicator, WriteLine};
pub use event::{DaemonEvent, read_state_name};
pub use recent_rate::RecentRate;

/// Events that are kept for a slow subscriber. One that falls further behind gets the number of the
/// events it missed; the daemon never waits for it.
const BACKLOG: usize = 1024;

/// A clone shares subscribers, counters and the memory of repeated failures.
#[derive(Clone)]
pub struct EventBus(Arc<SharedBus>);

struct SharedBus {
    sender: broadcast::Sender<Arc<PublishedEvent>>,
    counters: EventCounters,
    dedup: Mutex<LogDeduplicator>,
}

/// An event with its time.
#[derive(Clone, Debug)]
pub struct PublishedEvent {
    pub at: DateTime<Utc>,
    pub event: DaemonEvent,
}

impl EventBus {
    pub fn new() -> Self {
        Self(Arc::new(SharedBus {
            sender: broadcast::Sender::new(BACKLOG),
            counters: EventCounters::default(),
            dedup: Mutex::default(),
        }))
    }

    /// Counts the event, writes its log line and sends it to the subscribers, without waiting for any.
    pub fn publish(&self, event: DaemonEvent) {
        self.0.counters.count(&event);
        self.log(&event);
        if self.0.sender.receiver_count() > 0 {
            let at = Utc::now();
            // An error means that the last subscriber has just left.
            let _ = self.0.sender.send(Arc::new(PublishedEvent { at, event }));
        }
    }

    /// Subscribes to the events that are published from now on. A subscriber that lags must read the current state
    /// again.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<PublishedEvent>> {
        self.0.sender.subscribe()
    }

    /// Totals since the start.
    pub fn counters(&self) -> Counters {
        self.0.counters.snapshot()
    }

    /// Writes the line of an event. Equal failures share a line for five minutes; a success first writes the counts of
    /// the lines that its failures held back.
    fn log(&self, event: &DaemonEvent) {
        if let Some(error) = event.error() {
            let mut dedup = self.0.dedup.lock();
            let decision = dedup.decide(event.name(), error, Instant::now());
            drop(dedup);
            if let Some(WriteLine { held, evicted }) = decision {
                evicted.iter().for_each(lines::write_held);
                lines::write(event, held);
            }
            return;
        }
        for failure in event.ended_failures() {
            let held = self.0.dedup.lock().end(failure);
            held.iter().for_each(lines::write_held);
        }
        for failure in event.fading_failures() {
            let held = self.0.dedup.lock().end_faded(failure, Instant::now());
            held.iter().for_each(lines::write_held);
        }
        lines::write(event, 0);
    }
}

impl Default for EventBus {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oddsd_cache::CacheReadState;
    use oddsd_core::key::Key;
    use tokio::sync::broadcast::error::RecvError;

    fn read(took_ms: u64) -> DaemonEvent {
        DaemonEvent::Read {
            key: Key::races_by_stage(),
            state: CacheReadState::Hit,
            took_ms,
        }
    }

    #[tokio::test]
    async fn subscriber_gets_later_events_in_order() {
        let bus = EventBus::new();
        bus.publish(read(1));
        let mut subscriber = bus.subscribe();
        bus.clone().publish(read(2));
        bus.publish(read(3));
        drop(bus);
        for expected in [2, 3] {
            let published = subscriber.recv().await.expect("an event");
            assert_eq!(published.event, read(expected));
        }
        subscriber.recv().await.expect_err("every bus is dropped");
    }

    #[tokio::test]
    async fn slow_subscriber_gets_the_number_of_missed_events_and_then_the_rest() {
        let bus = EventBus::new();
        let mut subscriber = bus.subscribe();
        let published = BACKLOG as u64 + 3;
        (1..=published).for_each(|n| bus.publish(read(n)));
        let missed = subscriber.recv().await.expect_err("too slow");
        assert_eq!(missed, RecvError::Lagged(3));
        assert_eq!(subscriber.recv().await.expect("an event").event, read(4));
        assert_eq!(bus.counters().hits, published);
    }
}
