//! The alert for too many removals a minute: one warning of all daemons together, and one line when it is over.

use oddsd::relay::{RateAlert, Relay, direct_channel};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{DatabaseBackend, Engine, on_every_backend};
use crate::store::fixture::lease;
use oddsd_testkit::log::CapturedLog;
use oddsd_testkit::{WAIT_LIMIT, eventually};

on_every_backend!(rate_alert_of_several_daemons_is_one_warning,);

const RULES: &str = "[[rule]]\nname = \"a\"\non = [\"row_changed\"]\nkeys = [\"rows:{id}\"]\n";

/// The alert's lines in their order: h for high, n for normal.
fn alerts(log: &CapturedLog) -> String {
    let word = |line: &str| if line.contains("_high") { 'h' } else { 'n' };
    log.lines("cache.removal_rate_")
        .iter()
        .map(|line| word(line))
        .collect()
}

async fn until(what: &str, is: impl AsyncFn() -> bool) {
    eventually(what, async || is().await.then_some(()).ok_or("not yet")).await;
}

async fn rate_alert_of_several_daemons_is_one_warning(backend: DatabaseBackend) {
    let (log, _listening) = CapturedLog::start();
    let engine = Engine::with(backend, RULES).await;
    let stop = CancellationToken::new();
    let (_leading, leads) = watch::channel(Some(lease(&engine.home.store, "ann").await));
    let mut working = Vec::new();
    let mut bells = Vec::new();
    for who in ["ann", "bob"] {
        let relay = Relay {
            alert: RateAlert::above(10),
            ..Relay::without_observers(
                engine.home.another().await,
                engine.cache().clone(),
                engine.relay.rules.clone(),
                who.into(),
            )
        };
        bells.push(relay.wakeups.outbox.clone());
        // The other end of the queue has to stay.
        let (told, direct) = direct_channel();
        working.push((
            told,
            tokio::spawn(relay.run(direct, leads.clone(), stop.clone())),
        ));
    }
    let removed = async |burst: usize| {
        for n in 0..15 {
            engine.report(json!({ "change": "row_changed", "table": format!("t{burst}_{n}"), "row": { "id": n } })).await;
            bells.iter().for_each(|bell| bell.notify_one());
        }
        until("removed", async || engine.home.outbox().await.is_empty()).await;
    };
    for burst in 0..4 {
        removed(burst).await;
    }
    // On a slow machine a minute may pass meanwhile; then the alert ends and begins again, never twice in a row.
    until("warned", async || alerts(&log).starts_with('h')).await;
    let now = alerts(&log);
    assert!(!now.contains("hh") && !now.contains("nn"), "{now}");
    assert!(
        log.lines("removal_rate_high")[0].contains("threshold=10"),
        "{}",
        log.text()
    );

    engine.home.write("DELETE FROM oddsd.removal_counts").await;
    until("back to normal", async || alerts(&log).ends_with('n')).await;
    assert_eq!(engine.home.count("alarms").await, 0);
    let normals = alerts(&log).matches('n').count();
    for burst in 4..8 {
        removed(burst).await;
    }
    until("warned again", async || {
        alerts(&log).matches('h').count() > normals
    })
    .await;
    let all = alerts(&log);
    assert!(!all.contains("hh") && !all.contains("nn"), "{all}");
    stop.cancel();
    for (_told, relay) in working {
        let ended = tokio::time::timeout(WAIT_LIMIT, relay).await;
        ended.expect("it ends").expect("no panic");
    }
}
