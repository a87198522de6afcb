//! Tests of the SQLite file: its location, other processes that hold it, and its permissions.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use oddsd_core::key::Key;
use oddsd_store::{Store, StoreError};

use super::fixture::{DatabaseBackend, StateWriter, TTL, TestDay, offer, open, settings};
use oddsd_testkit::log::CapturedLog;

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

/// As with a full disk, SQLite itself rolls the transaction back, and the rollback of the driver finds none.
#[tokio::test]
async fn sqlite_is_written_again_after_a_transaction_that_it_rolled_back_by_itself() {
    let database = DatabaseBackend::Sqlite.migrated().await;
    let leader = StateWriter::start(&database.store, "leader").await;
    let state = serde_json::json!({});
    let write = async || {
        let renewed = leader.store.renew_lease(&leader.lease, TTL, &state, &[]);
        renewed.await.map(drop)
    };
    database
        .write(
            "CREATE TRIGGER full BEFORE UPDATE ON leases BEGIN SELECT RAISE(ROLLBACK, 'full'); END",
        )
        .await;
    for _ in 0..2 {
        let failed = write().await.expect_err("rolled back").to_string();
        assert!(failed.contains("full"), "{failed}");
    }
    database.write("DROP TRIGGER full").await;
    assert_eq!(write().await, Ok(()));
}

#[tokio::test]
async fn sqlite_file_that_is_gone_or_replaced_is_reported_and_never_written() {
    let (log, _capture) = CapturedLog::start();
    let database = DatabaseBackend::Sqlite.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(1, 1, 1);
    leader.commit_snapshot(&day.snapshot()).await;
    let file = PathBuf::from(database.url.trim_start_matches("sqlite:"));
    let away = file.with_extension("away");
    let refused = async |store: &Store, advice: &str| {
        let held = leader.lease.clone();
        let state = serde_json::json!({});
        let written = store.renew_lease(&held, TTL, &state, &[]).await.map(drop);
        let read = store.server_time().await.map(drop);
        for outcome in [written, read, store.load().await.map(drop)] {
            match outcome {
                Err(StoreError::Down(why)) => {
                    assert!(why.contains("odds.db") && why.contains(advice), "{why}")
                }
                other => panic!("{other:?}"),
            }
        }
    };
    std::fs::rename(&file, &away).expect("moved away");
    refused(&leader.store, "put it back").await;
    assert!(!file.exists(), "no empty file is made");
    std::fs::write(&file, "").expect("another file");
    refused(&leader.store, "restart oddsd").await;
    assert_eq!(std::fs::read(&file).expect("the other file"), b"");
    std::fs::rename(&away, &file).expect("put back");
    day.advance(10);
    day.set(0, 0, Some(offer(777)));
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("written");
    assert_eq!(database.count("cycles").await, 2);
    assert_eq!(log.lines("store.file_lost").len(), 1);
    assert_eq!(log.lines("store.file_back").len(), 1);
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
