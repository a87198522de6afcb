//! What a cycle costs: round trips, which a remote database charges for, and what its pages and its
//! log have to bear.

use super::fixture::{Backend, Daemon, Day, offer, open};
use oddsd_testkit::proxy::Proxy;

#[tokio::test]
async fn a_quiet_look_costs_nothing_and_a_change_little() {
    // (races, prices moved in each, cycles, at most so many round trips a cycle)
    // Sessions learn the statement, at two round trips each; the staged ones begin, make the
    // staging table, copy, write and commit.
    for (races, moved, cycles, most) in [(20, 6, 40, 3.5), (50, 216, 10, 3.5), (250, 240, 4, 9.0)] {
        let home = Backend::Postgres.fresh().await;
        let (proxy, url) = Proxy::before_url(&home.url).await;
        let store = open(&url).await;
        let mut ann = Daemon::start(&store, "ann").await;
        let mut day = Day::of(races, 10, 24);
        ann.see(&day.snapshot()).await;
        quiet(&proxy).await;
        let (trips, bytes) = (proxy.round_trips(), proxy.bytes_sent());
        for _ in 0..5 {
            day.pass(10);
            assert_eq!(ann.see(&day.snapshot()).await, None);
        }
        assert_eq!(
            (proxy.round_trips(), proxy.bytes_sent()),
            (trips, bytes),
            "a quiet look asks nothing"
        );
        for cycle in 0..cycles {
            day.pass(10);
            for race in 0..races {
                for nth in 0..moved {
                    day.set(race, nth, Some(offer(2000 + (cycle * 500 + nth) as i64)));
                }
            }
            let written = ann.see(&day.snapshot()).await.expect("moves");
            assert_eq!(written.updated as usize, races * moved);
        }
        // The pool checks its connections behind our back: closing waits for that.
        store.close().await;
        let each = (proxy.round_trips() - trips) as f64 / cycles as f64;
        println!("{} changes: {each:.2} round trips a cycle", races * moved);
        assert!(
            (1.0..=most).contains(&each),
            "{} changes: {each}",
            races * moved
        );
    }
}

/// Nine tenths of the rows, again and again, each time in one transaction. Other stories live on
/// the same server: they write to its log, and a connection that only just starts up over there
/// keeps the versions it might still see from being pruned here. So the best rewrite speaks, among
/// those that found no page with room left from the beginning.
#[tokio::test]
async fn a_rewrite_stays_in_its_pages_and_out_of_the_indexes() {
    let home = Backend::Postgres.fresh().await;
    let mut day = Day::of(50, 10, 24);
    let store = home.another().await;
    Daemon::start(&store, "ann")
        .await
        .see(&day.snapshot())
        .await;
    store.close().await;
    let log = "SELECT (pg_current_wal_insert_lsn() - '0/0')::text";
    let updates = "SELECT concat_ws(' ', n_tup_upd, n_tup_hot_upd) FROM pg_stat_all_tables
                   WHERE relid = 'oddsd.prices'::regclass";
    let (mut written, mut hot, mut before) = (Vec::new(), Vec::new(), 0);
    for cycle in 0..8 {
        day.pass(10);
        for race in 0..50 {
            for nth in 0..216 {
                day.set(race, nth, Some(offer((2000 + cycle * 500 + nth) as i64)));
            }
        }
        let store = home.another().await;
        let mut ann = Daemon::start(&store, "ann").await;
        let start: i64 = home.one(log).await.parse().expect("a number");
        assert_eq!(
            ann.see(&day.snapshot()).await.expect("moves").updated,
            10_800
        );
        let end: i64 = home.one(log).await.parse().expect("a number");
        written.push(end - start);
        // A session says what it did when it ends.
        store.close().await;
        let all = format!("{} ", (cycle + 1) * 10_800);
        let so_far = loop {
            if let Some(hot) = home.one(updates).await.strip_prefix(&all) {
                break hot.parse::<i64>().expect("a number");
            }
        };
        hot.push(so_far - before);
        before = so_far;
    }
    println!("of 10,800 changes each: HOT {hot:?}, bytes of the server's log {written:?}");
    let best = hot[2..].iter().max().expect("later rewrites");
    assert_eq!(*best, 10_800, "every update is HOT");
    let least = written.iter().min().expect("rewrites");
    assert!(*least < 4_200_000, "{least} bytes of log");
}

/// Waits for what the pool still says to the server about connections that came back.
async fn quiet(proxy: &Proxy) {
    let (mut last, mut same) = (proxy.round_trips(), 0);
    while same < 5000 {
        tokio::task::yield_now().await;
        std::thread::yield_now();
        let now = proxy.round_trips();
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
}
