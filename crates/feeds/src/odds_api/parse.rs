//! Parses a league's answer into events and prices. `OddsApi` hands its events over with [`read_odds`]; recordings
//! and benches call [`parse_odds`].
//!
//! The answer has neither an event status nor selection ids: an outcome's name is its id, and every event is
//! `Scheduled`. One outcome has one price per market and bookmaker, and `point` is a value of it: as part of the
//! key, each move of a line would meta like a removal and an insertion. The `alternate_…` markets, which
//! offer many lines at once, therefore keep one line and count the others as `duplicate`.
//!
//! A rejected row may have been any price, so absence beside it proves nothing: its event is not `complete`, and
//! an answer that lost an event is `partial`.
//!
//! An event is read into strict structs first. The lenient path reads an event that these refuse, row by row,
//! and gives the same result for every event that they accept.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::value::RawValue;

use super::SOURCE;
use super::convert::{
    MAX_ID_CHARS, MAX_NAMES, MAX_TEXT_CHARS, OddsFormat, ParseCache, bookmaker_id, event_of, is_id,
    outcome, selection_of,
};
use super::fields::{
    OutcomeJson, RawBookmaker, RawEvent, RawMarket, StrictBookmaker, StrictEvent, capped_list,
};
use crate::FeedError;
use crate::json::MAX_ROW_BYTES;
use oddsd_core::diff::EventSink;
use oddsd_core::model::{
    Bookmaker, BookmakerId, EventId, EventSnapshot, Fingerprint, MarketId, Price, PriceKey,
    RejectedRows, Scope, SelectionId, Snapshot, sanitize_text,
};

/// Prices of one answer; a league has a few thousand.
const MAX_PRICES: u64 = 2_000_000;
/// A bookmaker's clock may be ahead by this much; beyond it, our own time is used.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::minutes(5);

/// One parsed answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParsedOdds {
    pub events: Vec<EventSnapshot>,
    pub bookmakers: Vec<Bookmaker>,
    pub rejected: RejectedRows,
    /// An event could not be read: one that is missing here may still be open.
    pub partial: bool,
    /// Price rows in the answer: equals the prices in `events` plus the rows in `rejects`.
    pub prices_seen: u64,
}

impl ParsedOdds {
    /// The scope of the answer: without a lost event, all of `league`.
    pub fn scope(&self, league: &str) -> Scope {
        match self.partial {
            false => Scope::League(league.to_owned()),
            true => Scope::Listed,
        }
    }

    /// The answer as a snapshot of `league` at `as_of`.
    pub fn into_snapshot(self, as_of: DateTime<Utc>, league: &str) -> Snapshot {
        Snapshot {
            source: Arc::from(SOURCE),
            as_of,
            scope: self.scope(league),
            events: self.events,
            bookmakers: self.bookmakers,
            rejected: self.rejected,
        }
    }
}

/// Parses the body of `/v4/sports/{sport}/odds` into memory. Events of another league than `sport` are rejected,
/// because the answer covers that league only. Fails if the body is not a list, or lists events of which none
/// can be read.
pub fn parse_odds(
    body: &str,
    as_of: DateTime<Utc>,
    sport: &str,
    format: OddsFormat,
) -> Result<ParsedOdds, FeedError> {
    let mut parser = OddsParser::new(as_of, sport, format);
    for raw in event_list(body)? {
        parser.parse(row_text(raw)?)?;
    }
    let events = parser.parsed.events.len();
    parser.finish(events)
}

/// Parses the same body, and hands each event to `to` as soon as it is parsed. An event whose text is stored is
/// not parsed. `ParsedOdds::events` stays empty.
pub fn read_odds(
    body: &str,
    as_of: DateTime<Utc>,
    sport: &str,
    format: OddsFormat,
    to: &mut dyn EventSink,
) -> Result<ParsedOdds, FeedError> {
    to.start(as_of);
    let mut parser = OddsParser::new(as_of, sport, format);
    let mut listed = HashSet::new();
    for raw in event_list(body)? {
        let text = row_text(raw)?;
        let fingerprint = Fingerprint::compute(text.as_bytes());
        if let Some(id) = to.find_unchanged(&fingerprint) {
            if !listed.insert(id) {
                return read_merged(body, as_of, sport, format, to);
            }
            to.mark_unchanged(&fingerprint);
            continue;
        }
        let rejected = parser.parsed.rejected.total();
        parser.parse(text)?;
        let clean = parser.parsed.rejected.total() == rejected;
        if let Some(event) = parser.take_event() {
            if !listed.insert(event.event.id.clone()) {
                return read_merged(body, as_of, sport, format, to);
            }
            to.push(event, clean.then_some(fingerprint));
        }
    }
    parser.finish(listed.len())
}

/// Hands over an answer only after all of it was parsed, and without fingerprints. The prices of an event that is
/// listed twice are one set, which is complete only then.
pub(super) fn read_merged(
    body: &str,
    as_of: DateTime<Utc>,
    sport: &str,
    format: OddsFormat,
    to: &mut dyn EventSink,
) -> Result<ParsedOdds, FeedError> {
    to.start(as_of);
    let mut parsed = parse_odds(body, as_of, sport, format)?;
    for event in parsed.events.drain(..) {
        to.push(event, None);
    }
    Ok(parsed)
}

/// The league of the answer's first event, for answers whose request is not known.
pub fn league_of(body: &str) -> Option<String> {
    event_list(body).ok()?.into_iter().find_map(|raw| {
        let event: RawEvent<'_> = serde_json::from_str(raw.get()).ok()?;
        Some(event.sport_key.into_owned()).filter(|league| is_id(league))
    })
}

fn event_list(body: &str) -> Result<Vec<&RawValue>, FeedError> {
    let mut json = serde_json::Deserializer::from_str(body);
    let rows = capped_list(&mut json).and_then(|rows| json.end().map(|()| rows));
    rows.map_err(|error| bad_answer(body, &error))
}

fn row_text(raw: &RawValue) -> Result<&str, FeedError> {
    let text = raw.get();
    match text.len() > MAX_ROW_BYTES {
        true => Err(FeedError::TooLarge {
            detail: format!(
                "The Odds API sent more than {MAX_ROW_BYTES} bytes in one row of its list"
            ),
        }),
        false => Ok(text),
    }
}

/// Describes what was sent instead of a list.
fn bad_answer(body: &str, error: &serde_json::Error) -> FeedError {
    #[derive(serde::Deserialize)]
    struct ErrorBody<'a> {
        #[serde(borrow)]
        message: Cow<'a, str>,
    }
    let detail = match serde_json::from_str::<ErrorBody<'_>>(body) {
        Ok(answer) => format!(
            "The Odds API sent a message instead of a list of events: {}",
            sanitize_text(&answer.message, MAX_TEXT_CHARS)
        ),
        Err(_) => format!(
            "The Odds API sent {} bytes that are not a list of events: {}",
            body.len(),
            sanitize_text(&error.to_string(), MAX_TEXT_CHARS)
        ),
    };
    FeedError::BadAnswer { detail }
}

/// Parses the events of one answer, and collects what they share.
struct OddsParser<'a> {
    as_of: DateTime<Utc>,
    sport: &'a str,
    format: OddsFormat,
    parsed: ParsedOdds,
    /// The index of each event in `parsed.events`, and its keys; `None` if they were not collected yet.
    by_event: HashMap<EventId, (usize, Option<SeenKeys>)>,
    bookmakers: HashSet<BookmakerId>,
    cache: ParseCache,
}

/// The selections and prices of an event that is being parsed.
#[derive(Default)]
struct SeenKeys {
    selections: HashSet<SelectionId>,
    prices: HashMap<PriceKey, usize>,
}

impl SeenKeys {
    fn of(event: &EventSnapshot) -> Self {
        let selections = event.selections.iter();
        let prices = event.prices.iter().enumerate();
        Self {
            selections: selections.map(|selection| selection.id.clone()).collect(),
            prices: prices.map(|(at, price)| (price.key.clone(), at)).collect(),
        }
    }
}

impl<'a> OddsParser<'a> {
    fn new(as_of: DateTime<Utc>, sport: &'a str, format: OddsFormat) -> Self {
        Self {
            as_of,
            sport,
            format,
            parsed: ParsedOdds::default(),
            by_event: HashMap::new(),
            bookmakers: HashSet::new(),
            cache: ParseCache::default(),
        }
    }

    /// Parses one row of the answer's list.
    fn parse(&mut self, text: &str) -> Result<(), FeedError> {
        match self.parse_strict(text) {
            Some(()) => Ok(()),
            None => self.parse_lenient(text),
        }
    }

    /// Returns `None` if anything in the event is not as documented. Bookmakers may have been listed by then;
    /// the lenient path lists the same ones in the same order.
    fn parse_strict(&mut self, text: &str) -> Option<()> {
        let wire: StrictEvent<'_> = serde_json::from_str(text).ok()?;
        if !is_id(&wire.id) || wire.sport_key != self.sport {
            return None;
        }
        let id = EventId::new(&wire.id);
        if self.by_event.contains_key(&id) {
            return None;
        }
        let mut found = EventSnapshot {
            event: event_of(&wire, id.clone()),
            selections: Vec::new(),
            prices: Vec::new(),
            complete: true,
        };
        let mut listed = Vec::with_capacity(wire.bookmakers.len());
        for bookmaker in &wire.bookmakers {
            let id = self.cache.bookmaker(&bookmaker.key)?;
            if listed.contains(&id) {
                return None;
            }
            self.list(&id, &bookmaker.title);
            self.markets(bookmaker, &id, &mut found)?;
            listed.push(id);
        }
        self.parsed.prices_seen += found.prices.len() as u64;
        self.by_event.insert(id, (self.parsed.events.len(), None));
        self.parsed.events.push(found);
        Some(())
    }

    fn markets(
        &mut self,
        bookmaker: &StrictBookmaker<'_>,
        id: &BookmakerId,
        found: &mut EventSnapshot,
    ) -> Option<()> {
        for (n, market) in bookmaker.markets.iter().enumerate() {
            let before = &bookmaker.markets[..n];
            if n > MAX_NAMES || before.iter().any(|before| before.key == market.key) {
                return None;
            }
            let market_id = self.cache.market(&market.key)?;
            let times = [&market.last_update, &bookmaker.last_update].map(Option::as_deref);
            let observed_at = self.observed_at(times);
            let first = found.prices.len();
            if self.parsed.prices_seen + (first + market.outcomes.len()) as u64 > MAX_PRICES {
                return None;
            }
            for wire in &market.outcomes {
                let (name, offer) = outcome(wire, self.format).ok()?;
                let selection = selection(&name, found)?;
                let repeats = |price: &Price| price.key.selection == selection;
                if found.prices[first..].iter().any(repeats) {
                    return None;
                }
                found.prices.push(Price {
                    key: PriceKey {
                        market: market_id.clone(),
                        selection,
                        bookmaker: id.clone(),
                    },
                    offer: Some(offer),
                    suspended: false,
                    observed_at,
                });
            }
        }
        Some(())
    }

    fn parse_lenient(&mut self, text: &str) -> Result<(), FeedError> {
        match serde_json::from_str::<RawEvent<'_>>(text) {
            Ok(wire) if !is_id(&wire.id) => self.reject_event(text),
            Ok(wire) if wire.sport_key != self.sport => {
                self.reject("other_league", &wire.sport_key);
            }
            Ok(wire) => self.event(wire)?,
            Err(error) => self.reject_event(error),
        }
        Ok(())
    }

    /// Takes the event of the last row out, and forgets it.
    fn take_event(&mut self) -> Option<EventSnapshot> {
        self.by_event.clear();
        self.parsed.events.pop()
    }

    /// Returns the answer as a whole; `events` of it were read or skipped.
    fn finish(self, events: usize) -> Result<ParsedOdds, FeedError> {
        let parsed = self.parsed;
        if events == 0 && !parsed.rejected.is_empty() {
            return Err(FeedError::BadAnswer {
                detail: format!(
                    "The Odds API sent no event of {} that can be read: {}",
                    sanitize_text(self.sport, MAX_ID_CHARS),
                    parsed.rejected
                ),
            });
        }
        Ok(parsed)
    }

    fn reject(&mut self, reason: &'static str, sample: impl fmt::Display) {
        self.parsed.prices_seen += 1;
        self.parsed.rejected.add(reason, sample);
    }

    fn reject_event(&mut self, sample: impl fmt::Display) {
        self.parsed.partial = true;
        self.reject("unreadable_event", sample);
    }

    /// Rejects a row of an event: a price that is missing in the event may have been in it.
    fn reject_in(&mut self, at: usize, reason: &'static str, sample: impl fmt::Display) {
        self.parsed.events[at].complete = false;
        self.reject(reason, sample);
    }

    /// An event that is listed twice keeps its first fields; its prices are one set.
    fn event(&mut self, wire: RawEvent<'_>) -> Result<(), FeedError> {
        let id = EventId::new(&wire.id);
        if self.by_event.contains_key(&id) {
            self.reject("duplicate_event", &wire.id);
        } else {
            let at = self.parsed.events.len();
            self.by_event
                .insert(id.clone(), (at, Some(SeenKeys::default())));
            self.parsed.events.push(EventSnapshot {
                event: event_of(&wire, id.clone()),
                selections: Vec::new(),
                prices: Vec::new(),
                complete: true,
            });
        }
        let Some((at, seen)) = self.by_event.remove(&id) else {
            return Ok(());
        };
        let mut seen = seen.unwrap_or_else(|| SeenKeys::of(&self.parsed.events[at]));
        for raw in wire.bookmakers {
            match serde_json::from_str::<RawBookmaker<'_>>(raw.get()) {
                Ok(bookmaker) => self.bookmaker(bookmaker, at, &mut seen)?,
                Err(error) => self.reject_in(at, "unreadable_bookmaker", error),
            }
        }
        self.by_event.insert(id, (at, Some(seen)));
        Ok(())
    }

    /// Adds a bookmaker; the first title is kept.
    fn list(&mut self, id: &BookmakerId, title: &str) {
        if self.bookmakers.contains(id) {
            return;
        }
        self.bookmakers.insert(id.clone());
        let title = sanitize_text(title, MAX_TEXT_CHARS);
        let name = match title.is_empty() {
            true => id.to_string(),
            false => title,
        };
        let id = id.clone();
        self.parsed.bookmakers.push(Bookmaker { id, name });
    }

    /// Returns the first time that can be read, or our own if there is none or it is too far ahead.
    fn observed_at(&mut self, times: [Option<&str>; 2]) -> DateTime<Utc> {
        let mut times = times.into_iter();
        let time = times.find_map(|time| self.cache.instant(time));
        let latest = self.as_of.checked_add_signed(CLOCK_TOLERANCE);
        let time = time.filter(|time| latest.is_none_or(|latest| *time <= latest));
        time.unwrap_or(self.as_of)
    }

    fn bookmaker(
        &mut self,
        wire: RawBookmaker<'_>,
        at: usize,
        seen: &mut SeenKeys,
    ) -> Result<(), FeedError> {
        let Some(id) = bookmaker_id(&wire.key) else {
            self.reject_in(at, "no_bookmaker", wire.title);
            return Ok(());
        };
        self.list(&id, &wire.title);
        for raw in wire.markets {
            let market = match serde_json::from_str::<RawMarket<'_>>(raw.get()) {
                Ok(market) if is_id(&market.key) => market,
                Ok(_) => {
                    self.reject_in(at, "no_market", &wire.key);
                    continue;
                }
                Err(error) => {
                    self.reject_in(at, "unreadable_market", error);
                    continue;
                }
            };
            let times = [&market.last_update, &wire.last_update].map(Option::as_deref);
            let observed_at = self.observed_at(times);
            let market_id = MarketId::new(&market.key);
            for raw in market.outcomes {
                if self.parsed.prices_seen >= MAX_PRICES {
                    return Err(FeedError::TooLarge {
                        detail: format!(
                            "The Odds API sent more than {MAX_PRICES} prices; ask for fewer markets or regions"
                        ),
                    });
                }
                let Ok(wire) = serde_json::from_str::<OutcomeJson<'_>>(raw.get()) else {
                    self.reject_in(at, "unreadable_outcome", raw.get());
                    continue;
                };
                match outcome(&wire, self.format) {
                    Ok((name, offer)) => {
                        let key = PriceKey {
                            market: market_id.clone(),
                            selection: SelectionId::new(&name),
                            bookmaker: id.clone(),
                        };
                        let price = Price {
                            key,
                            offer: Some(offer),
                            suspended: false,
                            observed_at,
                        };
                        self.price(price, &name, at, seen);
                    }
                    Err(reason) => self.reject_in(at, reason, raw.get()),
                }
            }
        }
        Ok(())
    }

    /// Of two prices with one key the later one is kept, or the first if both are equally late.
    fn price(&mut self, price: Price, name: &str, at: usize, seen: &mut SeenKeys) {
        let event = &mut self.parsed.events[at];
        let selection = &price.key.selection;
        if seen.selections.insert(selection.clone()) {
            event.selections.push(selection_of(selection.clone(), name));
        }
        match seen.prices.get(&price.key) {
            None => {
                seen.prices.insert(price.key.clone(), event.prices.len());
                event.prices.push(price);
                self.parsed.prices_seen += 1;
            }
            Some(&first) => {
                let sample = format!("{} {}", price.key.bookmaker, price.key.selection);
                let kept = &mut event.prices[first];
                if price.observed_at > kept.observed_at {
                    *kept = price;
                }
                self.reject("duplicate", sample);
            }
        }
    }
}

/// Returns the id of a selection, and adds the selection if it is new.
fn selection(name: &str, found: &mut EventSnapshot) -> Option<SelectionId> {
    let mut known = found.selections.iter();
    if let Some(known) = known.find(|known| known.id.as_str() == name) {
        return Some(known.id.clone());
    }
    if found.selections.len() == MAX_NAMES {
        return None;
    }
    let id = SelectionId::new(name);
    found.selections.push(selection_of(id.clone(), name));
    Some(id)
}

#[cfg(test)]
mod laws;
