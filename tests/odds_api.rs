//! The Odds API's client against a provider that does what providers do: answers, refuses, breaks
//! off, runs out of credits, and repeats the key it was given.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use oddsd::feed::odds_api::{OddsApi, OddsFormat, Quota, Settings, parse_odds};
use oddsd::feed::{Ask, FeedError};
use oddsd::model::Scope;
use secrecy::SecretString;

use crate::world::PATIENCE;
use crate::world::odds_provider::{OddsProvider, Reply};
use crate::world::ports::free_port;

const CANARY: &str = "c4nary5ecret0000key1111";

const GAMES: &str = r#"[{"id":"g1","sport_key":"basketball_wnba","sport_title":"WNBA",
"commence_time":"2026-08-05T00:00:00Z","home_team":"Lynx","away_team":"Aces","bookmakers":[
{"key":"draftkings","title":"DraftKings","last_update":"2026-08-04T11:59:00Z","markets":[
{"key":"h2h","last_update":"2026-08-04T11:58:00Z","outcomes":[{"name":"Lynx","price":1.80},{"name":"Aces","price":2.05}]},
{"key":"spreads","outcomes":[{"name":"Lynx","price":1.91,"point":-2.5},{"name":"Aces","price":1.91,"point":2.5}]}]}]}]"#;

fn now() -> DateTime<Utc> {
    "2026-08-04T12:00:00Z".parse().expect("valid")
}

fn settings(url: &str) -> Settings {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Settings {
        base_url: url.to_owned(),
        api_key: SecretString::from(CANARY),
        sport: "basketball_wnba".into(),
        regions: vec!["us".into(), "uk".into()],
        markets: vec!["h2h".into(), "spreads".into()],
        odds_format: OddsFormat::Decimal,
        deadline: PATIENCE,
        quota_floor: 0,
        keep_bodies: true,
    }
}

fn credits(reply: Reply, remaining: &str) -> Reply {
    reply
        .with("x-requests-remaining", remaining)
        .with("x-requests-used", 2)
        .with("x-requests-last", 4)
}

#[tokio::test]
async fn a_league_is_one_call_that_tells_what_it_cost() {
    let provider = OddsProvider::start().await;
    let mut feed = OddsApi::new(settings(&provider.url)).expect("settings");
    assert_eq!(feed.quota(), None);
    provider.next(credits(Reply::says(200, GAMES), "498.0"));
    let fetched = feed.fetch(&Ask::Everything, now()).await.expect("answers");
    assert_eq!(
        provider.asked(),
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
    assert!(snapshot.rejects.is_empty(), "{}", snapshot.rejects);
    let game = &snapshot.events[0];
    assert_eq!(game.event.name, "Aces @ Lynx");
    assert_eq!(game.event.sport, "basketball");
    let prices: Vec<String> = game
        .prices
        .iter()
        .map(|price| {
            let offer = price.offer.as_ref().expect("offered");
            let point = offer.point.map_or(String::new(), |p| format!(" {p}"));
            let at = price.observed_at.format("%H:%M");
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

    provider.next(Reply::says(200, "[]"));
    let ask = Ask::Events(vec!["g1".into(), "g2".into()]);
    let fetched = feed.fetch(&ask, now()).await.expect("answers");
    assert!(provider.asked()[1].contains("eventIds=g1%2Cg2"));
    let ids = vec!["g1".into(), "g2".into()];
    assert_eq!(fetched.snapshot.scope, Scope::Events(ids));
}

/// Everything that is logged on this thread, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn every_fault_has_its_name_and_none_tells_the_key() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    tracing::trace!("the log is on");
    let message = |text: &str| format!(r#"{{"message":"{text} {CANARY}","error_code":"{text}"}}"#);
    let html = format!("<html>{CANARY}</html>");
    let faults = [
        ("unauthorized", Reply::says(401, message("INVALID_KEY"))),
        ("unauthorized", Reply::says(403, html.clone())),
        (
            "rate_limited",
            Reply::says(401, message("OUT_OF_USAGE_CREDITS")),
        ),
        (
            "rate_limited",
            Reply::says(429, message("EXCEEDED_FREQ_LIMIT")).with("retry-after", 7),
        ),
        ("bad_request", Reply::says(422, message("INVALID_MARKET"))),
        ("not_found", Reply::says(404, message("UNKNOWN_SPORT"))),
        ("server_error", Reply::says(503, html.clone())),
        ("bad_answer", Reply::says(200, html)),
        ("bad_answer", Reply::says(200, &GAMES[..300])),
        ("bad_answer", Reply::says(200, message("sorry"))),
        ("bad_answer", Reply::says(200, format!(r#"["{CANARY}"#))),
        ("bad_answer", Reply::says(200, format!(r#"["{CANARY}"]"#))),
        (
            "bad_answer",
            Reply::says(302, "").with("location", format!("/v4?apiKey={CANARY}")),
        ),
        ("bad_answer", Reply::says(200, "")),
        ("unreachable", Reply::BreaksOff),
        ("unreachable", Reply::Silent),
    ];
    for (outcome, reply) in faults {
        // One for each: who gives up soon may leave a question behind that is heard late.
        let provider = OddsProvider::start().await;
        let mut settings = settings(&provider.url);
        if matches!(reply, Reply::Silent) {
            settings.deadline = Duration::from_millis(100);
        }
        let mut feed = OddsApi::new(settings).expect("settings");
        provider.next(reply.clone());
        let result = feed.fetch(&Ask::Everything, now()).await;
        let error = result.expect_err("no answer");
        assert_eq!(error.outcome(), outcome, "{reply:?}: {error}");
        for text in [error.to_string(), format!("{error:?}"), format!("{feed:?}")] {
            assert!(!text.contains(CANARY), "{text}");
        }
    }

    // Nobody listens.
    let closed = settings(&format!("http://127.0.0.1:{}", free_port()));
    let mut nobody = OddsApi::new(closed).expect("settings");
    let error = nobody
        .fetch(&Ask::Everything, now())
        .await
        .expect_err("closed");
    assert_eq!(error.outcome(), "unreachable");
    assert!(!format!("{error} {error:?}").contains(CANARY), "{error}");

    // A good answer that repeats the key: neither rows, samples nor recorded bodies keep it.
    let games = GAMES.strip_suffix(']').expect("a list");
    let provider = OddsProvider::start().await;
    let mut feed = OddsApi::new(settings(&provider.url)).expect("settings");
    provider.next(Reply::says(
        200,
        format!(r#"{games},"{CANARY}",{{"id":"{CANARY}","sport_key":"{CANARY}"}}]"#),
    ));
    let fetched = feed.fetch(&Ask::Everything, now()).await.expect("a list");
    assert_eq!(fetched.snapshot.rejects.total(), 2);
    assert!(!format!("{fetched:?}").contains(CANARY));

    let log = String::from_utf8_lossy(&log.0.lock().expect("lock")).into_owned();
    assert!(
        log.contains("the log is on") && !log.contains(CANARY),
        "{log}"
    );
}

#[tokio::test]
async fn spent_credits_are_not_asked_for() {
    let provider = OddsProvider::start().await;
    let mut settings = settings(&provider.url);
    settings.quota_floor = 10;
    let mut feed = OddsApi::new(settings).expect("settings");
    provider.next(credits(Reply::says(200, GAMES), "10"));
    feed.fetch(&Ask::Everything, now())
        .await
        .expect("the last one");

    let later = |minutes| now() + TimeDelta::minutes(minutes);
    let refused = |error: FeedError| match error {
        FeedError::RateLimited { retry_after, .. } => retry_after.map(|wait| wait.as_secs() / 60),
        other => panic!("{other}"),
    };
    let error = feed
        .fetch(&Ask::Everything, later(20))
        .await
        .expect_err("spent");
    assert_eq!(refused(error), Some(40));
    assert_eq!(provider.asked().len(), 1);

    // An hour later the free list of sports tells that there are still none …
    provider.next(credits(Reply::says(200, "[]"), "10"));
    let error = feed
        .fetch(&Ask::Everything, later(61))
        .await
        .expect_err("spent");
    assert_eq!(refused(error), Some(60));
    // … and another hour later that the month is new.
    provider.next(credits(Reply::says(200, "[]"), "500"));
    provider.next(credits(Reply::says(200, GAMES), "496"));
    feed.fetch(&Ask::Everything, later(122))
        .await
        .expect("credits");
    let asked = provider.asked();
    assert_eq!(asked.len(), 4);
    assert!(asked[1].starts_with("/v4/sports?") && asked[2].starts_with("/v4/sports?"));

    // A refusal for want of credits counts as much as the header does.
    provider.next(Reply::says(
        401,
        r#"{"message":"Usage quota has been reached."}"#,
    ));
    let error = feed
        .fetch(&Ask::Everything, later(123))
        .await
        .expect_err("spent");
    assert_eq!(refused(error), Some(60));
    let error = feed
        .fetch(&Ask::Everything, later(124))
        .await
        .expect_err("spent");
    assert_eq!(refused(error), Some(59));
    assert_eq!(provider.asked().len(), 5);
}

#[test]
fn a_bad_row_costs_itself() {
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
    // This bookmaker's clock is ahead of ours: it is now, not tomorrow.
    let body = format!(
        r#"[{{"id":"g1","sport_key":"soccer_epl","sport_title":"EPL","home_team":"Leeds","away_team":"Hull","bookmakers":[
{{"key":"bovada","title":"","last_update":"2026-08-05T12:00:00Z","markets":[{{"key":"h2h","outcomes":[{}]}},7]}},{{"key":" "}},
{{"key":"Bovada","title":"again","last_update":"2026-08-04T11:00:00Z","markets":[{{"key":"h2h","last_update":"2026-08-04T12:01:00Z","outcomes":[{{"name":"Home","price":-130}}]}}]}}]}},
{{"id":"g2","sport_key":"tennis_atp"}},{{"id":"g1","sport_key":"soccer_epl","bookmakers":[]}}]"#,
        outcomes.join(",")
    );
    let parsed = parse_odds(&body, now(), "soccer_epl", OddsFormat::American).expect("a list");
    assert_eq!(
        parsed.scope("soccer_epl"),
        Scope::League("soccer_epl".into())
    );
    assert!(!parsed.events[0].complete);
    let prices: Vec<String> = parsed.events[0]
        .prices
        .iter()
        .map(|price| {
            let offer = price.offer.as_ref().expect("offered");
            let exact = offer.fractional.map_or("-".into(), |f| f.to_string());
            format!(
                "{} {exact} {}",
                price.key.selection,
                price.observed_at.format("%d %H:%M")
            )
        })
        .collect();
    assert_eq!(
        prices,
        ["Home 10/13 04 12:01", "A. Wilson / Over 3/2 04 12:00"]
    );
    assert_eq!(parsed.events[0].event.name, "Leeds v Hull");
    let reasons: Vec<(&str, u64)> = parsed
        .rejects
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
    assert_eq!(parsed.prices_seen, 2 + parsed.rejects.total());

    // Who cannot be read cannot be known to be gone.
    let body = body.replace(r#""id":"g2""#, r#""id":2"#);
    let parsed = parse_odds(&body, now(), "soccer_epl", OddsFormat::American).expect("a list");
    assert_eq!(parsed.scope("soccer_epl"), Scope::Listed);
}
