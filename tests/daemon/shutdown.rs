//! The end: what was begun is finished, what is left is told, and the exit code says so.

use tokio::net::TcpStream;

use super::Town;
use super::fixture::{HASTY, INVALIDATED, get};
use crate::harness::daemon::Daemon;
use oddsd_testkit::WAIT_LIMIT as PATIENCE;
use oddsd_testkit::proxy::{Proxy, Wire};

/// Waits until the door is closed to newcomers: the signal has arrived.
async fn until_closed(url: &str) {
    let address = url.strip_prefix("http://").expect("a URL");
    let closing = async { while TcpStream::connect(address).await.is_ok() {} };
    let closed = tokio::time::timeout(PATIENCE, closing).await;
    closed.expect("the door is closed in time");
}

#[tokio::test]
async fn a_goodbye_in_the_middle_of_a_commit_finishes_it_and_removes_what_it_made_wrong() {
    let (mut town, mut card) = Town::racing().await;
    let (proxy, url) = Proxy::before_url(&town.database).await;
    town.settings = town.settings.with("DATABASE_URL", url);
    let mut daemon = town.run();
    let url = daemon.url().await;
    daemon.says(INVALIDATED).await;
    // What settles the first removal speaks of prices, too.
    while town.outbox().await > 0 {}
    town.put_foreign("stale").await;
    // The commit's answer is on its way when the signal comes.
    proxy.set(Wire::HoldAnswerTo("price_changed"));
    card.set_price("4.5");
    town.serve(&card);
    proxy.until_held().await;
    daemon.signal("-TERM");
    daemon.signal("-TERM");
    until_closed(&url).await;
    proxy.set(Wire::Pass);
    let ended = daemon.ends().await.expect(0);
    assert_eq!(ended.count("event=daemon.stopped"), 1, "{}", ended.text());
    let finished = ended.count("Cycle complete: 1 updated");
    assert_eq!(finished, 1, "{}", ended.text());
    town.is_right(&card).await;
    assert_eq!(town.cached().await, None);
    assert_eq!(town.outbox().await, 0);
    let held = "SELECT count(*) FROM oddsd.leases WHERE expires_at > now()";
    assert_eq!(town.number(held).await, 0, "the lease is free");
}

#[tokio::test]
async fn requests_in_flight_are_answered() {
    let (mut town, _card) = Town::racing().await;
    let (proxy, url) = Proxy::before_url(&town.database).await;
    town.settings = town
        .settings
        .with("DATABASE_URL", url)
        .with("CACHE_ENABLED", "false");
    let mut daemon = town.run();
    let url = daemon.url().await;
    daemon.says("inserted=48").await;
    daemon.says("Cycle complete").await;
    // While nothing changes, only a reader names a race to the database.
    proxy.set(Wire::HoldAnswerTo("rac_0"));
    let prices = format!("{url}/v1/events/rac_0/prices");
    let reading = tokio::spawn(async move { get(&prices).await });
    proxy.until_held().await;
    daemon.signal("-TERM");
    until_closed(&url).await;
    proxy.set(Wire::Pass);
    let ended = daemon.ends().await.expect(0);
    assert_eq!(ended.count("event=http.cut_off"), 0, "{}", ended.text());
    assert_eq!(reading.await.expect("a reader").status, 200);
}

#[tokio::test]
async fn it_ends_by_itself_after_the_time_that_it_was_given() {
    let (town, card) = Town::racing().await;
    town.once().await.expect(0);
    // How far it comes in a second is the machine's business.
    let ended = Daemon::start(&town.settings, &["run", "--for", "1s"])
        .ends()
        .await
        .expect(0);
    assert_eq!(ended.count("event=daemon.stopped"), 1, "{}", ended.text());
    town.is_right(&card).await;
    assert_eq!(town.outbox().await, 0);
}

#[tokio::test]
async fn a_silent_cache_does_not_hold_up_the_goodbye_and_its_removals_wait() {
    let (mut town, mut card) = Town::racing().await;
    town.settings = town.settings.with("CACHE_TIMEOUT_MS", HASTY);
    let mut daemon = town.run();
    daemon.says(INVALIDATED).await;
    town.redis.pause();
    card.set_price("4.5");
    town.serve(&card);
    daemon.says("Cycle complete: 1 updated").await;
    daemon.stop().await.expect(0);
    assert_eq!(town.outbox().await, 1);
    town.redis.resume();
    town.is_right(&card).await;
}

#[tokio::test]
async fn a_cron_line_sets_the_pace_and_a_failed_look_is_not_left_for_the_next_tick() {
    let (town, mut card) = Town::racing().await;
    let mut daemon = Daemon::start(&town.settings, &["run", "--cron", "* * * * * *"]);
    daemon.says("inserted=48").await;
    for price in ["4.5", "5.5"] {
        card.set_price(price);
        town.serve(&card);
        daemon.says("Cycle complete: 1 updated").await;
    }
    daemon.stop().await.expect(0);
    town.is_right(&card).await;
}

/// Fetch times of one-race calls and of whole cards are the provider's; here only their number counts.
#[tokio::test]
async fn races_that_are_due_are_asked_for_alone() {
    let (mut town, mut card) = Town::racing().await;
    // One race is off in forty minutes; the others are tomorrow's.
    let off = chrono::Utc::now() + chrono::TimeDelta::minutes(40);
    let day = off.with_timezone(&chrono_tz::Europe::London).date_naive();
    card.races[0]["date"] = serde_json::json!(day.to_string());
    card.races[0]["off_dt"] = serde_json::json!(off.to_rfc3339());
    town.serve(&card);
    town.settings = town
        .settings
        .with("CADENCE", "60=1s,*=900s")
        .with("WHOLE_CARD_SECONDS", "900");
    let mut daemon = town.run();
    daemon.says("inserted=48").await;
    for price in ["4.5", "5.5", "6.5"] {
        card.set_price(price);
        town.serve(&card);
        let line = daemon.says("Cycle complete: 1 updated").await;
        assert!(line.contains("| 1 races | 3 horses |"), "{line}");
    }
    daemon.stop().await.expect(0);
    town.is_right(&card).await;
    let requests = town.provider.requests();
    let whole = requests
        .iter()
        .filter(|seen| seen.path == "/racecards/pro")
        .count();
    assert_eq!(whole, 2, "the card of today and of tomorrow, once");
    let alone = requests.iter().filter(|seen| seen.path != "/racecards/pro");
    let mut alone = alone.map(|seen| seen.path.as_str());
    assert!(alone.all(|path| path == "/racecards/rac_0/pro"));
}
