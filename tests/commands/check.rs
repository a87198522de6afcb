//! `check`: all findings at once, each failure with its cause, fix and exit code.

use serde_json::Value;
use sqlx::Connection;

use super::simulated;
use crate::harness::program::{Program, ProgramOutput};
use oddsd_testkit::odds_provider::{OddsProvider, OddsReply};
use oddsd_testkit::ports::free_port;
use oddsd_testkit::postgres;
use oddsd_testkit::racing_provider::{PASSWORD, RacingFault, RacingProvider, USERNAME};
use oddsd_testkit::redis::RedisServer;

/// Invalid settings, and the words that the finding must contain.
type InvalidSettings<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

fn verdicts(ended: &ProgramOutput, what: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let output = ended.json();
    let findings = output["findings"].as_array().expect("findings").iter();
    findings
        .filter(|finding| finding["what"] == what)
        .map(|finding| (text(&finding["verdict"]), text(&finding["says"])))
        .collect()
}

#[tokio::test]
async fn all_servers_up_is_ok() {
    let redis = RedisServer::start().await;
    let oddsd = super::on_postgres().await.with("REDIS_URL", redis.url());
    oddsd.run(&["migrate"]).await.expect_code(0);
    let output = oddsd.run(&["check", "--json"]).await.expect_code(0);
    assert_eq!(output.json()["ok"], true);
    for what in [
        "schedule", "feed", "cache", "listen", "database", "schema", "rights", "clock",
    ] {
        let found = verdicts(&output, what);
        assert!(!found.is_empty(), "{what}: {output}");
        assert!(
            found.iter().all(|(verdict, _)| verdict == "ok"),
            "{what}: {output}"
        );
    }
    // The check changes nothing: no cycle, no lease.
    let status = oddsd.run(&["status", "--json"]).await.expect_code(0).json();
    assert_eq!(status["holder"], Value::Null);
}

#[tokio::test]
async fn what_the_cache_server_cannot_do_is_a_warning() {
    let redis = RedisServer::start().await;
    let oddsd = super::on_postgres().await.with("REDIS_URL", redis.url());
    let warnings = async || {
        let output = oddsd.run(&["check", "--json"]).await.expect_code(0);
        let found = verdicts(&output, "cache").into_iter();
        let found = found.filter(|(verdict, _)| verdict == "warn");
        found.map(|(_, says)| says).collect::<Vec<_>>()
    };
    assert_eq!(warnings().await, [""; 0]);
    for (rights, lost) in [
        ("-info", &["lost its memory"][..]),
        ("-client|tracking", &["each read asks the server"]),
        (
            "-info -client",
            &["lost its memory", "each read asks the server"],
        ),
    ] {
        let user = format!("ACL SETUSER default reset on nopass ~* &* +@all {rights}");
        redis.command(&user.split(' ').collect::<Vec<_>>()).await;
        let found = warnings().await;
        assert_eq!(found.len(), lost.len(), "{rights}: {found:?}");
        for (says, words) in found.iter().zip(lost) {
            assert!(says.contains(words), "{rights}: {says}");
        }
    }
}

#[tokio::test]
async fn check_creates_no_database_file() {
    let oddsd = simulated();
    let output = oddsd.run(&["check"]).await.expect_code(0);
    output.expect_texts(&["oddsd.db does not exist yet", "oddsd run"]);
    assert!(!oddsd.folder().join("oddsd.db").exists());
    let nowhere = simulated().with("DATABASE_URL", "sqlite:not/here/odds.db");
    nowhere
        .run(&["check"])
        .await
        .expect_code(78)
        .expect_texts(&["no folder not/here"]);
}

#[tokio::test]
async fn offline_check_makes_no_connection() {
    let provider = RacingProvider::start().await;
    let unused = free_port();
    let oddsd = Program::new()
        .with("RACING_API_URL", provider.base_url())
        .with("RACING_API_USERNAME", USERNAME)
        .with("RACING_API_PASSWORD", PASSWORD)
        .with(
            "DATABASE_URL",
            format!("postgres://me@127.0.0.1:{unused}/odds"),
        )
        .with("REDIS_URL", format!("redis://127.0.0.1:{unused}"));
    oddsd.run(&["check", "--offline"]).await.expect_code(0);
    assert_eq!(provider.requests().len(), 0);
    oddsd.run(&["check"]).await.expect_code(69);
    assert_eq!(provider.requests().len(), 2, "today and tomorrow");
}

#[tokio::test]
async fn invalid_settings_are_named_with_their_fix() {
    let far = "postgres://me@db.example.com/odds?sslmode=require";
    let wrong: &[InvalidSettings] = &[
        (
            &[("FEED", "racing-api")],
            &["RACING_API_USERNAME and RACING_API_PASSWORD"],
        ),
        (&[("FEED", "odds-api")], &["ODDS_API_KEY"]),
        (
            &[("FEED", "odds-api"), ("ODDS_API_KEY", "k")],
            &["ODDS_API_SPORT", "baseball_mlb"],
        ),
        (
            &[("FEED", "betfair")],
            &["oddsd replay FILE --feed betfair"],
        ),
        (&[("CRON", "every day")], &["CRON", "six are needed"]),
        (
            &[("REDIS_URL", "http://x")],
            &["redis://host:6379", "rediss://"],
        ),
        (
            &[("UPSTASH_REDIS_REST_URL", "https://x")],
            &["UPSTASH_REDIS_REST_TOKEN is empty"],
        ),
        (
            &[
                ("UPSTASH_REDIS_REST_TOKEN", "t"),
                ("UPSTASH_REDIS_REST_URL", "http://x"),
            ],
            &["https://"],
        ),
        (
            &[("DATABASE_URL", "mysql://h/x")],
            &["begins with mysql:", "postgres://", "sqlite:"],
        ),
        (
            &[("DATABASE_URL", "postgres://u:p@h:6543/x")],
            &["6543", "port 5432"],
        ),
        (
            &[("DATABASE_URL", far)],
            &["sslmode=verify-full", "DATABASE_TLS"],
        ),
        (
            &[("DATABASE_URL", "sqlite::memory:")],
            &["sqlite:path/to/file.db"],
        ),
    ];
    for (settings, words) in wrong {
        let mut oddsd = simulated();
        for (name, value) in *settings {
            oddsd.set(name, value);
        }
        let output = oddsd.run(&["check"]).await.expect_code(78);
        output.expect_texts(&["FAIL"]).expect_texts(words);
    }
}

#[tokio::test]
async fn upstash_url_that_is_emptied_beside_its_token_switches_upstash_off() {
    let oddsd = simulated()
        .with("UPSTASH_REDIS_REST_URL", "")
        .with("UPSTASH_REDIS_REST_TOKEN", "t");
    let output = oddsd.run(&["check"]).await.expect_code(0);
    output.expect_texts(&["not configured: answers are cached in the daemon's process"]);
}

/// Nothing listens there: whatever connects would fail.
#[tokio::test]
async fn offline_check_connects_to_nothing_and_reads_every_setting() {
    let closed = "redis://127.0.0.1:1";
    let oddsd = simulated()
        .with("DATABASE_URL", "postgres://trader:canary@127.0.0.1:1/odds")
        .with("REDIS_URL", closed);
    let output = oddsd.run(&["check", "--offline"]).await.expect_code(0);
    let output = output.expect_texts(&[
        "postgres at 127.0.0.1:1, database odds",
        "redis at 127.0.0.1:1",
    ]);
    assert!(
        !output.all().contains("canary") && output.stderr.is_empty(),
        "{output}"
    );
    let online = oddsd.run(&["check"]).await.expect_code(69);
    let online = online.expect_texts(&[
        "postgres at 127.0.0.1:1, database odds: ",
        "Connection refused",
    ]);
    assert!(!online.all().contains("Os {"), "{online}");
    for (name, value, words) in [
        ("DATABASE_URL", "", "DATABASE_URL is not set"),
        ("DATABASE_URL", "  ", "DATABASE_URL is not set"),
        ("DATABASE_URL", "postgres://u:can/ary@h/x", "%2F"),
        ("DATABASE_URL", "postgres://u@a,b/x", "several hosts"),
        ("REDIS_URL", "redis://:can/ary@h", "%2F"),
        ("REDIS_URL", "http://h", "REDIS_URL must begin with"),
        ("LOG_LEVEL", "loud", "warn (or warning)"),
    ] {
        let oddsd = simulated().with(name, value);
        let output = oddsd.run(&["check", "--offline"]).await.expect_code(78);
        let output = output.expect_texts(&[words]);
        assert!(!output.all().contains("can/ary"), "{output}");
    }
}

#[tokio::test]
async fn values_are_read_with_blanks_around_them_and_in_any_case() {
    let oddsd = simulated()
        .with("FEED", " Simulator ")
        .with("DATABASE_URL", "SQLITE:oddsd.db\n")
        .with("LEASE_SECONDS", " 20 ")
        .with("AUDIT", "Yes")
        .with("LOG_LEVEL", "Warning")
        .with("DATABASE_TLS", "Require");
    let output = oddsd.run(&["check", "--offline"]).await.expect_code(0);
    output.expect_texts(&["simulator: settings are complete", "sqlite file oddsd.db"]);
}

#[tokio::test]
async fn newer_tables_get_one_advice() {
    let oddsd = simulated();
    oddsd.run(&["migrate"]).await.expect_code(0);
    let url = format!("sqlite:{}", oddsd.folder().join("oddsd.db").display());
    let mut database = sqlx::SqliteConnection::connect(&url).await.expect("opens");
    let newer =
        "UPDATE migrations SET version = 99 WHERE version = (SELECT max(version) FROM migrations)";
    sqlx::query(newer)
        .execute(&mut database)
        .await
        .expect("written");
    let output = oddsd.run(&["check"]).await.expect_code(78);
    let output = output.expect_texts(&["run the newer oddsd"]);
    assert!(!output.all().contains("AUTO_MIGRATE"), "{output}");
    assert_eq!(output.all().matches("version 99").count(), 1, "{output}");
}

#[tokio::test]
async fn database_of_another_feed_is_a_failure_of_the_check() {
    let oddsd = simulated();
    oddsd.run(&["once"]).await.expect_code(0);
    let other = [
        "check",
        "--feed",
        "odds-api",
        "--odds-api-key",
        "k",
        "--odds-api-sport",
        "baseball_mlb",
        "--odds-api-url",
        "http://127.0.0.1:1",
    ];
    let output = oddsd.run(&other).await.expect_code(78);
    output.expect_texts(&["holds the odds of simulator", "--switch-feed"]);
}

#[tokio::test]
async fn database_down_is_69_and_wrong_password_78() {
    let unreachable = format!("postgres://me@127.0.0.1:{}/odds", free_port());
    let output = simulated().with("DATABASE_URL", unreachable);
    output.run(&["check"]).await.expect_code(69).expect_texts(&[
        "FAIL  database",
        "Connection refused",
        "DATABASE_URL",
    ]);
    let server = postgres::server_url();
    let wrong = server.replace("oddsd@", "oddsd_by_password:wrong-word@");
    let output = simulated()
        .with("DATABASE_URL", wrong)
        .run(&["check"])
        .await;
    output
        .expect_code(78)
        .expect_texts(&["FAIL  database", "password"])
        .expect_none_of(&["wrong-word"]);
    let (base, _) = server.rsplit_once('/').expect("a name");
    let missing = simulated().with("DATABASE_URL", format!("{base}/not_there"));
    missing
        .run(&["check"])
        .await
        .expect_code(78)
        .expect_texts(&["not_there"]);
}

#[tokio::test]
async fn cache_down_is_69_and_wrong_password_78() {
    let redis = RedisServer::with_password("right-word").await;
    let wrong = format!("redis://:wrong-word@127.0.0.1:{}", redis.port());
    let output = simulated().with("REDIS_URL", wrong).run(&["check"]).await;
    output
        .expect_code(78)
        .expect_texts(&["FAIL  cache", "password"])
        .expect_none_of(&["wrong-word"]);
    let oddsd = simulated().with("REDIS_URL", redis.url());
    oddsd
        .run(&["check"])
        .await
        .expect_code(0)
        .expect_texts(&["answers in"]);
    redis.kill().await;
    let output = oddsd.run(&["check"]).await.expect_code(69);
    output.expect_texts(&["FAIL  cache", "outbox until it is back"]);
}

#[tokio::test]
async fn feed_down_is_69_and_wrong_credentials_78() {
    let provider = RacingProvider::start().await;
    let racing = Program::new()
        .with("LISTEN", "off")
        .with("RACING_API_URL", provider.base_url())
        .with("RACING_API_USERNAME", USERNAME)
        .with("RACING_API_PASSWORD", PASSWORD);
    racing
        .run(&["check"])
        .await
        .expect_code(0)
        .expect_texts(&["answers: 0 events"]);
    provider.fault(RacingFault::Unauthorized).await;
    let output = racing.run(&["check"]).await.expect_code(78);
    output.expect_texts(&["FAIL  feed", "401", "RACING_API_USERNAME"]);
    provider.fault(RacingFault::Status(503)).await;
    racing
        .run(&["check"])
        .await
        .expect_code(69)
        .expect_texts(&["FAIL  feed", "503"]);
    provider.fault(RacingFault::Refuse).await;
    racing
        .run(&["check"])
        .await
        .expect_code(69)
        .expect_texts(&["FAIL  feed", "cannot be reached"]);
}

/// The Odds API of this provider, without a sport.
fn on_odds_api(provider: &OddsProvider) -> Program {
    Program::new()
        .with("LISTEN", "off")
        .with("FEED", "odds-api")
        .with("ODDS_API_URL", &provider.url)
        .with("ODDS_API_KEY", "k3y-of-a-story")
}

/// A request for each sport key: the cost is their sum, and one that is refused is named.
#[tokio::test]
async fn sport_key_that_fails_is_named_beside_the_cost_of_all() {
    let provider = OddsProvider::start().await;
    let league = on_odds_api(&provider).with(
        "ODDS_API_SPORT",
        " baseball_mlb, soccer_elp ,upcoming,,baseball_mlb",
    );
    for status in [200, 404, 200] {
        let answer = OddsReply::complete(status, "[]").with("x-requests-remaining", 480);
        provider.push_reply(answer.with("x-requests-last", 3));
    }
    let output = league.run(&["check"]).await;
    assert_ne!(output.code, 0, "{output}");
    output.expect_texts(&[
        "FAIL  feed",
        "soccer_elp: not found",
        "480 paid requests left, this request cost 6",
    ]);
    assert_eq!(provider.requests().len(), 3);
    for (setting, message) in [
        ("soccer epl", "soccer_epl,basketball_nba"),
        ("Soccer_EPL", "soccer_epl,basketball_nba"),
        ("soccer_epl;tennis_atp", "soccer_epl,basketball_nba"),
        ("../odds", "soccer_epl,basketball_nba"),
        ("", "needs ODDS_API_SPORT"),
        (" , ", "needs ODDS_API_SPORT"),
    ] {
        let league = on_odds_api(&provider).with("ODDS_API_SPORT", setting);
        let output = league.run(&["check", "--offline"]).await;
        assert_ne!(output.code, 0, "{setting:?}");
        output.expect_texts(&[message]);
    }
    assert_eq!(provider.requests().len(), 3);
}

#[tokio::test]
async fn quota_is_shown_and_a_spent_one_is_69() {
    let provider = OddsProvider::start().await;
    let league = on_odds_api(&provider).with("ODDS_API_SPORT", "baseball_mlb");
    let answer = OddsReply::complete(200, "[]")
        .with("x-requests-remaining", 499)
        .with("x-requests-used", 1)
        .with("x-requests-last", 1);
    provider.push_reply(answer);
    let output = league.run(&["check"]).await.expect_code(0);
    output.expect_texts(&["499 paid requests left, this request cost 1"]);
    provider.push_reply(OddsReply::complete(
        401,
        r#"{"message":"Usage quota has been reached.","error_code":"OUT_OF_USAGE_CREDITS"}"#,
    ));
    let output = league.run(&["check"]).await;
    output
        .expect_code(69)
        .expect_texts(&["FAIL  feed", "quota"])
        .expect_none_of(&["k3y-of-a-story"]);
}
