//! What a cycle costs on the wire: a remote database charges for each round trip.

use super::home::{Backend, Daemon, Day, offer, open};
use crate::world::proxy::Proxy;

#[tokio::test]
async fn a_quiet_look_costs_nothing_and_a_change_little() {
    let home = Backend::Postgres.fresh().await;
    let (proxy, url) = Proxy::before_url(&home.url).await;
    let store = open(&url).await;
    let mut ann = Daemon::start(&store, "ann").await;
    let mut day = Day::of(20, 10, 10);
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

    const CYCLES: u64 = 40;
    for cycle in 0..CYCLES {
        day.pass(10);
        for race in 0..20 {
            day.set(race, 7, Some(offer(500 + cycle as i64)));
        }
        let written = ann.see(&day.snapshot()).await.expect("moves");
        assert_eq!(written.updated, 20);
    }
    // The pool checks its connections behind our back: closing waits for that.
    store.close().await;
    let each = (proxy.round_trips() - trips) as f64 / CYCLES as f64;
    println!(
        "{each:.2} round trips a cycle, those of five connections that learn the statement included"
    );
    assert!((1.0..3.5).contains(&each), "{each}");
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
