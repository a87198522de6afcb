//! The event bus: each [`DaemonEvent`] is counted, written to the log as one line and sent to the
//! subscribers. The loops, the leader election and the read API publish to it, so that page, metrics
//! and log agree.

mod counters;
mod dedup;
mod event;
mod lines;

use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::broadcast;

pub use counters::Counters;
use counters::EventCounters;
use dedup::{LogDecision, LogDeduplicator};
pub use event::{DaemonEvent, ReadOutcome};

/// Events that are kept for a slow subscriber. One that falls further behind gets the number of the
/// events it missed; the daemon never waits for it.
const BACKLOG: usize = 1024;

/// A clone publishes to the same subscribers.
#[derive(Clone)]
pub struct EventBus(Arc<SharedBus>);

struct SharedBus {
    /// Guards numbering and sending together, so that subscribers get events in the order of `seq`.
    seq: Mutex<u64>,
    sender: broadcast::Sender<Arc<PublishedEvent>>,
    counters: EventCounters,
    dedup: Mutex<LogDeduplicator>,
}

/// An event with its number and time.
#[derive(Clone, Debug, Serialize)]
pub struct PublishedEvent {
    /// 1, 2, 3, … since the start. A gap is an event that the subscriber missed.
    pub seq: u64,
    pub at: DateTime<Utc>,
    /// The name of the event's log line.
    #[serde(rename = "activity")]
    pub name: &'static str,
    #[serde(flatten)]
    pub event: DaemonEvent,
}

impl EventBus {
    pub fn new() -> Self {
        Self(Arc::new(SharedBus {
            seq: Mutex::new(0),
            sender: broadcast::Sender::new(BACKLOG),
            counters: EventCounters::default(),
            dedup: Mutex::new(LogDeduplicator::new(dedup::WINDOW)),
        }))
    }

    /// Counts the event, writes its log line and sends it to the subscribers, without waiting for any.
    pub fn publish(&self, event: DaemonEvent) {
        self.0.counters.count(&event);
        self.log(&event);
        let mut seq = self.0.seq.lock();
        *seq += 1;
        if self.0.sender.receiver_count() > 0 {
            let published = PublishedEvent {
                seq: *seq,
                at: Utc::now(),
                name: event.name(),
                event,
            };
            // An error means that the last subscriber has just left.
            let _ = self.0.sender.send(Arc::new(published));
        }
    }

    /// Subscribes to the events that are published from now on.
    pub fn subscribe(&self) -> Subscriber {
        Subscriber(self.0.sender.subscribe())
    }

    /// Totals since the start.
    pub fn counters(&self) -> Counters {
        self.0.counters.snapshot()
    }

    /// Writes the line of an event. Equal failures share a line; a success first writes the counts of
    /// the lines that its failures held back.
    fn log(&self, event: &DaemonEvent) {
        if let Some(error) = event.error() {
            let decision = self
                .0
                .dedup
                .lock()
                .decide(event.name(), error, Instant::now());
            if let LogDecision::Write { held } = decision {
                lines::write(event, held);
            }
            return;
        }
        for failure in event.ended_failures() {
            let held = self.0.dedup.lock().end(failure);
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

/// Receives the events of one subscription.
pub struct Subscriber(broadcast::Receiver<Arc<PublishedEvent>>);

#[derive(Clone, Debug)]
pub enum Delivery {
    Event(Arc<PublishedEvent>),
    /// The subscriber was too slow for this many events, so it must read the current state again.
    Missed(u64),
}

impl Subscriber {
    /// Returns the next event, or `None` once every [`EventBus`] is dropped. Cancel safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        match self.0.recv().await {
            Ok(published) => Some(Delivery::Event(published)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Delivery::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oddsd_core::key::Key;

    fn read(state: ReadOutcome) -> DaemonEvent {
        DaemonEvent::Read {
            key: Key::races_by_stage(),
            state,
            took_ms: 1,
            cycle: Some(7),
        }
    }

    #[tokio::test]
    async fn subscriber_gets_later_events_in_order() {
        let bus = EventBus::new();
        bus.publish(read(ReadOutcome::Miss));
        let mut subscriber = bus.subscribe();
        bus.clone().publish(read(ReadOutcome::Hit));
        bus.publish(read(ReadOutcome::Bypass));
        drop(bus);
        for expected in [2, 3] {
            match subscriber.next().await {
                Some(Delivery::Event(published)) => assert_eq!(published.seq, expected),
                other => panic!("expected event {expected}, got {other:?}"),
            }
        }
        assert!(subscriber.next().await.is_none());
    }

    #[tokio::test]
    async fn slow_subscriber_gets_the_number_of_missed_events_and_then_the_rest() {
        let bus = EventBus::new();
        let mut subscriber = bus.subscribe();
        for _ in 0..BACKLOG + 3 {
            bus.publish(read(ReadOutcome::Hit));
        }
        assert!(matches!(subscriber.next().await, Some(Delivery::Missed(3))));
        assert!(
            matches!(subscriber.next().await, Some(Delivery::Event(published)) if published.seq == 4)
        );
        assert_eq!(bus.counters().hits, BACKLOG as u64 + 3);
    }

    #[test]
    fn serialised_event_has_the_name_of_its_log_line() {
        let event = read(ReadOutcome::Hit);
        let published = PublishedEvent {
            seq: 1,
            at: DateTime::UNIX_EPOCH,
            name: event.name(),
            event,
        };
        assert_eq!(
            serde_json::to_value(&published).expect("serialises"),
            serde_json::json!({
                "seq": 1, "at": "1970-01-01T00:00:00Z", "activity": "cache.read",
                "key": "races:by-stage:v1", "state": "hit", "took_ms": 1, "cycle": 7,
            })
        );
    }
}
