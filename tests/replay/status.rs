//! Recordings as truth for where events stand: each market's own transitions with their times, and a football
//! evening's words.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use oddsd::model::{EventStatus, status_at};
use serde_json::Value;

use super::exchange::path_of;
use super::{Backend, Home, json_file, lines};
use oddsd_testkit::recordings;

/// (feed time in ms, status, source)
type Line = (i64, String, String);

#[tokio::test]
async fn horse_markets_stand_where_the_exchange_said() {
    let test = "horse_markets_stand_where_the_exchange_said";
    for backend in [Backend::Postgres, Backend::Sqlite] {
        markets(test, backend, "betfair_streams", "", usize::MAX).await;
    }
}

#[tokio::test]
async fn greyhound_markets_stand_where_the_exchange_said() {
    let test = "greyhound_markets_stand_where_the_exchange_said";
    let (folder, under) = ("betfair_pro_greyhounds", "traralgon");
    markets(test, Backend::Sqlite, folder, under, usize::MAX).await;
    markets(test, Backend::Postgres, folder, under, 2).await;
}

async fn markets(test: &str, backend: Backend, folder: &str, under: &str, most: usize) {
    let Some(folder) = recordings::folder(test, folder) else {
        return;
    };
    let truth = json_file(&folder.join("truth.json"));
    let home = Home::new(backend).await;
    for file in truth.as_array().expect("a list").iter().take(most) {
        let path = path_of(&folder, under, file);
        home.replay(&path, "betfair").await.is(0);
        for (market, truth) in file["markets"].as_object().expect("markets") {
            assert_log(&home, market, truth).await;
        }
    }
}

async fn assert_log(home: &Home, market: &str, truth: &Value) {
    let time = match home.backend {
        Backend::Postgres => "CAST((extract(epoch FROM t.feed_time) * 1000)::bigint AS text)",
        Backend::Sqlite => "CAST(t.feed_time / 1000 AS text)",
    };
    let sql = format!(
        "SELECT {time}, t.after, t.source, t.before FROM transitions t JOIN events e ON e.id = t.event_id
         WHERE e.key = '{market}' ORDER BY t.id"
    );
    let mut before = None;
    let mut log: Vec<Line> = Vec::new();
    for row in home.rows(&sql).await {
        let [time, after, source, was] = <[Option<String>; 4]>::try_from(row).expect("four");
        assert_eq!(
            was, before,
            "{market}: each begins where the last one ended"
        );
        before = after.clone();
        let time = time.and_then(|time| time.parse().ok()).expect("a time");
        log.push((time, after.expect("a status"), source.expect("a source")));
    }
    // Where the exchange is open and not in play, the clock decides: at the look, or when it was next heard of.
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
    let told = truth["transitions"].as_array().expect("a list");
    let mut wanted: Vec<(i64, &str)> = told
        .iter()
        .map(|told| {
            let at = told[0].as_i64().expect("ms");
            let status = match (told[1].as_str(), told[2].as_bool()) {
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
    // The rest is the clock's, and each is what the clock says at its time.
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

/// A football evening, polled: what the source says of each match, and where that puts it.
#[test]
fn a_football_evening_never_goes_back() {
    let test = "a_football_evening_never_goes_back";
    let Some(folder) = recordings::folder(test, "sport1_live_status") else {
        return;
    };
    let truth = json_file(&folder.join("bydate_2016-09-28.truth.json"));
    let polls = lines(&folder.join("bydate_2016-09-28.jsonl.zst"));
    assert_eq!(Some(polls.len() as u64), truth["snapshots"].as_u64());

    let mut stands: HashMap<String, EventStatus> = HashMap::new();
    let mut said: HashMap<String, [String; 2]> = HashMap::new();
    let mut words: BTreeMap<String, u64> = BTreeMap::new();
    let mut steps: BTreeMap<[&str; 2], u64> = BTreeMap::new();
    for poll in &polls {
        let poll: Value = serde_json::from_str(poll).expect("JSON");
        let now = poll["committed_at"].as_str().expect("a time");
        let now: DateTime<Utc> = now.parse().expect("RFC 3339");
        for game in games(&poll["body"]) {
            let word = |name: &str| game[name].as_str().unwrap_or_default().to_owned();
            let (id, saying) = (word("id"), [word("finished"), word("current_period")]);
            if let Some(before) = said.insert(id.clone(), saying.clone())
                && before != saying
            {
                let change = format!("{} -> {}", before.join("/"), saying.join("/"));
                *words.entry(change).or_default() += 1;
            }
            let [finished, period] = &saying;
            let source = match finished.as_str() {
                "yes" => EventStatus::from_source("finished"),
                _ => EventStatus::from_source(period),
            };
            let before = stands.get(&id).copied();
            let after = status_at(source, before, kick_off(game), true, now);
            stands.insert(id, after);
            if let Some(before) = before.filter(|before| *before != after) {
                assert!(!before.is_final(), "{before:?} became {after:?}");
                *steps.entry([before.as_str(), after.as_str()]).or_default() += 1;
            }
        }
    }
    assert_eq!(Some(stands.len() as u64), truth["matches"].as_u64());
    for (change, count) in truth["transitions"].as_object().expect("counts") {
        assert_eq!(
            words.get(change).copied(),
            count.as_u64(),
            "{change}: {words:?}"
        );
    }
    // Half-time is a part of the game: of all these words only the end is a step.
    assert_eq!(
        steps,
        BTreeMap::from([(["live", "completed"], 11)]),
        "{words:?}"
    );
}

/// All matches of a poll, however deep.
fn games(body: &Value) -> Vec<&Value> {
    match body {
        Value::Array(list) => list.iter().flat_map(games).collect(),
        Value::Object(fields) if fields.contains_key("match_time") => vec![body],
        Value::Object(fields) => fields.values().flat_map(games).collect(),
        _ => Vec::new(),
    }
}

/// The day and time of Berlin, which was two hours ahead.
fn kick_off(game: &Value) -> Option<DateTime<Utc>> {
    let text = format!(
        "{} {}",
        game["match_date"].as_str()?,
        game["match_time"].as_str()?
    );
    let local = chrono::NaiveDateTime::parse_from_str(&text, "%d.%m.%Y %H:%M").ok()?;
    Some(local.and_utc() - TimeDelta::hours(2))
}
