//! Tests of the requests: which, how often, and the scope of their answers.

use std::time::{Duration, Instant};

use chrono::NaiveDate;
use oddsd_core::model::{EventId, Scope};
use oddsd_feeds::racing_api::RateLimiter;
use oddsd_feeds::{FeedError, FetchRequest};
use proptest::prelude::*;

use super::{now, prices, race, racing_feed, utc};
use crate::harness::racing::feed_settings;
use oddsd_testkit::racing_provider::{RacingFault, RacingProvider};

async fn provider_with(races: usize) -> RacingProvider {
    let provider = RacingProvider::start().await;
    provider.serve_cards((1..=races).map(|n| race(&format!("rac_{n}"))).collect());
    provider
}

#[tokio::test]
async fn pages_are_read_until_the_total() {
    let provider = provider_with(5).await;
    let mut settings = feed_settings(&provider);
    settings.page_limit = 2;
    settings.keep_bodies = true;
    let mut feed = racing_feed(settings);
    let fetched = feed
        .fetch(&FetchRequest::Everything, now())
        .await
        .expect("five races");

    assert_eq!(fetched.snapshot.events.len(), 5);
    assert_eq!(fetched.bodies.len(), 4);
    let asked: Vec<_> = provider.requests().into_iter().map(|r| r.query).collect();
    let query = |day, skip| {
        format!("date=2025-10-{day}&region_codes=gb&region_codes=ire&limit=2&skip={skip}")
    };
    assert_eq!(
        asked,
        [query(13, 0), query(13, 2), query(13, 4), query(14, 0)]
    );
    let day = |d| NaiveDate::from_ymd_opt(2025, 10, d).expect("a date");
    let scope = Scope::Days {
        days: vec![day(13), day(14)],
        regions: vec!["gb".into(), "ire".into()],
    };
    assert_eq!(fetched.snapshot.scope, scope);
    assert_eq!(fetched.snapshot.as_of, now());
    assert!(
        fetched
            .snapshot
            .events
            .iter()
            .all(|e| scope.covers(&e.event))
    );
}

#[tokio::test]
async fn request_date_is_the_date_in_britain() {
    let provider = RacingProvider::start().await;
    let mut feed = racing_feed(feed_settings(&provider));
    // Half past midnight in Britain's summer is still yesterday in UTC.
    let late = utc("2025-07-01T23:30:00Z");
    feed.fetch(&FetchRequest::Everything, late)
        .await
        .expect("an answer");
    let asked = provider.requests();
    assert!(asked[0].query.starts_with("date=2025-07-02&"), "{asked:?}");
    assert!(asked[1].query.starts_with("date=2025-07-03&"), "{asked:?}");
}

#[tokio::test]
async fn race_on_two_days_is_stored_once() {
    let provider = RacingProvider::start().await;
    // Without a date of its own it is in the list of either day.
    let mut dateless = race("rac_1");
    dateless["date"] = serde_json::Value::Null;
    provider.serve_cards(vec![dateless]);
    let mut feed = racing_feed(feed_settings(&provider));
    let fetched = feed
        .fetch(&FetchRequest::Everything, now())
        .await
        .expect("races");
    assert_eq!(fetched.snapshot.events.len(), 1);
    let again = &fetched.snapshot.rejected.by_reason["duplicate_race"];
    assert_eq!(again.rows, 2);
    assert_eq!(again.sample, "rac_1");
}

#[tokio::test]
async fn failed_page_fails_the_whole_fetch() {
    let provider = provider_with(5).await;
    provider.fault_on("skip=4", RacingFault::Status(502));
    let mut settings = feed_settings(&provider);
    settings.page_limit = 2;
    let mut feed = racing_feed(settings);
    let error = feed
        .fetch(&FetchRequest::Everything, now())
        .await
        .expect_err("no answer");
    assert_eq!(error.outcome(), "server_error");
}

#[tokio::test]
async fn moving_pages_are_read_once_more_and_not_forever() {
    let provider = provider_with(40).await;
    provider.move_pages();
    let mut settings = feed_settings(&provider);
    settings.page_limit = 2;
    let mut feed = racing_feed(settings);
    let error = feed
        .fetch(&FetchRequest::Everything, now())
        .await
        .expect_err("no answer");
    assert!(matches!(error, FeedError::BadAnswer { .. }), "{error}");
    assert!(error.to_string().contains("the total changed"), "{error}");
    assert_eq!(provider.requests().len(), 4);
}

#[tokio::test]
async fn single_race_requests_scope_the_races_that_answered() {
    let provider = provider_with(3).await;
    provider.fault_on("/rac_3/", RacingFault::Status(500));
    let mut feed = racing_feed(feed_settings(&provider));
    let ids = |names: &[&str]| names.iter().map(|n| EventId::new(*n)).collect::<Vec<_>>();
    let ask = FetchRequest::Events(ids(&["rac_1", "rac_gone", "rac_3", "rac/../2"]));
    let fetched = feed.fetch(&ask, now()).await.expect("two that answered");

    let snapshot = fetched.snapshot;
    // The missing race is in scope and absent, so it is removed. The failed one is out of scope.
    assert_eq!(
        snapshot.scope,
        Scope::Events(ids(&["rac_1", "rac_gone", "rac/../2"]))
    );
    assert_eq!(snapshot.events.len(), 1);
    assert_eq!(prices(&snapshot), 2);
    assert_eq!(snapshot.rejected.by_reason["race_failed"].rows, 1);
    assert_eq!(provider.requests()[3].path, "/racecards/rac%2F..%2F2/pro");

    let failed = feed
        .fetch(&FetchRequest::Events(ids(&["rac_3"])), now())
        .await;
    assert_eq!(
        failed.expect_err("nothing answered").outcome(),
        "server_error"
    );
    let nonsense = feed.fetch(&FetchRequest::Events(ids(&[".."])), now()).await;
    assert_eq!(
        nonsense.expect_err("would be the whole day").outcome(),
        "bad_request"
    );
}

#[tokio::test]
async fn single_race_requests_stop_when_the_provider_refuses() {
    let provider = provider_with(3).await;
    provider.fault_on(
        "/rac_2/",
        RacingFault::TooMany {
            retry_after: Some("3"),
        },
    );
    let mut feed = racing_feed(feed_settings(&provider));
    let ask = FetchRequest::Events(["rac_1", "rac_2", "rac_3"].map(EventId::new).to_vec());
    let error = feed.fetch(&ask, now()).await.expect_err("rate limited");
    let wait = Duration::from_secs(3);
    assert!(matches!(error, FeedError::RateLimited { retry_after: Some(w), .. } if w == wait));
    assert_eq!(provider.requests().len(), 2);
}

#[tokio::test]
async fn rate_limit_spaces_requests() {
    let provider = provider_with(4).await;
    let mut settings = feed_settings(&provider);
    settings.page_limit = 1;
    settings.days = 1;
    settings.cards_per_second = 50.0;
    let mut feed = racing_feed(settings);
    let began = Instant::now();
    feed.fetch(&FetchRequest::Everything, now())
        .await
        .expect("four pages");
    // A lower bound that no slow machine can break: the fourth may not leave before this.
    let fourth = provider.requests()[3].at;
    assert!(fourth - began >= Duration::from_millis(60));
}

#[test]
fn rate_limit_of_zero_is_refused() {
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-300] {
        assert!(RateLimiter::per_second(rate).is_none(), "{rate}");
    }
}

proptest! {
    #[test]
    fn rate_limit_holds_for_any_demand(
        waits in prop::collection::vec(0u64..2_000, 1..60),
        rate in 1u32..50,
    ) {
        let mut spacing = RateLimiter::per_second(f64::from(rate)).expect("a rate");
        let mut asked = tokio::time::Instant::now();
        let mut last: Option<tokio::time::Instant> = None;
        for wait in waits {
            asked += Duration::from_millis(wait);
            let at = spacing.reserve(asked);
            prop_assert!(at >= asked);
            if let Some(last) = last {
                prop_assert!(at - last >= Duration::from_secs_f64(1.0 / f64::from(rate)));
            }
            last = Some(at);
        }
    }
}
