//! The alert for too many removals a minute: all daemons together log one warning, and one line when it is over.

use oddsd::relay::{RateAlert, Relay, direct_channel};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{DatabaseBackend, Engine, on_every_backend};
use crate::store::fixture::lease;
use oddsd_testkit::log::CapturedLog;
use oddsd_testkit::{WAIT_LIMIT, eventually};

on_every_backend!(
    rate_alert_of_several_daemons_is_one_warning,
    removals_of_new_events_count_for_the_total_and_not_for_the_rate,
);

const THRESHOLD: u64 = 10;
const CHANGES_A_BURST: usize = 15;
const RULES: &str = "[[rule]]\nname = \"a\"\non = [\"row_changed\"]\nkeys = [\"rows:{id}\"]\n";

/// The alert's lines in their order, one letter each: `h` for high, `n` for normal.
fn alert_sequence(log: &CapturedLog) -> String {
    let letter = |line: &str| if line.contains("_high") { 'h' } else { 'n' };
    log.lines("cache.removal_rate_")
        .iter()
        .map(|line| letter(line))
        .collect()
}

async fn wait_for_alert(log: &CapturedLog, what: &str, is_logged: impl Fn(&str) -> bool) {
    eventually(what, async || {
        let sequence = alert_sequence(log);
        is_logged(&sequence).then_some(()).ok_or(sequence)
    })
    .await;
}

async fn rate_alert_of_several_daemons_is_one_warning(backend: DatabaseBackend) {
    let (log, _log_guard) = CapturedLog::start();
    let engine = Engine::with(backend, RULES).await;
    let stop = CancellationToken::new();
    // The cache is shared, so a relay works without being the leader: one lease serves both.
    let (_lease_sender, lease_receiver) =
        watch::channel(Some(lease(&engine.home.store, "ann").await));
    let mut relays = Vec::new();
    let mut wakeups = Vec::new();
    for holder in ["ann", "bob"] {
        let relay = Relay {
            alert: RateAlert::above(THRESHOLD),
            ..Relay::without_observers(
                engine.home.another().await,
                engine.cache().clone(),
                engine.relay.rules.clone(),
                holder.into(),
            )
        };
        wakeups.push(relay.wakeups.outbox.clone());
        // A dropped sender closes the direct path.
        let (direct_sender, direct_path) = direct_channel();
        relays.push((
            direct_sender,
            tokio::spawn(relay.run(direct_path, lease_receiver.clone(), stop.clone())),
        ));
    }
    let report_and_remove = async |burst: usize| {
        for n in 0..CHANGES_A_BURST {
            engine.report(json!({ "change": "row_changed", "table": format!("t{burst}_{n}"), "row": { "id": n } })).await;
            wakeups.iter().for_each(|wakeup| wakeup.notify_one());
        }
        eventually("an empty outbox", async || {
            let outbox = engine.home.outbox().await;
            outbox.is_empty().then_some(()).ok_or(outbox)
        })
        .await;
    };
    // Several, because a relay begins with the stored state of the alert, which it reads at an interval.
    for burst in 0..4 {
        report_and_remove(burst).await;
    }
    // On a slow machine a minute may pass meanwhile. The alert may then end and begin again, but no line may come twice
    // in a row.
    wait_for_alert(&log, "a warning", |sequence| sequence.starts_with('h')).await;
    let now = alert_sequence(&log);
    assert!(!now.contains("hh") && !now.contains("nn"), "{now}");
    assert!(
        log.lines("removal_rate_high")[0].contains(&format!("threshold={THRESHOLD}")),
        "{}",
        log.text()
    );

    engine.home.write("DELETE FROM oddsd.removal_counts").await;
    wait_for_alert(&log, "the end of the alert", |sequence| {
        sequence.ends_with('n')
    })
    .await;
    assert_eq!(engine.home.count("alarms").await, 0);
    let normals_before = alert_sequence(&log).matches('n').count();
    for burst in 4..8 {
        report_and_remove(burst).await;
    }
    wait_for_alert(&log, "a second warning", |sequence| {
        sequence.matches('h').count() > normals_before
    })
    .await;
    stop.cancel();
    for (_direct_sender, relay) in relays {
        let ended = tokio::time::timeout(WAIT_LIMIT, relay).await;
        ended.expect("it ends").expect("no panic");
    }
    let all = alert_sequence(&log);
    assert!(!all.contains("hh") && !all.contains("nn"), "{all}");
}

async fn removals_of_new_events_count_for_the_total_and_not_for_the_rate(backend: DatabaseBackend) {
    const RULES: &str = "[[rule]]\nname = \"a\"\non = [\"event_added\", \"event_changed\"]\nkeys = [\"e:{event_id}\"]\n";
    let engine = Engine::with(backend, RULES).await;
    for (n, change) in ["event_added", "event_changed", "event_added"]
        .iter()
        .enumerate()
    {
        let event = format!("e{n}");
        engine
            .report(json!({ "change": change, "event_id": event }))
            .await;
    }
    engine.drain().await;
    let stats = engine.home.store.removal_stats().await.expect("counts");
    assert_eq!((stats.total_invalidations, stats.per_minute), (3, 1));
}
