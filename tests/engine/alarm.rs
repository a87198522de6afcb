//! Too many removals a minute: one warning, whoever of the daemons sees it, and one line when it is over.

use std::time::Duration;

use oddsd::invalidate::{Alarm, Relay, hand_over};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Backend, Engine, on_every_backend};
use crate::store::fixture::lease;
use oddsd_testkit::WAIT_LIMIT as PATIENCE;
use oddsd_testkit::log::Log;

on_every_backend!(a_burst_is_one_warning_for_all_daemons,);

const RULES: &str = "[[rule]]\nname = \"a\"\non = [\"row_changed\"]\nkeys = [\"rows:{id}\"]\n";

/// Highs and normals, in the order in which they were said.
fn said(log: &Log) -> String {
    let word = |line: &str| if line.contains("_high") { 'h' } else { 'n' };
    log.lines("cache.removal_rate_")
        .iter()
        .map(|line| word(line))
        .collect()
}

async fn until(what: &str, is: impl AsyncFn() -> bool) {
    let waiting = async {
        while !is().await {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.unwrap_or_else(|_| panic!("it never is: {what}"));
}

async fn a_burst_is_one_warning_for_all_daemons(backend: Backend) {
    let (log, _listening) = Log::start();
    let engine = Engine::with(backend, RULES).await;
    let stop = CancellationToken::new();
    let (_leading, leads) = watch::channel(Some(lease(&engine.home.store, "ann").await));
    let mut working = Vec::new();
    let mut bells = Vec::new();
    for who in ["ann", "bob"] {
        let relay = Relay {
            alarm: Alarm::at(10),
            ..Relay::alone(
                engine.home.another().await,
                engine.cache().clone(),
                engine.relay.rules.clone(),
                who.into(),
            )
        };
        bells.push(relay.poke.clone());
        // The other end of the queue has to stay.
        let (told, fast) = hand_over();
        working.push((
            told,
            tokio::spawn(relay.run(fast, leads.clone(), stop.clone())),
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
    // On a machine so slow that a minute passes meanwhile it is over, and begins anew; never twice in a row.
    until("warned", async || said(&log).starts_with('h')).await;
    let now = said(&log);
    assert!(!now.contains("hh") && !now.contains("nn"), "{now}");
    assert!(
        log.lines("removal_rate_high")[0].contains("threshold=10"),
        "{}",
        log.text()
    );

    engine.home.meddle("DELETE FROM oddsd.removal_counts").await;
    until("back to normal", async || said(&log).ends_with('n')).await;
    assert_eq!(engine.home.count("alarms").await, 0);
    let normals = said(&log).matches('n').count();
    for burst in 4..8 {
        removed(burst).await;
    }
    until("warned again", async || {
        said(&log).matches('h').count() > normals
    })
    .await;
    let all = said(&log);
    assert!(!all.contains("hh") && !all.contains("nn"), "{all}");
    stop.cancel();
    for (_told, relay) in working {
        let ended = tokio::time::timeout(PATIENCE.max(Duration::from_secs(1)), relay).await;
        ended.expect("it ends").expect("no panic");
    }
}
