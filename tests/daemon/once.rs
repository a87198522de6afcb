//! Tests of `once`, a run for an external cron: the first run writes everything, the second nothing.

use std::path::Path;

use chrono::{NaiveTime, TimeZone, Utc};
use oddsd_feeds::simulator::{RaceDay, RaceDaySize};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Row};

use super::DaemonStack;
use super::fixture::{INVALIDATED, KEY, SmallCard, assert_same, open_prices, tomorrow};
use crate::harness::daemon::{DaemonEnv, DaemonProcess};
use crate::harness::racing::simulated;
use oddsd_testkit::recordings;
use oddsd_testkit::redis::RedisServer;
use oddsd_testkit::upstash::UpstashStandIn;

const TABLES: [&str; 8] = [
    "bookmakers",
    "events",
    "selections",
    "prices",
    "history",
    "cycles",
    "outbox",
    "removals",
];

/// A fingerprint of every row with the transaction that wrote it, so that an equal rewrite is detected.
/// The lease and the "last checked" times change with every run.
async fn tables(stack: &DaemonStack) -> Vec<(&'static str, String)> {
    let mut db = stack.db().await;
    let mut prints = Vec::new();
    for table in TABLES {
        let query = format!(
            "SELECT coalesce(md5(string_agg(t.xmin::text || t::text, '|' ORDER BY t.ctid)), '') FROM oddsd.{table} t"
        );
        let row = sqlx::query(AssertSqlSafe(query)).fetch_one(&mut db).await;
        prints.push((table, row.expect("a fingerprint").get(0)));
    }
    prints
}

/// One run on a fresh database with another program's value under the key, and a second run.
async fn twice(stack: &DaemonStack, races: &[Value]) {
    let served = open_prices(races);
    stack.put_unmanaged("stale").await;
    let first = stack.run_once().await.expect_code(0);
    assert_same(&stack.stored().await, &served);
    stack.assert_no_repeats().await;
    assert_eq!(stack.cached().await, None, "the stale value is gone");
    assert_eq!(stack.outbox().await, 0);

    let (runners, bookmakers) = (horses(races), bookmakers(races));
    let cycle = format!(
        "Cycle complete: {} updated | {} skipped | {} races | {runners} horses | {bookmakers} bookmakers | 0 errors",
        served.len(),
        rows(races) - served.len(),
        races.len(),
    );
    assert_eq!(first.count(&cycle), 1, "{cycle}\n{}", first.text());
    assert_eq!(
        first.count(&format!("inserted={} ", served.len())),
        1,
        "{}",
        first.text()
    );
    assert_eq!(first.count(INVALIDATED), 1, "{}", first.text());
    let grep = |line: &&String| line.contains("Invalidated") || line.contains("Cache");
    assert!(
        first.lines.iter().any(|line| grep(&line)),
        "{}",
        first.text()
    );

    stack.put_unmanaged("fresh").await;
    let before = tables(stack).await;
    let second = stack.run_once().await.expect_code(0);
    assert_eq!(tables(stack).await, before, "a second run wrote something");
    assert_eq!(stack.cached().await.as_deref(), Some(&b"fresh"[..]));
    let quiet = format!(
        "Cycle complete: 0 updated | {} skipped | {} races | {runners} horses | {bookmakers} bookmakers | 0 errors",
        rows(races),
        races.len()
    );
    assert_eq!(second.count(&quiet), 1, "{quiet}\n{}", second.text());
    assert_eq!(second.count("Invalidated"), 0, "{}", second.text());
}

/// Rows of odds, priced or not.
fn rows(races: &[Value]) -> usize {
    let runners = races
        .iter()
        .flat_map(|race| race["runners"].as_array().expect("runners"));
    runners
        .map(|runner| runner["odds"].as_array().map_or(0, Vec::len))
        .sum()
}

fn horses(races: &[Value]) -> usize {
    races
        .iter()
        .map(|race| race["runners"].as_array().map_or(0, Vec::len))
        .sum()
}

fn bookmakers(races: &[Value]) -> usize {
    let runners = races
        .iter()
        .flat_map(|race| race["runners"].as_array().expect("runners"));
    let odds = runners.flat_map(|runner| runner["odds"].as_array().into_iter().flatten());
    let names = odds.map(|odds| odds["bookmaker"].as_str().expect("a name"));
    names.collect::<std::collections::BTreeSet<_>>().len()
}

/// A recorded card, moved to tomorrow: the daemon asks for today and tomorrow.
fn moved_to_tomorrow(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).expect("a recording");
    let mut json: Value = serde_json::from_str(&text).expect("JSON");
    let mut races = match json["body"]["racecards"].take() {
        Value::Array(races) => races,
        other => panic!("no racecards but {other}"),
    };
    for race in &mut races {
        race["date"] = json!(tomorrow().to_string());
        if let Some(off) = race["off_dt"].as_str() {
            race["off_dt"] = json!(format!("{}{}", tomorrow(), &off[10..]));
        }
    }
    races
}

#[tokio::test]
async fn once_stores_a_recorded_day_and_removes_once() {
    let test = "once_stores_a_recorded_day_and_removes_once";
    for file in [
        "racecards_pro_2025-10-13_hereford.json",
        "racecards_pro_2025-10-14.json",
    ] {
        let Some(folder) = recordings::folder(test, "racing_api") else {
            return;
        };
        let file = folder.join(file);
        let (stack, mut races) = (DaemonStack::build().await, moved_to_tomorrow(&file));
        stack.provider.serve_cards(races.clone());
        // The requests are for Britain and Ireland, and the stand-in filters (one recorded race is
        // French).
        races.retain(|race| race["region"] == "GB" || race["region"] == "IRE");
        assert!(!races.is_empty());
        twice(&stack, &races).await;
    }
}

#[tokio::test]
async fn once_stores_a_simulated_day_and_removes_once() {
    let stack = DaemonStack::build().await;
    let size = RaceDaySize {
        races: 12,
        bookmakers: 12,
    };
    let noon = NaiveTime::from_hms_opt(13, 30, 0).expect("a time");
    let now = Utc.from_utc_datetime(&tomorrow().and_time(noon));
    let card = RaceDay::new(5, tomorrow(), size).card_at(now);
    let mut card: Value = serde_json::from_str(&card).expect("JSON");
    let Value::Array(races) = card["racecards"].take() else {
        panic!("no races");
    };
    stack
        .provider
        .serve_day(simulated(RaceDay::new(5, tomorrow(), size)), now);
    twice(&stack, &races).await;
}

#[tokio::test]
async fn once_logs_the_documented_lines_and_no_secret() {
    let (mut stack, card) = DaemonStack::with_card().await;
    stack.redis = RedisServer::with_password("red-secret").await;
    stack.settings = stack.settings.with("REDIS_URL", stack.redis.url());
    let run = stack.run_once().await.expect_code(0);
    stack.assert_stored(&card).await;
    let connected = format!(
        "Redis cache invalidation connected: 127.0.0.1:{}",
        stack.redis.port()
    );
    assert_eq!(run.count(&connected), 1, "{}", run.text());
    assert_eq!(run.count(INVALIDATED), 1, "{}", run.text());
    for secret in ["red-secret", "paddock-pass"] {
        assert_eq!(run.count(secret), 0, "{}", run.text());
    }
}

#[tokio::test]
async fn upstash_once_costs_one_command_and_none_without_changes() {
    let (mut stack, mut card) = DaemonStack::with_card().await;
    let upstash = UpstashStandIn::start(stack.redis.port(), "up-secret").await;
    stack.settings = stack
        .settings
        .with("REDIS_URL", "")
        .with("UPSTASH_REDIS_REST_URL", upstash.url())
        .with("UPSTASH_REDIS_REST_TOKEN", "up-secret");
    stack.put_unmanaged("stale").await;
    let first = stack.run_once().await.expect_code(0);
    stack.assert_stored(&card).await;
    assert_eq!(stack.cached().await, None);
    assert_eq!(first.count(INVALIDATED), 1, "{}", first.text());
    assert_eq!(first.count("up-secret"), 0, "{}", first.text());
    assert_eq!(upstash.billed(), 1, "one removal");

    let quiet = stack.run_once().await.expect_code(0);
    assert_eq!(quiet.count("Invalidated"), 0, "{}", quiet.text());
    assert_eq!(upstash.billed(), 1, "nothing changed, nothing was asked");

    stack.put_unmanaged("stale again").await;
    card.set_price("9.5");
    stack.serve(&card);
    let next = stack.run_once().await.expect_code(0);
    assert_eq!(next.count(INVALIDATED), 1, "{}", next.text());
    assert_eq!(stack.cached().await, None);
    assert_eq!(upstash.billed(), 2);
    stack.assert_stored(&card).await;
}

#[tokio::test]
async fn once_runs_on_sqlite_without_any_server() {
    let (stack, card) = DaemonStack::with_card().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("odds.db");
    let settings: DaemonEnv = stack
        .settings
        .with("REDIS_URL", "")
        .with("DATABASE_URL", format!("sqlite:{}", file.display()));
    let once = || async {
        DaemonProcess::start(&settings, &["once"])
            .wait_for_exit()
            .await
            .expect_code(0)
    };
    let first = once().await;
    let served = open_prices(&card.races).len();
    assert_eq!(
        first.count(&format!("inserted={served} ")),
        1,
        "{}",
        first.text()
    );
    let second = once().await;
    assert_eq!(
        second.count(&format!("0 updated | {served} skipped")),
        1,
        "{}",
        second.text()
    );
    let status = DaemonProcess::start(&settings, &["status", "--json"])
        .wait_for_exit()
        .await;
    let status = status.expect_code(0).text();
    let status: Value = serde_json::from_str(&status).unwrap_or_else(|e| panic!("{e}: {status}"));
    assert!(
        status.to_string().contains("\"outbox_pending\":0"),
        "{status}"
    );
}

#[tokio::test]
async fn malformed_runner_is_rejected_alone() {
    let (stack, mut card) = DaemonStack::with_card().await;
    // Varied text, because a repeated one would be refused as a compression bomb.
    let huge: String = (0..20_000).map(|n| format!("{n} ")).collect();
    let poison = |card: &mut SmallCard, race: usize, field: &str, value: &str| {
        card.races[race]["runners"][0][field] = json!(value);
    };
    poison(
        &mut card,
        0,
        "horse",
        "Quiet\u{0}Kettle\u{1b}[2J\n2026 level=error",
    );
    poison(&mut card, 1, "jockey", "\u{0}\u{202e}gniR");
    poison(&mut card, 2, "horse", &huge);
    card.odds(3, 0, 0)["decimal"] = json!("1e400");
    card.odds(3, 0, 1)["bookmaker"] = json!("Co\u{0}ral");
    card.odds(3, 1, 0)["decimal"] = json!("NaN");
    stack.serve(&card);
    stack.put_unmanaged("stale").await;
    let run = stack.run_once().await.expect_code(0);
    assert_eq!(stack.cached().await, None, "{KEY}");
    assert!(
        !run.text().contains('\u{1b}') && !run.text().contains('\u{0}'),
        "{}",
        run.text()
    );
    let stored = stack.stored().await;
    let mut clean = open_prices(&SmallCard::with_races(4).races);
    // Malformed rows may be missing; all others are stored.
    clean.retain(|(race, horse, _), _| {
        let poisoned = horse.ends_with("_0") || (race == "rac_3" && horse == "hrs_3_1");
        !poisoned
    });
    assert_eq!(clean.len(), 4 * 8 - 4);
    for (key, decimal) in &clean {
        assert_eq!(stored.get(key), Some(decimal), "{key:?}\n{}", run.text());
    }
    let longest = stack
        .number("SELECT max(length(name))::bigint FROM oddsd.selections")
        .await;
    assert!(longest < 1_000, "a name of {longest} characters is stored");
    let again = stack.run_once().await.expect_code(0);
    assert_eq!(again.count("inserted=0 updated=0"), 1, "{}", again.text());
}

const LISTED: &str = "SELECT count(*) FROM oddsd.events WHERE listed AND source = 'simulator'";
const OPEN: &str = "SELECT count(*) FROM oddsd.prices p JOIN oddsd.events e ON e.id = p.event_id
     WHERE e.source = 'simulator' AND p.status = 'open'";

#[tokio::test]
async fn database_of_another_feed_is_refused_until_it_is_switched() {
    let (mut stack, card) = DaemonStack::with_card().await;
    stack.settings = stack.settings.with("MAX_REMOVED_FRACTION", "1");
    let real = stack.settings.clone();
    stack.settings = real.with("FEED", "simulator");
    stack.run_once().await.expect_code(0);
    assert!(stack.number(LISTED).await > 0);

    stack.settings = real.clone();
    let refused = stack.run_once().await.expect_code(78);
    let text = refused.text();
    assert!(
        text.contains("holds the odds of simulator") && text.contains("--switch-feed"),
        "{text}"
    );
    assert_eq!(stack.provider.requests().len(), 0);

    stack.settings = real.with("SWITCH_FEED", "true");
    let switched = stack.run_once().await.expect_code(0);
    assert_eq!(
        switched.count("event=feed.switched"),
        1,
        "{}",
        switched.text()
    );
    assert_eq!(
        switched.count("event=cycle.out_of_scope"),
        1,
        "{}",
        switched.text()
    );
    assert_eq!(
        (stack.number(LISTED).await, stack.number(OPEN).await),
        (0, 0)
    );
    stack.assert_stored(&card).await;

    // From now on the database is of the new feed, with no word about it.
    stack.settings = real.clone();
    let again = stack.run_once().await.expect_code(0);
    assert_eq!(again.count("event=cycle.out_of_scope"), 0);
    stack.settings = real.with("FEED", "simulator");
    stack.run_once().await.expect_code(78);
}

#[tokio::test]
async fn races_outside_of_the_regions_are_unlisted_once() {
    let (mut stack, mut card) = DaemonStack::with_card().await;
    stack.settings = stack.settings.with("MAX_REMOVED_FRACTION", "1");
    let real = stack.settings.clone();
    for race in &mut card.races {
        race["region"] = json!("GB");
    }
    card.races[0]["region"] = json!("FR");
    stack.serve(&card);
    stack.settings = real.with("RACING_API_REGIONS", "");
    stack.run_once().await.expect_code(0);

    card.races.remove(0);
    stack.serve(&card);
    stack.settings = real.with("RACING_API_REGIONS", "gb");
    let first = stack.run_once().await.expect_code(0);
    assert_eq!(
        first.count("event=cycle.out_of_scope"),
        1,
        "{}",
        first.text()
    );
    let listed = "SELECT count(*) FROM oddsd.events WHERE listed";
    assert_eq!(stack.number(listed).await, card.races.len() as i64);
    let second = stack.run_once().await.expect_code(0);
    assert_eq!(second.count("event=cycle.out_of_scope"), 0);
}
