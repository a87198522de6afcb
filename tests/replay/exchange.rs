//! Recorded exchange streams: each market's own best-price changes, its end, its winners.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Backend, Home, count, json_file};
use oddsd_testkit::recordings;

/// Greyhound markets that also go to Postgres; SQLite takes them all.
const GREYHOUNDS_ON_POSTGRES: usize = 3;

#[tokio::test]
async fn horse_markets_replayed_into_postgres_are_stored_as_counted() {
    let test = "horse_markets_replayed_into_postgres_are_stored_as_counted";
    markets(test, Backend::Postgres, "betfair_streams", "", usize::MAX).await;
}

#[tokio::test]
async fn horse_markets_replayed_into_sqlite_are_stored_as_counted() {
    let test = "horse_markets_replayed_into_sqlite_are_stored_as_counted";
    markets(test, Backend::Sqlite, "betfair_streams", "", usize::MAX).await;
}

#[tokio::test]
async fn greyhound_markets_replayed_into_postgres_are_stored_as_counted() {
    let test = "greyhound_markets_replayed_into_postgres_are_stored_as_counted";
    let most = GREYHOUNDS_ON_POSTGRES;
    greyhounds(test, Backend::Postgres, most).await;
}

#[tokio::test]
async fn greyhound_markets_replayed_into_sqlite_are_stored_as_counted() {
    let test = "greyhound_markets_replayed_into_sqlite_are_stored_as_counted";
    greyhounds(test, Backend::Sqlite, usize::MAX).await;
}

async fn greyhounds(test: &str, backend: Backend, most: usize) {
    markets(test, backend, "betfair_pro_greyhounds", "traralgon", most).await;
}

/// Replays every file of a folder into one database, and asks it about each market.
async fn markets(test: &str, backend: Backend, folder: &str, under: &str, most: usize) {
    let Some(folder) = recordings::folder(test, folder) else {
        return;
    };
    let truth = json_file(&folder.join("truth.json"));
    let home = Home::new(backend).await;
    for file in truth.as_array().expect("a list").iter().take(most) {
        let path = path_of(&folder, under, file);
        let told = home.replay(&path, "betfair").await.is(0).json();
        let mut changes = 0;
        for (market, truth) in file["markets"].as_object().expect("markets") {
            changes += truth["best_price_changes"].as_u64().expect("a count");
            assert_market(&home, market, truth).await;
        }
        let kinds = ["inserted", "reopened", "changed", "withdrawn"];
        let written: u64 = kinds.iter().map(|kind| count(&told, kind)).sum();
        assert_eq!(written, changes, "{}: {told}", path.display());
        for none in ["stale", "rejected"] {
            assert_eq!(count(&told, none), 0, "{}: {told}", path.display());
        }
    }
    let history = home.number("SELECT count(*) FROM price_history").await;
    let sums = "SELECT sum(inserted + reopened + changed + withdrawn) FROM cycles";
    assert_eq!(history, home.number(sums).await);
}

pub fn path_of(folder: &Path, under: &str, file: &Value) -> PathBuf {
    folder
        .join(under)
        .join(file["file"].as_str().expect("a name"))
}

async fn assert_market(home: &Home, market: &str, truth: &Value) {
    let event = format!("SELECT status FROM events WHERE key = '{market}'");
    let status = home.rows(&event).await.concat();
    let all_removed =
        truth["removed"].as_array().map(Vec::len) == truth["runners"].as_u64().map(|n| n as usize);
    let wanted = match truth["final_status"].as_str() {
        Some("CLOSED") if all_removed => "abandoned",
        Some("CLOSED") => "completed",
        Some("SUSPENDED") => "suspended",
        _ => "scheduled",
    };
    assert_eq!(status, [Some(wanted.to_owned())], "{market}");

    let runners = format!(
        "SELECT s.key, s.status FROM selections s JOIN events e ON e.id = s.event_id WHERE e.key = '{market}'"
    );
    let runners = home.rows(&runners).await;
    assert_eq!(
        Some(runners.len() as u64),
        truth["runners"].as_u64(),
        "{market}"
    );
    let are = |status: &str| -> BTreeSet<String> {
        let of = runners
            .iter()
            .filter(|row| row[1].as_deref() == Some(status));
        of.map(|row| row[0].clone().expect("a key")).collect()
    };
    let named = |list: &Value| -> BTreeSet<String> {
        let ids = list.as_array().expect("a list").iter();
        ids.map(Value::to_string).collect()
    };
    assert_eq!(are("winner"), named(&truth["winners"]), "{market}");
    assert_eq!(are("removed"), named(&truth["removed"]), "{market}");
}
