//! Parses a league's answer into events and prices. `OddsApi` hands its events over with [`read_odds`]; recordings
//! and benches call [`parse_odds`].
//!
//! The answer has neither an event status nor selection ids: an outcome's name is its id, and every event is
//! `Scheduled`. In a main market (`h2h`, `spreads`, `totals`) `point` is a value of the price: as part of the key, each
//! move of a line would look like a removal and an insertion. In a market that offers several lines of one outcome it
//! is part of the key (`Over 24.5`). Such a market is recognised by its name; another one becomes one, for its event,
//! when a bookmaker lists an outcome at two points. The differ keeps it so, because the stored rows show it.
//!
//! A rejected row names what is in doubt as far as it can be read: absence proves nothing about that alone.
//!
//! An event is read into strict structs first, because that is fastest. An event that these refuse is read
//! leniently, row by row. Both forms go through the same code.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::value::RawValue;

use super::SOURCE;
use super::convert::{
    MAX_ID_CHARS, MAX_NAMES, MAX_TEXT_CHARS, OddsFormat, ParseCache, build_event, is_id,
    outcome_name, read_point,
};
use super::fields::{BookmakerJson, EventJson, capped_list};
use crate::FeedError;
use crate::json::{MAX_ROW_BYTES, find_field, parse_object};
use oddsd_core::diff::EventSink;
use oddsd_core::model::{
    Attributes, Bookmaker, BookmakerId, EventId, EventSnapshot, EventsInDoubt, Fingerprint,
    MarketId, Price, PriceKey, RejectedRows, RowInDoubt, Scope, Selection, SelectionId,
    SelectionStatus, Snapshot, sanitize_text,
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
    /// Events that could not be read, and are still open for all we know.
    pub in_doubt: BTreeSet<EventId>,
    /// An event without an id could not be read: any one that is missing here may still be open.
    pub partial: bool,
    /// Price rows in the answer: equals the prices in `events` plus the rows in `rejects`.
    pub prices_seen: u64,
}

impl ParsedOdds {
    /// The scope of the answer: all of `league`, unless an event was lost that may have been any. No event is of the
    /// league `upcoming` or of a group of leagues, so absence from such an answer means nothing.
    pub fn scope(&self, league: &str) -> Scope {
        match self.partial {
            false => Scope::League(league.to_owned()),
            true => Scope::Listed,
        }
    }

    /// Adds the answer for another sport key. An event that is listed already stays as it is.
    pub fn merge(&mut self, other: Self) {
        let listed: HashSet<&EventId> = self.events.iter().map(|e| &e.event.id).collect();
        let new = other.events.into_iter();
        let new: Vec<_> = new.filter(|e| !listed.contains(&e.event.id)).collect();
        self.events.extend(new);
        self.bookmakers.extend(other.bookmakers);
        self.rejected.merge(other.rejected);
        self.in_doubt.extend(other.in_doubt);
        self.partial |= other.partial;
        self.prices_seen += other.prices_seen;
    }

    /// The answer as a snapshot of `league` at `as_of`.
    pub fn into_snapshot(self, as_of: DateTime<Utc>, league: &str) -> Snapshot {
        Snapshot {
            source: Arc::from(SOURCE),
            as_of,
            scope: self.scope(league),
            events: self.events,
            in_doubt: EventsInDoubt {
                ids: self.in_doubt,
                unidentified: false,
            },
            bookmakers: self.bookmakers,
            rejected: self.rejected,
        }
    }
}

/// A sport key that spans leagues: the next events of all sports.
const UPCOMING: &str = "upcoming";

/// Whether the answer for a sport key has events of several leagues: `upcoming`, or a group such as `soccer`. The key
/// of a league is that of its group, an underscore and a name.
pub(super) fn spans_leagues(sport: &str) -> bool {
    !sport.contains('_')
}

/// Whether an event of this league belongs into the answer for this sport key.
fn has_league(sport: &str, league: &str) -> bool {
    let rest = league.strip_prefix(sport);
    spans_leagues(sport) || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

/// Parses the body of `/v4/sports/{sport}/odds` into memory. Each event is of its own league; one that does not
/// belong to `sport` is rejected. Fails if the body is not a list, or lists events of which none can be read.
pub fn parse_odds(
    body: &str,
    as_of: DateTime<Utc>,
    sport: &str,
    format: OddsFormat,
) -> Result<ParsedOdds, FeedError> {
    parse_answer(OddsParser::new(as_of, sport, format), body)
}

fn parse_answer(mut parser: OddsParser<'_>, body: &str) -> Result<ParsedOdds, FeedError> {
    for raw in event_list(body)? {
        parser.parse(row_text(raw)?)?;
    }
    let events = parser.parsed.events.len();
    parser.finish(events)
}

/// Parses the answers for several sport keys, and hands each event to `to` as soon as it is parsed, and once: an event
/// of an earlier answer is left out of the later ones. An event whose text is stored is not parsed.
/// `ParsedOdds::events` stays empty.
///
/// With `merge`, an answer is handed over only after all of it was parsed, and without fingerprints: the prices of an
/// event that is listed twice are one set, which is complete only then.
pub fn read_odds(
    answers: &[(&str, &str)],
    as_of: DateTime<Utc>,
    format: OddsFormat,
    merge: bool,
    to: &mut dyn EventSink,
) -> Vec<Result<ParsedOdds, FeedError>> {
    to.start(as_of);
    let mut earlier = HashSet::new();
    let mut read = Vec::new();
    for (sport, body) in answers {
        let mut listed = HashSet::new();
        let mut parser = OddsParser::new(as_of, sport, format);
        parser.earlier.clone_from(&earlier);
        let parsed = match merge {
            true => merge_answer(parser, body, &mut listed, to),
            false => match read_answer(parser, body, &mut listed, to) {
                Ok(None) => return read_odds(answers, as_of, format, true, to),
                Ok(Some(parsed)) => Ok(parsed),
                Err(error) => Err(error),
            },
        };
        earlier.extend(listed);
        read.push(parsed);
    }
    read
}

fn merge_answer(
    parser: OddsParser<'_>,
    body: &str,
    listed: &mut HashSet<EventId>,
    to: &mut dyn EventSink,
) -> Result<ParsedOdds, FeedError> {
    let mut parsed = parse_answer(parser, body)?;
    for event in parsed.events.drain(..) {
        listed.insert(event.event.id.clone());
        to.push(event, None);
    }
    Ok(parsed)
}

/// Returns `None` if the answer lists an event twice.
fn read_answer(
    mut parser: OddsParser<'_>,
    body: &str,
    listed: &mut HashSet<EventId>,
    to: &mut dyn EventSink,
) -> Result<Option<ParsedOdds>, FeedError> {
    for raw in event_list(body)? {
        let text = row_text(raw)?;
        let fingerprint = Fingerprint::compute(text.as_bytes());
        if let Some(id) = to.find_unchanged(&fingerprint) {
            if parser.earlier.contains(&id) {
                continue;
            }
            if !listed.insert(id) {
                return Ok(None);
            }
            to.mark_unchanged(&fingerprint);
            continue;
        }
        let rejected = parser.parsed.rejected.total();
        parser.parse(text)?;
        let clean = parser.parsed.rejected.total() == rejected;
        if let Some(event) = parser.take_event() {
            if !listed.insert(event.event.id.clone()) {
                return Ok(None);
            }
            to.push(event, clean.then_some(fingerprint));
        }
    }
    parser.finish(listed.len()).map(Some)
}

/// A sport key that an answer may be for whose request is not known: the league of its events, or `upcoming` if they
/// are of several.
pub(crate) fn find_sport(body: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct LeagueJson<'a> {
        #[serde(borrow)]
        sport_key: Cow<'a, str>,
    }
    let rows = event_list(body).ok()?.into_iter();
    let leagues = rows.filter_map(|raw| parse_object::<LeagueJson<'_>>(raw.get()).ok());
    let mut leagues = leagues
        .map(|event| event.sport_key)
        .filter(|key| is_id(key));
    let first = leagues.next()?;
    match leagues.all(|league| league == first) {
        true => Some(first.into_owned()),
        false => Some(UPCOMING.to_owned()),
    }
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
    by_event: HashMap<EventId, ListedEvent>,
    /// Events of other answers, which are left out of this one.
    earlier: HashSet<EventId>,
    bookmakers: HashSet<BookmakerId>,
    cache: ParseCache,
}

/// An event of the answer that is being parsed.
struct ListedEvent {
    /// Its index in `parsed.events`.
    at: usize,
    /// Its keys, if they were collected.
    seen: Option<SeenKeys>,
    /// Markets without lines by their name in which a bookmaker lists an outcome at two points.
    split: Vec<MarketId>,
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
            earlier: HashSet::new(),
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
                let id = find_text(text, "id").flatten();
                self.reject_event(id.as_deref(), error);
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

    /// Rejects an event; `id`: as far as it can be read.
    fn reject_event(&mut self, id: Option<&str>, sample: impl fmt::Display) {
        match id.filter(|id| is_id(id)) {
            Some(id) => {
                self.parsed.in_doubt.insert(EventId::new(id));
            }
            None => self.parsed.partial = true,
        }
        self.reject("unreadable_event", sample);
    }

    /// Rejects a row of an event, which may have been any price of what is given.
    fn reject_in(
        &mut self,
        at: usize,
        (market, selection, bookmaker): (
            Option<&MarketId>,
            Option<SelectionId>,
            Option<&BookmakerId>,
        ),
        reason: &'static str,
        sample: impl fmt::Display,
    ) {
        self.parsed.events[at].in_doubt.push(RowInDoubt::Price {
            market: market.cloned(),
            selection,
            bookmaker: bookmaker.cloned(),
        });
        self.reject(reason, sample);
    }

    /// An event that is listed twice keeps its first fields; its prices are one set.
    fn add_event<const LENIENT: bool>(
        &mut self,
        wire: &EventJson<'_, LENIENT>,
        text: &str,
    ) -> Result<(), FeedError> {
        if !is_id(&wire.id) {
            self.reject_event(None, text);
            return Ok(());
        }
        if self.earlier.contains(&*wire.id) {
            return Ok(());
        }
        if !has_league(self.sport, &wire.sport_key) {
            self.reject("other_league", &wire.sport_key);
            return Ok(());
        }
        let id = EventId::new(&wire.id);
        let mut event = match self.by_event.remove(&id) {
            Some(mut event) => {
                self.reject("duplicate_event", &wire.id);
                let parsed = &self.parsed.events[event.at];
                event.seen.get_or_insert_with(|| SeenKeys::collect(parsed));
                event
            }
            None => {
                self.parsed.events.push(EventSnapshot {
                    event: build_event(wire, id.clone()),
                    selections: Vec::new(),
                    prices: Vec::new(),
                    complete: true,
                    in_doubt: Vec::new(),
                });
                ListedEvent {
                    at: self.parsed.events.len() - 1,
                    seen: None,
                    split: Vec::new(),
                }
            }
        };
        let at = event.at;
        let mut listed = Vec::new();
        for row in &wire.bookmakers {
            let bookmaker = match &row.0 {
                Ok(bookmaker) => bookmaker,
                Err(bad) if &*bad.text == "null" => continue,
                Err(bad) => {
                    let key = find_text(&bad.text, "key").flatten();
                    let id = key.and_then(|key| self.cache.bookmaker(&key));
                    let key = (None, None, id.as_ref());
                    self.reject_in(at, key, "unreadable_bookmaker", &bad.error);
                    continue;
                }
            };
            let Some(id) = self.cache.bookmaker(&bookmaker.key) else {
                // A row that names neither a bookmaker nor a market says nothing.
                if !bookmaker.key.trim().is_empty() || !bookmaker.markets.is_empty() {
                    self.reject_in(at, (None, None, None), "no_bookmaker", &bookmaker.title);
                }
                continue;
            };
            self.list_bookmaker(&id, &bookmaker.title);
            if listed.len() == MAX_NAMES || listed.contains(&id) {
                let parsed = &self.parsed.events[at];
                event.seen.get_or_insert_with(|| SeenKeys::collect(parsed));
            } else {
                listed.push(id.clone());
            }
            self.add_markets(bookmaker, &id, &mut event)?;
        }
        self.by_event.insert(id, event);
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

    /// Returns the first time that can be read, unless it is too far ahead.
    fn observed_at(&mut self, times: [Option<&str>; 2]) -> Option<DateTime<Utc>> {
        let mut times = times.into_iter();
        let time = times.find_map(|time| self.cache.instant(time));
        let latest = self.as_of.checked_add_signed(CLOCK_TOLERANCE);
        time.filter(|time| latest.is_none_or(|latest| *time <= latest))
    }

    fn add_markets<const LENIENT: bool>(
        &mut self,
        wire: &BookmakerJson<'_, LENIENT>,
        bookmaker: &BookmakerId,
        event: &mut ListedEvent,
    ) -> Result<(), FeedError> {
        let at = event.at;
        for (n, row) in wire.markets.iter().enumerate() {
            let market = match &row.0 {
                Ok(market) => market,
                Err(bad) if &*bad.text == "null" => continue,
                Err(bad) => {
                    let key = find_text(&bad.text, "key").flatten();
                    let market = key.and_then(|key| self.cache.market(&key));
                    let market = market.as_ref().map(|(id, _)| id);
                    let key = (market, None, Some(bookmaker));
                    self.reject_in(at, key, "unreadable_market", &bad.error);
                    continue;
                }
            };
            let Some((market_id, offers_lines)) = self.cache.market(&market.key) else {
                self.reject_in(at, (None, None, Some(bookmaker)), "no_market", &wire.key);
                continue;
            };
            let mut before = wire.markets[..n].iter().flat_map(|row| &row.0);
            if n.max(market.outcomes.len()) > MAX_NAMES || before.any(|m| m.key == market.key) {
                let parsed = &self.parsed.events[at];
                event.seen.get_or_insert_with(|| SeenKeys::collect(parsed));
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
                let has_lines = offers_lines || event.split.contains(&market_id);
                let wire = match &row.0 {
                    Ok(wire) => wire,
                    Err(bad) if &*bad.text == "null" => continue,
                    Err(bad) => {
                        let selection = selection_in_doubt(&bad.text, has_lines);
                        let key = (Some(&market_id), selection, Some(bookmaker));
                        self.reject_in(at, key, "unreadable_outcome", &bad.sample);
                        continue;
                    }
                };
                let name = outcome_name(&wire.name, wire.description.as_deref());
                let point = read_point(wire.point);
                let name = name.map(|name| match (has_lines, point) {
                    (true, Ok(Some(point))) => {
                        Cow::Owned(SelectionId::line(&name, point).to_string())
                    }
                    _ => name,
                });
                let offer = self
                    .format
                    .read_offer(wire.price, point.unwrap_or_default());
                let read = match (&name, offer, point) {
                    (None, ..) => Err("no_name"),
                    (_, Err(reason), _) | (_, _, Err(reason)) => Err(reason),
                    (Some(name), Ok(offer), Ok(_)) => Ok((name, offer)),
                };
                let (name, offer) = match read {
                    Ok(read) => read,
                    Err(reason) => {
                        let name = name.filter(|_| !has_lines || point.is_ok());
                        let selection = name.map(SelectionId::new);
                        let key = (Some(&market_id), selection, Some(bookmaker));
                        let sample = serde_json::to_string(wire).unwrap_or_default();
                        self.reject_in(at, key, reason, sample);
                        continue;
                    }
                };
                let parsed = &mut self.parsed.events[at];
                let price = Price {
                    key: PriceKey {
                        market: market_id.clone(),
                        selection: find_or_add_selection(name, parsed, &mut event.seen),
                        bookmaker: bookmaker.clone(),
                    },
                    offer,
                    suspended: false,
                    observed_at,
                };
                self.add_price(price, first, event);
            }
        }
        Ok(())
    }

    /// Adds a price; those of its market begin at `first`. Of two prices with one key the later one is kept, or the
    /// first if both are equally late, unless they are two lines.
    fn add_price(&mut self, mut price: Price, first: usize, event: &mut ListedEvent) {
        let parsed = &mut self.parsed.events[event.at];
        let known = match &event.seen {
            Some(seen) => seen.prices.get(&price.key).copied(),
            None => {
                let mut market = parsed.prices[first..].iter();
                let known = market.position(|known| known.key.selection == price.key.selection);
                known.map(|n| first + n)
            }
        };
        if let Some(known) = known {
            let known = &mut parsed.prices[known];
            if let (Some(offer), Some(other)) = (price.offer, known.offer)
                && offer.point != other.point
            {
                let market = price.key.market.clone();
                parsed.split_lines(|known| *known == market);
                event.split.push(market);
                event.seen = event.seen.take().map(|_| SeenKeys::collect(parsed));
                if let Some(point) = offer.point {
                    let line = SelectionId::line(price.key.selection.as_str(), point);
                    price.key.selection =
                        find_or_add_selection(line.as_str(), parsed, &mut event.seen);
                } else {
                    find_or_add_selection(price.key.selection.as_str(), parsed, &mut event.seen);
                }
                return self.add_price(price, first, event);
            }
            let sample = format!("{} {}", price.key.bookmaker, price.key.selection);
            let order = |price: &Price| (price.observed_at, price.offer.is_some());
            if order(&price) > order(known) {
                *known = price;
            }
            return self.reject("duplicate", sample);
        }
        if let Some(seen) = &mut event.seen {
            seen.prices.insert(price.key.clone(), parsed.prices.len());
        }
        parsed.prices.push(price);
        self.parsed.prices_seen += 1;
    }
}

/// A field of an object that cannot be read as a whole: its text, or `None` inside if it is absent or null. `None` if
/// it is neither.
fn find_text(object: &str, name: &str) -> Option<Option<String>> {
    match find_field(object, name) {
        None => Some(None),
        Some(raw) => serde_json::from_str(raw.get()).ok(),
    }
}

/// The selection of an outcome that cannot be read, if its name, description and line can.
fn selection_in_doubt(outcome: &str, has_lines: bool) -> Option<SelectionId> {
    let (name, description) = (
        find_text(outcome, "name")??,
        find_text(outcome, "description")?,
    );
    let name = outcome_name(&name, description.as_deref())?;
    let point = find_field(outcome, "point").filter(|raw| raw.get() != "null");
    Some(match read_point(point) {
        Ok(Some(point)) if has_lines => SelectionId::line(&name, point),
        Err(_) if has_lines => return None,
        _ => SelectionId::new(name),
    })
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
#[cfg(test)]
mod tests;
