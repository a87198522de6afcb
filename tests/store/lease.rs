//! Tests of the leader lease: one holder, and no commit without it.

use std::time::Duration;

use chrono::TimeDelta;
use oddsd_store::{AcquireResult, StoreError};
use serde_json::json;

use super::fixture::{DatabaseBackend, StateWriter, TTL, TestDay, at, cycle, lease, offer};
use super::on_every_backend;

on_every_backend!(
    lease_has_one_holder_whose_name_others_see,
    lease_epoch_changes_for_a_returning_holder,
    released_lease_is_free_at_once,
    stale_leader_cannot_commit,
    lease_renewal_keeps_last_checked,
);

async fn lease_has_one_holder_whose_name_others_see(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    lease(&database.store, "leader").await;
    let standby = database.another().await;
    match standby
        .acquire_lease("standby", TTL)
        .await
        .expect("an answer")
    {
        AcquireResult::HeldBy {
            holder,
            expires_in: for_another,
        } => {
            assert_eq!(holder, "leader");
            assert!(
                for_another <= TTL && for_another > Duration::ZERO,
                "{for_another:?}"
            );
        }
        mine => panic!("two hold it: {mine:?}"),
    }
    assert_eq!(
        database
            .store
            .status()
            .await
            .expect("a status")
            .holder
            .as_deref(),
        Some("leader")
    );
}

async fn lease_epoch_changes_for_a_returning_holder(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let before = lease(&database.store, "leader").await;
    let after = lease(&database.store, "leader").await;
    assert!(after.epoch > before.epoch);
    let old = database
        .store
        .renew_lease(&before, TTL, &json!({}), &[])
        .await;
    assert_eq!(old, Err(StoreError::Fenced));
    let new = database
        .store
        .renew_lease(&after, TTL, &json!({}), &[])
        .await;
    assert_eq!(new, Ok(false));
}

async fn released_lease_is_free_at_once(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let leader = lease(&database.store, "leader").await;
    database
        .store
        .release_lease(&leader)
        .await
        .expect("released");
    let standby = lease(&database.another().await, "standby").await;
    // A late second release by the old leader does not release the standby's lease.
    database
        .store
        .release_lease(&leader)
        .await
        .expect("no harm");
    let kept = database
        .store
        .renew_lease(&standby, TTL, &json!({}), &[])
        .await;
    assert_eq!(kept, Ok(false));
}

async fn stale_leader_cannot_commit(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(1, 2, 2);
    leader.commit_snapshot(&day.snapshot()).await;
    // The leader is paused until its lease has expired, and the standby takes over.
    let expired = database
        .store
        .renew_lease(&leader.lease, Duration::ZERO, &json!({}), &[])
        .await;
    expired.expect("still hers");
    let mut standby = StateWriter::start(&database.another().await, "standby").await;
    day.advance(10);
    day.set(0, 0, Some(offer(999)));
    let mut changes = leader.changes(&day.snapshot());
    let before = database.store.load().await.expect("the rows load");

    let next = cycle(leader.cycle);
    let refused = database
        .store
        .commit(&leader.lease, &next, &mut changes)
        .await;
    assert_eq!(refused, Err(StoreError::Fenced));
    let (word, seen) = (json!("leader"), [(1, at(9999))]);
    let renewed = database
        .store
        .renew_lease(&leader.lease, TTL, &word, &seen)
        .await;
    assert_eq!(renewed, Err(StoreError::Fenced));
    let keep = oddsd_store::Retention {
        history: Duration::ZERO,
        finished_events: Duration::ZERO,
    };
    let pruned = database.store.prune(&leader.lease, keep, at(99_999)).await;
    assert_eq!(pruned, Err(StoreError::Fenced));

    let after = database.store.load().await.expect("the rows load");
    assert_eq!(after.state, before.state);
    assert_eq!(after.next_cycle, before.next_cycle);
    assert_eq!(database.count("outbox").await, 1);
    assert!(standby.commit_snapshot(&day.snapshot()).await.is_some());
}

async fn lease_renewal_keeps_last_checked(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    leader
        .commit_snapshot(&TestDay::with_races(2, 1, 1).snapshot())
        .await;
    let first = leader.book.events["rac_0"].row;
    let second = leader.book.events["rac_1"].row;
    let shown = json!({"feed": "ok", "next_s": 10, "quote": "it's \"fine\" \\ {}"});
    // The same event twice in one list is no reason to lose the lease.
    let seen = [(first, at(20)), (second, at(10)), (first, at(30))];
    database
        .store
        .renew_lease(&leader.lease, TTL, &shown, &seen)
        .await
        .expect("held");
    let earlier = [(second, at(5))];
    database
        .store
        .renew_lease(&leader.lease, TTL, &shown, &earlier)
        .await
        .expect("held");

    let status = database.store.status().await.expect("a status");
    assert_eq!(status.state, shown);
    let left = status.lease_expires_at.expect("held")
        - database.store.server_time().await.expect("a clock");
    assert!(
        left > TimeDelta::zero() && left <= TimeDelta::seconds(60),
        "{left}"
    );
    let book = database.store.load().await.expect("the rows load").state;
    assert_eq!(book.events["rac_0"].checked_at, at(30));
    assert_eq!(book.events["rac_1"].checked_at, at(10), "never back");
}
