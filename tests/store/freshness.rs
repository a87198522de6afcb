//! Tests of database snapshots: which commits a reader and a claim have seen, decided by transactions
//! and never by clocks.

use std::collections::HashMap;

use chrono::Utc;
use oddsd_core::key::Key;
use oddsd_core::model::{DbSnapshot, EventId};
use oddsd_store::{Purpose, RetryEntry, Store};
use sqlx::{Connection, Executor, Row};

use super::fixture::{
    DatabaseBackend, LATER, SOON, StateWriter, TestDatabase, TestDay, at, decimal, offer,
};
use super::{on_every_backend, settlement};
use oddsd_testkit::postgres;

on_every_backend!(
    snapshot_sees_earlier_commits_only,
    answer_includes_everything_in_its_snapshot,
    claim_snapshot_includes_every_claimed_row,
    canary_takes_the_path_of_every_change,
    second_removal_waits_for_its_time,
    pending_removals_count_only_late_rows,
);

fn keys(names: &[&str]) -> Vec<Key> {
    let key = |name: &&str| Key::from_user_input(name).expect("a key");
    names.iter().map(key).collect()
}

/// The database snapshot of each kind of load.
async fn loads(store: &Store) -> [DbSnapshot; 6] {
    let (from, to) = (at(0), at(86_400));
    let (known, unknown) = (EventId::from("rac_0"), EventId::from("rac_404"));
    [
        store.current_snapshot().await.expect("a view"),
        store.runners(from, to).await.expect("runners").snapshot,
        store.runners(from, from).await.expect("none").snapshot,
        store.event_prices(&known).await.expect("prices").snapshot,
        store.event_prices(&unknown).await.expect("none").snapshot,
        store.last_canary().await.expect("a beat").snapshot,
    ]
}

async fn snapshot_sees_earlier_commits_only(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    // Without any change there is a snapshot as well.
    let first = database.store.current_snapshot().await.expect("a view");
    StateWriter::start(&database.store, "leader")
        .await
        .commit_snapshot(&TestDay::with_races(2, 2, 2).snapshot())
        .await;
    for _ in 0..3 {
        let before = loads(&database.store).await;
        database
            .store
            .request_removal(&keys(&["a"]), &[], None)
            .await
            .expect("a row");
        let rows = database.claim(100, LATER).await.rows;
        let newest = rows.last().expect("a row").transaction;
        let after = loads(&database.store).await;
        for (before, after) in before.iter().zip(&after) {
            assert!(!before.is_visible(newest), "{before} and {newest}");
            assert!(after.is_visible(newest), "{after} and {newest}");
            assert!(after.includes(before) && !before.includes(after));
            assert!(before.includes(&first));
        }
    }
}

/// A writer moves a price cycle by cycle, and the canary with it, while readers read.
async fn answer_includes_everything_in_its_snapshot(backend: DatabaseBackend) {
    const CYCLES: i64 = 40;
    let database = backend.migrated().await;
    let store = database.another().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(1, 1, 1);
    day.set(0, 0, Some(offer(1001)));
    leader.commit_snapshot(&day.snapshot()).await;
    let writer = tokio::spawn(async move {
        let mut beats = Vec::new();
        for cycle in 2..=CYCLES {
            day.advance(10);
            day.set(0, 0, Some(offer(1000 + cycle)));
            leader
                .commit_snapshot(&day.snapshot())
                .await
                .expect("a move");
            let key = Key::races_by_stage();
            beats.push(leader.store.write_canary(&key).await.expect("a beat"));
        }
        beats
    });
    let cycle_of = |odds| (odds - decimal("10")) * decimal("100");
    let (mut whole, mut parts, mut beats) = (Vec::new(), Vec::new(), Vec::new());
    while !writer.is_finished() {
        let card = store.runners(at(0), at(86_400)).await.expect("runners");
        whole.push((card.snapshot, cycle_of(card.value[0].prices[0].decimal)));
        let race = store.event_prices(&"rac_0".into()).await.expect("prices");
        let known = race.value.expect("known");
        parts.push((race.snapshot, cycle_of(known.prices[0].offer.decimal)));
        beats.push(store.last_canary().await.expect("a beat"));
    }
    let touched = writer.await.expect("no panic");
    let rows = database.claim(1000, LATER).await.rows;
    let cycles: HashMap<i64, u64> = rows
        .iter()
        .filter_map(|row| Some((row.entry.cycle?, row.transaction)))
        .collect();
    assert_eq!(cycles.len() as i64, CYCLES);
    for (cycle, transaction) in cycles {
        for (view, held) in &whole {
            assert_eq!(
                view.is_visible(transaction),
                *held >= cycle.into(),
                "{view}"
            );
        }
        for (view, held) in &parts {
            assert!(
                !view.is_visible(transaction) || *held >= cycle.into(),
                "{view}"
            );
        }
    }
    for touch in touched {
        for seen in &beats {
            assert_eq!(
                seen.snapshot.is_visible(touch.transaction),
                seen.value >= touch.beat
            );
        }
    }
}

async fn claim_snapshot_includes_every_claimed_row(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let empty = database.claim(10, LATER).await;
    assert_eq!(empty.rows, []);
    for name in ["a", "b", "c"] {
        database
            .store
            .request_removal(&keys(&[name]), &[], None)
            .await
            .expect("a row");
    }
    let claim = database.claim(2, LATER).await;
    assert_eq!(claim.rows.len(), 2);
    for row in &claim.rows {
        assert!(
            claim.snapshot.is_visible(row.transaction)
                && !empty.snapshot.is_visible(row.transaction)
        );
        assert_eq!(row.entry.purpose, Purpose::Change);
        assert!((Utc::now() - row.created_at).num_minutes().abs() < 60);
    }
    assert!(claim.rows[0].transaction < claim.rows[1].transaction);
    let last = database.claim(2, LATER).await;
    assert_eq!(last.rows.len(), 1);
    let nothing = database.claim(2, LATER).await;
    assert_eq!(nothing.rows, []);
    assert!(nothing.snapshot.is_visible(last.rows[0].transaction));
}

/// Not on SQLite: its writers take turns.
#[tokio::test]
async fn snapshot_excludes_older_transactions_that_commit_later() {
    let database = DatabaseBackend::Postgres.migrated().await;
    let mut slow = postgres::connect(&database.url).await;
    let mut open = slow.begin().await.expect("a transaction");
    let older = open
        .fetch_one("INSERT INTO oddsd.outbox (kinds, keys) VALUES ('manual', 'old') RETURNING xid::text::bigint")
        .await
        .expect("a row");
    let older = older.get::<i64, _>(0) as u64;
    database
        .store
        .request_removal(&keys(&["young"]), &[], None)
        .await
        .expect("a row");
    let young = database.claim(10, LATER).await;
    assert_eq!(young.rows.len(), 1);
    let younger = young.rows[0].transaction;
    assert!(older < younger);
    for view in loads(&database.store).await.iter().chain([&young.snapshot]) {
        assert!(
            view.is_visible(younger) && !view.is_visible(older),
            "{view}"
        );
    }
    open.commit().await.expect("committed");
    let old = database.claim(10, LATER).await;
    assert_eq!(old.rows[0].transaction, older);
    assert!(
        old.snapshot.is_visible(older)
            && old.snapshot.includes(&young.snapshot)
            && !young.snapshot.includes(&old.snapshot)
    );
    for view in loads(&database.store).await {
        assert!(view.is_visible(younger) && view.is_visible(older), "{view}");
    }
}

async fn canary_takes_the_path_of_every_change(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let before = database.store.last_canary().await.expect("a beat");
    assert_eq!(before.value, 0);
    let key = keys(&["oddsd:canary"]);
    let first = database.store.write_canary(&key[0]).await.expect("touched");
    let second = database.store.write_canary(&key[0]).await.expect("touched");
    assert_eq!((first.beat, second.beat), (1, 2));
    let after = database.store.last_canary().await.expect("a beat");
    assert_eq!(after.value, 2);
    assert!(
        !before.snapshot.is_visible(first.transaction)
            && after.snapshot.is_visible(second.transaction)
    );
    let rows = database.claim(10, LATER).await.rows;
    let shape: Vec<(u64, Purpose, &[Key])> = rows
        .iter()
        .map(|row| (row.transaction, row.entry.purpose, &*row.entry.keys))
        .collect();
    let [one, two] = [first, second].map(|t| (t.transaction, Purpose::Canary, &*key));
    assert_eq!(shape, [one, two]);
    assert!(rows[0].entry.kinds.is_empty() && rows[0].entry.event.is_none());
}

async fn pending(database: &TestDatabase) -> i64 {
    database
        .store
        .status()
        .await
        .expect("a status")
        .outbox_pending
}

async fn second_removal_waits_for_its_time(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let named = keys(&["races:by-stage:v1", "it's {one} *"]);
    let again = |keys: &[Key], after| Some(RetryEntry::second_removal(keys.to_vec(), after));
    let mut row = database
        .store
        .request_removal(&named, &[], None)
        .await
        .expect("a row");
    for nothing in [None, again(&[], SOON)] {
        database
            .store
            .settle(&[row], settlement(&[], nothing))
            .await
            .expect("settled");
        assert_eq!(database.count("outbox").await, 0);
        row = database
            .store
            .request_removal(&named, &[], None)
            .await
            .expect("a row");
    }
    database
        .store
        .settle(&[row], settlement(&[], again(&named, LATER)))
        .await
        .expect("settled");
    assert!(!database.store.is_pending(row).await.expect("an answer"));
    assert_eq!(database.count("outbox").await, 1);
    assert_eq!(database.claim(10, LATER).await.rows, [], "not yet");

    database
        .store
        .settle(&[], settlement(&[], again(&named[1..], SOON)))
        .await
        .expect("settled");
    let claim = database.claim(10, LATER).await;
    assert_eq!(claim.rows.len(), 1);
    let row = &claim.rows[0];
    assert_eq!(
        (row.entry.purpose, &*row.entry.keys),
        (Purpose::SecondRemoval, &named[1..])
    );
    assert!(row.entry.kinds.is_empty() && row.entry.cycle.is_none() && row.entry.attempts == 1);
    assert!(claim.snapshot.is_visible(row.transaction));
}

async fn pending_removals_count_only_late_rows(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let named = keys(&["a", "b"]);
    let settle = async |after| {
        let keys = named.clone();
        let again = Some(RetryEntry::second_removal(keys, after));
        database
            .store
            .settle(&[], settlement(&[], again))
            .await
            .expect("a second removal");
    };
    settle(LATER).await;
    database
        .store
        .write_canary(&named[0])
        .await
        .expect("touched");
    assert_eq!(database.count("outbox").await, 2);
    let status = database.store.status().await.expect("a status");
    assert_eq!(
        (status.outbox_pending, status.outbox_oldest_seconds),
        (0, 0.0)
    );
    settle(SOON).await;
    assert_eq!(pending(&database).await, 1, "its time has come");
    database.claim(10, LATER).await;
    assert_eq!(pending(&database).await, 1, "claimed is not settled");
    database
        .store
        .request_removal(&named, &[], None)
        .await
        .expect("a row");
    assert_eq!(pending(&database).await, 2);
}
