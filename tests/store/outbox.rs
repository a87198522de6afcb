//! Tests of the outbox: each removal is claimed by one relay at a time, and at least once.

use std::collections::BTreeSet;

use oddsd_core::key::Key;
use oddsd_core::model::{ChangeKind, EventId};
use oddsd_store::Removal;

use super::fixture::{DatabaseBackend, LATER, SOON, StateWriter, TestDay, at, offer};
use super::{log_page, on_every_backend, settlement};

on_every_backend!(
    outbox_has_one_row_for_each_event_and_cycle,
    claimed_row_is_given_again_only_when_due,
    parallel_claims_get_different_rows,
    settlement_removes_and_logs_together,
    postponed_row_waits_with_its_reason,
    requested_removal_keeps_its_keys,
);

pub fn removal(keys: &[&str]) -> Removal {
    Removal {
        at: at(0),
        cycle: Some(7),
        rule: "live-odds".into(),
        reason: "PRICE_CHANGE".into(),
        keys: keys.iter().map(|key| key.to_string()).collect(),
        existed: 1,
        backend: "upstash".into(),
        attempts: 2,
        took_ms: 9,
        ..Removal::default()
    }
}

async fn outbox_has_one_row_for_each_event_and_cycle(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(3, 2, 2);
    leader.commit_snapshot(&day.snapshot()).await;
    day.advance(10);
    day.set(0, 0, Some(offer(444)));
    day.set(0, 1, Some(offer(445)));
    day.set(1, 1, None);
    day.races[1].event.in_play = true;
    day.races.remove(2);
    leader.commit_snapshot(&day.snapshot()).await;

    let rows = database
        .store
        .claim("leader", 100, LATER)
        .await
        .expect("a claim")
        .rows;
    let second: Vec<(EventId, BTreeSet<ChangeKind>)> = rows
        .iter()
        .filter(|row| row.entry.cycle == Some(2))
        .map(|row| {
            (
                row.entry.event.clone().expect("an event"),
                row.entry.kinds.clone(),
            )
        })
        .collect();
    use ChangeKind::*;
    assert_eq!(
        second,
        [
            ("rac_0".into(), BTreeSet::from([PriceChanged])),
            (
                "rac_1".into(),
                BTreeSet::from([StatusChanged, PriceWithdrawn])
            ),
            (
                "rac_2".into(),
                BTreeSet::from([EventRemoved, PriceWithdrawn])
            ),
        ]
    );
    assert_eq!(rows.len(), 6);
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    assert!(ids.is_sorted(), "oldest first: {ids:?}");
    let status = database.store.status().await.expect("a status");
    assert_eq!(status.outbox_pending, 6, "claimed is not settled");
}

async fn claimed_row_is_given_again_only_when_due(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let row = database
        .store
        .request_removal(&[Key::races_by_stage()], &[], None)
        .await
        .expect("a row");
    // A claim that ends at once: the claimer died.
    let first = database
        .store
        .claim("leader", 10, SOON)
        .await
        .expect("a claim")
        .rows;
    let second = database
        .store
        .claim("standby", 10, LATER)
        .await
        .expect("a claim")
        .rows;
    assert_eq!((first[0].entry.attempts, second[0].entry.attempts), (1, 2));
    assert_eq!((first[0].id, second[0].id), (row, row));
    assert_eq!(
        database
            .store
            .claim("leader", 10, SOON)
            .await
            .expect("a claim")
            .rows,
        []
    );
}

async fn parallel_claims_get_different_rows(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut all = BTreeSet::new();
    for _ in 0..60 {
        all.insert(
            database
                .store
                .request_removal(&[Key::races_by_stage()], &[], None)
                .await
                .expect("a row"),
        );
    }
    let other = database.another().await;
    let claimers = [&database.store, &other, &database.store, &other].map(|store| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let rows = store
                    .claim("one of many", 4, LATER)
                    .await
                    .expect("a claim")
                    .rows;
                if rows.is_empty() {
                    return mine;
                }
                mine.extend(rows.into_iter().map(|row| row.id));
            }
        })
    });
    let mut got = Vec::new();
    for claimer in claimers {
        got.extend(claimer.await.expect("no panic"));
    }
    assert_eq!(got.len(), 60, "none twice");
    assert_eq!(BTreeSet::from_iter(got), all, "none missed");
}

async fn settlement_removes_and_logs_together(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let keys = [Key::races_by_stage()];
    let first = database
        .store
        .request_removal(&keys, &[], None)
        .await
        .expect("a row");
    let second = database
        .store
        .request_removal(&keys, &[], None)
        .await
        .expect("a row");
    let third = database
        .store
        .request_removal(&keys, &[], None)
        .await
        .expect("a row");
    let logged = [
        removal(&["races:by-stage:v1", "event:1:prices:v1"]),
        removal(&[]),
    ];
    database
        .store
        .settle(&[first, second], settlement(&logged, None))
        .await
        .expect("settled");
    assert!(!database.store.is_pending(first).await.expect("an answer"));
    assert!(database.store.is_pending(third).await.expect("an answer"));
    let log = database
        .store
        .removals(&log_page(-1, 10))
        .await
        .expect("a log");
    assert_eq!(log.len(), 2);
    let plain = |row: &Removal| Removal {
        id: 0,
        at: at(0),
        ..row.clone()
    };
    assert_eq!(log.iter().map(plain).collect::<Vec<_>>(), logged);
    assert!(log[0].id < log[1].id);
    // Nothing to log, nothing to settle: both are allowed.
    database
        .store
        .settle(&[third], settlement(&[], None))
        .await
        .expect("settled");
    database
        .store
        .settle(&[], settlement(&[], None))
        .await
        .expect("settled");
    assert_eq!(
        database
            .store
            .status()
            .await
            .expect("a status")
            .outbox_pending,
        0
    );
}

async fn postponed_row_waits_with_its_reason(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let row = database
        .store
        .request_removal(&[Key::races_by_stage()], &[], None)
        .await
        .expect("a row");
    database.claim(1, LATER).await;
    let delayed = database
        .store
        .postpone(&[row], SOON, "the cache said \"no\"")
        .await;
    delayed.expect("postponed");
    assert_eq!(
        database
            .store
            .claim("leader", 1, LATER)
            .await
            .expect("a claim")
            .rows
            .len(),
        1
    );
    database
        .store
        .postpone(&[row], LATER, "timeout")
        .await
        .expect("postponed");
    assert_eq!(
        database
            .store
            .claim("leader", 1, LATER)
            .await
            .expect("a claim")
            .rows
            .len(),
        0
    );
    let status = database.store.status().await.expect("a status");
    assert_eq!(status.outbox_last_error.as_deref(), Some("timeout"));
    assert!(status.outbox_oldest_seconds >= 0.0);
}

async fn requested_removal_keeps_its_keys(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let spelt = [
        "races:by-stage:v1",
        "a b",
        "it's",
        "\"quoted\"",
        "back\\slash",
        "{a,b}",
        "*?[z]",
        "🐎",
        "\u{2028}x",
        "%0A",
        ",",
    ];
    let keys: Vec<Key> = spelt
        .iter()
        .map(|key| Key::from_user_input(key).expect("a key"))
        .collect();
    database
        .store
        .request_removal(&keys, &[], None)
        .await
        .expect("a row");
    let rows = database
        .store
        .claim("leader", 1, LATER)
        .await
        .expect("a claim")
        .rows;
    assert_eq!(rows[0].entry.keys, keys);
    assert_eq!(rows[0].entry.kinds, BTreeSet::from([ChangeKind::Manual]));
    assert_eq!(
        (rows[0].entry.cycle, rows[0].entry.event.clone()),
        (None, None)
    );
}
