//! Recorded statuses: the transitions of each exchange market with their times, and a football evening.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use oddsd_core::model::{EventStatus, compute_status};
use serde_json::Value;

use super::exchange::path_of;
use super::{Backend, ReplayTarget, json_file, lines};
use crate::recordings::shipped;
use oddsd_testkit::recordings;

/// (feed time in ms, status, source)
type Line = (i64, String, String);

#[tokio::test]
async fn shipped_market_has_the_exchange_status() {
    for backend in [Backend::Postgres, Backend::Sqlite] {
        assert_markets(backend, &shipped("betfair"), "", usize::MAX).await;
    }
}

#[tokio::test]
async fn private_horse_markets_have_the_exchange_status() {
    let test = "private_horse_markets_have_the_exchange_status";
    for backend in [Backend::Postgres, Backend::Sqlite] {
        markets(test, backend, "betfair_streams", "", usize::MAX).await;
    }
}

#[tokio::test]
async fn private_greyhound_markets_have_the_exchange_status() {
    let test = "private_greyhound_markets_have_the_exchange_status";
    let (folder, under) = ("betfair_pro_greyhounds", "traralgon");
    markets(test, Backend::Sqlite, folder, under, usize::MAX).await;
    markets(test, Backend::Postgres, folder, under, 2).await;
}

async fn markets(test: &str, backend: Backend, folder: &str, under: &str, most: usize) {
    let Some(folder) = recordings::folder(test, folder) else {
        return;
    };
    assert_markets(backend, &folder, under, most).await;
}

async fn assert_markets(backend: Backend, folder: &Path, under: &str, most: usize) {
    let truth = json_file(&folder.join("truth.json"));
    let target = ReplayTarget::new(backend).await;
    for file in truth.as_array().expect("a list").iter().take(most) {
        let path = path_of(folder, under, file);
        target.replay(&path, "betfair").await.expect_code(0);
        for (market, truth) in file["markets"].as_object().expect("markets") {
            assert_log(&target, market, truth).await;
        }
    }
}

async fn assert_log(target: &ReplayTarget, market: &str, truth: &Value) {
    let time = match target.backend {
        Backend::Postgres => "CAST((extract(epoch FROM t.feed_time) * 1000)::bigint AS text)",
        Backend::Sqlite => "CAST(t.feed_time / 1000 AS text)",
    };
    let sql = format!(
        "SELECT {time}, t.after, t.source, t.before FROM transitions t JOIN events e ON e.id = t.event_id
         WHERE e.key = '{market}' ORDER BY t.id"
    );
    let mut before = None;
    let mut log: Vec<Line> = Vec::new();
    for row in target.rows(&sql).await {
        let [time, after, source, was] = <[Option<String>; 4]>::try_from(row).expect("four");
        assert_eq!(
            was, before,
            "{market}: each begins where the last one ended"
        );
        before = after.clone();
        let time = time.and_then(|time| time.parse().ok()).expect("a time");
        log.push((time, after.expect("a status"), source.expect("a source")));
    }
    // While the exchange is open and not in play, the clock decides the status.
    let start = truth["market_time"].as_str().expect("a time");
    let start: DateTime<Utc> = start.parse().expect("RFC 3339");
    let by_clock = |ms: i64| {
        let now = DateTime::from_timestamp_millis(ms).expect("a time");
        match start - now {
            left if left > TimeDelta::hours(2) => "scheduled",
            left if left > TimeDelta::zero() => "upcoming",
            _ => "live",
        }
    };
    let transitions = truth["transitions"].as_array().expect("a list");
    let mut wanted: Vec<(i64, &str)> = transitions
        .iter()
        .map(|transition| {
            let at = transition[0].as_i64().expect("ms");
            let status = match (transition[1].as_str(), transition[2].as_bool()) {
                (Some("CLOSED"), _) => "completed",
                (Some("SUSPENDED"), _) => "suspended",
                (Some("OPEN"), Some(true)) => "live",
                (Some("OPEN"), _) => by_clock(at),
                other => panic!("{market}: {other:?}"),
            };
            (at, status)
        })
        .collect();
    // In play and suspended again: the same status, written once.
    wanted.dedup_by_key(|(_, status)| *status);
    let of_exchange: Vec<(i64, &str)> = log
        .iter()
        .enumerate()
        .filter(|(n, (_, _, source))| source == "feed" || *n == 0)
        .map(|(_, (at, status, _))| (*at, status.as_str()))
        .collect();
    assert_eq!(of_exchange, wanted, "{market}: {log:?}");
    // All other transitions are the clock's.
    for (at, status, source) in log.iter().skip(1) {
        if source != "feed" {
            assert_eq!(
                (source.as_str(), status.as_str()),
                ("clock", by_clock(*at)),
                "{market}"
            );
        }
    }
}

/// The source's words for each match of a football evening, and the status that they lead to.
#[test]
fn private_football_evening_never_leaves_a_final_status() {
    let test = "private_football_evening_never_leaves_a_final_status";
    let Some(folder) = recordings::folder(test, "sport1_live_status") else {
        return;
    };
    let truth = json_file(&folder.join("bydate_2016-09-28.truth.json"));
    let polls = lines(&folder.join("bydate_2016-09-28.jsonl.zst"));
    assert_eq!(Some(polls.len() as u64), truth["snapshots"].as_u64());

    let mut statuses: HashMap<String, EventStatus> = HashMap::new();
    let mut last_words: HashMap<String, [String; 2]> = HashMap::new();
    let mut words: BTreeMap<String, u64> = BTreeMap::new();
    let mut steps: BTreeMap<[&str; 2], u64> = BTreeMap::new();
    for poll in &polls {
        let poll: Value = serde_json::from_str(poll).expect("JSON");
        let now = poll["committed_at"].as_str().expect("a time");
        let now: DateTime<Utc> = now.parse().expect("RFC 3339");
        for game in games(&poll["body"]) {
            let word = |name: &str| game[name].as_str().unwrap_or_default().to_owned();
            let (id, current) = (word("id"), [word("finished"), word("current_period")]);
            if let Some(before) = last_words.insert(id.clone(), current.clone())
                && before != current
            {
                let change = format!("{} -> {}", before.join("/"), current.join("/"));
                *words.entry(change).or_default() += 1;
            }
            let [finished, period] = &current;
            let source = match finished.as_str() {
                "yes" => EventStatus::from_source_word("finished"),
                _ => EventStatus::from_source_word(period),
            };
            let before = statuses.get(&id).copied();
            let after = compute_status(source, before, kick_off(game), true, now);
            statuses.insert(id, after);
            if let Some(before) = before.filter(|before| *before != after) {
                assert!(!before.is_final(), "{before:?} became {after:?}");
                *steps.entry([before.as_str(), after.as_str()]).or_default() += 1;
            }
        }
    }
    assert_eq!(Some(statuses.len() as u64), truth["matches"].as_u64());
    for (change, count) in truth["transitions"].as_object().expect("counts") {
        assert_eq!(
            words.get(change).copied(),
            count.as_u64(),
            "{change}: {words:?}"
        );
    }
    // Half-time belongs to the game, so of all these words only the end is a transition.
    assert_eq!(
        steps,
        BTreeMap::from([(["live", "completed"], 11)]),
        "{words:?}"
    );
}

/// All matches of a poll, at any depth.
fn games(body: &Value) -> Vec<&Value> {
    match body {
        Value::Array(list) => list.iter().flat_map(games).collect(),
        Value::Object(fields) if fields.contains_key("match_time") => vec![body],
        Value::Object(fields) => fields.values().flat_map(games).collect(),
        _ => Vec::new(),
    }
}

/// The start time; the source gives it in Berlin's time, two hours ahead of UTC.
fn kick_off(game: &Value) -> Option<DateTime<Utc>> {
    let text = format!(
        "{} {}",
        game["match_date"].as_str()?,
        game["match_time"].as_str()?
    );
    let local = chrono::NaiveDateTime::parse_from_str(&text, "%d.%m.%Y %H:%M").ok()?;
    Some(local.and_utc() - TimeDelta::hours(2))
}
