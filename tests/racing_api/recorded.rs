//! Recorded answers: every odds row of them is accounted for.

use oddsd_feeds::FetchRequest;
use oddsd_feeds::racing_api::parse_cards;
use serde_json::Value;

use super::{prices, racing_feed, utc};
use crate::harness::racing::feed_settings;
use oddsd_testkit::racing_provider::RacingProvider;
use oddsd_testkit::recordings;

/// Odds rows, counted without the daemon's code.
fn odds_rows(body: &Value) -> usize {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let runners = list(&body["racecards"])
        .into_iter()
        .flat_map(|race| list(&race["runners"]));
    runners.map(|runner| list(&runner["odds"]).len()).sum()
}

#[test]
fn recorded_odds_rows_all_become_prices() {
    let Some(folder) = recordings::folder("recorded_odds_rows_all_become_prices", "racing_api")
    else {
        return;
    };
    let mut counted = Vec::new();
    for file in std::fs::read_dir(folder).expect("a folder") {
        let path = file.expect("an entry").path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a recording");
        let recording: Value = serde_json::from_str(&text).expect("JSON");
        let body = &recording["body"];
        let parsed = parse_cards(&body.to_string(), utc("2025-10-14T22:35:44Z"));
        let name = path
            .file_name()
            .expect("a file")
            .to_string_lossy()
            .into_owned();
        if body["racecards"].is_null() {
            let reported = parsed.expect_err("results are no racecards").to_string();
            assert!(
                reported.contains("no \"racecards\", but"),
                "{name}: {reported}"
            );
            assert!(reported.contains("results"), "{name}: {reported}");
            continue;
        }
        let parsed = parsed.expect(&name);
        let found: usize = parsed.events.iter().map(|e| e.prices.len()).sum();
        let rows = odds_rows(body);
        assert!(parsed.rejected.is_empty(), "{name}: {}", parsed.rejected);
        assert_eq!(found, rows, "{name}");
        assert_eq!(parsed.prices_seen, rows as u64, "{name}");
        assert_eq!(parsed.bookmakers.len(), 28, "{name}");
        let open = parsed
            .events
            .iter()
            .flat_map(|e| &e.prices)
            .filter(|p| p.offer.is_some());
        assert_eq!(open.count(), rows, "{name}: every recorded row is an offer");
        counted.push(rows);
    }
    counted.sort_unstable();
    assert_eq!(counted, [224, 280, 280]);
}

/// A field name with an escape sequence is the same name.
#[test]
fn recorded_races_with_escaped_field_names_parse_equally() {
    let test = "recorded_races_with_escaped_field_names_parse_equally";
    let Some(folder) = recordings::folder(test, "racing_api") else {
        return;
    };
    let mut races = 0;
    for file in std::fs::read_dir(folder).expect("a folder") {
        let path = file.expect("an entry").path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a recording");
        let recording: Value = serde_json::from_str(&text).expect("JSON");
        if recording["body"]["racecards"].is_null() {
            continue;
        }
        let body = recording["body"].to_string();
        let escaped = body.replace("\"race_id\":", "\"r\\u0061ce_id\":");
        let parse = |body: &str| parse_cards(body, utc("2025-10-14T22:35:44Z")).expect("cards");
        let (one, rows) = (parse(&body), parse(&escaped));
        assert_ne!(body, escaped);
        assert_eq!(one.events, rows.events, "{}", path.display());
        assert_eq!(one.bookmakers, rows.bookmakers);
        assert_eq!(
            (one.rejected, one.prices_seen),
            (rows.rejected, rows.prices_seen)
        );
        races += one.events.len();
    }
    assert!(races > 2);
}

#[tokio::test]
async fn recorded_day_arrives_unchanged_over_http() {
    let Some(folder) = recordings::folder("recorded_day_arrives_unchanged_over_http", "racing_api")
    else {
        return;
    };
    let provider = RacingProvider::start().await;
    provider.serve_recording(&folder.join("racecards_pro_2025-10-13_hereford.json"));
    let mut feed = racing_feed(feed_settings(&provider));
    let asked_at = utc("2025-10-13T13:11:20Z");
    let fetched = feed
        .fetch(&FetchRequest::Everything, asked_at)
        .await
        .expect("Hereford");
    let race = &fetched.snapshot.events[0];
    assert_eq!(prices(&fetched.snapshot), 224);
    assert_eq!(race.event.venue, "Hereford");
    assert_eq!(race.event.starts_at, Some(utc("2025-10-13T13:12:00Z")));
    assert_eq!(
        race.prices[0].observed_at,
        Some(utc("2025-10-13T13:11:07Z"))
    );
}
