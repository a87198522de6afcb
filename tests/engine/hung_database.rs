//! The relay while the database does not answer it: removals after a commit of this process go on.

use std::sync::Arc;

use chrono::Utc;
use oddsd::relay::direct_channel;
use oddsd_core::key::Key;
use oddsd_core::model::Offer;
use oddsd_store::CommitNotifier;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::movement::{MOVED, one};
use super::{DatabaseBackend, Engine};
use crate::store::fixture::{StateWriter, cycle, decimal, open};
use oddsd_testkit::proxy::{FaultProxy, ProxyMode};
use oddsd_testkit::{eventually, within};

#[tokio::test]
async fn direct_removal_does_not_wait_for_a_hung_database() {
    let engine = Engine::with(DatabaseBackend::Postgres, MOVED).await;
    let mut writer = StateWriter::start(&engine.home.store, "ann").await;
    let mut day = one(Offer::decimal(decimal("10")));
    writer.commit_snapshot(&day.snapshot()).await;
    engine.drain().await;
    engine.put(&["best:rac_0", "page:news"]).await;

    // The writer has its own connections; those of the relay hang.
    let (proxy, url) = FaultProxy::in_front_of_url(&engine.home.url).await;
    let mut relay = engine.relay.clone();
    relay.store = open(&url).await;
    let (commits, direct) = direct_channel();
    let notifier = CommitNotifier {
        relay: Some(commits),
        outbox_wakeup: Arc::clone(&relay.wakeups.outbox),
        auditor: None,
    };
    let lease = watch::Sender::new(Some(writer.lease.clone()));
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    proxy.set(ProxyMode::Hang);
    let running = tokio::spawn(relay.run(direct, lease.subscribe(), stop));
    let asked = proxy.round_trips();
    eventually("a claim without an answer", async || {
        let now = proxy.round_trips();
        (now > asked).then_some(()).ok_or(now)
    })
    .await;

    // A movement that is too small to remove anything, if it can be measured.
    day.advance(10);
    day.set(0, 0, Some(Offer::decimal(decimal("10.5"))));
    let mut changes = writer.changes(&day.snapshot());
    let facts = cycle(writer.cycle);
    let committing = writer.store.commit(&writer.lease, &facts, &mut changes);
    let moved = committing.await.expect("committed").outbox;
    notifier.notify_commit(moved, Utc::now());
    let key = Key::from_user_input("page:news").expect("a key");
    let news = writer.store.write_canary(&key).await.expect("written");
    notifier.notify_commit(news.outbox, Utc::now());
    eventually("the removal that needs no database", async || match engine
        .left(&["page:news"])
        .await[..]
    {
        [] => Ok(()),
        [left, ..] => Err(left.to_owned()),
    })
    .await;
    eventually(
        "the removal whose condition is unknown",
        async || match engine.left(&["best:rac_0"]).await[..] {
            [] => Ok(()),
            [left, ..] => Err(left.to_owned()),
        },
    )
    .await;
    proxy.set(ProxyMode::Pass);
    eventually("the rows to be settled", async || {
        match engine.home.outbox().await {
            rows if rows.is_empty() => Ok(()),
            rows => Err(rows),
        }
    })
    .await;
    drop(_stop);
    within("the relay to end", running).await.expect("no panic");
}
