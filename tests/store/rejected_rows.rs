//! Tests of rows that only the database refuses: each is excluded alone, counted, and tried again.

use oddsd_store::StoreError;

use super::fixture::{
    DatabaseBackend, StateWriter, TestDatabase, TestDay, assert_same_rows, cycle, offer,
};
use super::on_every_backend;

on_every_backend!(
    refused_rows_are_excluded_and_the_others_stored,
    refused_event_excludes_its_prices,
    failure_without_a_bad_row_excludes_none,
);

/// A constraint of the database's owner that the daemon cannot know.
async fn forbid(database: &TestDatabase, table: &str, column: &str, condition: &str) {
    match database.backend {
        DatabaseBackend::Postgres => {
            let check = format!(
                "ALTER TABLE oddsd.{table} ADD CONSTRAINT house_rule CHECK (NOT ({column} {condition}))"
            );
            database.write(&check).await;
        }
        DatabaseBackend::Sqlite => {
            for (name, on) in [("insert", "INSERT"), ("update", "UPDATE")] {
                database.write(&format!(
                    "CREATE TRIGGER house_rule_{name} BEFORE {on} ON {table} WHEN NEW.{column} {condition}
                     BEGIN SELECT raise(ABORT, 'house_rule'); END"
                ))
                .await;
            }
        }
    }
}

async fn refused_rows_are_excluded_and_the_others_stored(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(42, 10, 24);
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("a first look");
    forbid(&database, "prices", "decimal", "= '777.77'").await;
    day.advance(10);
    for race in 0..42 {
        for nth in 0..240 {
            day.set(race, nth, Some(offer(5000 + (race * 240 + nth) as i64)));
        }
    }
    for (race, nth) in [(3, 7), (3, 100), (41, 239)] {
        day.set(race, nth, Some(offer(77_777)));
    }
    let mut changes = leader.changes(&day.snapshot());
    let stored = database
        .store
        .commit(&leader.lease, &cycle(leader.cycle), &mut changes)
        .await;
    assert_eq!(
        stored.expect("the others go in").written.updated,
        42 * 240 - 3
    );
    assert_eq!(
        (changes.counts.rejected, changes.counts.changed),
        (3, 42 * 240 - 3)
    );
    let why = &changes.rejected.by_reason["refused_by_store"];
    assert_eq!(why.rows, 3);
    assert!(
        why.sample.contains("rac_3") && why.sample.contains("house_rule"),
        "{}",
        why.sample
    );
    leader.book.apply(changes);
    leader.cycle += 1;
    let rows = database.store.load().await.expect("the rows load");
    assert_same_rows(&leader.book, &rows.state);
    let cycles = database.store.cycles(-1, 1).await.expect("cycles");
    assert_eq!(
        (cycles[0].counts.changed, cycles[0].counts.rejected),
        (10_077, 3)
    );

    // It is tried again, alone; and once it can be stored it is.
    day.advance(10);
    assert_eq!(
        leader.commit_snapshot(&day.snapshot()).await,
        Some(Default::default())
    );
    leader.cycle -= 1;
    match backend {
        DatabaseBackend::Postgres => {
            database
                .write("ALTER TABLE oddsd.prices DROP CONSTRAINT house_rule")
                .await
        }
        DatabaseBackend::Sqlite => database.write("DROP TRIGGER house_rule_update").await,
    }
    assert_eq!(
        leader
            .commit_snapshot(&day.snapshot())
            .await
            .expect("the three")
            .updated,
        3
    );
    let rows = database.store.load().await.expect("the rows load");
    assert_same_rows(&leader.book, &rows.state);
}

async fn refused_event_excludes_its_prices(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    forbid(&database, "events", "name", "= 'The 2th Stakes'").await;
    let day = TestDay::with_races(5, 3, 3);
    let written = leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("the others");
    assert_eq!(
        (written.events, written.inserted, written.outbox),
        (4, 36, 4)
    );
    let book = database.store.load().await.expect("the rows load").state;
    assert_same_rows(&leader.book, &book);
    assert!(!book.events.contains_key("rac_2"));
}

async fn failure_without_a_bad_row_excludes_none(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(3, 3, 3);
    leader.commit_snapshot(&day.snapshot()).await;
    forbid(&database, "cycles", "id", "= 2").await;
    day.advance(10);
    day.set(0, 0, Some(offer(444)));
    let mut changes = leader.changes(&day.snapshot());
    let refused = database
        .store
        .commit(&leader.lease, &cycle(2), &mut changes)
        .await;
    assert!(
        matches!(&refused, Err(StoreError::Failed(why)) if why.contains("house_rule")),
        "{refused:?}"
    );
    assert_eq!(changes.counts.rejected, 0);
    let rows = database.store.load().await.expect("the rows load");
    assert_same_rows(&leader.book, &rows.state);
}
