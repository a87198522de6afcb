//! One writer: who holds the lease, and that nobody writes without it.

use std::time::Duration;

use chrono::TimeDelta;
use oddsd::store::{Acquired, StoreError};
use serde_json::json;

use super::fixture::{Backend, Daemon, Day, TTL, at, cycle, lease, offer};
use super::on_every_backend;

on_every_backend!(
    one_holds_it_and_the_others_are_told_who,
    a_holder_that_comes_back_is_not_its_old_self,
    a_release_lets_the_next_one_in_at_once,
    who_lost_the_lease_writes_nothing,
    renewing_keeps_the_word_of_the_holder,
);

async fn one_holds_it_and_the_others_are_told_who(backend: Backend) {
    let home = backend.fresh().await;
    lease(&home.store, "ann").await;
    let bob = home.another().await;
    match bob.acquire("bob", TTL).await.expect("an answer") {
        Acquired::HeldBy {
            holder,
            for_another,
        } => {
            assert_eq!(holder, "ann");
            assert!(
                for_another <= TTL && for_another > Duration::ZERO,
                "{for_another:?}"
            );
        }
        mine => panic!("two hold it: {mine:?}"),
    }
    assert_eq!(
        home.store
            .status()
            .await
            .expect("a status")
            .holder
            .as_deref(),
        Some("ann")
    );
}

async fn a_holder_that_comes_back_is_not_its_old_self(backend: Backend) {
    let home = backend.fresh().await;
    let before = lease(&home.store, "ann").await;
    let after = lease(&home.store, "ann").await;
    assert!(after.epoch > before.epoch);
    let old = home.store.renew(&before, TTL, &json!({}), &[]).await;
    assert_eq!(old, Err(StoreError::Fenced));
    let new = home.store.renew(&after, TTL, &json!({}), &[]).await;
    assert_eq!(new, Ok(false));
}

async fn a_release_lets_the_next_one_in_at_once(backend: Backend) {
    let home = backend.fresh().await;
    let ann = lease(&home.store, "ann").await;
    home.store.release(&ann).await.expect("released");
    let bob = lease(&home.another().await, "bob").await;
    // Ann says it again, late: bob's lease is not hers to give.
    home.store.release(&ann).await.expect("no harm");
    let kept = home.store.renew(&bob, TTL, &json!({}), &[]).await;
    assert_eq!(kept, Ok(false));
}

async fn who_lost_the_lease_writes_nothing(backend: Backend) {
    let home = backend.fresh().await;
    let mut ann = Daemon::start(&home.store, "ann").await;
    let mut day = Day::of(1, 2, 2);
    ann.see(&day.snapshot()).await;
    // Ann is paused until her lease has run out, and bob takes over.
    let expired = home
        .store
        .renew(&ann.lease, Duration::ZERO, &json!({}), &[])
        .await;
    expired.expect("still hers");
    let mut bob = Daemon::start(&home.another().await, "bob").await;
    day.pass(10);
    day.set(0, 0, Some(offer(999)));
    let mut changes = ann.changes(&day.snapshot());
    let before = home.store.load().await.expect("the rows load");

    let next = cycle(ann.cycle);
    let refused = home.store.commit(&ann.lease, &next, &mut changes).await;
    assert_eq!(refused, Err(StoreError::Fenced));
    let (word, seen) = (json!("ann"), [(1, at(9999))]);
    let renewed = home.store.renew(&ann.lease, TTL, &word, &seen).await;
    assert_eq!(renewed, Err(StoreError::Fenced));
    let keep = oddsd::store::Retention {
        history: Duration::ZERO,
        finished_events: Duration::ZERO,
    };
    let pruned = home.store.prune(&ann.lease, keep, at(99_999)).await;
    assert_eq!(pruned, Err(StoreError::Fenced));

    let after = home.store.load().await.expect("the rows load");
    assert_eq!(after.book, before.book);
    assert_eq!(after.next_cycle, before.next_cycle);
    assert_eq!(home.count("outbox").await, 1);
    assert!(bob.see(&day.snapshot()).await.is_some());
}

async fn renewing_keeps_the_word_of_the_holder(backend: Backend) {
    let home = backend.fresh().await;
    let mut ann = Daemon::start(&home.store, "ann").await;
    ann.see(&Day::of(2, 1, 1).snapshot()).await;
    let first = ann.book.events["rac_0"].row;
    let second = ann.book.events["rac_1"].row;
    let said = json!({"feed": "ok", "next_s": 10, "quote": "it's \"fine\" \\ {}"});
    // The same event twice in one list is no reason to lose the lease.
    let seen = [(first, at(20)), (second, at(10)), (first, at(30))];
    home.store
        .renew(&ann.lease, TTL, &said, &seen)
        .await
        .expect("held");
    let earlier = [(second, at(5))];
    home.store
        .renew(&ann.lease, TTL, &said, &earlier)
        .await
        .expect("held");

    let status = home.store.status().await.expect("a status");
    assert_eq!(status.state, said);
    let left = status.lease_expires_at.expect("held") - home.store.clock().await.expect("a clock");
    assert!(
        left > TimeDelta::zero() && left <= TimeDelta::seconds(60),
        "{left}"
    );
    let book = home.store.load().await.expect("the rows load").book;
    assert_eq!(book.events["rac_0"].checked_at, at(30));
    assert_eq!(book.events["rac_1"].checked_at, at(10), "never back");
}
