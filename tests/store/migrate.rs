//! Migrations: once, by one, and never backwards.

use oddsd_store::StoreError;

use super::fixture::{DatabaseBackend, StateWriter, TestDay};
use super::on_every_backend;

on_every_backend!(
    migration_is_idempotent,
    migration_state_names_missing_or_newer_tables,
    migration_runs_once_for_two_daemons,
);

/// The report of a first migration.
fn applied(backend: DatabaseBackend) -> &'static [&'static str] {
    match backend {
        DatabaseBackend::Postgres => &[
            "applied 0001 tables",
            "applied 0002 history",
            "applied 0003 canary",
            "applied 0004 rules",
            "applied 0005 status",
            "applied 0006 kept_settings",
            "applied 0007 database_id",
        ],
        DatabaseBackend::Sqlite => &[
            "applied 0001 tables",
            "applied 0002 counts",
            "applied 0003 canary",
            "applied 0004 rules",
            "applied 0005 status",
            "applied 0006 kept_settings",
            "applied 0007 database_id",
        ],
    }
}

fn schema(outcome: Result<impl std::fmt::Debug, StoreError>) -> String {
    match outcome {
        Err(StoreError::Schema(why)) => why,
        other => panic!("not about the schema: {other:?}"),
    }
}

async fn migration_is_idempotent(backend: DatabaseBackend) {
    let database = backend.empty().await;
    assert_eq!(
        database.store.migrate(false).await.expect("migrated"),
        applied(backend)
    );
    let mut leader = StateWriter::start(&database.store, "leader").await;
    leader
        .commit_snapshot(&TestDay::with_races(1, 1, 1).snapshot())
        .await;
    assert_eq!(
        database.store.migrate(false).await.expect("migrated"),
        [""; 0]
    );
    database.store.check_schema().await.expect("fits");
    assert_eq!(database.count("prices").await, 1);
}

async fn migration_state_names_missing_or_newer_tables(backend: DatabaseBackend) {
    let database = backend.empty().await;
    let why = schema(database.store.check_schema().await);
    assert!(
        why.contains("no oddsd tables") && why.contains("oddsd migrate"),
        "{why}"
    );
    for attempt in [
        database.store.load().await.err(),
        database.store.status().await.err(),
        database.store.cycles(-1, 1).await.err(),
    ] {
        assert!(
            matches!(attempt, Some(StoreError::Schema(_))),
            "{attempt:?}"
        );
    }
    database.store.migrate(false).await.expect("migrated");
    database.write("UPDATE oddsd.migrations SET version = 9 WHERE version = (SELECT max(version) FROM oddsd.migrations)").await;
    for newer in [
        schema(database.store.check_schema().await),
        schema(database.store.migrate(false).await),
    ] {
        assert!(
            newer.contains(&format!(
                "version 9, newer than this program ({})",
                applied(backend).len()
            )),
            "{newer}"
        );
    }
    database
        .write("UPDATE oddsd.migrations SET version = version - 9")
        .await;
    let older = schema(database.store.check_schema().await);
    assert!(
        older.contains("version 0") && older.contains("run `oddsd migrate`"),
        "{older}"
    );
}

async fn migration_runs_once_for_two_daemons(backend: DatabaseBackend) {
    let database = backend.empty().await;
    let others = [
        database.another().await,
        database.another().await,
        database.another().await,
    ];
    let all = others.map(|store| tokio::spawn(async move { store.migrate(false).await }));
    let mut shown = database.store.migrate(false).await.expect("migrated");
    for one in all {
        shown.extend(one.await.expect("no panic").expect("migrated"));
    }
    assert_eq!(
        shown,
        applied(backend),
        "one did it, the others saw it done"
    );
}

/// History of the first version, one row a price, is carried over completely.
#[tokio::test]
async fn migration_carries_over_row_history() {
    let database = DatabaseBackend::Postgres.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(2, 2, 3);
    leader.commit_snapshot(&day.snapshot()).await;
    day.advance(86_400);
    day.set(0, 1, None);
    day.set(1, 2, Some(super::fixture::offer(999)));
    leader.commit_snapshot(&day.snapshot()).await;
    let columns =
        "price_id, cycle_id, observed_at, decimal, fractional, point, ew_places, ew_denom, status";
    let rows = format!(
        "SELECT concat_ws(' ', {columns}) FROM oddsd.price_history ORDER BY cycle_id, price_id"
    );
    let before = database.query(&rows).await;
    assert_eq!(before.len(), 14);
    for back in [
        &format!("CREATE TABLE oddsd.by_row AS SELECT {columns} FROM oddsd.price_history"),
        "DROP VIEW oddsd.price_history",
        "DROP TABLE oddsd.history",
        "DROP FUNCTION oddsd.make_history_day",
        "ALTER TABLE oddsd.by_row RENAME TO price_history",
        "ALTER TABLE oddsd.events DROP COLUMN first_seen",
        "ALTER TABLE oddsd.cycles DROP COLUMN open_prices",
        "DELETE FROM oddsd.migrations WHERE version = 2",
    ] {
        database.write(back).await;
    }
    assert_eq!(
        database.store.migrate(false).await.expect("migrated"),
        ["applied 0002 history"]
    );
    assert_eq!(database.query(&rows).await, before);
    let mut again = StateWriter::start(&database.another().await, "leader").await;
    super::fixture::assert_same_rows(&leader.book, &again.book);
    day.advance(10);
    day.set(1, 2, Some(super::fixture::offer(998)));
    again
        .commit_snapshot(&day.snapshot())
        .await
        .expect("it goes on");
    let found = database.prices_of("rac_1").await;
    let price = &found.prices[2];
    assert_eq!(price.high, super::fixture::decimal("9.99"));
}
