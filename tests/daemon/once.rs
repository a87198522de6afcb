//! One run for an external cron: everything right the first time, nothing at all the second.

use std::path::Path;

use chrono::{NaiveTime, TimeZone, Utc};
use oddsd::feed::simulator::{RaceDay, Size};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Row};

use super::Town;
use super::fixture::{Card, INVALIDATED, KEY, assert_same, open_prices, tomorrow};
use crate::harness::daemon::{Daemon, Settings};
use crate::harness::racing::simulated;
use oddsd_testkit::recordings;
use oddsd_testkit::redis::RedisServer;
use oddsd_testkit::upstash::Upstash;

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

/// A fingerprint of every row with the transaction that wrote it: even a row that was written as it
/// was would show. The lease, and who was last looked at, move with every run.
async fn tables(town: &Town) -> Vec<(&'static str, String)> {
    let mut db = town.db().await;
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

/// One run on a fresh database, with a foreign reader's value under the key; and a second one.
async fn twice(town: &Town, races: &[Value]) {
    let served = open_prices(races);
    town.put_foreign("stale").await;
    let first = town.once().await.expect(0);
    assert_same(&town.stored().await, &served);
    town.has_no_repeats().await;
    assert_eq!(town.cached().await, None, "the stale value is gone");
    assert_eq!(town.outbox().await, 0);

    let (runners, bookmakers) = (horses(races), bookmakers(races));
    let cycle = format!(
        "Cycle complete: 0 updated | {} skipped | {} races | {runners} horses | {bookmakers} bookmakers | 0 errors",
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

    town.put_foreign("fresh").await;
    let before = tables(town).await;
    let second = town.once().await.expect(0);
    assert_eq!(tables(town).await, before, "a second run wrote something");
    assert_eq!(town.cached().await.as_deref(), Some(&b"fresh"[..]));
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
async fn a_recorded_day_is_stored_as_it_was_served_and_told_once() {
    let test = "a_recorded_day_is_stored_as_it_was_served_and_told_once";
    for file in [
        "racecards_pro_2025-10-13_hereford.json",
        "racecards_pro_2025-10-14.json",
    ] {
        let Some(folder) = recordings::folder(test, "racing_api") else {
            return;
        };
        let file = folder.join(file);
        let (town, mut races) = (Town::build().await, moved_to_tomorrow(&file));
        town.provider.serve_cards(races.clone());
        // We ask for Britain and Ireland, and the provider keeps to it (one recorded race is French).
        races.retain(|race| race["region"] == "GB" || race["region"] == "IRE");
        assert!(!races.is_empty());
        twice(&town, &races).await;
    }
}

#[tokio::test]
async fn a_simulated_day_is_stored_as_it_was_served_and_told_once() {
    let town = Town::build().await;
    let size = Size {
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
    town.provider
        .serve_day(simulated(RaceDay::new(5, tomorrow(), size)), now);
    twice(&town, &races).await;
}

#[tokio::test]
async fn the_lines_that_people_grep_for_are_there_and_no_secret_is() {
    let (mut town, card) = Town::racing().await;
    town.redis = RedisServer::with_password("red-secret").await;
    town.settings = town.settings.with("REDIS_URL", town.redis.url());
    let run = town.once().await.expect(0);
    town.is_right(&card).await;
    let connected = format!(
        "Redis cache invalidation connected: 127.0.0.1:{}",
        town.redis.port()
    );
    assert_eq!(run.count(&connected), 1, "{}", run.text());
    assert_eq!(run.count(INVALIDATED), 1, "{}", run.text());
    for secret in ["red-secret", "paddock-pass"] {
        assert_eq!(run.count(secret), 0, "{}", run.text());
    }
}

#[tokio::test]
async fn with_upstash_one_run_removes_with_one_billed_command_and_a_quiet_one_with_none() {
    let (mut town, mut card) = Town::racing().await;
    let upstash = Upstash::start(town.redis.port(), "up-secret").await;
    town.settings = town
        .settings
        .with("REDIS_URL", "")
        .with("UPSTASH_REDIS_REST_URL", upstash.url())
        .with("UPSTASH_REDIS_REST_TOKEN", "up-secret");
    town.put_foreign("stale").await;
    let first = town.once().await.expect(0);
    town.is_right(&card).await;
    assert_eq!(town.cached().await, None);
    assert_eq!(first.count(INVALIDATED), 1, "{}", first.text());
    assert_eq!(first.count("up-secret"), 0, "{}", first.text());
    assert_eq!(upstash.billed(), 1, "one removal");

    let quiet = town.once().await.expect(0);
    assert_eq!(quiet.count("Invalidated"), 0, "{}", quiet.text());
    assert_eq!(upstash.billed(), 1, "nothing changed, nothing was asked");

    town.put_foreign("stale again").await;
    card.set_price("9.5");
    town.serve(&card);
    let next = town.once().await.expect(0);
    assert_eq!(next.count(INVALIDATED), 1, "{}", next.text());
    assert_eq!(town.cached().await, None);
    assert_eq!(upstash.billed(), 2);
    town.is_right(&card).await;
}

#[tokio::test]
async fn on_sqlite_with_a_cache_in_process_it_runs_without_any_server() {
    let (town, card) = Town::racing().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("odds.db");
    let settings: Settings = town
        .settings
        .with("REDIS_URL", "")
        .with("DATABASE_URL", format!("sqlite:{}", file.display()));
    let once = || async { Daemon::start(&settings, &["once"]).ends().await.expect(0) };
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
    let status = Daemon::start(&settings, &["status", "--json"]).ends().await;
    let status = status.expect(0).text();
    let status: Value = serde_json::from_str(&status).unwrap_or_else(|e| panic!("{e}: {status}"));
    assert!(
        status.to_string().contains("\"outbox_pending\":0"),
        "{status}"
    );
}

#[tokio::test]
async fn a_runner_of_poison_costs_at_most_itself() {
    let (town, mut card) = Town::racing().await;
    // Varied, or it would pass for a bomb on the wire.
    let huge: String = (0..20_000).map(|n| format!("{n} ")).collect();
    let poison = |card: &mut Card, race: usize, field: &str, value: &str| {
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
    town.serve(&card);
    town.put_foreign("stale").await;
    let run = town.once().await.expect(0);
    assert_eq!(town.cached().await, None, "{KEY}");
    assert!(
        !run.text().contains('\u{1b}') && !run.text().contains('\u{0}'),
        "{}",
        run.text()
    );
    let stored = town.stored().await;
    let mut clean = open_prices(&Card::of(4).races);
    // What was poisoned may be missing; all the rest is there.
    clean.retain(|(race, horse, _), _| {
        let poisoned = horse.ends_with("_0") || (race == "rac_3" && horse == "hrs_3_1");
        !poisoned
    });
    assert_eq!(clean.len(), 4 * 8 - 4);
    for (key, decimal) in &clean {
        assert_eq!(stored.get(key), Some(decimal), "{key:?}\n{}", run.text());
    }
    let longest = town
        .number("SELECT max(length(name))::bigint FROM oddsd.selections")
        .await;
    assert!(longest < 1_000, "a name of {longest} characters is stored");
    let again = town.once().await.expect(0);
    assert_eq!(again.count("inserted=0 updated=0"), 1, "{}", again.text());
}
