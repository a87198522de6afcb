//! Parses a league's answer into events and prices. `OddsApi` hands its events over with [`read_odds`]; recordings
//! and benches call [`parse_odds`].
//!
//! The answer has neither an event status nor selection ids: an outcome's name is its id, and every event is
//! `Scheduled`. One outcome has one price per market and bookmaker, and `point` is a value of it: as part of the
//! key, each move of a line would look like a removal and an insertion. The `alternate_…` markets, which
//! offer many lines at once, therefore keep one line and count the others as `duplicate`.
//!
//! A rejected row may have been any price, so absence beside it proves nothing: its event is not `complete`, and
//! an answer that lost an event is `partial`.
//!
//! An event is read into strict structs first, because that is fastest. An event that these refuse is read
//! leniently, row by row. Both forms go through the same code.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::value::RawValue;

use super::SOURCE;
use super::convert::{
    MAX_ID_CHARS, MAX_NAMES, MAX_TEXT_CHARS, OddsFormat, ParseCache, build_event, is_id,
    read_outcome,
};
use super::fields::{BookmakerJson, EventJson, capped_list};
use crate::FeedError;
use crate::json::{MAX_ROW_BYTES, parse_object};
use oddsd_core::diff::EventSink;
use oddsd_core::model::{
    Attributes, Bookmaker, BookmakerId, EventId, EventSnapshot, EventsInDoubt, Fingerprint, Price,
    PriceKey, RejectedRows, Scope, Selection, SelectionId, SelectionStatus, Snapshot,
    sanitize_text,
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
            in_doubt: EventsInDoubt::default(),
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
pub(crate) fn find_league(body: &str) -> Option<String> {
    event_list(body).ok()?.into_iter().find_map(|raw| {
        let event: EventJson<'_, true> = parse_object(raw.get()).ok()?;
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
        true => Err(FeedError::TooLarge(format!(
            "The Odds API sent more than {MAX_ROW_BYTES} bytes in one row of its list"
        ))),
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
    FeedError::BadAnswer(detail)
}

/// Parses the events of one answer, and collects what they share.
struct OddsParser<'a> {
    as_of: DateTime<Utc>,
    sport: &'a str,
    format: OddsFormat,
    parsed: ParsedOdds,
    /// The index of each event in `parsed.events`, and its keys, if they were collected.
    by_event: HashMap<EventId, (usize, Option<SeenKeys>)>,
    bookmakers: HashSet<BookmakerId>,
    cache: ParseCache,
}

/// The selections and prices of one event. They are collected only where a key may repeat: an event, bookmaker or
/// market that is listed twice, or a long list. In all other events a key can repeat only within its market, whose
/// few prices are compared one by one.
struct SeenKeys {
    selections: HashSet<SelectionId>,
    prices: HashMap<PriceKey, usize>,
}

impl SeenKeys {
    fn collect(event: &EventSnapshot) -> Self {
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
        match parse_object::<EventJson<'_, false>>(text) {
            Ok(wire) => self.add_event(&wire, text),
            Err(_) => self.parse_lenient(text),
        }
    }

    fn parse_lenient(&mut self, text: &str) -> Result<(), FeedError> {
        match parse_object::<EventJson<'_, true>>(text) {
            Ok(wire) => self.add_event(&wire, text),
            Err(error) => {
                self.reject_event(error);
                Ok(())
            }
        }
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
            return Err(FeedError::BadAnswer(format!(
                "The Odds API sent no event of {} that can be read: {}",
                sanitize_text(self.sport, MAX_ID_CHARS),
                parsed.rejected
            )));
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
    fn add_event<const LENIENT: bool>(
        &mut self,
        wire: &EventJson<'_, LENIENT>,
        text: &str,
    ) -> Result<(), FeedError> {
        if !is_id(&wire.id) {
            self.reject_event(text);
            return Ok(());
        }
        if wire.sport_key != self.sport {
            self.reject("other_league", &wire.sport_key);
            return Ok(());
        }
        let id = EventId::new(&wire.id);
        let (at, mut seen) = match self.by_event.remove(&id) {
            Some((at, seen)) => {
                self.reject("duplicate_event", &wire.id);
                let seen = seen.unwrap_or_else(|| SeenKeys::collect(&self.parsed.events[at]));
                (at, Some(seen))
            }
            None => {
                self.parsed.events.push(EventSnapshot {
                    event: build_event(wire, id.clone()),
                    selections: Vec::new(),
                    prices: Vec::new(),
                    complete: true,
                    in_doubt: Vec::new(),
                });
                (self.parsed.events.len() - 1, None)
            }
        };
        let mut listed = Vec::new();
        for row in &wire.bookmakers {
            let bookmaker = match &row.0 {
                Ok(bookmaker) => bookmaker,
                Err(bad) => {
                    self.reject_in(at, "unreadable_bookmaker", &bad.error);
                    continue;
                }
            };
            let Some(id) = self.cache.bookmaker(&bookmaker.key) else {
                self.reject_in(at, "no_bookmaker", &bookmaker.title);
                continue;
            };
            self.list_bookmaker(&id, &bookmaker.title);
            if listed.len() == MAX_NAMES || listed.contains(&id) {
                seen.get_or_insert_with(|| SeenKeys::collect(&self.parsed.events[at]));
            } else {
                listed.push(id.clone());
            }
            self.add_markets(bookmaker, &id, at, &mut seen)?;
        }
        self.by_event.insert(id, (at, seen));
        Ok(())
    }

    /// Adds a bookmaker; the first title is kept.
    fn list_bookmaker(&mut self, id: &BookmakerId, title: &str) {
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

    fn add_markets<const LENIENT: bool>(
        &mut self,
        wire: &BookmakerJson<'_, LENIENT>,
        bookmaker: &BookmakerId,
        at: usize,
        seen: &mut Option<SeenKeys>,
    ) -> Result<(), FeedError> {
        for (n, row) in wire.markets.iter().enumerate() {
            let market = match &row.0 {
                Ok(market) => market,
                Err(bad) => {
                    self.reject_in(at, "unreadable_market", &bad.error);
                    continue;
                }
            };
            let Some(market_id) = self.cache.market(&market.key) else {
                self.reject_in(at, "no_market", &wire.key);
                continue;
            };
            let mut before = wire.markets[..n].iter().flat_map(|row| &row.0);
            if n.max(market.outcomes.len()) > MAX_NAMES || before.any(|m| m.key == market.key) {
                seen.get_or_insert_with(|| SeenKeys::collect(&self.parsed.events[at]));
            }
            let times = [&market.last_update, &wire.last_update].map(Option::as_deref);
            let observed_at = self.observed_at(times);
            let first = self.parsed.events[at].prices.len();
            for row in &market.outcomes {
                if self.parsed.prices_seen >= MAX_PRICES {
                    return Err(FeedError::TooLarge(format!(
                        "The Odds API sent more than {MAX_PRICES} prices; ask for fewer markets or regions"
                    )));
                }
                let wire = match &row.0 {
                    Ok(wire) => wire,
                    Err(bad) => {
                        self.reject_in(at, "unreadable_outcome", &bad.sample);
                        continue;
                    }
                };
                let (name, offer) = match read_outcome(wire, self.format) {
                    Ok(read) => read,
                    Err(reason) => {
                        let sample = serde_json::to_string(wire).unwrap_or_default();
                        self.reject_in(at, reason, sample);
                        continue;
                    }
                };
                let price = Price {
                    key: PriceKey {
                        market: market_id.clone(),
                        selection: find_or_add_selection(&name, &mut self.parsed.events[at], seen),
                        bookmaker: bookmaker.clone(),
                    },
                    offer: Some(offer),
                    suspended: false,
                    observed_at,
                };
                self.add_price(price, at, first, seen);
            }
        }
        Ok(())
    }

    /// Adds a price; those of its market begin at `first`. Of two prices with one key the later one is kept, or the
    /// first if both are equally late.
    fn add_price(&mut self, price: Price, at: usize, first: usize, seen: &mut Option<SeenKeys>) {
        let prices = &mut self.parsed.events[at].prices;
        let known = match seen {
            Some(seen) => seen.prices.get(&price.key).copied(),
            None => {
                let mut market = prices[first..].iter();
                let known = market.position(|known| known.key.selection == price.key.selection);
                known.map(|n| first + n)
            }
        };
        if let Some(known) = known {
            let sample = format!("{} {}", price.key.bookmaker, price.key.selection);
            if price.observed_at > prices[known].observed_at {
                prices[known] = price;
            }
            return self.reject("duplicate", sample);
        }
        if let Some(seen) = seen {
            seen.prices.insert(price.key.clone(), prices.len());
        }
        prices.push(price);
        self.parsed.prices_seen += 1;
    }
}

/// Returns the id of a selection, and adds the selection if it is new.
fn find_or_add_selection(
    name: &str,
    event: &mut EventSnapshot,
    seen: &mut Option<SeenKeys>,
) -> SelectionId {
    if event.selections.len() >= MAX_NAMES {
        seen.get_or_insert_with(|| SeenKeys::collect(event));
    }
    let mut known = event.selections.iter();
    if seen.is_none()
        && let Some(known) = known.find(|known| known.id.as_str() == name)
    {
        return known.id.clone();
    }
    let id = SelectionId::new(name);
    let new = seen
        .as_mut()
        .is_none_or(|seen| seen.selections.insert(id.clone()));
    if new {
        event.selections.push(Selection {
            id: id.clone(),
            name: name.to_owned(),
            status: SelectionStatus::Active,
            attributes: Attributes::new(),
        });
    }
    id
}

#[cfg(test)]
mod properties;
