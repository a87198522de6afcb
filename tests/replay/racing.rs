//! Recorded answers of The Racing API: every price is accounted for.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde_json::Value;

use super::{Backend, Home, PRICES, count, json_file};
use oddsd_testkit::recordings;

const CARDS: [&str; 3] = [
    "racecards_pro_2025-10-13_hereford.json",
    "racecards_pro_2025-10-14.json",
    "racecards_standard_2025-10-14.json",
];

#[tokio::test]
async fn a_card_replayed_is_stored_price_for_price() {
    let test = "a_card_replayed_is_stored_price_for_price";
    let Some(folder) = recordings::folder(test, "racing_api") else {
        return;
    };
    for backend in [Backend::Postgres, Backend::Sqlite] {
        for name in CARDS {
            let home = Home::new(backend).await;
            let file = folder.join(name);
            let (written, empty) = prices(&json_file(&file));
            let told = home.replay(&file, "racing-api").await.is(0).json();
            let place = format!("{name} on {backend:?}: {told}");
            assert_eq!(count(&told, "inserted"), written.len() as u64, "{place}");
            assert_eq!(count(&told, "no_price"), empty, "{place}");
            assert_eq!(
                count(&told, "prices_seen"),
                written.len() as u64 + empty,
                "{place}"
            );
            assert_eq!(count(&told, "rejected"), 0, "{place}");
            assert_eq!(stored(&home).await, written, "{place}");
        }
    }
}

#[tokio::test]
async fn answers_of_another_call_are_refused_by_name() {
    let test = "answers_of_another_call_are_refused_by_name";
    let Some(folder) = recordings::folder(test, "racing_api") else {
        return;
    };
    let home = Home::new(Backend::Sqlite).await;
    let file = folder.join("results_2025-10-13.json");
    let told = home.replay(&file, "racing-api").await.is(1);
    told.says(&[
        "results_2025-10-13.json",
        "no record of a known shape",
        "The Racing API",
    ]);
}

/// (race, horse, bookmaker without spaces) and decimal odds.
type Prices = BTreeMap<[String; 3], Decimal>;

async fn stored(home: &Home) -> Prices {
    let sql = format!(
        "SELECT e.key, s.key, b.name, CAST(p.decimal AS text) FROM {PRICES} WHERE p.status = 'open'"
    );
    let rows = home.rows(&sql).await;
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

/// Prices of a recorded card, and how many rows say that there is none.
fn prices(card: &Value) -> (Prices, u64) {
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let (mut prices, mut empty) = (Prices::new(), 0);
    for race in list(&card["body"], "racecards") {
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
