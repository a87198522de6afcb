//! Times the parsing of answers, and the skipping of stored events, for `oddsd-bench pure`. Prints the best and
//! the median of many runs; other load of the machine shows in the median.

use std::collections::HashMap;
use std::hint::black_box;
use std::time::Instant;

use chrono::{DateTime, NaiveDate, Utc};
use oddsd_core::diff::EventSink;
use oddsd_core::model::{EventId, EventSnapshot, Fingerprint};
use oddsd_feeds::odds_api::{OddsFormat, parse_odds};
use oddsd_feeds::racing_api::{CardsReader, parse_cards};
use oddsd_feeds::simulator::{RaceDay, RaceDaySize};
use serde_json::{Value, json};

use crate::output::out;

const RUNS: usize = 41;
const PRICES: usize = 12_000;

pub fn measure() {
    let now: DateTime<Utc> = "2025-10-13T13:30:00Z".parse().expect("valid");
    let cards = cards(now);
    // A number where text is documented sends each race to the lenient path.
    let lenient_cards = cards.replace("\"is_abandoned\":false", "\"is_abandoned\":0");
    let prices = parse_cards(&cards, now).expect("cards").prices_seen;
    out!("racing: {prices} prices, {} bytes", cards.len());
    time("strict", &cards, || {
        black_box(parse_cards(&cards, now).expect("cards"));
    });
    time("lenient", &lenient_cards, || {
        black_box(parse_cards(&lenient_cards, now).expect("cards"));
    });
    let mut stored = StoredEvents::default();
    CardsReader::default()
        .read(&cards, now, &mut stored)
        .expect("cards");
    time("skipped", &cards, || {
        black_box(
            CardsReader::default()
                .read(&cards, now, &mut stored)
                .expect("cards"),
        );
    });

    let games = games();
    // The strict path refuses a bookmaker that is listed twice.
    let lenient_games = games.replace("\"bookmaker1\"", "\"bookmaker2\"");
    let read = |body: &str| parse_odds(body, now, "baseball_mlb", OddsFormat::American);
    let prices = read(&games).expect("games").prices_seen;
    out!("league: {prices} prices, {} bytes", games.len());
    time("strict", &games, || {
        black_box(read(&games).expect("games"));
    });
    time("lenient", &lenient_games, || {
        black_box(read(&lenient_games).expect("games"));
    });
}

fn time(what: &str, body: &str, mut run: impl FnMut()) {
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let started = Instant::now();
            run();
            started.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let (best, median) = (times[0], times[RUNS / 2]);
    out!(
        "  {what:<28} best {:7.3} ms, {:6.0} MB/s; median {:7.3} ms",
        best * 1e3,
        body.len() as f64 / best / 1e6,
        median * 1e3,
    );
}

/// Keeps the fingerprint of every pushed event.
#[derive(Default)]
struct StoredEvents(HashMap<Fingerprint, EventId>);

impl EventSink for StoredEvents {
    fn start(&mut self, _: DateTime<Utc>) {}

    fn find_unchanged(&self, slice: &Fingerprint) -> Option<EventId> {
        self.0.get(slice).cloned()
    }

    fn mark_unchanged(&mut self, _: &Fingerprint) {}

    fn push(&mut self, event: EventSnapshot, slice: Option<Fingerprint>) {
        self.0.extend(slice.map(|slice| (slice, event.event.id)));
    }
}

/// A simulated day, repeated up to the number of prices, with an own time for each price.
fn cards(now: DateTime<Utc>) -> String {
    let size = RaceDaySize {
        races: 40,
        bookmakers: 28,
    };
    let date = NaiveDate::from_ymd_opt(2025, 10, 13).expect("a date");
    let mut fixture: Value =
        serde_json::from_str(&RaceDay::new(1, date, size).card_at(now)).expect("JSON");
    let (mut races, mut prices) = (Vec::new(), 0);
    while prices < PRICES {
        for race in fixture["racecards"].as_array_mut().expect("a list") {
            race["race_id"] = format!("rac_{:08}", races.len()).into();
            for runner in race["runners"].as_array_mut().expect("a list") {
                for odds in runner["odds"].as_array_mut().expect("a list") {
                    let (minute, second) = (prices / 60 % 60, prices % 60);
                    odds["updated"] = format!("2025-10-13 13:{minute:02}:{second:02}").into();
                    prices += 1;
                }
            }
            races.push(race.clone());
            if prices >= PRICES {
                break;
            }
        }
    }
    json!({"total": races.len(), "racecards": races}).to_string()
}

fn games() -> String {
    let outcome = |name: &str, n: usize| {
        let price = match n % 2 {
            0 => 100 + (n * 7 % 300) as i64,
            _ => -100 - (n * 3 % 300) as i64,
        };
        json!({"name": name, "price": price, "point": 2.5})
    };
    let market = |key: &str, n: usize| {
        json!({
            "key": key, "last_update": format!("2025-10-13T13:29:{:02}Z", n % 60),
            "outcomes": [outcome("Red Sox", n), outcome("Yankees", n + 1)],
        })
    };
    let bookmaker = |n: usize| {
        json!({
            "key": format!("bookmaker{}", n % 33), "title": format!("Bookmaker {}", n % 33),
            "markets": [market("h2h", n), market("spreads", n + 1), market("totals", n + 2)],
        })
    };
    let game = |n: usize| {
        json!({
            "id": format!("{n:032x}"), "sport_key": "baseball_mlb", "sport_title": "MLB",
            "commence_time": "2025-10-13T23:05:00Z", "home_team": "Red Sox", "away_team": "Yankees",
            "bookmakers": (0..33).map(|b| bookmaker(n * 33 + b)).collect::<Vec<_>>(),
        })
    };
    Value::Array((0..PRICES / 198).map(game).collect()).to_string()
}
