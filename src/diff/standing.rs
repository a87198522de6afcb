//! Statuses that move without a look: by the clock, and by a person's word.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::book::Book;
use super::{Changes, EventChange};
use crate::model::{Event, EventId, EventStatus, StatusSource};

/// What a person says of an event, by the number of the word. `None`: a status that nobody knows.
pub type Word = (i64, EventId, Option<EventStatus>);

/// What is due at `now`. A later word about an event counts for more than an earlier one.
pub fn moves(book: &Book, words: &[Word], now: DateTime<Utc>) -> Changes {
    let said: HashMap<&EventId, EventStatus> = words
        .iter()
        .filter_map(|(_, event, status)| Some((event, (*status)?)))
        .collect();
    let mut changes = Changes {
        as_of: now,
        next: book.next,
        unlooked: true,
        corrections: words.iter().map(|(id, ..)| *id).collect(),
        ..Changes::default()
    };
    for (id, stored) in &book.events {
        let (after, status_by) = match said.get(id) {
            Some(status) => (corrected(&stored.event, *status), StatusSource::Correction),
            None => match stored.event.moved_by_clock(now) {
                Some(status) => (
                    Event {
                        status,
                        ..stored.event.clone()
                    },
                    StatusSource::Clock,
                ),
                None => continue,
            },
        };
        if after != stored.event {
            changes.events.push(EventChange {
                row: stored.row,
                before: Some(stored.event.clone()),
                after,
                status_by,
            });
        }
    }
    changes.events.sort_by_key(|change| change.row);
    changes
}

fn corrected(event: &Event, status: EventStatus) -> Event {
    let runs = matches!(status, EventStatus::Live | EventStatus::Suspended);
    Event {
        status,
        in_play: event.in_play && runs,
        ..event.clone()
    }
}

impl Book {
    /// When the clock moves an event next.
    pub fn next_move(&self) -> Option<DateTime<Utc>> {
        let moves = self.events.values();
        moves.filter_map(|stored| stored.event.next_move()).min()
    }
}
