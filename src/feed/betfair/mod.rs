//! Betfair's exchange stream, line by line, as snapshots of what each line touched.
//!
//! A Betfair market (`1.195453609`) is an event here: the win and the place market of one race
//! open, suspend and close on their own. Its prices are the best that a backer can take, under the
//! market's type (`win`), and the best that a layer can take (`win_lay`). A closed market keeps its
//! last prices: they are the closing prices.
//!
//! Recordings of the BASIC kind hold only last traded prices. Those are no offers, so no price
//! comes of them; [`Stream::ltp_changes`] says how many there were.

mod book;
mod market;
mod wire;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::model::{Bookmaker, BookmakerId, EventId, Rejects, Scope, Snapshot};
use market::Market;
use wire::Message;

pub const SOURCE: &str = "betfair";
const BOOKMAKER: &str = "betfair";

/// Markets followed at once; a subscription may hold a few hundred.
const MAX_MARKETS: usize = 20_000;
const MAX_ID_BYTES: usize = 100;
/// 2000-01-01 and 2100-01-01: a time outside is a broken line.
const PLAUSIBLE_MS: std::ops::Range<i64> = 946_684_800_000..4_102_444_800_000;

/// The books of every market that the stream has defined and not closed.
#[derive(Debug, Default)]
pub struct Stream {
    markets: HashMap<EventId, Market>,
    ltp_changes: u64,
}

/// What became of one line.
#[derive(Debug)]
pub enum Line {
    /// A delta: only what the line touched, unchanged best prices included.
    Snapshot(Snapshot),
    /// A heartbeat, a connection message, or volumes only.
    Nothing,
    /// Corrupt, or about markets that no line has defined. The stream goes on without it.
    SetAside(Rejects),
}

impl Stream {
    pub fn new() -> Self {
        Self::default()
    }

    /// Changes of last traded prices so far, one per runner and line.
    pub fn ltp_changes(&self) -> u64 {
        self.ltp_changes
    }

    /// Takes the stream's next line. A line is read whole before any of it is applied.
    pub fn line(&mut self, line: &str) -> Line {
        if line.trim().is_empty() {
            return Line::Nothing;
        }
        let mut rejects = Rejects::default();
        let message: Message = match serde_json::from_str(line) {
            Ok(message) => message,
            Err(error) => {
                rejects.add("corrupt_line", error);
                return Line::SetAside(rejects);
            }
        };
        if message.op != "mcm" {
            return Line::Nothing;
        }
        let at = message
            .pt
            .filter(|pt| PLAUSIBLE_MS.contains(pt))
            .and_then(DateTime::from_timestamp_millis);
        let Some(at) = at else {
            rejects.add("no_plausible_time", format_args!("{:?}", message.pt));
            return Line::SetAside(rejects);
        };
        self.message(message, at, rejects)
    }

    fn message(&mut self, message: Message, at: DateTime<Utc>, mut rejects: Rejects) -> Line {
        let mut touched: Vec<EventId> = Vec::new();
        for change in message.mc.iter().flatten() {
            if change.id.len() > MAX_ID_BYTES || change.id.contains(char::is_control) {
                rejects.add("bad_market_id", &change.id);
                continue;
            }
            let id = EventId::new(&change.id);
            let full = self.markets.len() >= MAX_MARKETS;
            let market = match (self.markets.entry(id.clone()), &change.market_definition) {
                (Entry::Occupied(known), _) => known.into_mut(),
                (Entry::Vacant(_), Some(_)) if full => {
                    rejects.add("market_cap", &change.id);
                    continue;
                }
                (Entry::Vacant(new), Some(_)) => new.insert(Market::new(&change.id)),
                (Entry::Vacant(_), None) => {
                    rejects.add("unknown_market", &change.id);
                    continue;
                }
            };
            market.apply(change, &mut rejects);
            if !touched.contains(&id) {
                touched.push(id);
            }
        }

        let mut events = Vec::with_capacity(touched.len());
        for id in touched {
            let Some(market) = self.markets.get_mut(&id) else {
                continue;
            };
            events.extend(market.delta(at, &mut self.ltp_changes));
            if market.is_closed() {
                self.markets.remove(&id);
            }
        }
        match (events.is_empty(), rejects.is_empty()) {
            (true, true) => Line::Nothing,
            (true, false) => Line::SetAside(rejects),
            (false, _) => Line::Snapshot(Snapshot {
                source: Arc::from(SOURCE),
                as_of: at,
                scope: Scope::Listed,
                events,
                bookmakers: vec![Bookmaker {
                    id: BookmakerId::new(BOOKMAKER),
                    name: "Betfair Exchange".into(),
                }],
                rejects,
            }),
        }
    }
}
