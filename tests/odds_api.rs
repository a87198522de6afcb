//! Tests of The Odds API feed against a provider that answers, refuses, breaks off, runs out of credits, and
//! echoes the key.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use oddsd_core::diff::CollectingSink;
use oddsd_core::model::{EventId, Scope};
use oddsd_feeds::odds_api::{OddsApi, OddsApiSettings, OddsFormat, Quota, parse_odds};
use oddsd_feeds::recording::{RecordedFeed, Recorder};
use oddsd_feeds::replay::Replay;
use oddsd_feeds::{Feed, FeedError, FetchRequest, FetchResult};
use secrecy::SecretString;

use crate::harness::event_sink::RecordingSink;
use oddsd_testkit::WAIT_LIMIT;
use oddsd_testkit::log::CapturedLog;
use oddsd_testkit::odds_provider::{OddsProvider, OddsReply};
use oddsd_testkit::ports::free_port;
use oddsd_testkit::recordings;

const CANARY: &str = "c4nary5ecret0000key1111";

const GAMES: &str = r#"[{"id":"g1","sport_key":"basketball_wnba","sport_title":"WNBA",
"commence_time":"2026-08-05T00:00:00Z","home_team":"Lynx","away_team":"Aces","bookmakers":[
{"key":"draftkings","title":"DraftKings","last_update":"2026-08-04T11:59:00Z","markets":[
{"key":"h2h","last_update":"2026-08-04T11:58:00Z","outcomes":[{"name":"Lynx","price":1.80},{"name":"Aces","price":2.05}]},
{"key":"spreads","outcomes":[{"name":"Lynx","price":1.91,"point":-2.5},{"name":"Aces","price":1.91,"point":2.5}]}]}]}]"#;

fn now() -> DateTime<Utc> {
    "2026-08-04T12:00:00Z".parse().expect("valid")
}

fn settings(url: &str) -> OddsApiSettings {
    let _ = rustls::crypto::ring::default_provider().install_default();
    OddsApiSettings {
        base_url: url.to_owned(),
        api_key: SecretString::from(CANARY),
        sports: vec!["basketball_wnba".into()],
        regions: vec!["us".into(), "uk".into()],
        markets: vec!["h2h".into(), "spreads".into()],
        odds_format: OddsFormat::Decimal,
        deadline: WAIT_LIMIT,
        quota_floor: 0,
        keep_bodies: true,
    }
}

fn credits(reply: OddsReply, remaining: &str) -> OddsReply {
    reply
        .with("x-requests-remaining", remaining)
        .with("x-requests-used", 2)
        .with("x-requests-last", 4)
}

async fn fetch(
    feed: &mut OddsApi,
    ask: &FetchRequest,
    now: DateTime<Utc>,
) -> Result<FetchResult, FeedError> {
    let mut events = CollectingSink::default();
    let summary = feed.read(ask, now, &mut events).await?;
    Ok(summary.with_events(events))
}

#[tokio::test]
async fn league_is_one_request_with_its_cost() {
    let provider = OddsProvider::start().await;
    let mut feed = OddsApi::new(settings(&provider.url)).expect("settings");
    assert_eq!(feed.quota(), None);
    provider.push_reply(credits(OddsReply::complete(200, GAMES), "498.0"));
    let fetched = fetch(&mut feed, &FetchRequest::Everything, now())
        .await
        .expect("answers");
    assert_eq!(
        provider.requests(),
        [format!(
            "/v4/sports/basketball_wnba/odds?regions=us%2Cuk&markets=h2h%2Cspreads&oddsFormat=decimal&dateFormat=iso&apiKey={CANARY}"
        )]
    );
    let quota = Quota {
        remaining: 498,
        used: Some(2),
        last: Some(4),
    };
    assert_eq!(feed.quota(), Some(quota));
    let snapshot = fetched.snapshot;
    assert_eq!(snapshot.scope, Scope::League("basketball_wnba".into()));
    assert!(snapshot.rejected.is_empty(), "{}", snapshot.rejected);
    let game = &snapshot.events[0];
    assert_eq!(game.event.name, "Aces @ Lynx");
    assert_eq!(game.event.sport, "basketball");
    let prices: Vec<String> = game
        .prices
        .iter()
        .map(|price| {
            let offer = price.offer.as_ref().expect("offered");
            let point = offer.point.map_or(String::new(), |p| format!(" {p}"));
            let at = price.observed_at.expect("a time").format("%H:%M");
            format!(
                "{} {}{point} {} {at}",
                price.key.market, price.key.selection, offer.decimal
            )
        })
        .collect();
    assert_eq!(
        prices,
        [
            "h2h Lynx 1.8 11:58",
            "h2h Aces 2.05 11:58",
            "spreads Lynx -2.5 1.91 11:59",
            "spreads Aces 2.5 1.91 11:59"
        ]
    );

    provider.push_reply(OddsReply::complete(200, "[]"));
    let ask = FetchRequest::Events(vec!["g1".into(), "g2".into()]);
    let fetched = fetch(&mut feed, &ask, now()).await.expect("answers");
    assert!(provider.requests()[1].contains("eventIds=g1%2Cg2"));
    let ids = vec!["g1".into(), "g2".into()];
    assert_eq!(fetched.snapshot.scope, Scope::Events(ids));
}

#[tokio::test]
async fn faults_map_to_their_error_kinds_without_the_key() {
    let (log, _logging) = CapturedLog::start();
    tracing::trace!("the log is on");
    let message = |text: &str| format!(r#"{{"message":"{text} {CANARY}","error_code":"{text}"}}"#);
    let html = format!("<html>{CANARY}</html>");
    let faults = [
        (
            "unauthorized",
            OddsReply::complete(401, message("INVALID_KEY")),
        ),
        ("unauthorized", OddsReply::complete(403, html.clone())),
        (
            "rate_limited",
            OddsReply::complete(401, message("OUT_OF_USAGE_CREDITS")),
        ),
        (
            "rate_limited",
            OddsReply::complete(429, message("EXCEEDED_FREQ_LIMIT")).with("retry-after", 7),
        ),
        (
            "bad_request",
            OddsReply::complete(422, message("INVALID_MARKET")),
        ),
        (
            "not_found",
            OddsReply::complete(404, message("UNKNOWN_SPORT")),
        ),
        ("server_error", OddsReply::complete(503, html.clone())),
        ("bad_answer", OddsReply::complete(200, html)),
        ("bad_answer", OddsReply::complete(200, &GAMES[..300])),
        ("bad_answer", OddsReply::complete(200, message("sorry"))),
        (
            "bad_answer",
            OddsReply::complete(200, format!(r#"["{CANARY}"#)),
        ),
        (
            "bad_answer",
            OddsReply::complete(200, format!(r#"["{CANARY}"]"#)),
        ),
        (
            "bad_answer",
            OddsReply::complete(302, "").with("location", format!("/v4?apiKey={CANARY}")),
        ),
        ("bad_answer", OddsReply::complete(200, "")),
        ("bad_answer", OddsReply::complete(200, "null")),
        ("unreachable", OddsReply::Truncated),
        ("unreachable", OddsReply::Hang),
    ];
    for (outcome, reply) in faults {
        // One provider for each: a request that timed out may still arrive late.
        let provider = OddsProvider::start().await;
        let mut settings = settings(&provider.url);
        if matches!(reply, OddsReply::Hang) {
            settings.deadline = Duration::from_millis(100);
        }
        let mut feed = OddsApi::new(settings).expect("settings");
        provider.push_reply(reply.clone());
        let result = fetch(&mut feed, &FetchRequest::Everything, now()).await;
        let error = result.expect_err("no answer");
        assert_eq!(error.outcome(), outcome, "{reply:?}: {error}");
        for text in [error.to_string(), format!("{error:?}"), format!("{feed:?}")] {
            assert!(!text.contains(CANARY), "{text}");
        }
    }

    // Nothing listens on this port.
    let closed = settings(&format!("http://127.0.0.1:{}", free_port()));
    let mut closed_port = OddsApi::new(closed).expect("settings");
    let error = fetch(&mut closed_port, &FetchRequest::Everything, now())
        .await
        .expect_err("closed");
    assert_eq!(error.outcome(), "unreachable");
    assert!(!format!("{error} {error:?}").contains(CANARY), "{error}");

    // A good answer that repeats the key: neither rows, samples nor recorded bodies keep it.
    let games = GAMES.strip_suffix(']').expect("a list");
    let provider = OddsProvider::start().await;
    let mut feed = OddsApi::new(settings(&provider.url)).expect("settings");
    provider.push_reply(OddsReply::complete(
        200,
        format!(r#"{games},"{CANARY}",{{"id":"{CANARY}","sport_key":"{CANARY}"}}]"#),
    ));
    let fetched = fetch(&mut feed, &FetchRequest::Everything, now())
        .await
        .expect("a list");
    assert_eq!(fetched.snapshot.rejected.total(), 2);
    assert!(!format!("{fetched:?}").contains(CANARY));

    let log = log.text();
    assert!(
        log.contains("the log is on") && !log.contains(CANARY),
        "{log}"
    );
}

#[tokio::test]
async fn exhausted_quota_stops_requests() {
    let provider = OddsProvider::start().await;
    let mut settings = settings(&provider.url);
    settings.quota_floor = 10;
    let mut feed = OddsApi::new(settings).expect("settings");
    provider.push_reply(credits(OddsReply::complete(200, GAMES), "10"));
    fetch(&mut feed, &FetchRequest::Everything, now())
        .await
        .expect("the last one");

    let later = |minutes| now() + TimeDelta::minutes(minutes);
    let refused = |error: FeedError| match error {
        FeedError::RateLimited { retry_after, .. } => retry_after.map(|wait| wait.as_secs() / 60),
        other => panic!("{other}"),
    };
    let error = fetch(&mut feed, &FetchRequest::Everything, later(20))
        .await
        .expect_err("spent");
    assert_eq!(refused(error), Some(40));
    assert_eq!(provider.requests().len(), 1);

    // An hour later the free list of sports still shows no credits …
    provider.push_reply(credits(OddsReply::complete(200, "[]"), "10"));
    let error = fetch(&mut feed, &FetchRequest::Everything, later(61))
        .await
        .expect_err("spent");
    assert_eq!(refused(error), Some(60));
    // … and another hour later the new month's credits.
    provider.push_reply(credits(OddsReply::complete(200, "[]"), "500"));
    provider.push_reply(credits(OddsReply::complete(200, GAMES), "496"));
    fetch(&mut feed, &FetchRequest::Everything, later(122))
        .await
        .expect("credits");
    let asked = provider.requests();
    assert_eq!(asked.len(), 4);
    assert!(asked[1].starts_with("/v4/sports?") && asked[2].starts_with("/v4/sports?"));

    // A refusal for want of credits counts as much as the header does.
    provider.push_reply(OddsReply::complete(
        401,
        r#"{"message":"Usage quota has been reached."}"#,
    ));
    let error = fetch(&mut feed, &FetchRequest::Everything, later(123))
        .await
        .expect_err("spent");
    assert_eq!(refused(error), Some(60));
    let error = fetch(&mut feed, &FetchRequest::Everything, later(124))
        .await
        .expect_err("spent");
    assert_eq!(refused(error), Some(59));
    assert_eq!(provider.requests().len(), 5);
}

/// A negative number of credits is none, and without a number there is no limit.
#[tokio::test]
async fn remaining_credits_are_read_in_every_form() {
    for (remaining, expected) in [
        ("498.0", Some(498)),
        ("1", Some(1)),
        ("0", Some(0)),
        ("0.0", Some(0)),
        ("-3", Some(0)),
        ("-3.0", Some(0)),
        ("99999999999999999999999", Some(u64::MAX)),
        ("", None),
        ("many", None),
    ] {
        let provider = OddsProvider::start().await;
        let mut feed = OddsApi::new(settings(&provider.url)).expect("settings");
        let answer = OddsReply::complete(200, GAMES).with("x-requests-remaining", remaining);
        let answer = answer
            .with("x-requests-used", "-2")
            .with("x-requests-last", "4.0");
        provider.push_reply(answer);
        provider.push_reply(OddsReply::complete(200, GAMES));
        let all = FetchRequest::Everything;
        fetch(&mut feed, &all, now()).await.expect("the first one");
        let expected = expected.map(|remaining| Quota {
            remaining,
            used: Some(0),
            last: Some(4),
        });
        assert_eq!(feed.quota(), expected, "{remaining:?}");
        let second = fetch(&mut feed, &all, now()).await;
        let is_spent = expected.is_some_and(|quota| quota.remaining == 0);
        assert_eq!(second.is_err(), is_spent, "{remaining:?}");
        let requests = if is_spent { 1 } else { 2 };
        assert_eq!(provider.requests().len(), requests, "{remaining:?}");
    }
}

fn several(url: &str) -> OddsApiSettings {
    let sports = ["upcoming", "basketball_wnba", "soccer_epl"];
    OddsApiSettings {
        sports: sports.map(String::from).into(),
        ..settings(url)
    }
}

fn found(fetched: &FetchResult) -> Vec<(&str, &str)> {
    let events = fetched.snapshot.events.iter();
    events
        .map(|e| (e.event.id.as_str(), e.event.league.as_str()))
        .collect()
}

/// Each sport key is one paid request. An event of a league is taken from its own answer, and once.
#[tokio::test]
async fn several_sports_are_one_answer() {
    let provider = OddsProvider::start().await;
    let mut feed = OddsApi::new(several(&provider.url)).expect("settings");
    let soccer = GAMES
        .replace("basketball_wnba", "soccer_epl")
        .replace("g1", "g2");
    let tennis = GAMES
        .replace("basketball_wnba", "tennis_atp")
        .replace("g1", "g3");
    let items = |list: &str| list[1..list.len() - 1].to_owned();
    let upcoming = format!("[{},{},{}]", items(&soccer), items(&tennis), items(GAMES));
    for (body, left) in [(GAMES, "96"), (&*soccer, "92"), (&*upcoming, "88")] {
        provider.push_reply(credits(OddsReply::complete(200, body), left));
    }
    let fetched = fetch(&mut feed, &FetchRequest::Everything, now()).await;
    let fetched = fetched.expect("answers");
    let asked: Vec<_> = provider.requests();
    let asked: Vec<_> = asked
        .iter()
        .filter_map(|url| url.split('/').nth(3))
        .collect();
    assert_eq!(asked, ["basketball_wnba", "soccer_epl", "upcoming"]);
    let expected = [
        ("g1", "basketball_wnba"),
        ("g2", "soccer_epl"),
        ("g3", "tennis_atp"),
    ];
    assert_eq!(found(&fetched), expected);
    let leagues = ["basketball_wnba", "soccer_epl", "upcoming"];
    let scope = Scope::Leagues(leagues.map(String::from).into());
    assert_eq!(fetched.snapshot.scope, scope);
    assert!(fetched.snapshot.rejected.is_empty());
    let quota = Quota {
        remaining: 88,
        used: Some(2),
        last: Some(12),
    };
    assert_eq!(feed.quota(), Some(quota));
    assert_eq!(feed.failed_sports(), []);

    // A recording of the answer says the same.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("answers.jsonl");
    let mut recorder = Recorder::create(&path).expect("creates");
    let bodies = &fetched.bodies;
    let written = recorder.write(RecordedFeed::OddsApi, now(), &scope, bodies);
    written.expect("writes");
    let mut replay = Replay::open(&path).expect("opens");
    let replayed = replay.next().expect("reads").expect("a record");
    assert_eq!(replayed.snapshot, Some(fetched.snapshot));
}

/// An event that is known is skipped in its own answer, and left out of the others.
#[tokio::test]
async fn known_game_of_several_sports_is_skipped() {
    let provider = OddsProvider::start().await;
    let mut settings = several(&provider.url);
    settings.keep_bodies = false;
    let mut feed = Feed::OddsApi(Box::new(OddsApi::new(settings).expect("settings")));
    let mut taker = RecordingSink::default();
    for expected in [(1, 0), (0, 1)] {
        for body in [GAMES, "[]", GAMES] {
            provider.push_reply(OddsReply::complete(200, body));
        }
        let look = taker
            .fetch(&mut feed, &FetchRequest::Everything, now())
            .await;
        assert!(look.expect("a list").rejected.is_empty());
        assert_eq!(taker.read_and_same(), expected);
    }
}

/// A sport key that fails costs neither the others nor its own stored rows.
#[tokio::test]
async fn failed_sport_is_left_out_of_the_scope() {
    let (wnba, epl) = ("basketball_wnba", "soccer_epl");
    let message = r#"{"message":"no"}"#;
    let ok = || OddsReply::complete(200, GAMES);
    let none = || OddsReply::complete(200, "[]");
    let broken = |status| OddsReply::complete(status, message);
    let leagues = |names: &[&str]| Scope::Leagues(names.iter().map(|n| (*n).to_owned()).collect());
    let league = |name: &str| Scope::League(name.to_owned());
    let cases = [
        (
            vec![ok(), broken(500), none()],
            Ok(leagues(&[wnba, "upcoming"])),
            vec![(epl, "server_error")],
        ),
        (
            vec![ok(), broken(404), none()],
            Ok(leagues(&[wnba, "upcoming"])),
            vec![(epl, "not_found")],
        ),
        (
            vec![ok(), OddsReply::Truncated, none()],
            Ok(leagues(&[wnba, "upcoming"])),
            vec![(epl, "unreachable")],
        ),
        (
            vec![ok(), broken(200), broken(503)],
            Ok(league(wnba)),
            vec![("upcoming", "server_error"), (epl, "bad_answer")],
        ),
        (
            vec![ok(), OddsReply::complete(200, "[7]"), none()],
            Ok(leagues(&[wnba, "upcoming"])),
            vec![(epl, "bad_answer")],
        ),
        // The next one would be refused as well.
        (
            vec![ok(), broken(429)],
            Ok(league(wnba)),
            vec![(epl, "rate_limited")],
        ),
        (
            vec![ok(), broken(401)],
            Ok(league(wnba)),
            vec![(epl, "unauthorized")],
        ),
        (
            vec![broken(503), none(), none()],
            Ok(leagues(&[epl, "upcoming"])),
            vec![(wnba, "server_error")],
        ),
        (
            vec![broken(503), broken(404), broken(500)],
            Err("server_error"),
            vec![],
        ),
        (vec![broken(503), broken(401)], Err("unauthorized"), vec![]),
        (vec![broken(429)], Err("rate_limited"), vec![]),
    ];
    for (n, (replies, expected, failed)) in cases.into_iter().enumerate() {
        let provider = OddsProvider::start().await;
        let mut feed = OddsApi::new(several(&provider.url)).expect("settings");
        let requests = replies.len();
        for reply in replies {
            provider.push_reply(reply);
        }
        let result = fetch(&mut feed, &FetchRequest::Everything, now()).await;
        let scope = result.map(|fetched| fetched.snapshot.scope);
        let scope = scope.map_err(|error| error.outcome());
        assert_eq!(scope, expected, "case {n}");
        let left_out = feed.failed_sports().iter();
        let left_out: Vec<_> = left_out
            .map(|(sport, why)| (&**sport, why.outcome()))
            .collect();
        assert_eq!(left_out, failed, "case {n}");
        assert_eq!(provider.requests().len(), requests, "case {n}");
    }
}

/// A wait that is announced beside answers that are used holds for the next fetch.
#[tokio::test]
async fn wait_announced_for_one_sport_holds_for_all() {
    let provider = OddsProvider::start().await;
    let mut feed = OddsApi::new(several(&provider.url)).expect("settings");
    let all = FetchRequest::Everything;
    provider.push_reply(OddsReply::complete(200, GAMES));
    provider.push_reply(OddsReply::complete(429, "{}").with("retry-after", "60.0"));
    fetch(&mut feed, &all, now()).await.expect("one league");
    let error = fetch(&mut feed, &all, now() + TimeDelta::seconds(45)).await;
    let FeedError::RateLimited { retry_after, .. } = error.expect_err("too early") else {
        panic!("another failure");
    };
    assert_eq!(retry_after, Some(Duration::from_secs(15)));
    assert_eq!(provider.requests().len(), 2);
    for body in [GAMES, "[]", "[]"] {
        provider.push_reply(OddsReply::complete(200, body));
    }
    let later = now() + TimeDelta::seconds(60);
    fetch(&mut feed, &all, later).await.expect("answers");
    assert_eq!(feed.failed_sports(), []);

    // Once the credits are spent, the other sport keys are not asked for.
    provider.push_reply(credits(OddsReply::complete(200, GAMES), "0"));
    let fetched = fetch(&mut feed, &all, later).await.expect("one league");
    let league = Scope::League("basketball_wnba".into());
    assert_eq!(fetched.snapshot.scope, league);
    assert_eq!(provider.requests().len(), 6);
}

/// The announced end may be of a clock that was an hour ahead.
#[tokio::test]
async fn announced_wait_ends_when_the_clock_is_set_back() {
    let provider = OddsProvider::start().await;
    let mut feed = OddsApi::new(several(&provider.url)).expect("settings");
    let all = FetchRequest::Everything;
    provider.push_reply(OddsReply::complete(200, GAMES));
    provider.push_reply(OddsReply::complete(429, "{}").with("retry-after", "60"));
    let ahead = now() + TimeDelta::hours(1);
    fetch(&mut feed, &all, ahead).await.expect("one league");
    for body in [GAMES, "[]", "[]"] {
        provider.push_reply(OddsReply::complete(200, body));
    }
    fetch(&mut feed, &all, now()).await.expect("answers");
}

#[test]
fn malformed_row_is_rejected_alone() {
    let outcomes = [
        r#"{"name":"Home","price":-110}"#,
        r#"{"name":"Home","price":-120}"#,
        r#"{"name":"Away","price":99}"#,
        r#"{"name":"Away","price":"+150"}"#,
        r#"{"name":"Away","price":1.5}"#,
        r#"{"name":"Away","price":150,"point":"x"}"#,
        r#"{"name":" ","price":150}"#,
        r#"{"name":"Over","description":"A. Wilson","price":150.0,"point":22.50}"#,
        r#"{"price":150}"#,
        "7",
    ];
    // This bookmaker's clock is ahead: its time says nothing.
    let body = format!(
        r#"[{{"id":"g1","sport_key":"soccer_epl","sport_title":"EPL","home_team":"Leeds","away_team":"Hull","bookmakers":[
{{"key":"bovada","title":"","last_update":"2026-08-05T12:00:00Z","markets":[{{"key":"h2h","outcomes":[{}]}},7]}},{{"key":" ","markets":[7]}},
{{"key":"Bovada","title":"again","last_update":"2026-08-04T11:00:00Z","markets":[{{"key":"h2h","last_update":"2026-08-04T12:01:00Z","outcomes":[{{"name":"Home","price":-130}}]}}]}}]}},
{{"id":"g2","sport_key":"tennis_atp"}},{{"id":"g1","sport_key":"soccer_epl","bookmakers":[]}}]"#,
        outcomes.join(",")
    );
    let parsed = parse_odds(&body, now(), "soccer_epl", OddsFormat::American).expect("a list");
    assert_eq!(
        parsed.scope("soccer_epl"),
        Scope::League("soccer_epl".into())
    );
    assert!(parsed.events[0].complete);
    assert_eq!(parsed.events[0].in_doubt.len(), 9);
    let prices: Vec<String> = parsed.events[0]
        .prices
        .iter()
        .map(|price| {
            let offer = price.offer.as_ref().expect("offered");
            let exact = offer.fractional.map_or("-".into(), |f| f.to_string());
            format!(
                "{} {exact} {}",
                price.key.selection,
                price
                    .observed_at
                    .map_or("-".into(), |at| at.format("%d %H:%M").to_string())
            )
        })
        .collect();
    assert_eq!(prices, ["Home 10/13 04 12:01", "A. Wilson / Over 3/2 -"]);
    assert_eq!(parsed.events[0].event.name, "Leeds v Hull");
    let reasons: Vec<(&str, u64)> = parsed
        .rejected
        .by_reason
        .iter()
        .map(|(reason, reject)| (*reason, reject.rows))
        .collect();
    assert_eq!(
        reasons,
        [
            ("bad_price", 3),
            ("duplicate", 2),
            ("duplicate_event", 1),
            ("no_bookmaker", 1),
            ("no_name", 1),
            ("other_league", 1),
            ("unreadable_market", 1),
            ("unreadable_outcome", 2),
            ("unreadable_point", 1),
        ]
    );
    assert_eq!(parsed.prices_seen, 2 + parsed.rejected.total());

    // A game that cannot be parsed cannot count as removed.
    let body = body.replace(r#""id":"g2""#, r#""id":2"#);
    let parsed = parse_odds(&body, now(), "soccer_epl", OddsFormat::American).expect("a list");
    assert_eq!(parsed.scope("soccer_epl"), Scope::Listed);
}

/// A body with these games, one price each; the first is returned.
fn games(ids: &[&str], first: &str) -> String {
    let game = |(n, id): (usize, &&str)| {
        let price = if n == 0 { first } else { "1.80" };
        format!(
            r#"{{"id":"{id}","sport_key":"basketball_wnba","home_team":"Lynx","bookmakers":[{{"key":"draftkings",
"title":"DraftKings","markets":[{{"key":"h2h","outcomes":[{{"name":"Lynx","price":{price}}}]}}]}}]}}"#
        )
    };
    let games: Vec<String> = ids.iter().enumerate().map(game).collect();
    format!("[{}]", games.join(" ,\n"))
}

fn client(provider: &OddsProvider) -> Feed {
    let mut settings = settings(&provider.url);
    settings.keep_bodies = false;
    Feed::OddsApi(Box::new(OddsApi::new(settings).expect("settings")))
}

#[tokio::test]
async fn known_game_is_skipped() {
    let provider = OddsProvider::start().await;
    let mut feed = client(&provider);
    let mut taker = RecordingSink::default();
    let looks = [
        (games(&["g1", "g2", "g3"], "1.80"), (3, 0)),
        (games(&["g1", "g2", "g3"], "1.80"), (0, 3)),
        (games(&["g1", "g2", "g3"], "1.95"), (1, 2)),
        (games(&["g1", "g3", "g4"], "1.95"), (1, 2)),
        // A rejected row is counted every time.
        (games(&["g1", "g3", "g4"], "\"?\""), (1, 2)),
        (games(&["g1", "g3", "g4"], "\"?\""), (1, 2)),
        (games(&["g1"], "1.95"), (0, 1)),
        ("[]".into(), (0, 0)),
    ];
    for (n, (body, expected)) in looks.into_iter().enumerate() {
        let rejected = u64::from(body.contains('?'));
        provider.push_reply(OddsReply::complete(200, body));
        let look = taker
            .fetch(&mut feed, &FetchRequest::Everything, now())
            .await;
        let look = look.expect("a list");
        assert_eq!(taker.read_and_same(), expected, "look {n}");
        assert_eq!(look.scope, Scope::League("basketball_wnba".into()));
        assert_eq!(look.rejected.total(), rejected, "look {n}");
    }
}

#[tokio::test]
async fn duplicate_game_is_one_game() {
    let provider = OddsProvider::start().await;
    let mut feed = client(&provider);
    let mut taker = RecordingSink::default();
    // The second listing holds a bookmaker that the first does not.
    let twice = games(&["g1", "g2", "g1"], "1.95").replacen("draftkings", "fanduel", 1);
    for look in 1..=2 {
        provider.push_reply(OddsReply::complete(200, twice.clone()));
        let answer = taker
            .fetch(&mut feed, &FetchRequest::Everything, now())
            .await;
        let answer = answer.expect("a list");
        assert_eq!(
            (taker.begun, provider.requests().len()),
            (2, look),
            "read once more, and paid for once"
        );
        assert_eq!(answer.rejected.by_reason["duplicate_event"].rows, 1);
        let game = taker
            .read
            .iter()
            .find(|(game, _)| game.event.id == EventId::new("g1"));
        let (game, may_be_skipped) = game.expect("read");
        assert_eq!(game.prices.len(), 2);
        assert!(!may_be_skipped);
    }
}

#[tokio::test]
async fn key_in_a_game_is_masked_every_time() {
    let provider = OddsProvider::start().await;
    let mut feed = client(&provider);
    let mut taker = RecordingSink::default();
    for _ in 0..2 {
        let body = games(&["g1", "g2"], "1.80").replacen("Lynx", CANARY, 1);
        provider.push_reply(OddsReply::complete(200, body));
        let look = taker
            .fetch(&mut feed, &FetchRequest::Everything, now())
            .await;
        look.expect("a list");
        let masked = taker.read.iter().find(|(game, _)| game.event.name == "***");
        let (_, may_be_skipped) = masked.expect("read again");
        assert!(!may_be_skipped);
        assert!(!format!("{:?}", taker.read).contains(CANARY));
    }
}

/// A field name with an escape sequence is the same name.
#[test]
fn recorded_games_with_escaped_field_names_parse_equally() {
    let test = "recorded_games_with_escaped_field_names_parse_equally";
    let Some(folder) = recordings::folder(test, "odds_api_git_5min") else {
        return;
    };
    let mut replay = Replay::open(folder.join("mlb_2026-08-04.jsonl.zst")).expect("opens");
    for _ in 0..20 {
        let replayed = replay.next().expect("reads").expect("more");
        let body = replayed.bodies.concat();
        let escaped = body.replace("\"sport_key\"", "\"sp\\u006frt_key\"");
        assert_ne!(body, escaped);
        let parse = |body: &str| parse_odds(body, now(), "baseball_mlb", OddsFormat::American);
        assert_eq!(parse(&body), parse(&escaped));
    }
}
