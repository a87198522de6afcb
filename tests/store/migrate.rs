//! Migrations: once, by one, and never backwards.

use oddsd::store::StoreError;

use super::home::{Backend, Daemon, Day};
use super::on_every_backend;

on_every_backend!(
    migrating_twice_is_nothing,
    tables_that_are_missing_or_newer_are_named,
    two_daemons_migrate_at_once,
);

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
        ["applied 0001 tables"]
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
    home.meddle("UPDATE oddsd.migrations SET version = 9").await;
    for newer in [
        schema(home.store.check_schema().await),
        schema(home.store.migrate(false).await),
    ] {
        assert!(
            newer.contains("version 9, newer than this program (1)"),
            "{newer}"
        );
    }
    home.meddle("UPDATE oddsd.migrations SET version = 0").await;
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
    assert_eq!(
        said,
        ["applied 0001 tables"],
        "one did it, the others saw it done"
    );
}
