//! One market of the exchange: its definition and the order books of its runners. `MarketStream`
//! applies changes to it and takes the delta of each line.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use super::order_book::OrderBook;
use super::wire::{MarketChange, MarketDefinition, RunnerDefinition};
use super::{BOOKMAKER, SOURCE};
use crate::number::exact;
use oddsd_core::model::{
    Attributes, BookmakerId, Event, EventId, EventSnapshot, EventStatus, MarketId, Offer, Price,
    PriceKey, RejectedRows, Selection, SelectionId, SelectionStatus, sanitize_text,
};

/// The most runners of one market; a large race has about 40.
const MAX_RUNNERS: usize = 2_000;
const MAX_TEXT_CHARS: usize = 200;

#[derive(Debug)]
pub struct ExchangeMarket {
    event: Event,
    back: MarketId,
    lay: MarketId,
    runners: BTreeMap<RunnerKey, MarketRunner>,
    /// From the definitions since the last delta, each id once.
    selections: Vec<Selection>,
    /// A definition arrived since the last delta.
    has_new_definition: bool,
}

/// Runner id and handicap.
type RunnerKey = (i64, Decimal);

#[derive(Debug)]
struct MarketRunner {
    selection: SelectionId,
    /// A definition has named it. Prices of a runner without a definition are held until then.
    defined: bool,
    book: OrderBook,
    last_traded: Option<Decimal>,
    newly_traded: Option<Decimal>,
}

impl ExchangeMarket {
    /// A market without a definition yet.
    pub fn new(id: &str) -> Self {
        Self {
            event: Event {
                id: EventId::new(id),
                source: Arc::from(SOURCE),
                sport: String::new(),
                league: String::new(),
                venue: String::new(),
                name: String::new(),
                starts_at: None,
                day: None,
                status: EventStatus::Scheduled,
                in_play: false,
                listed: true,
                attributes: Attributes::new(),
            },
            back: MarketId::new(""),
            lay: MarketId::new(""),
            runners: BTreeMap::new(),
            selections: Vec::new(),
            has_new_definition: false,
        }
    }

    fn apply_definition(&mut self, definition: &MarketDefinition, rejects: &mut RejectedRows) {
        self.has_new_definition = true;
        let market_type =
            sanitize_text(definition.market_type.trim(), MAX_TEXT_CHARS).to_lowercase();
        self.lay = MarketId::new(format!("{market_type}_lay"));
        self.back = MarketId::new(&market_type);

        let event = &mut self.event;
        event.sport = match &*definition.event_type_id {
            "7" => "horse_racing".into(),
            "4339" => "greyhounds".into(),
            other => sanitize_text(other, MAX_TEXT_CHARS),
        };
        event.league = sanitize(&definition.country_code);
        event.venue = sanitize(&definition.venue);
        event.name = [&definition.name, &definition.event_name]
            .into_iter()
            .map(sanitize)
            .find(|name| !name.is_empty())
            .unwrap_or_else(|| format!("{} {market_type}", event.venue).trim().to_owned());
        event.starts_at = definition
            .market_time
            .as_deref()
            .and_then(|time| DateTime::parse_from_rfc3339(time).ok())
            .map(|time| time.to_utc());
        event.in_play = definition.in_play;
        match market_status(definition) {
            Some(status) => event.status = status,
            None => rejects.add("unknown_market_status", &definition.status),
        }
        for runner in &definition.runners {
            self.apply_runner(runner, rejects);
        }
    }

    fn apply_runner(&mut self, definition: &RunnerDefinition, rejects: &mut RejectedRows) {
        let status = match &*definition.status {
            "ACTIVE" => SelectionStatus::Active,
            "REMOVED" | "REMOVED_VACANT" | "HIDDEN" => SelectionStatus::Removed,
            "WINNER" => SelectionStatus::Winner,
            "PLACED" => SelectionStatus::Placed,
            "LOSER" => SelectionStatus::Loser,
            other => return rejects.add("unknown_runner_status", other),
        };
        let handicap = definition.hc.and_then(exact).unwrap_or_default();
        let Some(runner) = self.runner_mut((definition.id, handicap)) else {
            return rejects.add("runner_cap", definition.id);
        };
        // The next delta has its earlier prices too: their sides count as changed until then.
        runner.defined = true;
        let mut attributes = Attributes::new();
        if let Some(bsp) = definition.bsp.and_then(exact) {
            attributes.insert("bsp", bsp.to_string());
        }
        let id = runner.selection.clone();
        let name = match sanitize(&definition.name) {
            name if name.is_empty() => id.to_string(),
            name => name,
        };
        // "4. Wild Apache" runs from trap 4. `sortPriority` follows the odds, so it is not the number.
        if let Some((number, _)) = name.split_once(". ")
            && number.parse::<u8>().is_ok()
        {
            attributes.insert("number", number);
        }
        let selection = Selection {
            id,
            name,
            status,
            attributes,
        };
        // A line may define a market twice: the later definition counts.
        match self.selections.iter_mut().find(|s| s.id == selection.id) {
            Some(earlier) => *earlier = selection,
            None => self.selections.push(selection),
        }
    }

    /// Applies one change of the market.
    pub fn apply(&mut self, change: &MarketChange, rejects: &mut RejectedRows) {
        if change.img == Some(true) {
            for runner in self.runners.values_mut() {
                runner.book.clear();
            }
        }
        if let Some(definition) = &change.market_definition {
            self.apply_definition(definition, rejects);
        }
        for row in change.rc.iter().flatten() {
            let handicap = row.hc.and_then(exact).unwrap_or_default();
            let Some(runner) = self.runner_mut((row.id, handicap)) else {
                rejects.add("runner_cap", row.id);
                continue;
            };
            if let Some(price) = row.ltp.and_then(exact) {
                runner.newly_traded = Some(price);
            }
            let unreadable = runner.book.apply(row);
            if unreadable > 0 {
                let sample = format_args!("{} runner {}", change.id, row.id);
                rejects.add_rows("unreadable_ladder_row", unreadable, sample);
            }
        }
    }

    /// Takes the changes since the last call as a delta, which is never complete; `None` if no definition arrived and no
    /// side of a defined runner changed. A changed side gives its best price, also if that is the same as before. Adds
    /// the number of new last traded prices to `ltp_changes`.
    pub fn take_delta(
        &mut self,
        at: DateTime<Utc>,
        ltp_changes: &mut u64,
    ) -> Option<EventSnapshot> {
        let bookmaker = BookmakerId::new(BOOKMAKER);
        let mut prices = Vec::new();
        for runner in self.runners.values_mut() {
            let traded = runner.newly_traded.take();
            if traded.is_some() && traded != runner.last_traded {
                runner.last_traded = traded;
                *ltp_changes += 1;
            }
            if !runner.defined {
                continue;
            }
            let book = &mut runner.book;
            let sides = [
                (book.back.take_changed(), &self.back, book.back.highest()),
                (book.lay.take_changed(), &self.lay, book.lay.lowest()),
            ];
            for (_, market, best) in sides.into_iter().filter(|(changed, ..)| *changed) {
                prices.push(Price {
                    key: PriceKey {
                        market: market.clone(),
                        selection: runner.selection.clone(),
                        bookmaker: bookmaker.clone(),
                    },
                    offer: best.map(Offer::decimal),
                    suspended: false,
                    observed_at: at,
                });
            }
        }
        let defined = std::mem::take(&mut self.has_new_definition);
        (defined || !prices.is_empty()).then(|| EventSnapshot {
            event: self.event.clone(),
            selections: std::mem::take(&mut self.selections),
            prices,
            complete: false,
            in_doubt: Vec::new(),
        })
    }

    pub fn is_closed(&self) -> bool {
        self.event.status.is_final()
    }

    fn runner_mut(&mut self, key: RunnerKey) -> Option<&mut MarketRunner> {
        if self.runners.len() >= MAX_RUNNERS && !self.runners.contains_key(&key) {
            return None;
        }
        Some(self.runners.entry(key).or_insert_with(|| MarketRunner {
            selection: match key {
                (id, handicap) if handicap.is_zero() => SelectionId::new(id.to_string()),
                (id, handicap) => SelectionId::new(format!("{id}:{handicap}")),
            },
            defined: false,
            book: OrderBook::default(),
            last_traded: None,
            newly_traded: None,
        }))
    }
}

/// A market that closes with every runner removed is abandoned.
fn market_status(definition: &MarketDefinition) -> Option<EventStatus> {
    let runners = &definition.runners;
    match &*definition.status {
        // `OPEN` alone does not tell whether the race is upcoming; the clock decides that.
        "OPEN" if definition.in_play => Some(EventStatus::Live),
        "OPEN" | "INACTIVE" => Some(EventStatus::Scheduled),
        "CLOSED" if !runners.is_empty() && runners.iter().all(|r| r.status == "REMOVED") => {
            Some(EventStatus::Abandoned)
        }
        other => EventStatus::from_source_word(other),
    }
}

fn sanitize(text: &Option<Cow<str>>) -> String {
    sanitize_text(text.as_deref().unwrap_or_default().trim(), MAX_TEXT_CHARS)
}
