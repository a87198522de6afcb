//! Migrations: once, by one, and never backwards.

use oddsd::store::StoreError;

use super::fixture::{Backend, Daemon, Day};
use super::on_every_backend;

on_every_backend!(
    migrating_twice_is_nothing,
    tables_that_are_missing_or_newer_are_named,
    two_daemons_migrate_at_once,
);

/// What a first migration says.
fn applied(backend: Backend) -> &'static [&'static str] {
    match backend {
        Backend::Postgres => &[
            "applied 0001 tables",
            "applied 0002 history",
            "applied 0003 canary",
            "applied 0004 rules",
            "applied 0005 status",
        ],
        Backend::Sqlite => &[
            "applied 0001 tables",
            "applied 0002 counts",
            "applied 0003 canary",
            "applied 0004 rules",
            "applied 0005 status",
        ],
    }
}

fn schema(outcome: Result<impl std::fmt::Debug, StoreError>) -> String {
    match outcome {
        Err(StoreError::Schema(why)) => why,
        other => panic!("not about the schema: {other:?}"),
    }
}

async fn migrating_twice_is_nothing(backend: Backend) {
    let home = backend.empty().await;
    assert_eq!(
        home.store.migrate(false).await.expect("migrated"),
        applied(backend)
    );
    let mut ann = Daemon::start(&home.store, "ann").await;
    ann.see(&Day::of(1, 1, 1).snapshot()).await;
    assert_eq!(home.store.migrate(false).await.expect("migrated"), [""; 0]);
    home.store.check_schema().await.expect("fits");
    assert_eq!(home.count("prices").await, 1);
}

async fn tables_that_are_missing_or_newer_are_named(backend: Backend) {
    let home = backend.empty().await;
    let why = schema(home.store.check_schema().await);
    assert!(
        why.contains("no oddsd tables") && why.contains("oddsd migrate"),
        "{why}"
    );
    for attempt in [
        home.store.load().await.err(),
        home.store.status().await.err(),
        home.store.cycles(-1, 1).await.err(),
    ] {
        assert!(
            matches!(attempt, Some(StoreError::Schema(_))),
            "{attempt:?}"
        );
    }
    home.store.migrate(false).await.expect("migrated");
    home.meddle("UPDATE oddsd.migrations SET version = 9 WHERE version = (SELECT max(version) FROM oddsd.migrations)").await;
    for newer in [
        schema(home.store.check_schema().await),
        schema(home.store.migrate(false).await),
    ] {
        assert!(
            newer.contains(&format!(
                "version 9, newer than this program ({})",
                applied(backend).len()
            )),
            "{newer}"
        );
    }
    home.meddle("UPDATE oddsd.migrations SET version = version - 9")
        .await;
    let older = schema(home.store.check_schema().await);
    assert!(
        older.contains("version 0") && older.contains("run `oddsd migrate`"),
        "{older}"
    );
}

async fn two_daemons_migrate_at_once(backend: Backend) {
    let home = backend.empty().await;
    let others = [
        home.another().await,
        home.another().await,
        home.another().await,
    ];
    let all = others.map(|store| tokio::spawn(async move { store.migrate(false).await }));
    let mut said = home.store.migrate(false).await.expect("migrated");
    for one in all {
        said.extend(one.await.expect("no panic").expect("migrated"));
    }
    assert_eq!(said, applied(backend), "one did it, the others saw it done");
}

/// What the first version wrote, a row a price, is there to the last row.
#[tokio::test]
async fn history_by_row_is_carried_over() {
    let home = Backend::Postgres.fresh().await;
    let mut ann = Daemon::start(&home.store, "ann").await;
    let mut day = Day::of(2, 2, 3);
    ann.see(&day.snapshot()).await;
    day.pass(86_400);
    day.set(0, 1, None);
    day.set(1, 2, Some(super::fixture::offer(999)));
    ann.see(&day.snapshot()).await;
    let columns =
        "price_id, cycle_id, observed_at, decimal, fractional, point, ew_places, ew_denom, status";
    let rows = format!(
        "SELECT concat_ws(' ', {columns}) FROM oddsd.price_history ORDER BY cycle_id, price_id"
    );
    let before = home.look(&rows).await;
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
        home.meddle(back).await;
    }
    assert_eq!(
        home.store.migrate(false).await.expect("migrated"),
        ["applied 0002 history"]
    );
    assert_eq!(home.look(&rows).await, before);
    let mut again = Daemon::start(&home.another().await, "ann").await;
    super::fixture::same_rows(&ann.book, &again.book);
    day.pass(10);
    day.set(1, 2, Some(super::fixture::offer(998)));
    again.see(&day.snapshot()).await.expect("it goes on");
    let found = home.prices_of("rac_1").await;
    let price = &found.prices[2];
    assert_eq!(price.high, super::fixture::decimal("9.99"));
}
