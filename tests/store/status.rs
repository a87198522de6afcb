//! Tests of event statuses in the store: moved by polls, by the clock and by corrections, each change
//! written once with its log and outbox rows.

use chrono::{DateTime, TimeDelta, Utc};
use oddsd_core::diff::{StatusCorrection, status_transitions};
use oddsd_core::model::{ChangeKind, EventStatus, StatusSource};
use oddsd_store::{CycleMeta, Retention, Transition};

use super::fixture::{
    DatabaseBackend, LATER, StateWriter, TTL, TestDay, assert_same_rows, at, offer,
};
use super::on_every_backend;

on_every_backend!(
    status_change_is_logged_once,
    status_moves_with_the_clock,
    clock_status_is_taken_back_by_a_new_start_also_after_a_restart,
    correction_reopens_an_event,
    outbox_row_has_old_and_new_status,
    status_log_is_deleted_with_its_event,
    open_events_are_listed_and_not_final,
    price_history_covers_the_movers_window,
);

/// (before, after, source, feed time), oldest first.
type Line = (
    Option<EventStatus>,
    EventStatus,
    StatusSource,
    DateTime<Utc>,
);

async fn log(daemon: &StateWriter, event: &str) -> Vec<Line> {
    let found = daemon.store.transitions(&event.into()).await;
    let found = found.expect("a log").expect("a known event");
    let line = |t: &Transition| (t.before, t.after, t.source, t.feed_time);
    found.iter().map(line).collect()
}

impl StateWriter {
    /// Applies the clock and these corrections at `now`; returns the number of changed events.
    async fn pass(&mut self, words: &[StatusCorrection], now: DateTime<Utc>) -> usize {
        let mut changes = status_transitions(&self.book, words, now);
        if changes.is_empty() {
            return 0;
        }
        let facts = CycleMeta {
            id: self.cycle,
            feed: "clock".into(),
            ..CycleMeta::default()
        };
        let committed = self.store.commit(&self.lease, &facts, &mut changes).await;
        committed.expect("the moves commit");
        self.cycle += 1;
        let moved = changes.events.len();
        self.book.apply(changes);
        moved
    }
}

async fn status_change_is_logged_once(backend: DatabaseBackend) {
    use EventStatus::*;
    use StatusSource::{Clock, Feed};
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(1, 2, 2);
    day.races[0].event.starts_at = Some(at(3 * 3600));
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("written");
    day.advance(10);
    assert_eq!(
        leader.commit_snapshot(&day.snapshot()).await,
        None,
        "the same again is nothing"
    );
    day.advance(3590);
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("upcoming");
    day.advance(10);
    assert_eq!(leader.commit_snapshot(&day.snapshot()).await, None);
    day.races[0].event.status = Suspended;
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("suspended");
    day.advance(10);
    day.races[0].event.status = Scheduled;
    day.races[0].event.in_play = true;
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("in play");
    day.advance(10);
    day.races[0].event.status = Completed;
    leader.commit_snapshot(&day.snapshot()).await.expect("over");
    day.advance(10);
    day.races[0].event.status = Live;
    assert_eq!(
        leader.commit_snapshot(&day.snapshot()).await,
        None,
        "what is over stays over"
    );
    assert_eq!(
        log(&leader, "rac_0").await,
        [
            (None, Scheduled, Clock, at(0)),
            (Some(Scheduled), Upcoming, Clock, at(3600)),
            (Some(Upcoming), Suspended, Feed, at(3610)),
            (Some(Suspended), Live, Feed, at(3620)),
            (Some(Live), Completed, Feed, at(3630)),
        ]
    );
    let closed_port = leader.store.transitions(&"rac_9".into()).await;
    assert_eq!(closed_port, Ok(None));
    assert_same_rows(
        &leader.book,
        &leader.store.load().await.expect("rows").state,
    );
}

async fn status_moves_with_the_clock(backend: DatabaseBackend) {
    use EventStatus::*;
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(3, 1, 1);
    for (race, hours) in day.races.iter_mut().zip([3, 3, 5]) {
        race.event.starts_at = Some(at(hours * 3600));
    }
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("written");
    assert_eq!(leader.book.next_transition_at(), Some(at(3600)));
    assert_eq!(leader.pass(&[], at(3599)).await, 0);
    assert_eq!(leader.pass(&[], at(3600)).await, 2);
    assert_eq!(
        leader.pass(&[], at(3600)).await,
        0,
        "the same status again is nothing"
    );
    assert_eq!(leader.book.next_transition_at(), Some(at(3 * 3600)));
    // Asleep for long: it takes the last of what it missed.
    assert_eq!(leader.pass(&[], at(30 * 3600)).await, 3);
    let statuses = |leader: &StateWriter| {
        let mut all: Vec<_> = leader.book.events.values().collect();
        all.sort_by_key(|stored| stored.row);
        all.iter()
            .map(|stored| stored.event.status)
            .collect::<Vec<_>>()
    };
    assert_eq!(statuses(&leader), [Live; 3], "still listed");
    assert_eq!(leader.book.next_transition_at(), None);
    // The source stops listing two of them; the clock goes on.
    day.advance(6 * 3600);
    day.races.truncate(1);
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("two are gone");
    assert_eq!(statuses(&leader), [Live, Live, Live]);
    assert_eq!(leader.book.next_transition_at(), Some(at(7 * 3600)));
    assert_eq!(leader.pass(&[], at(7 * 3600)).await, 1);
    assert_eq!(statuses(&leader), [Live, Completed, Live]);
    assert_same_rows(
        &leader.book,
        &leader.store.load().await.expect("rows").state,
    );

    // No poll took place, and no "last checked" claims one.
    let checked = "SELECT CAST(count(DISTINCT checked_at) AS TEXT) FROM oddsd.checks";
    assert_eq!(
        database.query_one(checked).await,
        "2",
        "the first look and the last one"
    );
    let looks = leader.store.cycles(-1, 10).await.expect("cycles");
    assert_eq!(looks.len(), 2);
}

async fn clock_status_is_taken_back_by_a_new_start_also_after_a_restart(backend: DatabaseBackend) {
    use EventStatus::*;
    use StatusSource::{Clock, Feed};
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(3, 1, 1);
    for race in &mut day.races {
        race.event.starts_at = Some(at(3600));
    }
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("written");
    assert_eq!(leader.pass(&[], at(3600)).await, 3);
    // The source reports the second race live, the third one leaves the card.
    day.advance(3700);
    day.races[1].event.status = Live;
    let third = day.races.pop().expect("three");
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("confirmed and unlisted");
    day.advance(10);
    assert_eq!(leader.commit_snapshot(&day.snapshot()).await, None);
    assert_eq!(leader.pass(&[], at(5 * 3600)).await, 1);
    let before = leader.store.load().await.expect("rows").state;
    assert_same_rows(&leader.book, &before);

    // A new leader has only the rows. All three are listed with a new start.
    leader.book = before;
    day.races.push(third);
    day.advance(5 * 3600);
    for race in &mut day.races {
        race.event.status = Scheduled;
        race.event.starts_at = Some(at(8 * 3600));
    }
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("a new start");
    let statuses = ["rac_0", "rac_1", "rac_2"].map(|id| leader.book.events[id].event.status);
    assert_eq!(statuses, [Upcoming, Live, Upcoming]);
    let confirmed = log(&leader, "rac_1").await;
    assert_eq!(confirmed[2], (Some(Live), Live, Feed, at(3700)));
    let taken_back = log(&leader, "rac_2").await;
    assert_eq!(
        taken_back.last().map(|line| (line.0, line.1, line.2)),
        Some((Some(Completed), Upcoming, Clock))
    );
    assert_same_rows(
        &leader.book,
        &leader.store.load().await.expect("rows").state,
    );
}

async fn correction_reopens_an_event(backend: DatabaseBackend) {
    use EventStatus::*;
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(1, 1, 1);
    day.races[0].event.status = Abandoned;
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("written");
    let closed_port = leader.store.request_correction(&"rac_7".into(), Live).await;
    assert_eq!(closed_port, Ok(None));
    let nothing = serde_json::json!({});
    let waits = |leader: &StateWriter| {
        let (store, lease, nothing) = (leader.store.clone(), leader.lease.clone(), nothing.clone());
        async move { store.renew_lease(&lease, TTL, &nothing, &[]).await }
    };
    assert_eq!(waits(&leader).await, Ok(false));
    let asked = leader
        .store
        .request_correction(&"rac_0".into(), Suspended)
        .await;
    let asked = asked.expect("on record").expect("known");
    assert_eq!(waits(&leader).await, Ok(true), "told with the lease");

    let words = leader.store.corrections().await.expect("words");
    let words: Vec<StatusCorrection> = words
        .into_iter()
        .map(|c| (c.id, c.event, c.status))
        .collect();
    assert_eq!(words, [(asked, "rac_0".into(), Some(Suspended))]);
    assert_eq!(leader.pass(&words, at(20)).await, 1);
    assert_eq!(leader.store.is_correction_waiting(asked).await, Ok(false));
    assert_eq!(waits(&leader).await, Ok(false));
    assert_eq!(leader.book.events["rac_0"].event.status, Suspended);
    let by = log(&leader, "rac_0").await.pop().expect("a line");
    assert_eq!(
        by,
        (Some(Abandoned), Suspended, StatusSource::Correction, at(20))
    );

    // The next reported status counts again, and the same status twice is written once.
    day.advance(60);
    day.races[0].event.status = Completed;
    leader.commit_snapshot(&day.snapshot()).await.expect("over");
    assert_eq!(leader.book.events["rac_0"].event.status, Completed);
    let same = leader
        .store
        .request_correction(&"rac_0".into(), Completed)
        .await;
    let same = same.expect("on record").expect("known");
    assert_eq!(
        leader
            .pass(&[(same, "rac_0".into(), Some(Completed))], at(90))
            .await,
        0
    );
    assert_eq!(leader.store.is_correction_waiting(same).await, Ok(false));
    assert_eq!(log(&leader, "rac_0").await.len(), 3);
}

async fn outbox_row_has_old_and_new_status(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(4, 1, 2);
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("written");
    day.advance(10);
    day.set(0, 0, Some(offer(444)));
    day.races[0].event.status = EventStatus::Suspended;
    day.set(1, 1, Some(offer(250)));
    day.set(2, 0, None);
    day.races[3].event.venue = "Epsom".into();
    let mut changes = leader.changes(&day.snapshot());
    let committed = leader
        .store
        .commit(&leader.lease, &super::fixture::cycle(2), &mut changes)
        .await;
    let rows = committed.expect("it commits").outbox.expect("rows").rows;
    let text = |text: &Option<String>| text.clone().unwrap_or("-".into());
    let reported: Vec<[String; 3]> = rows
        .iter()
        .map(|row| [&row.entry.before, &row.entry.after, &row.entry.detail].map(text))
        .collect();
    let was = r#"{"was":{"league_id":"GB","sport_id":"horse_racing","venue":"Ascot"}}"#;
    assert_eq!(
        reported,
        [
            ["upcoming", "suspended", "-"],
            ["1.61", "2.5", "-"],
            ["1.5", "-", "-"],
            ["-", "-", was],
        ]
    );
    use ChangeKind::*;
    assert!(
        rows[0]
            .entry
            .kinds
            .iter()
            .eq([&StatusChanged, &PriceChanged])
    );
    assert!(rows[3].entry.kinds.iter().eq([&EventChanged]));
    // As stored in the table.
    let stored = "SELECT coalesce(before, '-') || ' ' || coalesce(after, '-') || ' ' || coalesce(detail, '-')
                  FROM oddsd.outbox WHERE cycle_id = 2 ORDER BY outbox.id";
    let reported: Vec<String> = reported.iter().map(|row| row.join(" ")).collect();
    assert_eq!(database.query(stored).await, reported);
    leader
        .store
        .claim("leader", 100, LATER)
        .await
        .expect("a claim");
}

async fn status_log_is_deleted_with_its_event(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(2, 1, 1);
    day.races[1].event.starts_at = Some(at(90 * 86_400));
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("written");
    let asked = leader
        .store
        .request_correction(&"rac_0".into(), EventStatus::Live)
        .await;
    let asked = asked.expect("on record").expect("known");
    leader
        .pass(&[(asked, "rac_0".into(), Some(EventStatus::Live))], at(5))
        .await;
    assert_eq!(database.count("transitions").await, 3);
    let days = |n: u64| std::time::Duration::from_secs(n * 86_400);
    let keep = Retention {
        history: days(7),
        finished_events: days(7),
    };
    let later = at(0) + TimeDelta::days(30);
    let pruned = leader
        .store
        .prune(&leader.lease, keep, later)
        .await
        .expect("pruned");
    assert_eq!(pruned.events.len(), 1);
    assert_eq!(database.count("transitions").await, 1);
    // Corrections have the time of the database.
    assert_eq!(database.count("corrections").await, 1);
    let keep = Retention {
        history: days(0),
        ..keep
    };
    let now = chrono::Utc::now();
    let pruned = leader.store.prune(&leader.lease, keep, now).await;
    pruned.expect("pruned");
    assert_eq!(database.count("corrections").await, 0);
}

async fn open_events_are_listed_and_not_final(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(6, 1, 1);
    day.races[1].event.status = EventStatus::Cancelled;
    day.races[2].event.starts_at = Some(at(60));
    day.races[3].event.starts_at = None;
    day.races[4].event.sport = "greyhounds".into();
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("written");
    day.advance(10);
    day.races.remove(5);
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("one is gone");
    let ids = |sport: Option<&'static str>, league: Option<&'static str>| {
        let store = leader.store.clone();
        async move {
            let found = store.open_events(sport, league).await.expect("events");
            let ids = found.value.iter().map(|event| event.id.to_string());
            ids.collect::<Vec<_>>()
        }
    };
    assert_eq!(ids(None, None).await, ["rac_2", "rac_0", "rac_4", "rac_3"]);
    assert_eq!(ids(Some("greyhounds"), None).await, ["rac_4"]);
    assert_eq!(
        ids(Some("horse_racing"), Some("GB")).await,
        ["rac_2", "rac_0", "rac_3"]
    );
    assert_eq!(ids(Some("horse_racing"), Some("' OR 1=1")).await, [""; 0]);
}

async fn price_history_covers_the_movers_window(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(2, 1, 1);
    day.races[1].event.status = EventStatus::Completed;
    day.set(0, 0, Some(offer(500)));
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("written");
    for cents in [Some(450), Some(440), None, Some(400)] {
        day.advance(100);
        day.set(0, 0, cents.map(offer));
        leader
            .commit_snapshot(&day.snapshot())
            .await
            .expect("written");
    }
    let found = leader.store.price_steps(at(250)).await.expect("steps");
    let steps: Vec<_> = found
        .iter()
        .map(|step| {
            let odds = step.odds.map_or("-".into(), |odds| odds.to_string());
            ((step.at - at(0)).num_seconds(), odds, step.first)
        })
        .collect();
    let line = |at: i64, odds: &str, first| (at, odds.to_owned(), first);
    assert_eq!(
        steps,
        [
            line(0, "5", true),
            line(200, "4.4", false),
            line(300, "-", false),
            line(400, "4", false)
        ],
        "the first, the last one before, and all since"
    );
    assert_eq!(
        (found[0].event.as_str(), found[0].market.as_str()),
        ("rac_0", "win")
    );
}
