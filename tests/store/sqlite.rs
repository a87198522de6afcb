//! What is particular to a file: where it may be, who else holds it, and what it is not.

use std::os::unix::fs::PermissionsExt;

use oddsd::key::Key;
use oddsd::store::{Store, StoreError};

use super::fixture::{Backend, Daemon, Day, offer, open, settings};

async fn refused(url: &str) -> String {
    match Store::open(&settings(url)).await {
        Err(StoreError::Misconfigured(why)) => why,
        Err(other) => panic!("{url}: {other:?}"),
        Ok(_) => panic!("{url} opens"),
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_is_named_with_the_reason() {
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
async fn a_file_that_is_read_only_says_so() {
    let home = Backend::Sqlite.fresh().await;
    home.store.close().await;
    let url = format!("{}?mode=ro", home.url);
    // Whoever runs as root may write what is read-only, so the mode is asked for.
    let outcome = match Store::open(&settings(&url)).await {
        Ok(store) => store.acquire("ann", super::fixture::TTL).await.map(drop),
        Err(why) => Err(why),
    };
    let why = outcome.expect_err("read-only").to_string();
    assert!(
        why.contains("readonly") || why.contains("read-only"),
        "{why}"
    );
    let file = home.url.trim_start_matches("sqlite:");
    let mode = std::fs::metadata(file)
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o400, 0o400);
}

#[tokio::test]
async fn two_on_one_file_wait_for_each_other_and_lose_nothing() {
    let home = Backend::Sqlite.fresh().await;
    assert_eq!(home.one("PRAGMA journal_mode").await, "wal");
    let mut ann = Daemon::start(&home.store, "ann").await;
    let other = home.another().await;
    let writer = tokio::spawn(async move {
        for n in 0..50 {
            let key = Key::from_person(&format!("key:{n}")).expect("a key");
            other
                .request_removal(&[key], &[], None)
                .await
                .expect("it waits its turn");
        }
    });
    let mut day = Day::of(4, 4, 4);
    ann.see(&day.snapshot()).await;
    for n in 0..20 {
        day.pass(10);
        day.set(1, 1, Some(offer(300 + n)));
        ann.see(&day.snapshot()).await.expect("it waits its turn");
    }
    writer.await.expect("no panic");
    assert_eq!(home.count("outbox WHERE keys IS NOT NULL").await, 50);
    assert_eq!(home.count("cycles").await, 21);
    let later = open(&home.url).await.load().await.expect("the rows load");
    assert_eq!(later.book.open_prices(), 64);
}
