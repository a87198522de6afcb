//! Recorded days, replayed: what the parsers make of them must equal what independent counts of
//! the same files say, and what is recorded must replay as it was.

mod exchange;
mod files;
mod laws;
mod league;
mod racing;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use chrono::{DateTime, Utc};
use oddsd::feed::replay::Replay;
use oddsd::model::{EventId, Offer, PriceKey, Scope, Snapshot};
use serde_json::Value;

fn json_file(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Stands for the stored state.
#[derive(Default)]
struct Stored {
    open: HashMap<(EventId, PriceKey), Offer>,
    inserts: u64,
    changes: u64,
    removals: u64,
    unchanged: u64,
}

impl Stored {
    fn take(&mut self, snapshot: &Snapshot) {
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

/// A body of one game, its price `price`.
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
        assert!(replayed.set_aside.is_empty(), "{}", replayed.set_aside);
        snapshots.extend(replayed.snapshot);
    }
    snapshots
}
