//! Recorded days of The Odds API: counts, and the prices that are open at the end.

use std::collections::BTreeMap;
use std::path::Path;

use rust_decimal::Decimal;
use serde_json::Value;

use super::{Backend, Home, PRICES, count, json_file, lines};
use oddsd_testkit::recordings;

const LEAGUES: [&str; 3] = ["mlb_2026-08-04", "ncaaf_2026-08-04_6h", "wnba_2026-08-04"];

#[tokio::test]
async fn a_league_replayed_into_postgres_is_stored_as_counted() {
    every_league(
        "a_league_replayed_into_postgres_is_stored_as_counted",
        Backend::Postgres,
    )
    .await;
}

#[tokio::test]
async fn a_league_replayed_into_sqlite_is_stored_as_counted() {
    every_league(
        "a_league_replayed_into_sqlite_is_stored_as_counted",
        Backend::Sqlite,
    )
    .await;
}

async fn every_league(test: &str, backend: Backend) {
    let Some(folder) = recordings::folder(test, "odds_api_git_5min") else {
        return;
    };
    for name in LEAGUES {
        let home = Home::new(backend).await;
        let file = folder.join(format!("{name}.jsonl.zst"));
        let told = home.replay(&file, "odds-api").await.is(0);
        let told = told.says(&["verified: "]).json();
        let truth = json_file(&folder.join(format!("{name}.truth.json")));
        assert_counts(&told, &truth, name);
        assert_eq!(open_prices(&home).await, last_poll(&file), "{name}");
        assert_rows_agree(&home, &told, name).await;
    }
}

fn assert_counts(told: &Value, truth: &Value, name: &str) {
    let is = |what: &str, told: u64, wanted: &str| {
        assert_eq!(Some(told), truth[wanted].as_u64(), "{name}: {what}");
    };
    is("snapshots", count(told, "snapshots"), "snapshots");
    is("seen", count(told, "prices_seen"), "price_observations");
    let opened = count(told, "inserted") + count(told, "reopened");
    is("opened", opened, "inserts");
    is("keys", count(told, "inserted"), "distinct_selections");
    is("changed", count(told, "changed"), "changes");
    is("withdrawn", count(told, "withdrawn"), "removals");
    is("unchanged", count(told, "unchanged"), "unchanged");
    for none in ["stale", "rejected", "no_price"] {
        assert_eq!(count(told, none), 0, "{name}: {none}");
    }
}

/// The tables count what the program told: rows, history, and the sums over the cycles.
async fn assert_rows_agree(home: &Home, told: &Value, name: &str) {
    let (inserted, written) = (
        count(told, "inserted"),
        ["inserted", "reopened", "changed", "withdrawn"]
            .iter()
            .map(|kind| count(told, kind))
            .sum::<u64>(),
    );
    let rows = home.number("SELECT count(*) FROM prices").await;
    assert_eq!(rows as u64, inserted, "{name}: one row a key");
    let history = home.number("SELECT count(*) FROM price_history").await;
    assert_eq!(
        history as u64, written,
        "{name}: one line of history a write"
    );
    for kind in ["inserted", "reopened", "changed", "withdrawn"] {
        let sum = format!("SELECT sum({kind}) FROM cycles");
        assert_eq!(
            home.number(&sum).await as u64,
            count(told, kind),
            "{name}: {kind}"
        );
    }
    let pending = home.number("SELECT count(*) FROM outbox").await;
    assert_eq!(pending, 0, "{name}: every removal was confirmed");
}

/// (game, market, outcome, bookmaker)
type Place = [String; 4];

/// What is open: profit for a stake as the smallest whole numbers, decimal odds, point.
type Open = BTreeMap<Place, (String, Decimal, Option<Decimal>)>;

async fn open_prices(home: &Home) -> Open {
    let sql = format!(
        "SELECT e.key, p.market, s.key, b.key, p.fractional, CAST(p.decimal AS text), CAST(p.point AS text)
         FROM {PRICES} WHERE p.status = 'open'"
    );
    let rows = home.rows(&sql).await;
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

/// The prices of the last poll of a file, by arithmetic of our own: +150 is 150 for 100, so 3/2,
/// so 5/2 in all; -110 is 100 for 110, so 10/11, so 21/11.
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
