//! Tests of the SQLite file: its location, other processes that hold it, and its permissions.

use std::os::unix::fs::PermissionsExt;

use oddsd_core::key::Key;
use oddsd_store::{Store, StoreError};

use super::fixture::{DatabaseBackend, StateWriter, TestDay, offer, open, settings};

async fn refused(url: &str) -> String {
    match Store::open(&settings(url)).await {
        Err(StoreError::Misconfigured(why)) => why,
        Err(other) => panic!("{url}: {other:?}"),
        Ok(_) => panic!("{url} opens"),
    }
}

#[tokio::test]
async fn sqlite_file_error_names_path_and_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("nowhere/odds.db");
    let why = refused(&format!("sqlite:{}", missing.display())).await;
    assert!(
        why.contains("nowhere/odds.db") && why.contains("folder exists"),
        "{why}"
    );

    let other = folder.path().join("letter.txt");
    std::fs::write(&other, "Dear Sir, ".repeat(1000)).expect("a file");
    let why = refused(&format!("sqlite:{}", other.display())).await;
    assert!(why.contains("not a database"), "{why}");

    for memory in ["sqlite::memory:", "sqlite://odds?mode=memory"] {
        let why = refused(memory).await;
        assert!(why.contains("name a file"), "{why}");
    }
    for odd in ["mysql://u:canary@h/d", "odds.db", "u:canary@h"] {
        let why = refused(odd).await;
        assert!(
            why.contains("sqlite:path/to/file.db") && !why.contains("canary"),
            "{why}"
        );
    }
}

#[tokio::test]
async fn sqlite_read_only_file_is_reported() {
    let database = DatabaseBackend::Sqlite.migrated().await;
    database.store.close().await;
    let url = format!("{}?mode=ro", database.url);
    // Root may write read-only files, so the mode is checked.
    let outcome = match Store::open(&settings(&url)).await {
        Ok(store) => store
            .acquire_lease("leader", super::fixture::TTL)
            .await
            .map(drop),
        Err(why) => Err(why),
    };
    let why = outcome.expect_err("read-only").to_string();
    assert!(
        why.contains("readonly") || why.contains("read-only"),
        "{why}"
    );
    let file = database.url.trim_start_matches("sqlite:");
    let mode = std::fs::metadata(file)
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o400, 0o400);
}

#[tokio::test]
async fn sqlite_writers_wait_for_each_other() {
    let database = DatabaseBackend::Sqlite.migrated().await;
    assert_eq!(database.query_one("PRAGMA journal_mode").await, "wal");
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let other = database.another().await;
    let writer = tokio::spawn(async move {
        for n in 0..50 {
            let key = Key::from_user_input(&format!("key:{n}")).expect("a key");
            other
                .request_removal(&[key], &[], None)
                .await
                .expect("it waits its turn");
        }
    });
    let mut day = TestDay::with_races(4, 4, 4);
    leader.commit_snapshot(&day.snapshot()).await;
    for n in 0..20 {
        day.advance(10);
        day.set(1, 1, Some(offer(300 + n)));
        leader
            .commit_snapshot(&day.snapshot())
            .await
            .expect("it waits its turn");
    }
    writer.await.expect("no panic");
    assert_eq!(database.count("outbox WHERE keys IS NOT NULL").await, 50);
    assert_eq!(database.count("cycles").await, 21);
    let later = open(&database.url)
        .await
        .load()
        .await
        .expect("the rows load");
    assert_eq!(later.state.open_prices(), 64);
}
