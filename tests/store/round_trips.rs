//! Tests of the cost of a cycle: round trips to a remote database, HOT updates and bytes of WAL.

use super::fixture::{DatabaseBackend, StateWriter, TestDay, offer, open};
use oddsd_testkit::eventually;
use oddsd_testkit::proxy::FaultProxy;

#[tokio::test]
async fn round_trips_are_zero_without_changes_and_few_with() {
    // (races, prices moved in each, cycles, at most so many round trips a cycle)
    // Sessions learn the statement, at two round trips each; the staged ones begin, make the
    // staging table, copy, write and commit.
    for (races, moved, cycles, most) in [(20, 6, 40, 3.5), (50, 216, 10, 3.5), (250, 240, 4, 9.0)] {
        let database = DatabaseBackend::Postgres.migrated().await;
        let (proxy, url) = FaultProxy::in_front_of_url(&database.url).await;
        let store = open(&url).await;
        let mut leader = StateWriter::start(&store, "leader").await;
        let mut day = TestDay::with_races(races, 10, 24);
        leader.commit_snapshot(&day.snapshot()).await;
        quiet(&proxy).await;
        let (trips, bytes) = (proxy.round_trips(), proxy.bytes_sent());
        for _ in 0..5 {
            day.advance(10);
            assert_eq!(leader.commit_snapshot(&day.snapshot()).await, None);
        }
        assert_eq!(
            (proxy.round_trips(), proxy.bytes_sent()),
            (trips, bytes),
            "a quiet look asks nothing"
        );
        for cycle in 0..cycles {
            day.advance(10);
            for race in 0..races {
                for nth in 0..moved {
                    day.set(race, nth, Some(offer(2000 + (cycle * 500 + nth) as i64)));
                }
            }
            let written = leader
                .commit_snapshot(&day.snapshot())
                .await
                .expect("moves");
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
async fn updates_are_hot_and_write_little_wal() {
    let database = DatabaseBackend::Postgres.migrated().await;
    let mut day = TestDay::with_races(50, 10, 24);
    let store = database.another().await;
    StateWriter::start(&store, "leader")
        .await
        .commit_snapshot(&day.snapshot())
        .await;
    store.close().await;
    let log = "SELECT (pg_current_wal_insert_lsn() - '0/0')::text";
    let updates = "SELECT concat_ws(' ', n_tup_upd, n_tup_hot_upd) FROM pg_stat_all_tables
                   WHERE relid = 'oddsd.prices'::regclass";
    let (mut written, mut hot, mut before) = (Vec::new(), Vec::new(), 0);
    for cycle in 0..8 {
        day.advance(10);
        for race in 0..50 {
            for nth in 0..216 {
                day.set(race, nth, Some(offer((2000 + cycle * 500 + nth) as i64)));
            }
        }
        let store = database.another().await;
        let mut leader = StateWriter::start(&store, "leader").await;
        let start: i64 = database.query_one(log).await.parse().expect("a number");
        assert_eq!(
            leader
                .commit_snapshot(&day.snapshot())
                .await
                .expect("moves")
                .updated,
            10_800
        );
        let end: i64 = database.query_one(log).await.parse().expect("a number");
        written.push(end - start);
        // A session reports its counts when it ends.
        store.close().await;
        let all = format!("{} ", (cycle + 1) * 10_800);
        let so_far = eventually("the server has counted the updates", async || {
            let counted = database.query_one(updates).await;
            let hot = counted.strip_prefix(&all).map(str::parse::<i64>);
            hot.map(|hot| hot.expect("a number")).ok_or(counted)
        })
        .await;
        hot.push(so_far - before);
        before = so_far;
    }
    println!("of 10,800 changes each: HOT {hot:?}, bytes of the server's log {written:?}");
    let best = hot[2..].iter().max().expect("later rewrites");
    assert_eq!(*best, 10_800, "every update is HOT");
    let least = written.iter().min().expect("rewrites");
    assert!(*least < 4_200_000, "{least} bytes of log");
}

/// Waits until the pool has tidied up the connections that came back to it.
async fn quiet(proxy: &FaultProxy) {
    let (mut last, mut same) = (proxy.round_trips(), 0);
    eventually("the pool is idle", async || {
        let now = proxy.round_trips();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        (same == 25).then_some(()).ok_or(now)
    })
    .await;
}
