//! The outbox: what readers still have to be told is told, by one, and at least once.

use std::collections::BTreeSet;

use oddsd::key::Key;
use oddsd::model::{ChangeKind, EventId};
use oddsd::store::Removal;

use super::fixture::{Backend, Daemon, Day, LATER, SOON, at, offer};
use super::{log_page, on_every_backend, settlement};

on_every_backend!(
    one_row_for_each_event_and_cycle,
    a_claimed_row_is_given_once_until_its_time_is_up,
    claimers_at_the_same_time_get_different_rows,
    settling_removes_and_logs_in_one_go,
    a_postponed_row_waits_and_says_why,
    keys_that_a_person_names_survive,
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

async fn one_row_for_each_event_and_cycle(backend: Backend) {
    let home = backend.fresh().await;
    let mut ann = Daemon::start(&home.store, "ann").await;
    let mut day = Day::of(3, 2, 2);
    ann.see(&day.snapshot()).await;
    day.pass(10);
    day.set(0, 0, Some(offer(444)));
    day.set(0, 1, Some(offer(445)));
    day.set(1, 1, None);
    day.races[1].event.in_play = true;
    day.races.remove(2);
    ann.see(&day.snapshot()).await;

    let rows = home
        .store
        .claim("ann", 100, LATER)
        .await
        .expect("a claim")
        .rows;
    let second: Vec<(EventId, BTreeSet<ChangeKind>)> = rows
        .iter()
        .filter(|row| row.cycle == Some(2))
        .map(|row| (row.event.clone().expect("an event"), row.kinds.clone()))
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
    let status = home.store.status().await.expect("a status");
    assert_eq!(status.outbox_pending, 6, "claimed is not settled");
}

async fn a_claimed_row_is_given_once_until_its_time_is_up(backend: Backend) {
    let home = backend.fresh().await;
    let row = home
        .store
        .request_removal(&[Key::races_by_stage()], &[], None)
        .await
        .expect("a row");
    // A claim that ends at once: the claimer died.
    let first = home
        .store
        .claim("ann", 10, SOON)
        .await
        .expect("a claim")
        .rows;
    let second = home
        .store
        .claim("bob", 10, LATER)
        .await
        .expect("a claim")
        .rows;
    assert_eq!((first[0].attempts, second[0].attempts), (1, 2));
    assert_eq!((first[0].id, second[0].id), (row, row));
    assert_eq!(
        home.store
            .claim("ann", 10, SOON)
            .await
            .expect("a claim")
            .rows,
        []
    );
}

async fn claimers_at_the_same_time_get_different_rows(backend: Backend) {
    let home = backend.fresh().await;
    let mut all = BTreeSet::new();
    for _ in 0..60 {
        all.insert(
            home.store
                .request_removal(&[Key::races_by_stage()], &[], None)
                .await
                .expect("a row"),
        );
    }
    let other = home.another().await;
    let claimers = [&home.store, &other, &home.store, &other].map(|store| {
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

async fn settling_removes_and_logs_in_one_go(backend: Backend) {
    let home = backend.fresh().await;
    let keys = [Key::races_by_stage()];
    let first = home
        .store
        .request_removal(&keys, &[], None)
        .await
        .expect("a row");
    let second = home
        .store
        .request_removal(&keys, &[], None)
        .await
        .expect("a row");
    let third = home
        .store
        .request_removal(&keys, &[], None)
        .await
        .expect("a row");
    let logged = [
        removal(&["races:by-stage:v1", "event:1:prices:v1"]),
        removal(&[]),
    ];
    home.store
        .settle(&[first, second], settlement(&logged, None))
        .await
        .expect("settled");
    assert!(!home.store.is_pending(first).await.expect("an answer"));
    assert!(home.store.is_pending(third).await.expect("an answer"));
    let log = home.store.removals(&log_page(-1, 10)).await.expect("a log");
    assert_eq!(log.len(), 2);
    let plain = |row: &Removal| Removal {
        id: 0,
        at: at(0),
        ..row.clone()
    };
    assert_eq!(log.iter().map(plain).collect::<Vec<_>>(), logged);
    assert!(log[0].id < log[1].id);
    // Nothing to log, nothing to settle: both are allowed.
    home.store
        .settle(&[third], settlement(&[], None))
        .await
        .expect("settled");
    home.store
        .settle(&[], settlement(&[], None))
        .await
        .expect("settled");
    assert_eq!(
        home.store.status().await.expect("a status").outbox_pending,
        0
    );
}

async fn a_postponed_row_waits_and_says_why(backend: Backend) {
    let home = backend.fresh().await;
    let row = home
        .store
        .request_removal(&[Key::races_by_stage()], &[], None)
        .await
        .expect("a row");
    home.claim(1, LATER).await;
    let delayed = home
        .store
        .postpone(&[row], SOON, "the cache said \"no\"")
        .await;
    delayed.expect("postponed");
    assert_eq!(
        home.store
            .claim("ann", 1, LATER)
            .await
            .expect("a claim")
            .rows
            .len(),
        1
    );
    home.store
        .postpone(&[row], LATER, "timeout")
        .await
        .expect("postponed");
    assert_eq!(
        home.store
            .claim("ann", 1, LATER)
            .await
            .expect("a claim")
            .rows
            .len(),
        0
    );
    let status = home.store.status().await.expect("a status");
    assert_eq!(status.outbox_last_error.as_deref(), Some("timeout"));
    assert!(status.outbox_oldest_seconds >= 0.0);
}

async fn keys_that_a_person_names_survive(backend: Backend) {
    let home = backend.fresh().await;
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
        .map(|key| Key::from_person(key).expect("a key"))
        .collect();
    home.store
        .request_removal(&keys, &[], None)
        .await
        .expect("a row");
    let rows = home
        .store
        .claim("ann", 1, LATER)
        .await
        .expect("a claim")
        .rows;
    assert_eq!(rows[0].keys, keys);
    assert_eq!(rows[0].kinds, BTreeSet::from([ChangeKind::Manual]));
    assert_eq!((rows[0].cycle, rows[0].event.clone()), (None, None));
}
