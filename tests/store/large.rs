//! Cycles too large for one statement: the same promises, in a constant number of round trips.

use oddsd::store::StoreError;

use super::fixture::{Backend, Daemon, Day, Home, cycle, offer, open, same_rows};
use oddsd_testkit::proxy::{Proxy, Wire};

/// Above what goes in arrays.
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

async fn sizes(home: &Home) -> Vec<i64> {
    let mut sizes = Vec::new();
    for table in "bookmakers events selections prices price_history cycles outbox".split(' ') {
        sizes.push(home.count(table).await);
    }
    sizes
}

/// What Postgres does by staging, SQLite does as it does everything.
#[tokio::test]
async fn a_large_cycle_is_stored_to_the_last_row() {
    for backend in [Backend::Postgres, Backend::Sqlite] {
        let home = backend.fresh().await;
        let mut ann = Daemon::start(&home.store, "ann").await;
        let day = Day::of(RACES, 10, 24);
        let written = ann.see(&day.snapshot()).await.expect("a first look");
        assert_eq!(written.inserted as usize, PRICES);
        let mut day = moved(&day);
        day.races[3].prices.truncate(100);
        let written = ann.see(&day.snapshot()).await.expect("all moved or gone");
        assert_eq!(written.updated as usize, PRICES);
        // All of it gone at once.
        let mut empty = day.clone();
        empty.pass(10);
        empty.races.clear();
        let written = ann.see(&empty.snapshot()).await.expect("all gone");
        assert_eq!(written.updated as usize, PRICES - 140);
        let loaded = home.store.load().await.expect("the rows load");
        same_rows(&ann.book, &loaded.book);
        assert_eq!(home.count("price_history").await as usize, 3 * PRICES - 140);
        let found = home.prices_of("rac_7").await;
        let first = &found.prices[0];
        assert_eq!(
            (first.opening, first.high),
            (offer(150).decimal, offer(2007).decimal)
        );
        assert_eq!(first.low, offer(150).decimal);
        assert_eq!(home.store.status().await.expect("a status").open_prices, 0);
    }
}

#[tokio::test]
async fn who_lost_the_lease_writes_nothing_large_either() {
    let home = Backend::Postgres.fresh().await;
    let mut ann = Daemon::start(&home.store, "ann").await;
    let day = Day::of(RACES, 10, 24);
    ann.see(&day.snapshot()).await.expect("a first look");
    let before = sizes(&home).await;
    // The same name, another epoch.
    let bob = Daemon::start(&home.another().await, "ann").await;
    let mut changes = ann.changes(&moved(&day).snapshot());
    let facts = cycle(ann.cycle);
    let refused = ann.store.commit(&ann.lease, &facts, &mut changes).await;
    assert_eq!(refused, Err(StoreError::Fenced));
    assert_eq!(changes.prices.len(), PRICES, "they are the caller's again");
    assert_eq!(sizes(&home).await, before);
    let rows = home.store.load().await.expect("the rows load");
    same_rows(&bob.book, &rows.book);
}

#[tokio::test]
async fn a_large_cycle_cut_anywhere_leaves_all_or_nothing() {
    let home = Backend::Postgres.fresh().await;
    let mut ann = Daemon::start(&home.store, "ann").await;
    let mut day = Day::of(RACES, 10, 24);
    ann.see(&day.snapshot()).await.expect("a first look");
    day = moved(&day);
    for bytes in [40, 300, 700_000, 3_000_000] {
        let (proxy, url) = Proxy::before_url(&home.url).await;
        let store = open(&url).await;
        day.set(0, 0, Some(offer(100_000 + bytes as i64)));
        let mut changes = ann.changes(&day.snapshot());
        store.clock().await.expect("a session is open");
        proxy.set(Wire::CutAfter(bytes));
        let cut = store
            .commit(&ann.lease, &cycle(ann.cycle), &mut changes)
            .await;
        assert!(matches!(cut, Err(StoreError::Down(_))), "{bytes}: {cut:?}");
        let rows = home.store.load().await.expect("the rows load");
        same_rows(&ann.book, &rows.book);
        assert_eq!(rows.next_cycle, ann.cycle);
    }
    ann.see(&day.snapshot()).await.expect("and then all of it");
    let rows = home.store.load().await.expect("the rows load");
    same_rows(&ann.book, &rows.book);
}
