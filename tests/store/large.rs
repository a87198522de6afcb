//! Tests of cycles too large for one statement: the same guarantees, in a constant number of round trips.

use oddsd_store::StoreError;

use super::fixture::{
    DatabaseBackend, StateWriter, TestDatabase, TestDay, assert_same_rows, cycle, offer, open,
};
use oddsd_testkit::proxy::{FaultProxy, ProxyMode};

/// Above the size that is sent in arrays.
const RACES: usize = 250;
const PRICES: usize = RACES * 240;

/// The same day, every price moved.
fn moved(day: &TestDay) -> TestDay {
    let mut day = day.clone();
    day.advance(10);
    for race in 0..RACES {
        for nth in 0..240 {
            let odds = offer(2000 + ((race + nth * 7) % 800) as i64);
            day.set(race, nth, Some(odds));
        }
    }
    day
}

async fn sizes(database: &TestDatabase) -> Vec<i64> {
    let mut sizes = Vec::new();
    for table in "bookmakers events selections prices price_history cycles outbox".split(' ') {
        sizes.push(database.count(table).await);
    }
    sizes
}

/// Postgres stages such a cycle; SQLite writes it as any other.
#[tokio::test]
async fn large_cycle_is_stored_completely() {
    for backend in [DatabaseBackend::Postgres, DatabaseBackend::Sqlite] {
        let database = backend.migrated().await;
        let mut leader = StateWriter::start(&database.store, "leader").await;
        let day = TestDay::with_races(RACES, 10, 24);
        let written = leader
            .commit_snapshot(&day.snapshot())
            .await
            .expect("a first look");
        assert_eq!(written.inserted as usize, PRICES);
        let mut day = moved(&day);
        day.races[3].prices.truncate(100);
        let written = leader
            .commit_snapshot(&day.snapshot())
            .await
            .expect("all moved or gone");
        assert_eq!(written.updated as usize, PRICES);
        // All of it gone at once.
        let mut empty = day.clone();
        empty.advance(10);
        empty.races.clear();
        let written = leader
            .commit_snapshot(&empty.snapshot())
            .await
            .expect("all gone");
        assert_eq!(written.updated as usize, PRICES - 140);
        let loaded = database.store.load().await.expect("the rows load");
        assert_same_rows(&leader.book, &loaded.state);
        assert_eq!(
            database.count("price_history").await as usize,
            3 * PRICES - 140
        );
        let found = database.prices_of("rac_7").await;
        let first = &found.prices[0];
        assert_eq!(
            (first.opening, first.high),
            (offer(150).decimal, offer(2007).decimal)
        );
        assert_eq!(first.low, offer(150).decimal);
        assert_eq!(
            database.store.status().await.expect("a status").open_prices,
            0
        );
    }
}

#[tokio::test]
async fn large_cycle_without_the_lease_writes_nothing() {
    let database = DatabaseBackend::Postgres.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let day = TestDay::with_races(RACES, 10, 24);
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("a first look");
    let before = sizes(&database).await;
    // The same name, another epoch.
    let standby = StateWriter::start(&database.another().await, "leader").await;
    let mut changes = leader.changes(&moved(&day).snapshot());
    let facts = cycle(leader.cycle);
    let refused = leader
        .store
        .commit(&leader.lease, &facts, &mut changes)
        .await;
    assert_eq!(refused, Err(StoreError::Fenced));
    assert_eq!(changes.prices.len(), PRICES, "they are the caller's again");
    assert_eq!(sizes(&database).await, before);
    let rows = database.store.load().await.expect("the rows load");
    assert_same_rows(&standby.book, &rows.state);
}

#[tokio::test]
async fn large_cycle_cut_anywhere_is_all_or_nothing() {
    let database = DatabaseBackend::Postgres.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(RACES, 10, 24);
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("a first look");
    day = moved(&day);
    for bytes in [40, 300, 700_000, 3_000_000] {
        let (proxy, url) = FaultProxy::in_front_of_url(&database.url).await;
        let store = open(&url).await;
        day.set(0, 0, Some(offer(100_000 + bytes as i64)));
        let mut changes = leader.changes(&day.snapshot());
        store.server_time().await.expect("a session is open");
        proxy.set(ProxyMode::CutAfter(bytes));
        let cut = store
            .commit(&leader.lease, &cycle(leader.cycle), &mut changes)
            .await;
        assert!(matches!(cut, Err(StoreError::Down(_))), "{bytes}: {cut:?}");
        let rows = database.store.load().await.expect("the rows load");
        assert_same_rows(&leader.book, &rows.state);
        assert_eq!(rows.next_cycle, leader.cycle);
    }
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("and then all of it");
    let rows = database.store.load().await.expect("the rows load");
    assert_same_rows(&leader.book, &rows.state);
}
