//! Rows that pass the daemon's checks and that the database refuses: each is excluded alone, counted as rejected, and
//! tried again in the next cycle.

use oddsd_store::{StoreError, WriteCounts};

use super::fixture::{
    DatabaseBackend, StateWriter, TestDatabase, TestDay, assert_same_rows, cycle, offer,
};
use super::on_every_backend;

on_every_backend!(
    refused_rows_are_excluded_and_the_others_stored,
    refused_event_excludes_its_prices,
    failure_without_a_bad_row_excludes_none,
);

/// Adds a constraint `owner_check`, which the daemon does not know: rows whose column meets the condition are refused.
async fn forbid_rows_where(database: &TestDatabase, table: &str, column: &str, condition: &str) {
    match database.backend {
        DatabaseBackend::Postgres => {
            let check = format!(
                "ALTER TABLE oddsd.{table} ADD CONSTRAINT owner_check CHECK (NOT ({column} {condition}))"
            );
            database.write(&check).await;
        }
        DatabaseBackend::Sqlite => {
            for (name, on) in [("insert", "INSERT"), ("update", "UPDATE")] {
                database.write(&format!(
                    "CREATE TRIGGER owner_check_{name} BEFORE {on} ON {table} WHEN NEW.{column} {condition}
                     BEGIN SELECT raise(ABORT, 'owner_check'); END"
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
        .expect("the first commit succeeds");
    forbid_rows_where(&database, "prices", "decimal", "= '777.77'").await;
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
        stored
            .expect("the accepted rows are stored")
            .written
            .updated,
        42 * 240 - 3
    );
    assert_eq!(
        (changes.counts.rejected, changes.counts.changed),
        (3, 42 * 240 - 3)
    );
    let why = &changes.rejected.by_reason["refused_by_store"];
    assert_eq!(why.rows, 3);
    assert!(
        why.sample.contains("rac_3") && why.sample.contains("owner_check"),
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

    // The next cycle tries the three rows again; all are refused, so nothing is written.
    day.advance(10);
    assert_eq!(
        leader.commit_snapshot(&day.snapshot()).await,
        Some(WriteCounts::default())
    );
    // That commit wrote no cycle, so its number is free.
    leader.cycle -= 1;
    match backend {
        DatabaseBackend::Postgres => {
            database
                .write("ALTER TABLE oddsd.prices DROP CONSTRAINT owner_check")
                .await
        }
        DatabaseBackend::Sqlite => database.write("DROP TRIGGER owner_check_update").await,
    }
    assert_eq!(
        leader
            .commit_snapshot(&day.snapshot())
            .await
            .expect("the three rows are stored")
            .updated,
        3
    );
    let rows = database.store.load().await.expect("the rows load");
    assert_same_rows(&leader.book, &rows.state);
}

async fn refused_event_excludes_its_prices(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    forbid_rows_where(&database, "events", "name", "= 'The 2th Stakes'").await;
    let day = TestDay::with_races(5, 3, 3);
    let written = leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("the other races are stored");
    // 4 of 5 races, with 3 runners at 3 bookmakers each; one outbox row a race.
    assert_eq!(
        (written.events, written.inserted, written.outbox),
        (4, 36, 4)
    );
    let stored = database.store.load().await.expect("the rows load").state;
    assert_same_rows(&leader.book, &stored);
    assert!(!stored.events.contains_key("rac_2"));
}

async fn failure_without_a_bad_row_excludes_none(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(3, 3, 3);
    leader.commit_snapshot(&day.snapshot()).await;
    forbid_rows_where(&database, "cycles", "id", "= 2").await;
    day.advance(10);
    day.set(0, 0, Some(offer(444)));
    let mut changes = leader.changes(&day.snapshot());
    let refused = database
        .store
        .commit(&leader.lease, &cycle(2), &mut changes)
        .await;
    assert!(
        matches!(&refused, Err(StoreError::Failed(why)) if why.contains("owner_check")),
        "{refused:?}"
    );
    assert_eq!(changes.counts.rejected, 0);
    let rows = database.store.load().await.expect("the rows load");
    assert_same_rows(&leader.book, &rows.state);
}
