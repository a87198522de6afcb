//! The law of the store: after every commit, what is loaded is what the daemon remembers.

use super::home::{Backend, Daemon, Day};
use super::on_every_backend;

on_every_backend!(smoke);

async fn smoke(backend: Backend) {
    let home = backend.fresh().await;
    let mut ann = Daemon::start(&home.store, "ann").await;
    let mut day = Day::of(2, 3, 2);
    ann.see(&day.snapshot()).await;
    day.pass(10);
    day.set(0, 1, None);
    day.set(1, 2, Some(super::home::offer(777)));
    ann.see(&day.snapshot()).await;
    let loaded = home.store.load().await.expect("loads");
    assert_eq!(loaded.next_cycle, ann.cycle);
    assert_eq!(loaded.book.next, ann.book.next);
    assert_eq!(loaded.book.events.len(), ann.book.events.len());
    home.store
        .runners(super::home::at(0), super::home::at(99999))
        .await
        .expect("runners");
    home.store
        .event_prices(&"rac_0".into())
        .await
        .expect("prices");
    home.store.cycles(-1, 5).await.expect("cycles");
    home.store.removals(-1, 5).await.expect("removals");
    home.store.status().await.expect("status");
    home.store
        .claim("ann", 10, std::time::Duration::ZERO)
        .await
        .expect("claims");
    home.store.clock().await.expect("clock");
    home.store.check_schema().await.expect("schema");
}
