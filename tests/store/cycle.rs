//! A cycle: all of it or nothing, counted by the database, and only what changed.

use oddsd_core::diff::PriceChangeKind;
use oddsd_core::model::{Price, SelectionStatus};
use oddsd_store::StoreError;

use super::fixture::{DatabaseBackend, StateWriter, TestDatabase, TestDay, cycle, decimal, offer};
use super::on_every_backend;

on_every_backend!(
    cycle_is_not_written_twice,
    cycle_with_an_invalid_row_writes_nothing,
    cycle_counts_come_from_the_database,
    cycle_detects_rows_deleted_by_others,
    cycle_writes_only_changed_rows,
    withdrawn_price_keeps_its_last_offer,
    rejected_row_does_not_block_the_others,
);

async fn sizes(database: &TestDatabase) -> Vec<i64> {
    let mut sizes = Vec::new();
    for table in "bookmakers events selections prices price_history cycles outbox checks".split(' ')
    {
        sizes.push(database.count(table).await);
    }
    sizes
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> String {
    match outcome {
        Err(StoreError::Failed(why)) => why,
        other => panic!("not refused: {other:?}"),
    }
}

async fn cycle_is_not_written_twice(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let leader = StateWriter::start(&database.store, "leader").await;
    let mut changes = leader.changes(&TestDay::with_races(2, 3, 2).snapshot());
    let first = database
        .store
        .commit(&leader.lease, &cycle(1), &mut changes)
        .await;
    first.expect("the first goes in");
    let before = sizes(&database).await;
    refused(
        database
            .store
            .commit(&leader.lease, &cycle(1), &mut changes)
            .await,
    );
    // Nor under another number: the rows are there.
    refused(
        database
            .store
            .commit(&leader.lease, &cycle(2), &mut changes)
            .await,
    );
    assert_eq!(sizes(&database).await, before);
}

async fn cycle_with_an_invalid_row_writes_nothing(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(2, 3, 2);
    leader.commit_snapshot(&day.snapshot()).await;
    let before = sizes(&database).await;
    day.advance(10);
    day.set(0, 0, Some(offer(444)));
    let twin = day.races[1].prices[0].clone();
    day.races[1].prices.push(Price {
        key: oddsd_core::model::PriceKey {
            market: "place".into(),
            ..twin.key
        },
        ..twin
    });
    let mut changes = leader.changes(&day.snapshot());
    let new = changes.prices.iter_mut();
    for change in new.filter(|change| change.kind == PriceChangeKind::Inserted) {
        change.market = "win".into();
    }
    let why = refused(
        database
            .store
            .commit(&leader.lease, &cycle(leader.cycle), &mut changes)
            .await,
    );
    assert!(why.to_lowercase().contains("unique"), "{why}");
    assert_eq!(sizes(&database).await, before);
    let book = database.store.load().await.expect("the rows load").state;
    assert_eq!(book.open_prices(), leader.book.open_prices());
}

async fn cycle_counts_come_from_the_database(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(2, 3, 2);
    let written = leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("a first look");
    assert_eq!((written.inserted, written.updated), (12, 0));
    assert_eq!(
        (written.events, written.selections, written.outbox),
        (2, 6, 2)
    );
    day.advance(10);
    day.set(0, 0, Some(offer(444)));
    day.set(0, 1, None);
    day.races[1].event.attributes.insert("going", "Heavy");
    day.races[1].selections[2].status = SelectionStatus::NonRunner;
    let written = leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("changes");
    assert_eq!((written.inserted, written.updated), (0, 2));
    assert_eq!(
        (written.events, written.selections, written.outbox),
        (1, 1, 2)
    );
    assert_eq!(leader.commit_snapshot(&day.snapshot()).await, None);
    let cycles = database.store.cycles(-1, 10).await.expect("cycles");
    let counts: Vec<_> = cycles
        .iter()
        .map(|row| (row.id, row.counts.written()))
        .collect();
    assert_eq!(counts, [(1, 12), (2, 2)]);
    assert_eq!(
        (cycles[1].bookmakers, cycles[1].feed.as_str()),
        (2, "racing_api")
    );
}

async fn cycle_detects_rows_deleted_by_others(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(1, 2, 2);
    leader.commit_snapshot(&day.snapshot()).await;
    database
        .write("DELETE FROM oddsd.prices WHERE id = 1")
        .await;
    day.advance(10);
    day.set(0, 0, Some(offer(444)));
    day.set(0, 1, Some(offer(445)));
    let mut changes = leader.changes(&day.snapshot());
    let why = refused(
        database
            .store
            .commit(&leader.lease, &cycle(2), &mut changes)
            .await,
    );
    assert!(
        why.contains("updated: 1") && why.contains("updated: 2"),
        "{why}"
    );
    // The caller then loads the rows and compares again.
    let mut again = StateWriter::start(&database.store, "leader").await;
    again
        .commit_snapshot(&day.snapshot())
        .await
        .expect("what was missing");
    let rows = database.store.load().await.expect("the rows load").state;
    assert_eq!(rows.open_prices(), 4);
}

const LONG_AGO: &str = "(SELECT min(created_at) FROM oddsd.bookmakers)";

async fn cycle_writes_only_changed_rows(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(3, 3, 2);
    leader.commit_snapshot(&day.snapshot()).await;
    for table in ["prices", "selections", "events"] {
        database
            .write(&format!("UPDATE oddsd.{table} SET updated_at = {LONG_AGO}"))
            .await;
    }
    let fresh = |table: &str| format!("{table} WHERE updated_at > {LONG_AGO}");
    day.advance(10);
    // Times of an unchanged price may move; that is not worth a write.
    for race in 0..3 {
        for nth in 0..6 {
            day.price(race, nth);
        }
    }
    assert_eq!(leader.commit_snapshot(&day.snapshot()).await, None);
    day.set(1, 4, Some(offer(777)));
    day.races[2].event.attributes.insert("going", "Firm");
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("changes");
    assert_eq!(database.count(&fresh("prices")).await, 1);
    assert_eq!(
        database.count(&fresh("events")).await,
        1,
        "a going is one row"
    );
    assert_eq!(database.count(&fresh("selections")).await, 0);
    let history = "SELECT CAST(cycle_id AS TEXT) FROM oddsd.price_history ORDER BY cycle_id";
    let history = database.query(history).await;
    assert_eq!(
        history.len(),
        19,
        "one for each price, and one for the change"
    );
    assert_eq!(history[17..], ["1", "2"]);
}

async fn withdrawn_price_keeps_its_last_offer(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(2, 1, 3);
    day.set(0, 0, Some(offer(850)));
    leader.commit_snapshot(&day.snapshot()).await;
    day.advance(10);
    day.set(0, 0, None); // said so
    day.races[0].prices.remove(1); // left out
    day.races.remove(1); // gone with its race
    let written = leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("changes");
    assert_eq!(written.updated, 5);
    let open = database.count("prices WHERE status = 'open'").await;
    assert_eq!(open, 1);
    let found = database.prices_of("rac_0").await;
    let price = &found.prices[0];
    assert_eq!(price.offer, offer(850));
    assert_eq!(price.status.as_str(), "withdrawn");
    assert_eq!(price.offer.decimal, decimal("8.5"));
    let gone = database.count("prices WHERE status = 'withdrawn'").await;
    assert_eq!(gone, 5);
    assert_eq!(
        leader.commit_snapshot(&day.snapshot()).await,
        None,
        "written once"
    );
}

async fn rejected_row_does_not_block_the_others(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(4, 2, 2);
    leader.commit_snapshot(&day.snapshot()).await;
    day.advance(10);
    // A bad name of a race that we know, a bad id of one that we do not.
    day.races[0].event.name = "Red\0 Rum".into();
    day.races[1].event.id = "rac\u{0}1".into();
    day.races[2].selections[0].name = "Red\0 Rum".into();
    let mut odd = day.races[3].prices[0].clone();
    odd.key.bookmaker = "x".repeat(5000).as_str().into();
    day.races[3].prices.push(odd.clone());
    odd.key.bookmaker = "bad\u{0}name".into();
    day.races[3].prices.push(odd);
    for race in 0..4 {
        day.set(race, 0, Some(offer(1000 + race as i64)));
    }
    let changes = leader.changes(&day.snapshot());
    let reported: Vec<_> = changes
        .rejected
        .by_reason
        .iter()
        .map(|(why, r)| (*why, r.rows))
        .collect();
    // Four prices each of two races, a runner, a price; and the name that is too long.
    assert_eq!(reported, [("control_character", 10), ("id_too_long", 1)]);
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("the good rows go in");
    let book = database.store.load().await.expect("the rows load").state;
    assert_eq!(book.next, leader.book.next);
    let now = |race: &str| {
        let prices = book.events[race].prices.iter();
        prices
            .map(|price| price.offer.decimal)
            .max()
            .expect("prices")
    };
    assert_eq!(now("rac_2"), decimal("10.02"));
    assert_eq!(now("rac_3"), decimal("10.03"));
    // Unreadable rows are neither new nor removed; omitted rows are removed.
    assert_eq!(book.events["rac_0"].event.name, "The 0th Stakes");
    assert!(book.events["rac_0"].event.listed);
    assert!(!book.events["rac_1"].event.listed);
    assert_eq!(
        book.events["rac_2"].selections[0].selection.status,
        SelectionStatus::Active
    );
}
