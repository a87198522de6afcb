//! Tests of the provider's failures: each maps to its error kind, gives advice, and shows no secret.

use std::time::Duration;

use oddsd_core::model::Scope;
use oddsd_feeds::http::{Auth, ProviderClient, ProviderInfo};
use oddsd_feeds::racing_api::RacingApi;
use oddsd_feeds::{FeedError, FetchRequest};

use super::{now, race, racing_feed};
use crate::harness::racing::feed_settings;
use oddsd_testkit::racing_provider::{PASSWORD, RacingFault, RacingProvider};

async fn provider_with_races() -> RacingProvider {
    let provider = RacingProvider::start().await;
    provider.serve_cards((1..=4).map(|n| race(&format!("rac_{n}"))).collect());
    provider
}

/// The error of a fetch with this fault.
async fn failure(fault: RacingFault, deadline: Duration) -> FeedError {
    let provider = provider_with_races().await;
    provider.fault(fault.clone()).await;
    let mut settings = feed_settings(&provider);
    settings.deadline = deadline;
    let mut feed = racing_feed(settings);
    match feed.fetch(&FetchRequest::Everything, now()).await {
        Ok(fetched) => panic!("{fault:?} gave an answer: {:?}", fetched.snapshot.scope),
        Err(error) => error,
    }
}

#[tokio::test]
async fn faults_have_their_error_kind_and_advice_and_no_secret() {
    let patient = Duration::from_secs(20);
    let hasty = Duration::from_millis(200);
    let cases = [
        (
            RacingFault::Refuse,
            patient,
            "unreachable",
            "check the network",
        ),
        (
            RacingFault::Unauthorized,
            patient,
            "unauthorized",
            "check RACING_API_USERNAME and RACING_API_PASSWORD",
        ),
        (
            RacingFault::Forbidden,
            patient,
            "unauthorized",
            "Pro plan required",
        ),
        (RacingFault::NotFound, patient, "not_found", "answered 404"),
        (
            RacingFault::HtmlNotFound,
            patient,
            "bad_request",
            "is the base URL right?",
        ),
        (
            RacingFault::Unprocessable,
            patient,
            "bad_request",
            "invalid date format",
        ),
        (
            RacingFault::Status(418),
            patient,
            "bad_request",
            "answered 418",
        ),
        (
            RacingFault::TooMany { retry_after: None },
            patient,
            "rate_limited",
            "lower the request rate",
        ),
        (
            RacingFault::Status(500),
            patient,
            "server_error",
            "answered 500",
        ),
        (
            RacingFault::Status(503),
            patient,
            "server_error",
            "ask again later",
        ),
        (
            RacingFault::Html,
            patient,
            "bad_answer",
            "HTML instead of JSON",
        ),
        (
            RacingFault::Truncated,
            patient,
            "bad_answer",
            "cannot be read",
        ),
        (
            RacingFault::WrongShape,
            patient,
            "bad_answer",
            "no \"racecards\", but results, total",
        ),
        (
            RacingFault::Redirect,
            patient,
            "bad_answer",
            "redirect to elsewhere.example",
        ),
        (
            RacingFault::DeepJson,
            patient,
            "bad_answer",
            "no readable race among",
        ),
        (
            RacingFault::ShortPage,
            patient,
            "bad_answer",
            "an empty page after 2 of 4 races",
        ),
        (
            RacingFault::DropConnection,
            patient,
            "unreachable",
            "broke off in the middle",
        ),
        (
            RacingFault::Hang,
            hasty,
            "unreachable",
            "no complete answer within 200 ms",
        ),
        (
            RacingFault::SlowDrip,
            hasty,
            "unreachable",
            "no complete answer within 200 ms",
        ),
        (
            RacingFault::Bomb,
            patient,
            "too_large",
            "100 times the compressed size",
        ),
        (
            RacingFault::Oversize,
            patient,
            "too_large",
            "sent more than 16777216 bytes in one row",
        ),
    ];
    for (fault, deadline, outcome, advice) in cases {
        let error = failure(fault.clone(), deadline).await;
        let reported = error.to_string();
        assert_eq!(error.outcome(), outcome, "{fault:?}: {reported}");
        assert!(reported.contains(advice), "{fault:?} says: {reported}");
        assert!(
            reported.lines().count() == 1 && reported.len() < 500,
            "{fault:?} says: {reported}"
        );
        for secret in [PASSWORD, "Basic", "uthorization", "b2Rkc2Q", "date=2025"] {
            let all = format!("{reported} {error:?}");
            assert!(
                !all.contains(secret),
                "{fault:?} gives away {secret}: {all}"
            );
        }
    }
}

#[tokio::test]
async fn status_429_gives_the_time_to_wait() {
    let cases = [
        (Some("7"), Some(Duration::from_secs(7))),
        (Some("Fri, 01 Jan 1999 00:00:00 GMT"), Some(Duration::ZERO)),
        (Some("later"), None),
        (None, None),
    ];
    for (sent, expected) in cases {
        let fault = RacingFault::TooMany { retry_after: sent };
        match failure(fault, Duration::from_secs(20)).await {
            FeedError::RateLimited { retry_after, .. } => assert_eq!(retry_after, expected),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn recovered_provider_is_read_again() {
    let provider = provider_with_races().await;
    let mut feed = racing_feed(feed_settings(&provider));
    for fault in [
        RacingFault::Refuse,
        RacingFault::Status(500),
        RacingFault::DropConnection,
    ] {
        provider.fault(fault).await;
        assert!(feed.fetch(&FetchRequest::Everything, now()).await.is_err());
        provider.clear().await;
        let fetched = feed
            .fetch(&FetchRequest::Everything, now())
            .await
            .expect("it is back");
        assert_eq!(fetched.snapshot.events.len(), 4);
    }
}

#[tokio::test]
async fn empty_and_half_cards_are_valid_answers() {
    let provider = provider_with_races().await;
    let mut feed = racing_feed(feed_settings(&provider));
    for (fault, races) in [(RacingFault::EmptyCards, 0), (RacingFault::HalfCards, 2)] {
        provider.fault(fault).await;
        let fetched = feed
            .fetch(&FetchRequest::Everything, now())
            .await
            .expect("an answer");
        assert_eq!(fetched.snapshot.events.len(), races);
        assert!(matches!(fetched.snapshot.scope, Scope::Days { .. }));
    }
}

/// The provider's answer for a day without racing and for a wrong path is the same.
#[tokio::test]
async fn day_without_a_card_is_empty_if_another_day_has_one() {
    let days = ["2025-10-13", "2025-10-14"];
    for (without, other) in [(days[0], days[1]), (days[1], days[0])] {
        let provider = RacingProvider::start().await;
        let mut listed = race("rac_1");
        listed["date"] = other.into();
        provider.serve_cards(vec![listed]);
        provider.fault_on(&format!("date={without}"), RacingFault::NotFound);
        let mut feed = racing_feed(feed_settings(&provider));
        let fetched = feed.fetch(&FetchRequest::Everything, now()).await;
        let snapshot = fetched.expect("one day has a card").snapshot;
        assert_eq!(snapshot.events.len(), 1);
        assert!(snapshot.in_doubt.is_empty() && snapshot.rejected.is_empty());
        let scope = |days: &[&str]| Scope::Days {
            days: days
                .iter()
                .map(|day| day.parse().expect("a date"))
                .collect(),
            regions: vec!["gb".into(), "ire".into()],
        };
        assert_eq!(snapshot.scope, scope(&days));

        // No day has a card: the path was right, but nothing is known to be gone.
        provider.fault(RacingFault::NotFound).await;
        let fetched = feed.fetch(&FetchRequest::Everything, now()).await;
        let snapshot = fetched.expect("a card was read before").snapshot;
        assert_eq!((snapshot.events.len(), snapshot.scope), (0, scope(&[])));
        // Without any card so far, the base URL may be wrong.
        let fetched = racing_feed(feed_settings(&provider))
            .fetch(&FetchRequest::Everything, now())
            .await;
        assert!(
            matches!(fetched, Err(FeedError::NotFound(_))),
            "{fetched:?}"
        );
        // A web page is no answer of the provider, whatever the other day says.
        provider.clear().await;
        provider.fault_on(&format!("date={without}"), RacingFault::HtmlNotFound);
        let fetched = feed.fetch(&FetchRequest::Everything, now()).await;
        assert!(
            matches!(fetched, Err(FeedError::BadRequest(_))),
            "{fetched:?}"
        );
    }
}

#[tokio::test]
async fn unreadable_race_leaves_its_day_in_the_scope() {
    let provider = RacingProvider::start().await;
    // The only race of tomorrow.
    let mut unreadable = race("rac_2");
    unreadable["date"] = "2025-10-14".into();
    unreadable["runners"] = "none".into();
    provider.serve_cards(vec![race("rac_1"), unreadable.clone()]);
    let mut feed = racing_feed(feed_settings(&provider));
    let fetched = feed.fetch(&FetchRequest::Everything, now()).await;
    let snapshot = fetched.expect("today's race is readable").snapshot;
    assert_eq!(snapshot.events.len(), 1);
    assert!(matches!(&snapshot.scope, Scope::Days { days, .. } if days.len() == 2));
    let in_doubt = snapshot.in_doubt;
    assert!(in_doubt.ids.contains("rac_2") && in_doubt.ids.len() == 1);
    assert!(!in_doubt.unidentified);

    provider.serve_cards(vec![unreadable]);
    let fetched = feed.fetch(&FetchRequest::Everything, now()).await;
    assert!(
        matches!(fetched, Err(FeedError::BadAnswer(_))),
        "{fetched:?}"
    );
}

#[tokio::test]
async fn invalid_settings_are_refused_before_a_request() {
    let provider = RacingProvider::start().await;
    let good = feed_settings(&provider);
    assert!(!format!("{good:?}").contains(PASSWORD));
    let mut plain_http = good.clone();
    plain_http.base_url = "http://api.theracingapi.com/v1".into();
    let mut no_rate = good.clone();
    no_rate.races_per_second = 0.0;
    let mut large_page = good.clone();
    large_page.page_limit = 501;
    let mut no_days = good;
    no_days.days = 0;
    for (settings, says) in [
        (plain_http, "https://"),
        (no_rate, "a rate of 0"),
        (large_page, "1 to 500"),
        (no_days, "0 days"),
    ] {
        let error = RacingApi::new(settings).err().expect("refused").to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[tokio::test]
async fn key_in_the_query_is_sent_and_never_printed() {
    let provider = provider_with_races().await;
    let base: oddsd_feeds::http::Url = provider.base_url().parse().expect("a URL");
    let words = ProviderInfo {
        name: "The Provider",
        credentials: "SOME_KEY",
        deadline: Duration::from_secs(20),
    };
    let door = ProviderClient::new(words, &base).expect("a client");
    let key = PASSWORD.to_owned().into();
    let auth = Auth::Query {
        name: "apiKey",
        key: &key,
    };
    // The stand-in requires Basic credentials: each request fails, and the key was sent with it.
    for fault in [RacingFault::Status(200), RacingFault::Refuse] {
        provider.fault(fault).await;
        let error = door.get(base.clone(), auth, None, now()).await;
        let error = error.expect_err("refused");
        let reported = format!("{error} {error:?}");
        assert!(
            !reported.contains(PASSWORD) && !reported.contains("apiKey"),
            "{reported}"
        );
        assert!(
            reported.contains("The Provider at 127.0.0.1/v1"),
            "{reported}"
        );
    }
    let query = &provider.requests()[0].query;
    assert_eq!(*query, format!("apiKey={PASSWORD}"));
}
