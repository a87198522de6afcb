//! Recordings of The Odds API: counts, and the prices that are open at the end.

use std::collections::BTreeMap;
use std::path::Path;

use rust_decimal::Decimal;
use serde_json::Value;

use super::{Backend, PRICES, ReplayTarget, count, json_file, lines};
use crate::recordings::shipped;
use oddsd_testkit::recordings;

const LEAGUES: [&str; 3] = ["mlb_2026-08-04", "ncaaf_2026-08-04_6h", "wnba_2026-08-04"];

#[tokio::test]
async fn shipped_league_matches_truth() {
    for backend in [Backend::Postgres, Backend::Sqlite] {
        assert_league(backend, &shipped("odds_api"), "league").await;
    }
}

#[tokio::test]
async fn private_leagues_in_postgres_match_truth() {
    every_league("private_leagues_in_postgres_match_truth", Backend::Postgres).await;
}

#[tokio::test]
async fn private_leagues_in_sqlite_match_truth() {
    every_league("private_leagues_in_sqlite_match_truth", Backend::Sqlite).await;
}

async fn every_league(test: &str, backend: Backend) {
    let Some(folder) = recordings::folder(test, "odds_api_git_5min") else {
        return;
    };
    for name in LEAGUES {
        assert_league(backend, &folder, name).await;
    }
}

async fn assert_league(backend: Backend, folder: &Path, name: &str) {
    let target = ReplayTarget::new(backend).await;
    let file = folder.join(format!("{name}.jsonl.zst"));
    let outcome = target.replay(&file, "odds-api").await.expect_code(0);
    let outcome = outcome.expect_texts(&["verified: "]).json();
    let truth = json_file(&folder.join(format!("{name}.truth.json")));
    assert_counts(&outcome, &truth, name);
    assert_eq!(open_prices(&target).await, last_poll(&file), "{name}");
    assert_rows_agree(&target, &outcome, name).await;
}

fn assert_counts(outcome: &Value, truth: &Value, name: &str) {
    let is = |what: &str, counted: u64, wanted: &str| {
        assert_eq!(Some(counted), truth[wanted].as_u64(), "{name}: {what}");
    };
    is("snapshots", count(outcome, "snapshots"), "snapshots");
    is("seen", count(outcome, "prices_seen"), "price_observations");
    let opened = count(outcome, "inserted") + count(outcome, "reopened");
    is("opened", opened, "inserts");
    is("keys", count(outcome, "inserted"), "distinct_selections");
    is("changed", count(outcome, "changed"), "changes");
    is("withdrawn", count(outcome, "withdrawn"), "removals");
    is("unchanged", count(outcome, "unchanged"), "unchanged");
    for none in ["stale", "rejected", "no_price"] {
        assert_eq!(count(outcome, none), 0, "{name}: {none}");
    }
}

/// Rows, history and the sums over the cycles equal the counts that the program printed.
async fn assert_rows_agree(target: &ReplayTarget, outcome: &Value, name: &str) {
    let (inserted, written) = (
        count(outcome, "inserted"),
        ["inserted", "reopened", "changed", "withdrawn"]
            .iter()
            .map(|kind| count(outcome, kind))
            .sum::<u64>(),
    );
    let rows = target.number("SELECT count(*) FROM prices").await;
    assert_eq!(rows as u64, inserted, "{name}: one row per key");
    let history = target.number("SELECT count(*) FROM price_history").await;
    assert_eq!(history as u64, written, "{name}: one history row per write");
    for kind in ["inserted", "reopened", "changed", "withdrawn"] {
        let sum = format!("SELECT sum({kind}) FROM cycles");
        assert_eq!(
            target.number(&sum).await as u64,
            count(outcome, kind),
            "{name}: {kind}"
        );
    }
    let pending = target.number("SELECT count(*) FROM outbox").await;
    assert_eq!(pending, 0, "{name}: every removal was confirmed");
}

/// (game, market, outcome, bookmaker)
type PricePath = [String; 4];

/// Open prices: the fraction in lowest terms, decimal odds, point.
type Open = BTreeMap<PricePath, (String, Decimal, Option<Decimal>)>;

async fn open_prices(target: &ReplayTarget) -> Open {
    let sql = format!(
        "SELECT e.key, p.market, s.key, b.key, p.fractional, CAST(p.decimal AS text), CAST(p.point AS text)
         FROM {PRICES} WHERE p.status = 'open'"
    );
    let rows = target.rows(&sql).await;
    let open = rows.into_iter().map(|row| {
        let mut row = row.into_iter();
        let mut next = || row.next().expect("a column");
        let place = [(); 4].map(|()| next().expect("a word"));
        let fraction = next().expect("American odds are a fraction");
        let decimal = next().expect("odds").parse().expect("a decimal");
        let point: Option<Decimal> = next().map(|point| point.parse().expect("a decimal"));
        (place, (fraction, decimal, point.map(|p| p.normalize())))
    });
    open.collect()
}

/// The prices of the last poll of a file, converted independently of oddsd: +150 is 3/2 and pays 5/2,
/// -110 is 10/11 and pays 21/11.
fn last_poll(file: &Path) -> Open {
    let line = lines(file).pop().expect("a poll");
    let poll: Value = serde_json::from_str(&line).expect("JSON");
    let text = |value: &Value, name: &str| value[name].as_str().expect("text").to_owned();
    let list = |value: &Value, name: &str| value[name].as_array().expect("a list").clone();
    let mut open = Open::new();
    for game in list(&poll, "body") {
        for bookmaker in list(&game, "bookmakers") {
            for market in list(&bookmaker, "markets") {
                for outcome in list(&market, "outcomes") {
                    let place = [
                        text(&game, "id"),
                        text(&market, "key"),
                        text(&outcome, "name"),
                        text(&bookmaker, "key"),
                    ];
                    let (profit, stake) = fraction(outcome["price"].as_i64().expect("whole"));
                    let point = outcome.get("point").map(|point| {
                        let point: Decimal = point.to_string().parse().expect("a decimal");
                        point.normalize()
                    });
                    let odds = nearest(profit + stake, stake);
                    let offer = (format!("{profit}/{stake}"), odds, point);
                    assert_eq!(open.insert(place, offer), None);
                }
            }
        }
    }
    open
}

fn fraction(american: i64) -> (i64, i64) {
    let (profit, stake) = match american {
        odds if odds >= 100 => (odds, 100),
        odds => (100, -odds),
    };
    let common = (1..=profit.min(stake))
        .rev()
        .find(|n| profit % n == 0 && stake % n == 0);
    let common = common.expect("one divides all");
    (profit / common, stake / common)
}

/// The decimal of nine places that is nearest to `n/d`, in whole numbers.
fn nearest(n: i64, d: i64) -> Decimal {
    const PLACES: u32 = 9;
    let scaled = i128::from(n) * 10_i128.pow(PLACES);
    let d = i128::from(d);
    let (whole, rest) = (scaled / d, scaled % d);
    assert_ne!(
        rest * 2,
        d,
        "no odds lie between two decimals of nine places"
    );
    let up = i128::from(rest * 2 > d);
    Decimal::from_i128_with_scale(whole + up, PLACES).normalize()
}
