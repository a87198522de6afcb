//! The one pass and the long way are one reader: whatever the races, they say the same.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::*;

fn now() -> DateTime<Utc> {
    "2025-10-13T13:30:00Z".parse().expect("valid")
}

fn odds(bookmaker: &str, decimal: &str) -> Value {
    json!({
        "bookmaker": bookmaker, "fractional": "10/3", "decimal": decimal, "ew_places": "3",
        "ew_denom": "5", "updated": "2025-10-13 14:11:07", "history": [],
    })
}

fn runner(id: &str) -> Value {
    json!({
        "horse_id": id, "horse": "Quiet Kettle", "age": "5", "trainer": "Ned \"Ness\" Vaisey",
        "jockey": "Isla Hexley", "number": "1", "draw": "0", "lbs": "158", "form": "542-",
        "odds": [odds("Bet365", "4.33"), odds("Coral", "17"), odds("Spread Ex", "-")],
    })
}

fn race(id: &str) -> Value {
    json!({
        "race_id": id, "course": "Hereford", "date": "2025-10-13", "off_time": "3:05",
        "off_dt": "2025-10-13T15:05:00+01:00", "race_name": "Mares' \"National Hunt\" Hurdle",
        "distance": "2m53y", "region": "GB", "race_class": "Class 4", "type": "Hurdle",
        "prize": "\u{a3}4,193", "field_size": "1", "going": "Good", "surface": "Turf",
        "big_race": false, "is_abandoned": false, "race_status": null, "weather": {"deep": [1]},
        "runners": [runner("hrs_1"), runner("hrs_2")],
    })
}

/// Every value in a card, by its JSON pointer.
fn places(value: &Value, at: &str, into: &mut Vec<String>) {
    into.push(at.to_owned());
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(name, value)| places(value, &format!("{at}/{name}"), into)),
        Value::Array(list) => {
            let list = list.iter().enumerate();
            list.for_each(|(n, value)| places(value, &format!("{at}/{n}"), into));
        }
        _ => {}
    }
}

fn other() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        " {0,2}[0-9:/. R-]{0,20}".prop_map(Value::from),
        "2025-10-13 1[0-9]:[0-9]{2}:[0-9]{2}".prop_map(Value::from),
        Just(json!("Bet 365")),
        Just(json!("coral")),
        Just(json!("hrs_1")),
        Just(json!("rac_1")),
        Just(json!("NON-RUNNER")),
        Just(json!("Abandoned")),
        Just(json!([])),
        Just(json!({})),
        Just(runner("hrs_3")),
        Just(odds("Ladbrokes", "2.50")),
    ]
}

/// Races of which some values, and some bytes, are something else.
fn races() -> impl Strategy<Value = Vec<String>> {
    let changes = prop::collection::vec((any::<Index>(), other()), 0..5);
    let flips = prop::collection::vec((any::<Index>(), any::<u8>()), 0..2);
    (changes, flips, 0u8..3).prop_map(|(changes, flips, flipped)| {
        let mut races = json!([race("rac_1"), race("rac_2"), race("rac_1"), race("rac_3")]);
        for (at, other) in changes {
            let mut all = Vec::new();
            places(&races, "", &mut all);
            all.retain(|place| place.contains("/"));
            *races
                .pointer_mut(&all[at.index(all.len())])
                .expect("just listed") = other;
        }
        let races = races.as_array().expect("a list").iter();
        let mut races: Vec<_> = races.map(|race| race.to_string().into_bytes()).collect();
        for (at, byte) in flips.into_iter().filter(|_| flipped == 0) {
            let at = at.index(races[0].len());
            races[0][at] = byte;
        }
        let text = |race: Vec<u8>| String::from_utf8_lossy(&race).into_owned();
        races.into_iter().map(text).collect()
    })
}

fn told(reader: &Reader) -> impl PartialEq + std::fmt::Debug {
    (
        reader.bookmakers.listed.clone(),
        reader.rejects.clone(),
        reader.partial,
        (reader.prices_seen, reader.aside),
        reader.twice.clone(),
    )
}

proptest! {
    #[test]
    fn the_quick_way_says_what_the_long_way_says(
        races in races(),
        pages in prop::collection::vec((0usize..2, 0usize..2), 4),
    ) {
        let (mut quick, mut long) = (Reader::new(now()), Reader::new(now()));
        for (race, (day, page)) in races.iter().zip(pages) {
            let place = Place { day, page };
            match (quick.race(race, place), long.row_by_row(race, place)) {
                (Ok(quick), Ok(long)) => prop_assert_eq!(quick, long, "{}", race),
                (Err(_), Err(_)) => {}
                (quick, long) => prop_assert!(false, "{quick:?} but {long:?}: {race}"),
            }
            prop_assert_eq!(told(&quick), told(&long), "{}", race);
        }
    }
}

#[test]
fn a_race_as_documented_is_read_in_one_pass() {
    let mut reader = Reader::new(now());
    let race = reader.in_one_pass(&race("rac_1").to_string(), Place::default());
    assert_eq!(race.expect("nothing is odd").prices.len(), 6);
}
