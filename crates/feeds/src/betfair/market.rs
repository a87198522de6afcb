//! One market of the exchange: its definition and the order books of its runners. `MarketStream`
//! applies changes to it and takes the delta of each line.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use super::change::ParsedChange;
use super::order_book::OrderBook;
use super::wire::{MarketDefinition, RunnerChange, RunnerDefinition};
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
    /// Of the last definition that has one.
    version: Option<i64>,
}

/// Runner id and handicap.
type RunnerKey = (i64, Decimal);

#[derive(Debug)]
struct MarketRunner {
    selection: SelectionId,
    /// From the last definition that names it. Prices of a runner without a definition are held until then.
    status: Option<SelectionStatus>,
    /// It was removed while the market went on: its prices are withdrawn.
    is_out: bool,
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
            version: None,
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
        self.version = definition.version().or(self.version);
        for row in &definition.runners {
            match serde_json::from_str(row.get()) {
                Ok(runner) => self.apply_runner(&runner, rejects),
                Err(error) => rejects.add("unreadable_runner", error),
            }
        }
        match self.status_of(definition) {
            Some(status) => self.event.status = status,
            None => rejects.add("unknown_market_status", &definition.status),
        }
    }

    /// A market that closes with every runner removed is abandoned. A definition may leave runners out, so those of
    /// all definitions count, and those that only had prices.
    fn status_of(&self, definition: &MarketDefinition) -> Option<EventStatus> {
        let runners = self.runners.values();
        let mut runners = runners.filter(|runner| runner.is_known()).peekable();
        match &*definition.status {
            // `OPEN` alone does not tell whether the race is upcoming; the clock decides that.
            "OPEN" if definition.in_play => Some(EventStatus::Live),
            "OPEN" | "INACTIVE" => Some(EventStatus::Scheduled),
            "CLOSED" if runners.peek().is_some() && runners.all(MarketRunner::is_removed) => {
                Some(EventStatus::Abandoned)
            }
            other => EventStatus::from_source_word(other),
        }
    }

    fn apply_runner(&mut self, definition: &RunnerDefinition, rejects: &mut RejectedRows) {
        let Some(status) = runner_status(&definition.status) else {
            return rejects.add("unknown_runner_status", &definition.status);
        };
        let handicap = definition.hc.and_then(exact).unwrap_or_default();
        let Some(runner) = self.runner_mut((definition.id, handicap)) else {
            return rejects.add("runner_cap", definition.id);
        };
        // The next delta has its earlier prices too: their sides count as changed until then.
        runner.status = Some(status);
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

    /// Applies one change of the market. Fields that hold no offers are counted in `other_fields` by their names.
    pub fn apply(
        &mut self,
        change: &ParsedChange,
        other_fields: &mut BTreeMap<&'static str, u64>,
        rejects: &mut RejectedRows,
    ) {
        if change.is_image {
            for runner in self.runners.values_mut() {
                runner.book.clear();
            }
        }
        if let Some(definition) = &change.definition {
            self.apply_definition(definition, rejects);
        }
        for row in &change.runners {
            let row: RunnerChange = match serde_json::from_str(row.get()) {
                Ok(row) => row,
                Err(error) => {
                    rejects.add("unreadable_runner_change", error);
                    continue;
                }
            };
            let handicap = row.hc.and_then(exact).unwrap_or_default();
            let Some(runner) = self.runner_mut((row.id, handicap)) else {
                rejects.add("runner_cap", row.id);
                continue;
            };
            for name in row.other_fields() {
                *other_fields.entry(name).or_default() += 1;
            }
            if let Some(price) = row.ltp.and_then(exact) {
                runner.newly_traded = Some(price);
            }
            let unreadable = runner.book.apply(&row);
            if unreadable > 0 {
                let sample = format_args!("{} runner {}", change.id, row.id);
                rejects.add_rows("unreadable_ladder_row", unreadable, sample);
            }
        }
    }

    /// Whether a change is older than the last definition: its own has a lower version, so it was made before. An
    /// image is never older, because it replaces all that is known.
    pub fn is_newer_than(&self, change: &ParsedChange) -> bool {
        let version = change.version();
        !change.is_image && version.is_some() && version < self.version
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
            if runner.status.is_none() {
                continue;
            }
            // A runner that is removed loses its prices, though nothing empties its ladder and though a recording that
            // begins later has none of them, and gets them back with its place. A market that ends with all its
            // runners removed keeps their closing prices.
            let is_out = runner.is_removed()
                && (runner.is_out || self.event.status != EventStatus::Abandoned);
            if is_out != runner.is_out {
                runner.is_out = is_out;
                for side in [&mut runner.book.back, &mut runner.book.lay] {
                    side.mark_changed(is_out);
                }
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
                    offer: best.filter(|_| !is_out).map(Offer::decimal),
                    suspended: false,
                    observed_at: Some(at),
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
            status: None,
            is_out: false,
            book: OrderBook::default(),
            last_traded: None,
            newly_traded: None,
        }))
    }
}

impl MarketRunner {
    /// Whether a definition or a price has named it.
    fn is_known(&self) -> bool {
        self.status.is_some() || !self.book.back.is_empty() || !self.book.lay.is_empty()
    }

    fn is_removed(&self) -> bool {
        self.status.is_some_and(SelectionStatus::is_withdrawn)
    }
}

fn runner_status(word: &str) -> Option<SelectionStatus> {
    Some(match word {
        "ACTIVE" => SelectionStatus::Active,
        "REMOVED" | "REMOVED_VACANT" | "HIDDEN" => SelectionStatus::Removed,
        "WINNER" => SelectionStatus::Winner,
        "PLACED" => SelectionStatus::Placed,
        "LOSER" => SelectionStatus::Loser,
        _ => return None,
    })
}

fn sanitize(text: &Option<Cow<str>>) -> String {
    sanitize_text(text.as_deref().unwrap_or_default().trim(), MAX_TEXT_CHARS)
}
