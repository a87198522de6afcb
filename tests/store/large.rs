//! Tests of cycles too large for one statement: the same guarantees, in a constant number of round trips.

use oddsd_store::StoreError;

use super::fixture::{Backend, Daemon, Day, Home, cycle, offer, open, same_rows};
use oddsd_testkit::proxy::{Proxy, Wire};

/// Above the size that is sent in arrays.
const RACES: usize = 250;
const PRICES: usize = RACES * 240;

/// The same day, every price moved.
fn moved(day: &Day) -> Day {
    let mut day = day.clone();
    day.pass(10);
    for race in 0..RACES {
        for nth in 0..240 {
            let odds = offer(2000 + ((race + nth * 7) % 800) as i64);
            day.set(race, nth, Some(odds));
        }
    }
    day
}

async fn sizes(database: &Home) -> Vec<i64> {
    let mut sizes = Vec::new();
    for table in "bookmakers events selections prices price_history cycles outbox".split(' ') {
        sizes.push(database.count(table).await);
    }
    sizes
}

/// Postgres stages such a cycle; SQLite writes it as any other.
#[tokio::test]
async fn large_cycle_is_stored_completely() {
    for backend in [Backend::Postgres, Backend::Sqlite] {
        let database = backend.fresh().await;
        let mut leader = Daemon::start(&database.store, "leader").await;
        let day = Day::of(RACES, 10, 24);
        let written = leader.see(&day.snapshot()).await.expect("a first look");
        assert_eq!(written.inserted as usize, PRICES);
        let mut day = moved(&day);
        day.races[3].prices.truncate(100);
        let written = leader
            .see(&day.snapshot())
            .await
            .expect("all moved or gone");
        assert_eq!(written.updated as usize, PRICES);
        // All of it gone at once.
        let mut empty = day.clone();
        empty.pass(10);
        empty.races.clear();
        let written = leader.see(&empty.snapshot()).await.expect("all gone");
        assert_eq!(written.updated as usize, PRICES - 140);
        let loaded = database.store.load().await.expect("the rows load");
        same_rows(&leader.book, &loaded.book);
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
    let database = Backend::Postgres.fresh().await;
    let mut leader = Daemon::start(&database.store, "leader").await;
    let day = Day::of(RACES, 10, 24);
    leader.see(&day.snapshot()).await.expect("a first look");
    let before = sizes(&database).await;
    // The same name, another epoch.
    let standby = Daemon::start(&database.another().await, "leader").await;
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
    same_rows(&standby.book, &rows.book);
}

#[tokio::test]
async fn large_cycle_cut_anywhere_is_all_or_nothing() {
    let database = Backend::Postgres.fresh().await;
    let mut leader = Daemon::start(&database.store, "leader").await;
    let mut day = Day::of(RACES, 10, 24);
    leader.see(&day.snapshot()).await.expect("a first look");
    day = moved(&day);
    for bytes in [40, 300, 700_000, 3_000_000] {
        let (proxy, url) = Proxy::before_url(&database.url).await;
        let store = open(&url).await;
        day.set(0, 0, Some(offer(100_000 + bytes as i64)));
        let mut changes = leader.changes(&day.snapshot());
        store.clock().await.expect("a session is open");
        proxy.set(Wire::CutAfter(bytes));
        let cut = store
            .commit(&leader.lease, &cycle(leader.cycle), &mut changes)
            .await;
        assert!(matches!(cut, Err(StoreError::Down(_))), "{bytes}: {cut:?}");
        let rows = database.store.load().await.expect("the rows load");
        same_rows(&leader.book, &rows.book);
        assert_eq!(rows.next_cycle, leader.cycle);
    }
    leader
        .see(&day.snapshot())
        .await
        .expect("and then all of it");
    let rows = database.store.load().await.expect("the rows load");
    same_rows(&leader.book, &rows.book);
}
