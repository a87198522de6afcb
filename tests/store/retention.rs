//! Tests of retention: finished events and old history are deleted, the rest stays, and no id is used
//! again.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use oddsd_store::Retention;

use super::fixture::{DatabaseBackend, StateWriter, TestDay, at, offer};
use super::on_every_backend;

on_every_backend!(
    retention_deletes_finished_events_and_old_history,
    retention_never_reuses_ids,
    retention_by_a_clock_a_year_ahead_deletes_nothing,
);

const DAY: Duration = Duration::from_secs(86_400);
const KEEP: Retention = Retention {
    history: DAY.saturating_mul(30),
    finished_events: DAY.saturating_mul(7),
};

async fn retention_deletes_finished_events_and_old_history(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(3, 2, 2);
    day.races[1].event.starts_at = Some(at(20 * 86_400));
    day.races[2].event.starts_at = Some(at(8 * 86_400));
    leader.commit_snapshot(&day.snapshot()).await;
    day.advance(86_400);
    day.set(1, 0, Some(offer(700)));
    leader.commit_snapshot(&day.snapshot()).await;

    let nothing = database
        .store
        .prune(&leader.lease, KEEP, at(7 * 86_400))
        .await
        .expect("pruned");
    assert_eq!((nothing.events.len(), nothing.history), (0, 0));
    let pruned = database
        .store
        .prune(&leader.lease, KEEP, at(8 * 86_400))
        .await
        .expect("pruned");
    assert_eq!(pruned.events, [leader.book.events["rac_0"].row]);
    assert_eq!(pruned.history, 0);
    leader.book.remove_events(&pruned.events);
    let rows = database.store.load().await.expect("the rows load").state;
    assert_eq!(rows.next, leader.book.next);
    assert_eq!(rows.events.len(), leader.book.events.len());
    assert_eq!(
        rows.events["rac_1"].prices,
        leader.book.events["rac_1"].prices
    );
    let mut left = Vec::new();
    for table in ["events", "selections", "prices", "checks"] {
        left.push(database.count(table).await);
    }
    assert_eq!(left, [2, 4, 8, 2]);

    // A day after the first cycle its history is over; the change is kept.
    let month = at(30 * 86_400) + TimeDelta::hours(16);
    let longer = Retention {
        finished_events: DAY * 99,
        ..KEEP
    };
    let pruned = database
        .store
        .prune(&leader.lease, longer, month)
        .await
        .expect("pruned");
    assert_eq!(pruned.history, 12);
    assert_eq!(database.count("price_history").await, 1);
}

async fn retention_never_reuses_ids(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(2, 2, 2);
    leader.commit_snapshot(&day.snapshot()).await;
    day.advance(10);
    day.set(0, 0, Some(offer(123)));
    leader.commit_snapshot(&day.snapshot()).await;
    let next = leader.book.next;
    // Everything is over, and the log is old as well (the log's own time is the real one).
    let far = chrono::Utc::now() + TimeDelta::days(9000);
    let keep = Retention {
        history: DAY * 20_000,
        ..KEEP
    };
    let pruned = database
        .store
        .prune(&leader.lease, keep, far)
        .await
        .expect("pruned");
    assert_eq!(pruned.events.len(), 2);
    assert_eq!(
        database.count("price_history").await,
        9,
        "history outlives its prices"
    );
    let mut later = StateWriter::start(&database.store, "leader").await;
    assert_eq!(later.book.next, next);
    assert_eq!(later.cycle, 3);
    assert!(later.book.events.is_empty());
    later
        .commit_snapshot(&TestDay::with_races(2, 2, 2).snapshot())
        .await
        .expect("a new day");
    let found = database.prices_of("rac_0").await;
    assert!(
        found
            .prices
            .iter()
            .all(|price| price.low == price.offer.decimal),
        "no stranger's history"
    );

    let pruned = database
        .store
        .prune(&later.lease, KEEP, far)
        .await
        .expect("pruned");
    assert_eq!(pruned.log, 2, "all cycles but the newest");
    assert_eq!(
        database
            .store
            .load()
            .await
            .expect("the rows load")
            .next_cycle,
        4
    );
}

const PARTITIONS: &str =
    "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'oddsd.history'::regclass ORDER BY 1";

/// Old days go whole: nothing is left to be vacuumed, and the coming days are there beforehand.
#[tokio::test]
async fn retention_drops_history_by_day() {
    let database = DatabaseBackend::Postgres.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(2, 2, 2);
    for race in 0..2 {
        day.races[race].event.starts_at = Some(at(30 * 86_400));
    }
    for cents in [200, 300, 250] {
        day.set(0, 0, Some(offer(cents)));
        leader.commit_snapshot(&day.snapshot()).await;
        day.advance(86_400);
    }
    let names = |days: &[&str]| -> Vec<String> {
        days.iter().map(|day| format!("history_{day}")).collect()
    };
    assert_eq!(
        database.query(PARTITIONS).await,
        names(&["20240115", "20240116", "20240117"])
    );

    let keep = Retention {
        history: DAY * 2,
        ..KEEP
    };
    let pruned = database
        .store
        .prune(&leader.lease, keep, at(3 * 86_400))
        .await
        .expect("pruned");
    assert_eq!(pruned.history, 8);
    let left = ["20240116", "20240117", "20240118", "20240119", "20240120"];
    assert_eq!(database.query(PARTITIONS).await, names(&left));
    // Opening, highest and lowest of what is kept.
    let found = database.prices_of("rac_0").await;
    let first = &found.prices[0];
    let all = [first.opening, first.high, first.low];
    assert_eq!(all, [300, 300, 250].map(|cents| offer(cents).decimal));

    // A partition that is being read waits for the next run and blocks nothing.
    let mut reader = oddsd_testkit::postgres::connect(&database.url).await;
    let mut reading = sqlx::Connection::begin(&mut reader)
        .await
        .expect("a transaction");
    let read = sqlx::query("SELECT count(*) FROM oddsd.history_20240116").execute(&mut *reading);
    read.await.expect("read");
    let later = at(4 * 86_400);
    let busy = database.store.prune(&leader.lease, keep, later).await;
    assert_eq!(busy.expect("pruned").history, 0);
    assert_eq!(database.query(PARTITIONS).await[0], "history_20240116");
    reading.rollback().await.expect("done");
    database
        .store
        .prune(&leader.lease, keep, later)
        .await
        .expect("pruned");
    assert_eq!(database.query(PARTITIONS).await[0], "history_20240117");

    // A recording that is played again brings days of its own.
    day.now = at(-1000 * 86_400);
    let mut old = TestDay::with_races(1, 1, 1);
    old.now = day.now;
    old.races[0].event.id = "rac_old".into();
    let mut snapshot = old.snapshot();
    snapshot.scope = oddsd_core::model::Scope::Listed;
    leader
        .commit_snapshot(&snapshot)
        .await
        .expect("an old race");
    assert_eq!(database.query(PARTITIONS).await[0], "history_20210420");
}

async fn retention_by_a_clock_a_year_ahead_deletes_nothing(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(1, 2, 2);
    let now = Utc::now();
    (day.now, day.races[0].event.starts_at) = (now, Some(now));
    leader.commit_snapshot(&day.snapshot()).await;
    let ahead = now + TimeDelta::days(365);
    let pruned = database.store.prune(&leader.lease, KEEP, ahead).await;
    let pruned = pruned.expect("pruned");
    assert_eq!((pruned.events.len(), pruned.history), (0, 0));
}
