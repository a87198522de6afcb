//! Status changes without a snapshot: those that the clock makes due, and manual corrections.
//! The daemon's status timer commits them like any other cycle.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::changes::{Changes, EventChange};
use super::stored_state::StoredState;
use crate::model::{Event, EventId, EventStatus, StatusSource};

/// A manual correction: its id, the event and the status; `None` is a status that cannot be read.
pub type StatusCorrection = (i64, EventId, Option<EventStatus>);

/// Computes the changes that are due at `now`. The last of several corrections of one event is used.
pub fn status_transitions(
    state: &StoredState,
    corrections: &[StatusCorrection],
    now: DateTime<Utc>,
) -> Changes {
    let corrected: HashMap<&EventId, EventStatus> = corrections
        .iter()
        .filter_map(|(_, event, status)| Some((event, (*status)?)))
        .collect();
    let mut changes = Changes {
        as_of: now,
        next_ids: state.next,
        clock_driven: true,
        corrections: corrections.iter().map(|(id, ..)| *id).collect(),
        ..Changes::default()
    };
    for (id, stored) in &state.events {
        let (after, status_by) = match corrected.get(id) {
            Some(status) => (correct(&stored.event, *status), StatusSource::Correction),
            None => match stored.event.due_clock_transition(now) {
                Some(status) => {
                    let event = stored.event.clone();
                    (Event { status, ..event }, StatusSource::Clock)
                }
                None => continue,
            },
        };
        if after != stored.event {
            changes.events.push(EventChange {
                row: stored.row,
                before: Some(stored.event.clone()),
                after,
                status_by,
                confirmed: false,
            });
        }
    }
    changes.events.sort_by_key(|change| change.row);
    changes
}

fn correct(event: &Event, status: EventStatus) -> Event {
    let runs = matches!(status, EventStatus::Live | EventStatus::Suspended);
    Event {
        status,
        in_play: event.in_play && runs,
        ..event.clone()
    }
}
