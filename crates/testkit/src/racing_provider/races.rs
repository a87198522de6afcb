//! One race in the provider's format. Tests of the feed serve it and change it.

use serde_json::{Value, json};

/// A race as documented, with one runner at two bookmakers.
pub fn race(id: &str) -> Value {
    json!({
        "race_id": id, "course": "Hereford", "course_id": "crs_1", "date": "2025-10-13",
        "off_time": "3:05", "off_dt": "2025-10-13T15:05:00+01:00", "race_name": "Mill Pond Hurdle",
        "distance": "2m53y", "distance_f": "16.0", "region": "GB", "race_class": "Class 4",
        "type": "Hurdle", "age_band": "4yo+", "prize": "£4,193", "field_size": "1", "going": "Good",
        "surface": "Turf", "big_race": false, "is_abandoned": false, "race_status": null,
        "runners": [runner("hrs_1", json!([odds("Bet365", "23"), odds("Coral", "17")]))],
    })
}

pub fn runner(id: &str, odds: Value) -> Value {
    json!({
        "horse_id": id, "horse": "Quiet Kettle", "age": "5", "sex": "mare", "trainer": "Ned Vaisey",
        "jockey": "Isla Hexley", "number": "1", "draw": "0", "lbs": "158", "form": "542-",
        "last_run": "186", "odds": odds,
    })
}

pub fn odds(bookmaker: &str, decimal: &str) -> Value {
    json!({
        "bookmaker": bookmaker, "fractional": "", "decimal": decimal, "ew_places": "3",
        "ew_denom": "5", "updated": "2025-10-13 14:11:07", "history": [],
    })
}
