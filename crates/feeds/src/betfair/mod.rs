//! Betfair's exchange stream: each line becomes a snapshot of the markets that it changed. `Replay`
//! feeds it the lines of a recording.
//!
//! A Betfair market (`1.195453609`) is an event here: the win and the place market of one race
//! open, suspend and close on their own. Its prices are the best that a backer can take, under the
//! market's type (`win`), and the best that a layer can take (`win_lay`). A closed market keeps its
//! last prices: they are the closing prices.
//!
//! Last traded prices, traded volumes and starting prices are not offers, so they become no prices. A recording may
//! hold nothing else: [`MarketStream::other_fields`] counts them, and [`MarketStream::ltp_changes`] the changes of
//! last traded prices.
//!
//! A malformed part of a line costs only itself. Of several definitions of one market the one with the highest
//! `version` counts: in one line they are applied in the order of their versions, with the prices beside them; in a
//! later line a change with a lower version is rejected, unless it is an image.

mod change;
mod market;
mod order_book;
mod wire;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use change::read_changes;
use market::ExchangeMarket;
use oddsd_core::model::{
    Bookmaker, BookmakerId, EventId, EventsInDoubt, RejectedRows, Scope, Snapshot,
};
use wire::StreamMessage;

pub const SOURCE: &str = "betfair";
const BOOKMAKER: &str = "betfair";

/// Markets followed at once; a subscription may hold a few hundred.
const MAX_MARKETS: usize = 20_000;
const MAX_ID_BYTES: usize = 100;
/// 2000-01-01 to 2100-01-01: a line with a time outside is rejected.
const PLAUSIBLE_MS: std::ops::Range<i64> = 946_684_800_000..4_102_444_800_000;

/// The state of every market that the stream has defined and not closed.
#[derive(Debug, Default)]
pub struct MarketStream {
    markets: HashMap<EventId, ExchangeMarket>,
    ltp_changes: u64,
    /// Offers of all deltas.
    prices_read: u64,
    other_fields: BTreeMap<&'static str, u64>,
}

/// The result of one line.
#[derive(Debug)]
pub enum LineOutcome {
    /// A delta: only the runners that the line changed, unchanged best prices included.
    Snapshot(Snapshot),
    /// A heartbeat, a connection message, or volumes only.
    NoChange,
    /// A corrupt line, or one about undefined markets. The stream continues without it.
    Rejected(RejectedRows),
}

impl MarketStream {
    /// Changes of last traded prices so far, one per runner and line.
    pub fn ltp_changes(&self) -> u64 {
        self.ltp_changes
    }

    /// Offers so far, unchanged ones included.
    pub fn prices_read(&self) -> u64 {
        self.prices_read
    }

    /// Runner changes so far that had a field without offers, by its name.
    pub fn other_fields(&self) -> &BTreeMap<&'static str, u64> {
        &self.other_fields
    }

    /// Applies the stream's next line.
    pub fn apply_line(&mut self, line: &str) -> LineOutcome {
        if line.trim().is_empty() {
            return LineOutcome::NoChange;
        }
        let mut rejects = RejectedRows::default();
        let message: StreamMessage = match serde_json::from_str(line) {
            Ok(message) => message,
            Err(error) => {
                rejects.add("corrupt_line", error);
                return LineOutcome::Rejected(rejects);
            }
        };
        if message.op != "mcm" {
            return LineOutcome::NoChange;
        }
        let at = message
            .pt
            .filter(|pt| PLAUSIBLE_MS.contains(pt))
            .and_then(DateTime::from_timestamp_millis);
        let Some(at) = at else {
            rejects.add("no_plausible_time", format_args!("{:?}", message.pt));
            return LineOutcome::Rejected(rejects);
        };
        self.apply_message(message, at, rejects)
    }

    fn apply_message(
        &mut self,
        message: StreamMessage,
        at: DateTime<Utc>,
        mut rejects: RejectedRows,
    ) -> LineOutcome {
        let mut changed: Vec<EventId> = Vec::new();
        let changes = message.mc.unwrap_or_default();
        for change in read_changes(&changes, &mut rejects) {
            if change.id.len() > MAX_ID_BYTES || change.id.contains(char::is_control) {
                rejects.add("bad_market_id", &change.id);
                continue;
            }
            let id = EventId::new(&*change.id);
            let full = self.markets.len() >= MAX_MARKETS;
            let market = match (self.markets.entry(id.clone()), &change.definition) {
                (Entry::Occupied(known), _) => known.into_mut(),
                (Entry::Vacant(_), Some(_)) if full => {
                    rejects.add("market_cap", &change.id);
                    continue;
                }
                (Entry::Vacant(new), Some(_)) => new.insert(ExchangeMarket::new(&change.id)),
                (Entry::Vacant(_), None) => {
                    rejects.add("unknown_market", &change.id);
                    continue;
                }
            };
            if market.is_newer_than(&change) {
                rejects.add("older_version", &change.id);
                continue;
            }
            market.apply(&change, &mut self.other_fields, &mut rejects);
            if !changed.contains(&id) {
                changed.push(id);
            }
        }

        let mut events = Vec::with_capacity(changed.len());
        for id in changed {
            let Some(market) = self.markets.get_mut(&id) else {
                continue;
            };
            let delta = market.take_delta(at, &mut self.ltp_changes);
            let prices = delta.iter().flat_map(|delta| &delta.prices);
            self.prices_read += prices.filter(|price| price.offer.is_some()).count() as u64;
            events.extend(delta);
            if market.is_closed() {
                self.markets.remove(&id);
            }
        }
        match (events.is_empty(), rejects.is_empty()) {
            (true, true) => LineOutcome::NoChange,
            (true, false) => LineOutcome::Rejected(rejects),
            (false, _) => LineOutcome::Snapshot(Snapshot {
                source: Arc::from(SOURCE),
                as_of: at,
                scope: Scope::Listed,
                events,
                in_doubt: EventsInDoubt::default(),
                bookmakers: vec![Bookmaker {
                    id: BookmakerId::new(BOOKMAKER),
                    name: "Betfair Exchange".into(),
                }],
                rejected: rejects,
            }),
        }
    }
}
