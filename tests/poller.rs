//! Tests of the poller, and of the daemon around it, with clocks that are wrong and with failures near the start of a
//! race.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use clap::Parser;
use oddsd::app::{self, App};
use oddsd::cli::Cli;
use oddsd::clock::Clock;
use oddsd::live::{DaemonEvent, EventBus};
use oddsd::poller::{CycleOutcome, PollSchedule, Poller, PollerSettings};
use oddsd_core::schedule::{PollPlanner, PollRule};
use oddsd_feeds::racing_api::RacingApi;
use oddsd_feeds::{Feed, FetchRequest};
use oddsd_store::{CommitNotifier, LastChecked, Retention, Store, WriterLease};
use oddsd_testkit::log::CapturedLog;
use oddsd_testkit::racing_provider::{PASSWORD, RacingFault, RacingProvider, USERNAME};
use oddsd_testkit::{eventually, within};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::daemon::fixture::{SmallCard, get};
use crate::harness::racing::feed_settings;
use crate::store::fixture::{DatabaseBackend, LATER, TTL, TestDatabase, decimal, lease};
use crate::store::on_every_backend;

on_every_backend!(
    poller_whose_clock_is_set_ahead_and_back_writes_every_change,
    poller_that_restarts_after_a_wrong_clock_writes_every_change,
    two_daemons_with_other_clocks_write_every_change_in_turn,
    empty_card_is_not_believed_before_the_time_of_the_second_look,
    empty_card_is_not_believed_after_a_failed_fetch_and_is_beside_an_unreadable_price,
);

/// A wrong clock and the setting of its error.
fn wrong_clock() -> (Clock, impl Fn(i64)) {
    let by = Arc::new(AtomicI64::new(0));
    let clock = Clock::Wrong(Arc::clone(&by));
    (clock, move |seconds| {
        by.store(seconds * 1000, Ordering::Relaxed)
    })
}

/// A small card in front of a database. Half of its prices carry no time of the feed.
struct PolledCard {
    provider: RacingProvider,
    card: SmallCard,
    database: TestDatabase,
}

impl PolledCard {
    async fn build(backend: DatabaseBackend) -> Self {
        let (provider, mut card) = (RacingProvider::start().await, SmallCard::with_races(4));
        for race in 0..4 {
            for bookmaker in [1, 3] {
                for runner in 0..3 {
                    card.odds(race, runner, bookmaker)["updated"] = json!(null);
                }
            }
        }
        provider.serve_cards(card.races.clone());
        let database = backend.migrated().await;
        Self {
            provider,
            card,
            database,
        }
    }

    /// A daemon that has just started with this clock, and takes the lease.
    async fn lead(&self, name: &str, clock: &Clock) -> PollingDaemon {
        self.lead_rechecking(name, clock, Duration::from_secs(10))
            .await
    }

    /// As `lead`; a short answer is confirmed by one that is requested `recheck_after` later.
    async fn lead_rechecking(
        &self,
        name: &str,
        clock: &Clock,
        recheck_after: Duration,
    ) -> PollingDaemon {
        let feed = RacingApi::new(feed_settings(&self.provider)).expect("valid settings");
        let store = self.database.another().await;
        let settings = PollerSettings {
            max_removed_fraction: 0.5,
            recheck_removed_after: recheck_after,
            retention: Retention {
                history: LATER,
                finished_events: LATER,
            },
        };
        let (checks, live) = (LastChecked::default(), EventBus::new());
        let poller = Poller::new(
            Feed::RacingApi(Box::new(feed)),
            store.clone(),
            live.clone(),
            clock.clone(),
            settings,
            CommitNotifier::default(),
            Arc::clone(&checks),
        );
        let lease = lease(&store, name).await;
        PollingDaemon {
            poller,
            live,
            store,
            checks,
            lease,
        }
    }

    /// Moves one price with a time of the feed and one without.
    fn move_prices(&mut self, decimal: &str) {
        for bookmaker in [0, 1] {
            self.card.odds(0, 0, bookmaker)["decimal"] = json!(decimal);
        }
        self.provider.serve_cards(self.card.races.clone());
    }
}

/// A poller with its lease.
struct PollingDaemon {
    poller: Poller,
    live: EventBus,
    store: Store,
    checks: LastChecked,
    lease: WriterLease,
}

impl PollingDaemon {
    /// One poll, and a renewal of the lease.
    async fn cycle(&mut self) -> CycleOutcome {
        let (request, stop) = (FetchRequest::Everything, CancellationToken::new());
        let cycle = self
            .poller
            .run_cycle(&self.lease, &request, None, &stop)
            .await;
        let checked: Vec<_> = self.checks.lock().drain().collect();
        let renewed = self
            .store
            .renew_lease(&self.lease, TTL, &json!({}), &checked)
            .await;
        renewed.expect("it leads");
        cycle
    }

    /// Returns the number of prices written, and of stale ones.
    async fn poll(&mut self) -> (u64, u64) {
        match self.cycle().await {
            CycleOutcome::Unchanged(counts) => (0, counts.stale),
            CycleOutcome::Committed(counts, written) => {
                (written.inserted + written.updated, counts.stale)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn release(self) {
        self.store
            .release_lease(&self.lease)
            .await
            .expect("released");
    }
}

async fn poller_whose_clock_is_set_ahead_and_back_writes_every_change(backend: DatabaseBackend) {
    let mut polled = PolledCard::build(backend).await;
    let (clock, set) = wrong_clock();
    let mut daemon = polled.lead("daemon", &clock).await;
    assert_eq!(daemon.poll().await, (48, 0));
    for (n, ahead) in [3600, 0, -3600, 0].into_iter().enumerate() {
        set(ahead);
        polled.move_prices(&format!("{}.5", 10 + n));
        assert_eq!(daemon.poll().await, (2, 0), "{ahead} s ahead");
        assert_eq!(daemon.poll().await, (0, 0), "{ahead} s ahead");
    }
}

async fn poller_that_restarts_after_a_wrong_clock_writes_every_change(backend: DatabaseBackend) {
    let mut polled = PolledCard::build(backend).await;
    let (clock, set) = wrong_clock();
    set(3600);
    let mut daemon = polled.lead("daemon", &clock).await;
    assert_eq!(daemon.poll().await, (48, 0));

    daemon.release().await;
    let mut restarted = polled.lead("restarted", &Clock::Real).await;
    let now = Utc::now();
    let loaded = restarted.store.load().await.expect("the rows load").state;
    let latest = loaded.events.values().map(|event| event.checked_at).max();
    assert!(latest.is_some_and(|at| at <= Utc::now()), "{latest:?}");
    polled.move_prices("10.5");
    assert_eq!(restarted.poll().await, (2, 0));
    // Readers see the true time of the last check, and the whole history.
    let shown = polled.database.prices_of("rac_0").await;
    assert!(
        (now..=Utc::now()).contains(&shown.checked_at),
        "{}",
        shown.checked_at
    );
    let since = now - TimeDelta::minutes(1);
    let steps = polled
        .database
        .store
        .price_steps(since)
        .await
        .expect("steps");
    let moved = steps
        .iter()
        .filter(|step| step.odds == Some(decimal("10.5")));
    assert_eq!(moved.count(), 2);
}

async fn two_daemons_with_other_clocks_write_every_change_in_turn(backend: DatabaseBackend) {
    let mut polled = PolledCard::build(backend).await;
    let (ahead, set) = wrong_clock();
    set(60);
    let mut first = polled.lead("first", &Clock::Real).await;
    assert_eq!(first.poll().await, (48, 0));
    first.release().await;
    let mut second = polled.lead("second", &ahead).await;
    polled.move_prices("10.5");
    assert_eq!(second.poll().await, (2, 0));
    second.release().await;
    let mut first = polled.lead("first", &Clock::Real).await;
    polled.move_prices("11.5");
    assert_eq!(first.poll().await, (2, 0));
}

#[tokio::test]
async fn daemon_whose_clock_is_set_ahead_and_back_writes_on_and_reports_the_skew_once() {
    let (log, _guard) = CapturedLog::start();
    let polled = PolledCard::build(DatabaseBackend::Sqlite).await;
    let (url, provider) = (polled.database.url.as_str(), polled.provider.base_url());
    let arguments = [
        "oddsd",
        "run",
        "--database-url",
        url,
        "--racing-api-url",
        &provider,
        "--racing-api-username",
        USERNAME,
        "--racing-api-password",
        PASSWORD,
        "--racing-api-cards-per-second",
        "1000",
        "--listen",
        "127.0.0.1:0",
        "--cadence",
        "*=1s",
        "--whole-card-seconds",
        "1",
        "--lease-seconds",
        "3",
        "--audit",
        "false",
    ];
    let settings = Cli::try_parse_from(arguments)
        .expect("valid settings")
        .settings;
    let (clock, set) = wrong_clock();
    let feed = app::feed(&settings, &clock, false).expect("a feed");
    let schedule = PollSchedule::live(PollRule::Adaptive(settings.plan()));
    let app = App::build_with(&settings, feed, clock, schedule)
        .await
        .expect("it starts");
    let url = format!(
        "http://{}/readyz?verbose",
        app.address().expect("it listens")
    );
    let stop = CancellationToken::new();
    let running = tokio::spawn(Box::pin(app.run(stop.clone())));

    let mut polled = polled;
    for (n, ahead) in [0i64, 3600, 0].into_iter().enumerate() {
        set(ahead);
        eventually("the skew is shown", async || {
            let shown = get(&url).await.json()["clock_skew_seconds"].as_f64();
            match shown.is_some_and(|skew| (skew - ahead as f64).abs() < 5.0) {
                true => Ok(()),
                false => Err(shown),
            }
        })
        .await;
        let price = format!("{}.5", 10 + n);
        polled.move_prices(&price);
        eventually("the change is stored", async || {
            let stored = "SELECT CAST(count(*) AS TEXT) FROM prices WHERE decimal = ";
            match &*polled
                .database
                .query_one(&format!("{stored}'{price}'"))
                .await
            {
                "2" => Ok(()),
                other => Err(other.to_owned()),
            }
        })
        .await;
    }
    stop.cancel();
    running.await.expect("no panic").expect("it ends");
    for (event, level) in [("clock.skewed", "WARN"), ("clock.agrees", "INFO")] {
        let lines = log.lines(event);
        assert!(lines.len() == 1 && lines[0].contains(level), "{lines:?}");
    }
}

async fn empty_card_is_not_believed_before_the_time_of_the_second_look(backend: DatabaseBackend) {
    let polled = PolledCard::build(backend).await;
    let hour = Duration::from_secs(3600);
    let mut daemon = polled.lead_rechecking("daemon", &Clock::Real, hour).await;
    assert_eq!(daemon.poll().await, (48, 0));
    polled.provider.serve_cards(Vec::new());
    for _ in 0..3 {
        assert_eq!(daemon.poll().await, (0, 0));
    }
}

async fn empty_card_is_not_believed_after_a_failed_fetch_and_is_beside_an_unreadable_price(
    backend: DatabaseBackend,
) {
    let mut polled = PolledCard::build(backend).await;
    let mut daemon = polled
        .lead_rechecking("daemon", &Clock::Real, Duration::ZERO)
        .await;
    assert_eq!(daemon.poll().await, (48, 0));
    polled.provider.serve_cards(Vec::new());
    assert_eq!(daemon.poll().await, (0, 0), "a first look");
    polled.provider.fault(RacingFault::Status(503)).await;
    assert!(matches!(daemon.cycle().await, CycleOutcome::FetchFailed(_)));
    polled.provider.clear().await;
    assert_eq!(daemon.poll().await, (0, 0), "a first look again");
    polled.card.odds(0, 0, 0)["decimal"] = json!([]);
    let unreadable = polled.card.races[0].clone();
    polled.provider.serve_cards(vec![unreadable]);
    assert_eq!(daemon.poll().await, (36, 0), "what was read agrees");
}

/// A race starts in less than five minutes, so it is polled every ten seconds; the clock is ten times as fast.
#[tokio::test]
async fn poller_retries_a_failed_feed_or_commit_within_the_interval_of_the_nearest_race() {
    let mut polled = PolledCard::build(DatabaseBackend::Sqlite).await;
    let now = Utc::now();
    polled.card.races[0]["off_dt"] = json!((now + TimeDelta::seconds(290)).to_rfc3339());
    polled.move_prices("10.5");
    let clock = Clock::scaled(now, 10.0);
    let mut daemon = polled.lead("daemon", &clock).await;
    let mut events = daemon.live.subscribe();
    let (_held, lease) = watch::channel(Some(daemon.lease.clone()));
    let stop = CancellationToken::new();
    let schedule = PollSchedule::live(PollRule::Adaptive(PollPlanner::default()));
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { daemon.poller.run(lease, schedule, &stop).await }
    });
    // The fifth retry would come after 16 s or more.
    let mut wait_for = async |is_awaited: fn(&DaemonEvent) -> Option<(u32, u64)>| {
        within("the event", async {
            loop {
                let event = events.recv().await.expect("an event");
                if let Some(found) = is_awaited(&event.event) {
                    return found;
                }
            }
        })
        .await
    };
    let complete =
        |event: &DaemonEvent| matches!(event, DaemonEvent::CycleComplete { .. }).then_some((0, 0));
    wait_for(complete).await;

    polled.provider.fault(RacingFault::Status(503)).await;
    for failures in 1..=6 {
        let (attempt, retry_ms) = wait_for(|event| match event {
            DaemonEvent::FetchFailed {
                attempt, retry_ms, ..
            } => Some((*attempt, *retry_ms)),
            _ => None,
        })
        .await;
        assert_eq!(attempt, failures);
        assert!(retry_ms <= 10_000, "{retry_ms} ms after {attempt} failures");
    }
    polled.provider.clear().await;
    wait_for(complete).await;

    polled
        .database
        .write("ALTER TABLE outbox RENAME TO away")
        .await;
    polled.move_prices("11.5");
    for failures in 1..=6 {
        let (attempt, retry_ms) = wait_for(|event| match event {
            DaemonEvent::StoreFailed {
                attempt, retry_ms, ..
            } => Some((*attempt, *retry_ms)),
            _ => None,
        })
        .await;
        assert_eq!(attempt, failures);
        assert!(retry_ms <= 10_000, "{retry_ms} ms after {attempt} failures");
    }
    stop.cancel();
    running.await.expect("no panic").expect("it ends");
}
