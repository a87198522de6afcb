//! Recordings through the parsers alone: snapshots must equal independent counts of the same files,
//! and a recording must replay as it was recorded. The shipped files of `tests/data` always run, the
//! private recordings only where they are.

mod exchange;
mod files;
mod league;
mod malformed;
mod racing;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use oddsd_core::model::{EventId, Offer, PriceKey, Scope, Snapshot};
use oddsd_feeds::replay::Replay;
use serde_json::Value;

/// A folder of the recordings that the repository ships.
pub fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

pub fn json_file(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The open prices after the snapshots so far, and how they changed.
#[derive(Default)]
struct OpenPrices {
    open: HashMap<(EventId, PriceKey), Offer>,
    inserts: u64,
    changes: u64,
    removals: u64,
    unchanged: u64,
}

impl OpenPrices {
    fn apply(&mut self, snapshot: &Snapshot) {
        let mut listed = BTreeSet::new();
        for event in &snapshot.events {
            for price in &event.prices {
                let key = (event.event.id.clone(), price.key.clone());
                match (&price.offer, self.open.get(&key)) {
                    (None, None) => {}
                    (None, Some(_)) => {
                        self.open.remove(&key);
                        self.removals += 1;
                    }
                    (Some(offer), None) => {
                        self.open.insert(key.clone(), *offer);
                        self.inserts += 1;
                    }
                    (Some(offer), Some(known)) if offer == known => self.unchanged += 1,
                    (Some(offer), Some(_)) => {
                        self.open.insert(key.clone(), *offer);
                        self.changes += 1;
                    }
                }
                listed.insert(key);
            }
        }
        if matches!(snapshot.scope, Scope::League(_)) {
            let before = self.open.len();
            self.open.retain(|key, _| listed.contains(key));
            self.removals += (before - self.open.len()) as u64;
        }
    }
}

const T0: &str = "2026-08-04T00:00:00Z";

fn t0() -> DateTime<Utc> {
    T0.parse().expect("valid")
}

/// An answer of The Odds API with one game at this price.
fn game(price: &str) -> String {
    format!(
        r#"[{{"id":"g1","sport_key":"baseball_mlb","sport_title":"MLB","commence_time":"2026-08-04T23:05:00Z",
"home_team":"Red Sox","away_team":"Yankees","bookmakers":[{{"key":"fanduel","title":"FanDuel",
"last_update":"2026-08-03T23:59:00Z","markets":[{{"key":"h2h","outcomes":[{{"name":"Red Sox","price":{price}}},
{{"name":"Yankees","price":120,"point":-1.50}}]}}]}}]}}]"#
    )
}

fn snapshots(path: &Path) -> Vec<Snapshot> {
    let mut replay = Replay::open(path).expect("opens");
    let mut snapshots = Vec::new();
    while let Some(replayed) = replay.next().expect("reads") {
        assert!(replayed.rejected.is_empty(), "{}", replayed.rejected);
        snapshots.extend(replayed.snapshot);
    }
    snapshots
}
