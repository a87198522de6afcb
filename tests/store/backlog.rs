//! Tests of the backlog after an outage: read page by page, coalesced, and settled without rows that
//! were not read.

use std::collections::BTreeSet;

use oddsd_core::key::Key;
use oddsd_core::model::ChangeKind::{
    EventAdded, Manual, PriceChanged, PriceWithdrawn, SelectionChanged,
};
use oddsd_store::{OutboxRow, Purpose, RetryEntry};
use sqlx::{Connection, Executor, Row};

use super::fixture::{DatabaseBackend, LATER, SOON, StateWriter, TestDay, offer};
use super::outbox::removal;
use super::{log_page, on_every_backend, settlement};
use oddsd_testkit::postgres;

on_every_backend!(
    backlog_merges_rows_of_one_event,
    backlog_is_settled_page_by_page,
    backlog_keeps_rows_inserted_meanwhile,
    backlog_keeps_a_second_removal_before_its_time,
    backlog_of_nothing_is_empty,
);

fn again(key: &Key, after: std::time::Duration) -> Option<RetryEntry> {
    Some(RetryEntry::second_removal(vec![key.clone()], after))
}

async fn backlog_merges_rows_of_one_event(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(2, 1, 2);
    leader.commit_snapshot(&day.snapshot()).await;
    // Claimed rows are read as well.
    database.claim(1, LATER).await;
    for cents in 0..4 {
        day.advance(10);
        day.set(0, 0, Some(offer(500 + cents)));
        leader.commit_snapshot(&day.snapshot()).await;
    }
    day.advance(10);
    day.set(0, 1, None);
    leader.commit_snapshot(&day.snapshot()).await;
    let (one, other) = (
        Key::races_by_stage(),
        Key::from_user_input("other").expect("a key"),
    );
    for key in [&one, &other, &one] {
        let named = std::slice::from_ref(key);
        database
            .store
            .request_removal(named, &[], None)
            .await
            .expect("a row");
    }
    let beats = [
        database.store.write_canary(&one).await.expect("touched"),
        database.store.write_canary(&one).await.expect("touched"),
    ];
    database
        .store
        .settle(&[], settlement(&[], again(&one, SOON)))
        .await
        .expect("settled");

    let backlog = database.store.read_backlog(1000).await.expect("a backlog");
    assert_eq!(backlog.rows as i64, database.count("outbox").await);
    let shape = |change: &OutboxRow| {
        let change = &change.entry;
        let event = change.event.as_ref().map(|event| event.to_string());
        let keys: Vec<String> = change.keys.iter().map(Key::to_string).collect();
        let reported = event.unwrap_or(keys.join(" "));
        (reported, change.purpose, change.kinds.clone(), change.cycle)
    };
    let manual = BTreeSet::from([Manual]);
    use Purpose::*;
    assert_eq!(
        backlog.changes.iter().map(shape).collect::<Vec<_>>(),
        [
            (
                "rac_0".to_owned(),
                Change,
                BTreeSet::from([EventAdded, SelectionChanged, PriceChanged, PriceWithdrawn]),
                Some(6)
            ),
            (
                "rac_1".to_owned(),
                Change,
                BTreeSet::from([EventAdded, SelectionChanged, PriceChanged]),
                Some(1)
            ),
            (one.to_string(), Change, manual.clone(), None),
            (other.to_string(), Change, manual, None),
            (one.to_string(), Canary, BTreeSet::new(), None),
            (one.to_string(), SecondRemoval, BTreeSet::new(), None),
        ]
    );
    let attempts: Vec<i32> = backlog
        .changes
        .iter()
        .map(|one| one.entry.attempts)
        .collect();
    assert_eq!(attempts, [1, 0, 0, 0, 0, 0]);
    assert_eq!(backlog.changes[4].transaction, beats[1].transaction);
    // Each in its own transaction, after its lock is released.
    let ids = database.outbox().await;
    assert_eq!(backlog.through, *ids.last().expect("rows"));
    database
        .store
        .postpone(&ids, SOON, "no")
        .await
        .expect("due");
    let rows = database.claim(1000, SOON).await.rows;
    assert_eq!(rows.len() as u64, backlog.rows);
    for change in &backlog.changes {
        let same = |row: &&OutboxRow| {
            let (row, change) = (&row.entry, &change.entry);
            (&row.event, &row.keys, row.purpose) == (&change.event, &change.keys, change.purpose)
        };
        let its = || rows.iter().filter(same);
        assert_eq!(change.id, 0);
        let newest = its().map(|row| row.transaction).max();
        assert_eq!(Some(change.transaction), newest);
        let oldest = its().map(|row| row.created_at).min();
        assert_eq!(Some(change.created_at), oldest);
        assert!(its().all(|row| backlog.snapshot.is_visible(row.transaction)));
    }

    let done = database
        .store
        .settle_backlog(
            &backlog,
            settlement(&[removal(&["a", "b"])], again(&other, LATER)),
        )
        .await;
    assert_eq!(done.map(|(rows, _)| rows), Ok(backlog.rows));
    let left = database.store.read_backlog(10).await.expect("a backlog");
    assert_eq!((left.rows, left.changes.len()), (0, 0));
    assert_eq!(
        database.count("outbox").await,
        1,
        "to be removed again, later"
    );
    assert_eq!(
        database
            .store
            .removals(&log_page(-1, 10))
            .await
            .expect("a log")
            .len(),
        1
    );
}

async fn backlog_is_settled_page_by_page(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    for n in 0..7 {
        let key = Key::from_user_input(&format!("key:{}", n % 2)).expect("a key");
        database
            .store
            .request_removal(&[key], &[], None)
            .await
            .expect("a row");
    }
    let mut pages = Vec::new();
    loop {
        let page = database.store.read_backlog(3).await.expect("a backlog");
        if page.rows == 0 {
            break;
        }
        let done = database
            .store
            .settle_backlog(&page, settlement(&[], None))
            .await
            .map(|(rows, _)| rows);
        assert_eq!(done, Ok(page.rows));
        pages.push((page.rows, page.changes.len(), page.through));
    }
    let shape: Vec<_> = pages.iter().map(|page| (page.0, page.1)).collect();
    assert_eq!(shape, [(3, 2), (3, 2), (1, 1)]);
    assert!(pages.is_sorted_by_key(|page| page.2));
}

async fn backlog_keeps_rows_inserted_meanwhile(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let key = [Key::races_by_stage()];
    database
        .store
        .request_removal(&key, &[], None)
        .await
        .expect("a row");
    let backlog = database.store.read_backlog(100).await.expect("a backlog");
    let later = database
        .store
        .request_removal(&key, &[], None)
        .await
        .expect("a row");
    let done = database
        .store
        .settle_backlog(&backlog, settlement(&[], None))
        .await
        .map(|(rows, _)| rows);
    assert_eq!(done, Ok(1));
    assert!(database.store.is_pending(later).await.expect("an answer"));
    let done = database
        .store
        .settle_backlog(&backlog, settlement(&[], None))
        .await
        .map(|(rows, _)| rows);
    assert_eq!(done, Ok(0), "once is all");
    assert!(database.store.is_pending(later).await.expect("an answer"));
}

/// Not on SQLite: its writers take turns.
#[tokio::test]
async fn backlog_keeps_a_lower_id_that_commits_later() {
    let database = DatabaseBackend::Postgres.migrated().await;
    let key = [Key::races_by_stage()];
    let low = database
        .store
        .request_removal(&key, &[], None)
        .await
        .expect("a row");
    let mut slow = postgres::connect(&database.url).await;
    let mut open = slow.begin().await.expect("a transaction");
    let late = open
        .fetch_one("INSERT INTO oddsd.outbox (kinds, keys) VALUES ('manual', 'late') RETURNING id")
        .await
        .expect("a row")
        .get::<i64, _>(0);
    let high = database
        .store
        .request_removal(&key, &[], None)
        .await
        .expect("a row");
    assert!(low < late && late < high);
    let backlog = database.store.read_backlog(100).await.expect("a backlog");
    assert_eq!((backlog.rows, backlog.through), (2, high));
    open.commit().await.expect("committed");
    let done = database
        .store
        .settle_backlog(&backlog, settlement(&[], None))
        .await
        .map(|(rows, _)| rows);
    assert_eq!(done, Ok(2));
    assert!(database.store.is_pending(late).await.expect("an answer"));
    let rest = database.store.read_backlog(100).await.expect("a backlog");
    assert_eq!((rest.rows, rest.through), (1, late));
    assert!(rest.snapshot.is_visible(rest.changes[0].transaction));
    assert!(!backlog.snapshot.is_visible(rest.changes[0].transaction));
}

async fn backlog_keeps_a_second_removal_before_its_time(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let key = Key::races_by_stage();
    for _ in 0..2 {
        let one = again(&key, LATER);
        database
            .store
            .settle(&[], settlement(&[], one))
            .await
            .expect("settled");
    }
    let due = again(&key, SOON);
    database
        .store
        .settle(&[], settlement(&[], due))
        .await
        .expect("settled");
    // They take no space in the page, and may be older than its rows.
    let backlog = database.store.read_backlog(1).await.expect("a backlog");
    assert_eq!((backlog.rows, backlog.through), (1, 3));
    database
        .store
        .request_removal(&[key], &[], None)
        .await
        .expect("a row");
    let backlog = database.store.read_backlog(100).await.expect("a backlog");
    assert_eq!((backlog.rows, backlog.through), (2, 4));
    // One of them is due since then: it was not read all the same.
    let come = database
        .store
        .postpone(&[2], SOON, "its time has come")
        .await;
    come.expect("due");
    let done = database
        .store
        .settle_backlog(&backlog, settlement(&[], None))
        .await
        .map(|(rows, _)| rows);
    assert_eq!(done, Ok(2));
    assert_eq!(database.outbox().await, [1, 2]);
    let rest = database.store.read_backlog(100).await.expect("a backlog");
    assert_eq!((rest.rows, rest.through), (1, 2));
}

async fn backlog_of_nothing_is_empty(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let backlog = database.store.read_backlog(100).await.expect("a backlog");
    assert_eq!((backlog.rows, backlog.through), (0, 0));
    assert_eq!(backlog.changes, []);
    let key = Key::races_by_stage();
    let row = database
        .store
        .request_removal(std::slice::from_ref(&key), &[], None);
    let row = row.await.expect("a row");
    let done = database
        .store
        .settle_backlog(&backlog, settlement(&[], again(&key, LATER)));
    assert_eq!(done.await.map(|(rows, _)| rows), Ok(0));
    assert!(database.store.is_pending(row).await.expect("an answer"));
    assert_eq!(database.count("outbox").await, 2);
}
