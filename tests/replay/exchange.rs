//! Exchange recordings: best-price changes, final status and winners of each market.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Backend, ReplayTarget, count, json_file};
use crate::recordings::shipped;
use oddsd_testkit::recordings;

/// Greyhound markets that are also replayed into Postgres; SQLite takes all.
const GREYHOUNDS_ON_POSTGRES: usize = 3;

#[tokio::test]
async fn shipped_exchange_market_matches_truth() {
    for backend in [Backend::Postgres, Backend::Sqlite] {
        assert_markets(backend, &shipped("betfair"), "", usize::MAX).await;
    }
}

#[tokio::test]
async fn private_horse_markets_in_postgres_match_truth() {
    let test = "private_horse_markets_in_postgres_match_truth";
    markets(test, Backend::Postgres, "betfair_streams", "", usize::MAX).await;
}

#[tokio::test]
async fn private_horse_markets_in_sqlite_match_truth() {
    let test = "private_horse_markets_in_sqlite_match_truth";
    markets(test, Backend::Sqlite, "betfair_streams", "", usize::MAX).await;
}

#[tokio::test]
async fn private_greyhound_markets_in_postgres_match_truth() {
    let test = "private_greyhound_markets_in_postgres_match_truth";
    let most = GREYHOUNDS_ON_POSTGRES;
    greyhounds(test, Backend::Postgres, most).await;
}

#[tokio::test]
async fn private_greyhound_markets_in_sqlite_match_truth() {
    let test = "private_greyhound_markets_in_sqlite_match_truth";
    greyhounds(test, Backend::Sqlite, usize::MAX).await;
}

async fn greyhounds(test: &str, backend: Backend, most: usize) {
    markets(test, backend, "betfair_pro_greyhounds", "traralgon", most).await;
}

async fn markets(test: &str, backend: Backend, folder: &str, under: &str, most: usize) {
    let Some(folder) = recordings::folder(test, folder) else {
        return;
    };
    assert_markets(backend, &folder, under, most).await;
}

/// Replays up to `most` files of a folder into one database and compares each market.
async fn assert_markets(backend: Backend, folder: &Path, under: &str, most: usize) {
    let truth = json_file(&folder.join("truth.json"));
    let target = ReplayTarget::new(backend).await;
    for file in truth.as_array().expect("a list").iter().take(most) {
        let path = path_of(folder, under, file);
        let outcome = target.replay(&path, "betfair").await.expect_code(0).json();
        let mut changes = 0;
        for (market, truth) in file["markets"].as_object().expect("markets") {
            changes += truth["best_price_changes"].as_u64().expect("a count");
            assert_market(&target, market, truth).await;
        }
        let kinds = ["inserted", "reopened", "changed", "withdrawn"];
        let written: u64 = kinds.iter().map(|kind| count(&outcome, kind)).sum();
        assert_eq!(written, changes, "{}: {outcome}", path.display());
        for none in ["stale", "rejected"] {
            assert_eq!(count(&outcome, none), 0, "{}: {outcome}", path.display());
        }
    }
    let history = target.number("SELECT count(*) FROM price_history").await;
    let sums = "SELECT sum(inserted + reopened + changed + withdrawn) FROM cycles";
    assert_eq!(history, target.number(sums).await);
}

pub fn path_of(folder: &Path, under: &str, file: &Value) -> PathBuf {
    folder
        .join(under)
        .join(file["file"].as_str().expect("a name"))
}

async fn assert_market(target: &ReplayTarget, market: &str, truth: &Value) {
    let event = format!("SELECT status FROM events WHERE key = '{market}'");
    let status = target.rows(&event).await.concat();
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
    let runners = target.rows(&runners).await;
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
