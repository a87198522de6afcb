//! Tests of status transitions: exact boundaries, words of sources, and that no status goes back.

use super::*;
use crate::model::Attributes;
use EventStatus::*;
use proptest::prelude::*;

fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).expect("valid")
}

fn clock(micros: i64, listed: bool) -> EventStatus {
    let now = start() + TimeDelta::microseconds(micros);
    compute_status(None, None, Some(start()), listed, now)
}

#[test]
fn clock_status_changes_exactly_at_its_boundaries() {
    const HOUR: i64 = 3_600_000_000;
    let cases = [
        (-2 * HOUR - 1, Scheduled, Scheduled),
        (-2 * HOUR, Upcoming, Upcoming),
        (-1, Upcoming, Upcoming),
        (0, Live, Live),
        (4 * HOUR - 1, Live, Live),
        (4 * HOUR, Live, Completed),
        (4_000 * HOUR, Live, Completed),
    ];
    for (micros, listed, unlisted) in cases {
        assert_eq!(clock(micros, true), listed, "{micros} µs, listed");
        assert_eq!(clock(micros, false), unlisted, "{micros} µs, not listed");
    }
    assert_eq!(compute_status(None, None, None, true, start()), Scheduled);
}

#[test]
fn source_words_are_read_in_any_case_and_separation() {
    let cases = [
        ("final", Some(Completed)),
        (" FINAL ", Some(Completed)),
        ("Game-End", Some(Completed)),
        ("FT", Some(Completed)),
        ("in_progress", Some(Live)),
        ("In Progress", Some(Live)),
        ("in-play", Some(Live)),
        ("first-half-end", Some(Live)),
        ("HalfTime", Some(Live)),
        ("not_started", Some(Upcoming)),
        ("Not Started", Some(Upcoming)),
        ("SUSPENDED", Some(Suspended)),
        ("rain delay", Some(Suspended)),
        ("postponed", Some(Postponed)),
        ("Canceled", Some(Cancelled)),
        ("cancelled", Some(Cancelled)),
        ("void", Some(Cancelled)),
        ("abandoned", Some(Abandoned)),
        ("OPEN", None),
        ("", None),
        ("finalists", None),
    ];
    for (word, status) in cases {
        assert_eq!(EventStatus::from_source_word(word), status, "{word:?}");
    }
    for status in EventStatus::ALL {
        let word = status.as_str().to_uppercase();
        let read = if status == Scheduled {
            Upcoming
        } else {
            status
        };
        assert_eq!(EventStatus::from_source_word(&word), Some(read));
    }
}

#[test]
fn source_words_belong_to_one_status_each() {
    let mut seen = std::collections::BTreeSet::new();
    for word in WORDS.iter().flat_map(|(_, words)| words.split(' ')) {
        let plain = word
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        assert!(plain && seen.insert(word), "{word}");
    }
}

#[test]
fn suspension_ends_by_the_clock_and_postponement_by_a_new_start() {
    let soon = start() - TimeDelta::hours(1);
    let at = |source, stored, now| compute_status(source, Some(stored), Some(start()), true, now);
    assert_eq!(at(None, Suspended, soon), Upcoming);
    assert_eq!(at(Some(Live), Suspended, start()), Live);
    assert_eq!(at(None, Suspended, start()), Live);
    assert_eq!(at(None, Postponed, start()), Postponed);
    assert_eq!(at(None, Postponed, soon - TimeDelta::days(1)), Scheduled);
    assert_eq!(
        compute_status(None, Some(Suspended), None, true, soon),
        Scheduled
    );
    assert_eq!(
        compute_status(None, Some(Postponed), None, true, soon),
        Postponed
    );
    // The source's status wins over the clock's.
    assert_eq!(at(Some(Upcoming), Upcoming, start()), Upcoming);
    assert_eq!(at(Some(Live), Scheduled, soon), Live);
    assert_eq!(at(Some(Completed), Live, soon), Completed);
}

#[test]
fn status_has_its_ttl() {
    let seconds = EventStatus::ALL.map(|status| (status.as_str(), status.ttl().as_secs()));
    assert_eq!(
        seconds,
        [
            ("scheduled", 1_800),
            ("upcoming", 300),
            ("live", 30),
            ("suspended", 30),
            ("postponed", 3_600),
            ("completed", 86_400),
            ("cancelled", 3_600),
            ("abandoned", 3_600),
        ]
    );
}

fn any_status() -> impl Strategy<Value = EventStatus> {
    prop::sample::select(EventStatus::ALL.to_vec())
}

/// Minutes that pass, the status that the source reports, and whether it lists the event.
fn any_replay() -> impl Strategy<Value = Vec<(i64, Option<EventStatus>, bool)>> {
    let step = (
        0i64..120,
        prop::option::weighted(0.4, any_status()),
        any::<bool>(),
    );
    prop::collection::vec(step, 0..40)
}

fn event(status: EventStatus, listed: bool) -> Event {
    Event {
        id: "e".into(),
        source: "test".into(),
        sport: String::new(),
        league: String::new(),
        venue: String::new(),
        name: String::new(),
        starts_at: Some(start()),
        day: None,
        status,
        in_play: false,
        listed,
        attributes: Attributes::new(),
    }
}

proptest! {
    /// Over any sequence of times and reported statuses.
    #[test]
    fn status_never_goes_back_over_a_replay(replay in any_replay(), from in -600i64..600) {
        let mut now = start() + TimeDelta::minutes(from);
        let mut stored = None;
        for (minutes, reported, listed) in replay {
            now += TimeDelta::minutes(minutes);
            let next = compute_status(reported, stored, Some(start()), listed, now);
            match stored {
                Some(before) if before.is_final() => prop_assert_eq!(next, before),
                Some(Live) => prop_assert!(!matches!(next, Scheduled | Upcoming)),
                _ => {}
            }
            stored = Some(next);
        }
    }

    #[test]
    fn clock_status_only_advances(times in prop::collection::vec(0i64..90, 0..40), listed: bool) {
        let (mut now, mut stored) = (start() - TimeDelta::hours(5), None);
        let rank = |status| [Scheduled, Upcoming, Live, Completed].iter().position(|s| *s == status);
        for minutes in times {
            now += TimeDelta::minutes(minutes);
            let next = compute_status(None, stored, Some(start()), listed, now);
            prop_assert!(rank(next) >= stored.and_then(rank));
            stored = Some(next);
        }
    }

    /// The announced time is the time of the transition, and nothing is due right after it.
    #[test]
    fn next_transition_is_announced_exactly(status in any_status(), listed: bool, micros in -30_000_000_000i64..30_000_000_000) {
        let mut event = event(status, listed);
        let now = start() + TimeDelta::microseconds(micros);
        match event.next_transition_at() {
            None => prop_assert_eq!(event.due_clock_transition(now), None),
            Some(at) => {
                prop_assert_eq!(event.due_clock_transition(at - TimeDelta::microseconds(1)), None);
                prop_assert!(event.due_clock_transition(at).is_some());
            }
        }
        if let Some(moved) = event.due_clock_transition(now) {
            event.status = moved;
            prop_assert_eq!(event.due_clock_transition(now), None);
        }
    }

    /// A snapshot without a status has the same effect as the clock alone.
    #[test]
    fn snapshot_without_status_agrees_with_the_clock(micros in -30_000_000_000i64..30_000_000_000, stored in prop::sample::select(vec![Scheduled, Upcoming, Live])) {
        let now = start() + TimeDelta::microseconds(micros);
        let stored = event(stored, true);
        let moved = stored.due_clock_transition(now);
        let known = Some((&stored, StatusSource::Feed));
        let resolved = Event::resolve_status(known, &event(Scheduled, true), now);
        // Only a snapshot, not the clock, makes an upcoming event scheduled again.
        if resolved.status != Scheduled {
            prop_assert_eq!(moved.unwrap_or(stored.status), resolved.status);
        }
        prop_assert_eq!(resolved.by, StatusSource::Clock);
    }
}

/// Before: the stored status and its origin. Then: what the source reports, and hours from now to the start.
#[test]
fn what_only_the_clock_said_is_taken_back_by_a_new_start_or_a_new_listing() {
    use StatusSource::{Clock, Correction, Feed};
    let cases = [
        ((Live, Clock), (Scheduled, 1), Upcoming),
        ((Live, Clock), (Scheduled, 5), EventStatus::Scheduled),
        ((Live, Clock), (Upcoming, 1), Upcoming),
        ((Live, Clock), (Suspended, 1), Suspended),
        ((Live, Clock), (Live, 1), Live),
        // The start still lies in the past: a source that says "not yet" may be late.
        ((Live, Clock), (Upcoming, -1), Live),
        ((Live, Clock), (Scheduled, -1), Live),
        ((Live, Feed), (Scheduled, 1), Live),
        ((Live, Feed), (Upcoming, 1), Live),
        ((Live, Correction), (Scheduled, 1), Live),
        ((Completed, Clock), (Scheduled, 1), Upcoming),
        ((Completed, Clock), (Scheduled, -6), Live),
        ((Completed, Clock), (Cancelled, -6), Cancelled),
        ((Completed, Clock), (Completed, -6), Completed),
        ((Completed, Feed), (Scheduled, 1), Completed),
        ((Completed, Correction), (Scheduled, 1), Completed),
        ((Cancelled, Feed), (Scheduled, 1), Cancelled),
        ((Abandoned, Correction), (Scheduled, 1), Abandoned),
    ];
    for ((status, by), (reported, hours), expected) in cases {
        let stored = event(status, status == Live);
        let observed = Event {
            starts_at: Some(start() + TimeDelta::hours(hours)),
            ..event(reported, true)
        };
        let resolved = Event::resolve_status(Some((&stored, by)), &observed, start());
        let case = format!("{status:?} by {by:?}, then {reported:?} with {hours} h to go");
        assert_eq!(resolved.status, expected, "{case}");
        let confirmed = by == Clock && reported == status;
        assert_eq!(resolved.confirmed, confirmed, "{case}");
    }
}
