//! Recordings of The Racing API: every price of every card is stored.

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;
use serde_json::Value;

use super::{Backend, PRICES, ReplayTarget, count, json_file, lines};
use crate::recordings::shipped;
use oddsd_testkit::recordings;

const CARDS: [&str; 3] = [
    "racecards_pro_2025-10-13_hereford.json",
    "racecards_pro_2025-10-14.json",
    "racecards_standard_2025-10-14.json",
];

/// Polls of one day: the last price of each key is stored, and withdrawn ones are not open.
#[tokio::test]
async fn shipped_card_is_stored_price_for_price() {
    let file = shipped("racing_api").join("card.jsonl.zst");
    let (mut last, mut rows, mut keys) = (Prices::new(), 0, BTreeSet::new());
    for line in lines(&file) {
        let record: Value = serde_json::from_str(&line).expect("JSON");
        let body = record["bodies"][0].as_str().expect("a body");
        let body: Value = serde_json::from_str(body).expect("JSON");
        let (prices, empty) = prices(&body);
        rows += prices.len() as u64 + empty;
        keys.extend(prices.keys().cloned());
        last = open_prices(&body, prices);
    }
    for backend in [Backend::Postgres, Backend::Sqlite] {
        let target = ReplayTarget::new(backend).await;
        let outcome = target
            .replay(&file, "racing-api")
            .await
            .expect_code(0)
            .json();
        let context = format!("{backend:?}: {outcome}");
        assert_eq!(count(&outcome, "prices_seen"), rows, "{context}");
        assert_eq!(count(&outcome, "inserted"), keys.len() as u64, "{context}");
        for some in ["changed", "withdrawn", "no_price"] {
            assert!(count(&outcome, some) > 0, "{some}: {context}");
        }
        assert_eq!(count(&outcome, "rejected"), 0, "{context}");
        assert_eq!(stored(&target).await, last, "{context}");
    }
}

#[tokio::test]
async fn private_cards_are_stored_price_for_price() {
    let test = "private_cards_are_stored_price_for_price";
    let Some(folder) = recordings::folder(test, "racing_api") else {
        return;
    };
    for backend in [Backend::Postgres, Backend::Sqlite] {
        for name in CARDS {
            let target = ReplayTarget::new(backend).await;
            let file = folder.join(name);
            let (written, empty) = prices(&json_file(&file)["body"]);
            let outcome = target
                .replay(&file, "racing-api")
                .await
                .expect_code(0)
                .json();
            let context = format!("{name} on {backend:?}: {outcome}");
            assert_eq!(
                count(&outcome, "inserted"),
                written.len() as u64,
                "{context}"
            );
            assert_eq!(count(&outcome, "no_price"), empty, "{context}");
            assert_eq!(
                count(&outcome, "prices_seen"),
                written.len() as u64 + empty,
                "{context}"
            );
            assert_eq!(count(&outcome, "rejected"), 0, "{context}");
            assert_eq!(stored(&target).await, written, "{context}");
        }
    }
}

#[tokio::test]
async fn private_results_are_refused_as_unknown_shape() {
    let test = "private_results_are_refused_as_unknown_shape";
    let Some(folder) = recordings::folder(test, "racing_api") else {
        return;
    };
    let target = ReplayTarget::new(Backend::Sqlite).await;
    let file = folder.join("results_2025-10-13.json");
    let outcome = target.replay(&file, "racing-api").await.expect_code(1);
    outcome.expect_texts(&[
        "results_2025-10-13.json",
        "no record of a known shape",
        "The Racing API",
    ]);
}

/// (race, horse, bookmaker without spaces) and decimal odds.
type Prices = BTreeMap<[String; 3], Decimal>;

async fn stored(target: &ReplayTarget) -> Prices {
    let sql = format!(
        "SELECT e.key, s.key, b.name, CAST(p.decimal AS text) FROM {PRICES} WHERE p.status = 'open'"
    );
    let rows = target.rows(&sql).await;
    rows.into_iter()
        .map(|row| {
            let [race, horse, name, odds] = <[Option<String>; 4]>::try_from(row)
                .expect("four columns")
                .map(|text| text.expect("a word"));
            let odds: Decimal = odds.parse().expect("a decimal");
            ([race, horse, short(&name)], odds.normalize())
        })
        .collect()
}

fn short(bookmaker: &str) -> String {
    bookmaker.to_lowercase().replace(' ', "")
}

/// Without those of non-runners and of abandoned races: they are withdrawn.
fn open_prices(body: &Value, mut prices: Prices) -> Prices {
    for race in body["racecards"].as_array().expect("races") {
        let is_abandoned = race["is_abandoned"] == true;
        for runner in race["runners"].as_array().expect("runners") {
            if is_abandoned || runner["number"] == "NR" {
                prices.retain(|[_, horse, _], _| runner["horse_id"] != *horse);
            }
        }
    }
    prices
}

/// Prices of a body, and the number of rows without a price.
fn prices(body: &Value) -> (Prices, u64) {
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let (mut prices, mut empty) = (Prices::new(), 0);
    for race in list(body, "racecards") {
        for runner in list(&race, "runners") {
            for odds in list(&runner, "odds") {
                match text(&odds, "decimal").parse::<Decimal>() {
                    Ok(decimal) if decimal > Decimal::ONE => {
                        let place = [
                            text(&race, "race_id"),
                            text(&runner, "horse_id"),
                            short(&text(&odds, "bookmaker")),
                        ];
                        assert_eq!(prices.insert(place, decimal.normalize()), None);
                    }
                    _ => empty += 1,
                }
            }
        }
    }
    (prices, empty)
}
