//! Tests of the daemon's shutdown: work under way is finished, the rest is reported in the log and the
//! exit code.

use std::time::{Duration, Instant};

use sqlx::{Connection, Executor};
use tokio::net::TcpStream;

use super::DaemonStack;
use super::fixture::{INVALIDATED, SHORT_TIMEOUT_MS, SmallCard, get};
use crate::harness::daemon::DaemonProcess;
use oddsd_testkit::eventually;
use oddsd_testkit::proxy::{FaultProxy, ProxyMode};
use oddsd_testkit::racing_provider::RacingFault;

/// Waits until new connections are refused: the signal has arrived.
async fn until_closed(url: &str) {
    let address = url.strip_prefix("http://").expect("a URL");
    eventually(
        "the listener is closed",
        async || match TcpStream::connect(address).await {
            Ok(_) => Err("open"),
            Err(_) => Ok(()),
        },
    )
    .await;
}

#[tokio::test]
async fn shutdown_during_a_commit_finishes_it_and_its_removals() {
    let (mut stack, mut card) = DaemonStack::with_card().await;
    let (proxy, url) = FaultProxy::in_front_of_url(&stack.database).await;
    stack.settings = stack.settings.with("DATABASE_URL", url);
    let mut daemon = stack.run();
    let url = daemon.url().await;
    daemon.wait_for_log(INVALIDATED).await;
    // The statement that settles the first removal mentions prices, too.
    stack.settled().await;
    stack.put_unmanaged("stale").await;
    // The commit's answer is on its way when the signal comes.
    proxy.set(ProxyMode::HoldAnswerTo("price_changed"));
    card.set_price("4.5");
    stack.serve(&card);
    proxy.until_held().await;
    daemon.signal("-TERM");
    daemon.signal("-TERM");
    until_closed(&url).await;
    proxy.set(ProxyMode::Pass);
    let ended = daemon.wait_for_exit().await.expect_code(0);
    assert_eq!(ended.count("event=daemon.stopped"), 1, "{}", ended.text());
    let finished = ended.count("Cycle complete: 1 updated");
    assert_eq!(finished, 1, "{}", ended.text());
    stack.assert_stored(&card).await;
    assert_eq!(stack.cached().await, None);
    assert_eq!(stack.outbox().await, 0);
    let held = "SELECT count(*) FROM oddsd.leases WHERE expires_at > now()";
    assert_eq!(stack.number(held).await, 0, "the lease is free");
}

#[tokio::test]
async fn shutdown_answers_requests_in_flight() {
    let (mut stack, _card) = DaemonStack::with_card().await;
    let (proxy, url) = FaultProxy::in_front_of_url(&stack.database).await;
    stack.settings = stack
        .settings
        .with("DATABASE_URL", url)
        .with("CACHE_ENABLED", "false");
    let mut daemon = stack.run();
    let url = daemon.url().await;
    daemon.wait_for_log("inserted=48").await;
    daemon.wait_for_log("Cycle complete").await;
    // While nothing changes, only a reader names a race to the database.
    proxy.set(ProxyMode::HoldAnswerTo("rac_0"));
    let prices = format!("{url}/v1/events/rac_0/prices");
    let reading = tokio::spawn(async move { get(&prices).await });
    proxy.until_held().await;
    daemon.signal("-TERM");
    until_closed(&url).await;
    proxy.set(ProxyMode::Pass);
    let ended = daemon.wait_for_exit().await.expect_code(0);
    assert_eq!(ended.count("event=http.cut_off"), 0, "{}", ended.text());
    assert_eq!(reading.await.expect("a reader").status, 200);
}

#[tokio::test]
async fn run_ends_after_its_configured_duration() {
    let (stack, card) = DaemonStack::with_card().await;
    stack.run_once().await.expect_code(0);
    // The number of cycles in a second depends on the machine.
    let ended = DaemonProcess::start(&stack.settings, &["run", "--for", "1s"])
        .wait_for_exit()
        .await
        .expect_code(0);
    assert_eq!(ended.count("event=daemon.stopped"), 1, "{}", ended.text());
    stack.assert_stored(&card).await;
    assert_eq!(stack.outbox().await, 0);
}

#[tokio::test]
async fn shutdown_is_bounded_while_the_cache_hangs_and_keeps_removals() {
    let (mut stack, mut card) = DaemonStack::with_card().await;
    stack.settings = stack.settings.with("CACHE_TIMEOUT_MS", SHORT_TIMEOUT_MS);
    let mut daemon = stack.run();
    daemon.wait_for_log(INVALIDATED).await;
    stack.redis.pause();
    card.set_price("4.5");
    stack.serve(&card);
    daemon.wait_for_log("Cycle complete: 1 updated").await;
    daemon.stop().await.expect_code(0);
    assert_eq!(stack.outbox().await, 1);
    stack.redis.resume();
    stack.assert_stored(&card).await;
}

#[tokio::test]
async fn cron_schedule_polls_and_retries_a_failed_poll() {
    let (stack, mut card) = DaemonStack::with_card().await;
    let mut daemon = DaemonProcess::start(&stack.settings, &["run", "--cron", "* * * * * *"]);
    daemon.wait_for_log("inserted=48").await;
    for price in ["4.5", "5.5"] {
        card.set_price(price);
        stack.serve(&card);
        daemon.wait_for_log("Cycle complete: 1 updated").await;
    }
    daemon.stop().await.expect_code(0);
    stack.assert_stored(&card).await;
}

#[tokio::test]
async fn cron_schedule_asks_a_failing_provider_no_sooner_than_it_announced() {
    let (stack, _) = DaemonStack::with_card().await;
    let retry_after = Some("2");
    stack
        .provider
        .fault(RacingFault::TooMany { retry_after })
        .await;
    let daemon = DaemonProcess::start(&stack.settings, &["run", "--cron", "* * * * * *"]);
    stack.provider.until_requests(4).await;
    daemon.stop().await.expect_code(0);
    let requests = stack.provider.requests();
    for pair in requests.windows(2) {
        let gap = pair[1].at - pair[0].at;
        assert!(gap >= Duration::from_secs(2), "{gap:?}");
    }
}

/// Only the number of single-race and whole-card requests counts here.
#[tokio::test]
async fn due_races_are_polled_alone() {
    let (mut stack, mut card) = DaemonStack::with_card().await;
    // One race starts in forty minutes; the others are tomorrow's.
    let off = chrono::Utc::now() + chrono::TimeDelta::minutes(40);
    let day = off.with_timezone(&chrono_tz::Europe::London).date_naive();
    card.races[0]["date"] = serde_json::json!(day.to_string());
    card.races[0]["off_dt"] = serde_json::json!(off.to_rfc3339());
    stack.serve(&card);
    stack.settings = stack
        .settings
        .with("CADENCE", "60=1s,*=900s")
        .with("WHOLE_CARD_SECONDS", "900");
    let mut daemon = stack.run();
    daemon.wait_for_log("inserted=48").await;
    for price in ["4.5", "5.5", "6.5"] {
        card.set_price(price);
        stack.serve(&card);
        let line = daemon.wait_for_log("Cycle complete: 1 updated").await;
        assert!(line.contains("| 1 races | 3 horses |"), "{line}");
    }
    daemon.stop().await.expect_code(0);
    stack.assert_stored(&card).await;
    let requests = stack.provider.requests();
    let whole = requests
        .iter()
        .filter(|seen| seen.path == "/racecards/pro")
        .count();
    assert_eq!(whole, 2, "the card of today and of tomorrow, once");
    let alone = requests.iter().filter(|seen| seen.path != "/racecards/pro");
    let mut alone = alone.map(|seen| seen.path.as_str());
    assert!(alone.all(|path| path == "/racecards/rac_0/pro"));
}

/// Stops a daemon whose database does not answer: within the limit of 25 s, and not as a failure.
async fn stop_without_database(daemon: DaemonProcess) {
    let asked = Instant::now();
    let ended = daemon.stop().await.expect_code(0);
    assert!(
        asked.elapsed() < Duration::from_secs(24),
        "{}",
        ended.text()
    );
    for event in ["event=daemon.unfinished", "event=daemon.stopped"] {
        assert_eq!(ended.count(event), 1, "{event}: {}", ended.text());
    }
}

async fn assert_next_start_repeats_the_rest(stack: &DaemonStack, card: &SmallCard) {
    stack.end_lease().await;
    let mut daemon = stack.run();
    daemon.wait_for_log("Cycle complete").await;
    stack.settled().await;
    daemon.stop().await.expect_code(0);
    stack.assert_stored(card).await;
}

#[tokio::test]
async fn shutdown_is_bounded_while_the_database_hangs_and_loses_nothing() {
    let (mut stack, mut card) = DaemonStack::with_card().await;
    let (proxy, url) = FaultProxy::in_front_of_url(&stack.database).await;
    let direct = stack.settings.clone();
    stack.settings = stack.settings.with("DATABASE_URL", url);
    let mut daemon = stack.run();
    daemon.wait_for_log(INVALIDATED).await;
    stack.settled().await;
    proxy.set(ProxyMode::HoldAnswerTo("price_changed"));
    card.set_price("4.5");
    stack.serve(&card);
    proxy.until_held().await;
    proxy.set(ProxyMode::Hang);
    stop_without_database(daemon).await;
    stack.settings = direct;
    assert_next_start_repeats_the_rest(&stack, &card).await;
}

#[tokio::test]
async fn once_ends_when_it_is_stopped_while_the_database_hangs() {
    let (mut stack, _card) = DaemonStack::with_card().await;
    let (proxy, url) = FaultProxy::in_front_of_url(&stack.database).await;
    stack.settings = stack.settings.with("DATABASE_URL", url);
    proxy.set(ProxyMode::HoldAnswerTo("price_changed"));
    let once = DaemonProcess::start(&stack.settings, &["once"]);
    proxy.until_held().await;
    let asked = Instant::now();
    let ended = once.stop().await.expect_code(69);
    assert!(
        asked.elapsed() < Duration::from_secs(24),
        "{}",
        ended.text()
    );
}

#[tokio::test]
async fn shutdown_is_bounded_while_tables_are_locked_and_loses_nothing() {
    let (stack, mut card) = DaemonStack::with_card().await;
    let mut daemon = stack.run();
    daemon.wait_for_log(INVALIDATED).await;
    stack.settled().await;
    let mut other = stack.db().await;
    let mut locking = other.begin().await.expect("a transaction");
    let lock = "LOCK TABLE oddsd.prices, oddsd.outbox IN ACCESS EXCLUSIVE MODE";
    locking.execute(lock).await.expect("locked");
    card.set_price("4.5");
    stack.serve(&card);
    eventually("the commit waits", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                       AND wait_event_type = 'Lock' AND query LIKE '%INSERT INTO oddsd.cycles%'";
        match stack.number(waiting).await {
            0 => Err("none"),
            _ => Ok(()),
        }
    })
    .await;
    stop_without_database(daemon).await;
    locking.rollback().await.expect("unlocked");
    assert_next_start_repeats_the_rest(&stack, &card).await;
}
