//! The Odds API's answer as events and prices. It names neither events' status nor selections, so
//! an outcome's name is its identity and every event is `Scheduled`; its stage follows from the
//! clock elsewhere.
//!
//! One outcome has one price per market and bookmaker here, and `point` is a value of it: as part
//! of the key, each move of a line would look like a removal and an insertion. The `alternate_…`
//! markets, which offer many lines at once, therefore keep one line and count the others as
//! `duplicate`.
//!
//! What was set aside may have been anything, so absence next to it proves nothing: an event that
//! lost a row is no longer `complete`, and an answer that lost an event is `partial`.
//!
//! An event in which nothing is odd is read in one pass (`whole`); this room reads the others, and says
//! the same of those that are not odd.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::value::RawValue;

use super::outcome::{OddsFormat, outcome};
use super::rows::{Rows, WireBookmaker, WireEvent, WireMarket, WireOutcome};
use super::whole::Remembered;
use crate::feed::FeedError;
use crate::model::{
    Bookmaker, BookmakerId, Event, EventId, EventSnapshot, EventStatus, Facts, MarketId, Price,
    PriceKey, Rejects, Scope, Selection, SelectionId, SelectionStatus, plain_text,
};

pub const SOURCE: &str = "odds_api";

/// Prices of one answer; a league has a few thousand.
pub(super) const MAX_PRICES: u64 = 2_000_000;
/// A bookmaker's clock may run ahead by this much; beyond it, our own time is the better witness.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::minutes(5);
pub(super) const MAX_TEXT_CHARS: usize = 200;
const MAX_ID_CHARS: usize = 100;
/// Sports in which the visitor is named first: "Yankees @ Red Sox".
const AWAY_FIRST: &[&str] = &["americanfootball", "baseball", "basketball", "icehockey"];

/// One answer, read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    pub events: Vec<EventSnapshot>,
    pub bookmakers: Vec<Bookmaker>,
    pub rejects: Rejects,
    /// An event could not be read: one that is missing here may still be open.
    pub partial: bool,
    /// Rows met: equals the prices in `events` plus the rows in `rejects`.
    pub prices_seen: u64,
}

impl Parsed {
    /// What the answer speaks for.
    pub fn scope(&self, league: &str) -> Scope {
        match self.partial {
            false => Scope::League(league.to_owned()),
            true => Scope::Listed,
        }
    }
}

/// Reads the body of `/v4/sports/{sport}/odds`. Events of another league than `sport` are set
/// aside: the answer speaks for that league only. Fails when the body is not a list, or lists events
/// of which none can be read.
pub fn parse_odds(
    body: &str,
    as_of: DateTime<Utc>,
    sport: &str,
    format: OddsFormat,
) -> Result<Parsed, FeedError> {
    let rows: Rows<&RawValue> =
        serde_json::from_str(body).map_err(|error| bad_answer(body, body.len() as u64, &error))?;
    let mut reading = Reading::new(as_of, sport, format);
    for raw in rows.0 {
        reading.row(raw.get())?;
    }
    let read = reading.parsed.events.len();
    reading.finish(read as u64)
}

/// The league of the answer's first event, for answers whose request is not known.
pub fn league_of(body: &str) -> Option<String> {
    let rows: Rows<&RawValue> = serde_json::from_str(body).ok()?;
    rows.0.iter().find_map(|raw| {
        let event: WireEvent = serde_json::from_str(raw.get()).ok()?;
        Some(event.sport_key.into_owned()).filter(|league| is_id(league))
    })
}

/// What came instead of a list, which was `bytes` long.
pub(super) fn bad_answer(body: &str, bytes: u64, error: &impl fmt::Display) -> FeedError {
    #[derive(serde::Deserialize)]
    struct Apology<'a> {
        #[serde(borrow)]
        message: Cow<'a, str>,
    }
    let detail = match serde_json::from_str::<Apology>(body) {
        Ok(apology) => format!(
            "The Odds API sent a message instead of a list of events: {}",
            plain_text(&apology.message, MAX_TEXT_CHARS)
        ),
        Err(_) => format!(
            "The Odds API sent {bytes} bytes that are not a list of events: {}",
            plain_text(&error.to_string(), MAX_TEXT_CHARS)
        ),
    };
    FeedError::BadAnswer { detail }
}

/// An answer half read.
pub(super) struct Reading<'a> {
    as_of: DateTime<Utc>,
    pub(super) sport: &'a str,
    pub(super) format: OddsFormat,
    pub(super) parsed: Parsed,
    /// Where each event stands in `parsed.events`, and what of it has been read; `None` for all that
    /// it holds.
    pub(super) by_event: HashMap<EventId, (usize, Option<Seen>)>,
    bookmakers: HashSet<BookmakerId>,
    pub(super) remembered: Remembered,
}

#[derive(Default)]
pub(super) struct Seen {
    selections: HashSet<SelectionId>,
    prices: HashMap<PriceKey, usize>,
}

impl Seen {
    fn of(event: &EventSnapshot) -> Self {
        let selections = event.selections.iter();
        let prices = event.prices.iter().enumerate();
        Self {
            selections: selections.map(|selection| selection.id.clone()).collect(),
            prices: prices.map(|(at, price)| (price.key.clone(), at)).collect(),
        }
    }
}

impl<'a> Reading<'a> {
    pub(super) fn new(as_of: DateTime<Utc>, sport: &'a str, format: OddsFormat) -> Self {
        Self {
            as_of,
            sport,
            format,
            parsed: Parsed::default(),
            by_event: HashMap::new(),
            bookmakers: HashSet::new(),
            remembered: Remembered::default(),
        }
    }

    /// One row of the answer's list, which is JSON.
    pub(super) fn row(&mut self, text: &str) -> Result<(), FeedError> {
        match self.in_one_pass(text) {
            Some(()) => Ok(()),
            None => self.row_by_row(text),
        }
    }

    pub(super) fn row_by_row(&mut self, text: &str) -> Result<(), FeedError> {
        match serde_json::from_str::<WireEvent>(text) {
            Ok(wire) if !is_id(&wire.id) => self.unreadable_event(text),
            Ok(wire) if wire.sport_key != self.sport => {
                self.reject("other_league", &wire.sport_key);
            }
            Ok(wire) => self.event(wire)?,
            Err(error) => self.unreadable_event(error),
        }
        Ok(())
    }

    /// The event that the last row told of, if it did, and what is remembered of it with it.
    pub(super) fn take_event(&mut self) -> Option<EventSnapshot> {
        self.by_event.clear();
        self.parsed.events.pop()
    }

    /// Rows that were set aside so far.
    pub(super) fn set_aside(&self) -> u64 {
        self.parsed.rejects.total()
    }

    /// The answer as a whole, of which so many events were read.
    pub(super) fn finish(self, read: u64) -> Result<Parsed, FeedError> {
        let parsed = self.parsed;
        if read == 0 && !parsed.rejects.is_empty() {
            return Err(FeedError::BadAnswer {
                detail: format!(
                    "The Odds API sent no event of {} that can be read: {}",
                    plain_text(self.sport, MAX_ID_CHARS),
                    parsed.rejects
                ),
            });
        }
        Ok(parsed)
    }

    fn reject(&mut self, reason: &'static str, sample: impl fmt::Display) {
        self.parsed.prices_seen += 1;
        self.parsed.rejects.add(reason, sample);
    }

    fn unreadable_event(&mut self, sample: impl fmt::Display) {
        self.parsed.partial = true;
        self.reject("unreadable_event", sample);
    }

    /// A row of an event: what is missing in the event may have been in it.
    fn unreadable(&mut self, at: usize, reason: &'static str, sample: impl fmt::Display) {
        self.parsed.events[at].complete = false;
        self.reject(reason, sample);
    }

    /// An event that is listed twice stays as it was first listed; its prices are one set.
    fn event(&mut self, wire: WireEvent) -> Result<(), FeedError> {
        let id = EventId::new(&wire.id);
        if self.by_event.contains_key(&id) {
            self.reject("duplicate_event", &wire.id);
        } else {
            let at = self.parsed.events.len();
            self.by_event
                .insert(id.clone(), (at, Some(Seen::default())));
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
        let mut seen = seen.unwrap_or_else(|| Seen::of(&self.parsed.events[at]));
        for raw in wire.bookmakers.0 {
            match serde_json::from_str::<WireBookmaker>(raw.get()) {
                Ok(bookmaker) => self.bookmaker(bookmaker, at, &mut seen)?,
                Err(error) => self.unreadable(at, "unreadable_bookmaker", error),
            }
        }
        self.by_event.insert(id, (at, Some(seen)));
        Ok(())
    }

    /// A bookmaker gets the title that comes first.
    pub(super) fn list(&mut self, id: &BookmakerId, title: &str) {
        if self.bookmakers.contains(id) {
            return;
        }
        self.bookmakers.insert(id.clone());
        let title = plain_text(title, MAX_TEXT_CHARS);
        let name = match title.is_empty() {
            true => id.to_string(),
            false => title,
        };
        let id = id.clone();
        self.parsed.bookmakers.push(Bookmaker { id, name });
    }

    /// The first of these that can be read; our own time where that is ahead of us, or none can.
    pub(super) fn observed_at(&mut self, times: [Option<&str>; 2]) -> DateTime<Utc> {
        let mut times = times.into_iter();
        let time = times.find_map(|time| self.remembered.instant(time));
        let latest = self.as_of.checked_add_signed(CLOCK_TOLERANCE);
        let time = time.filter(|time| latest.is_none_or(|latest| *time <= latest));
        time.unwrap_or(self.as_of)
    }

    fn bookmaker(
        &mut self,
        wire: WireBookmaker,
        at: usize,
        seen: &mut Seen,
    ) -> Result<(), FeedError> {
        let Some(id) = bookmaker_id(&wire.key) else {
            self.unreadable(at, "no_bookmaker", wire.title);
            return Ok(());
        };
        self.list(&id, &wire.title);
        for raw in wire.markets.0 {
            let market = match serde_json::from_str::<WireMarket>(raw.get()) {
                Ok(market) if is_id(&market.key) => market,
                Ok(_) => {
                    self.unreadable(at, "no_market", &wire.key);
                    continue;
                }
                Err(error) => {
                    self.unreadable(at, "unreadable_market", error);
                    continue;
                }
            };
            let times = [&market.last_update, &wire.last_update].map(Option::as_deref);
            let observed_at = self.observed_at(times);
            let market_id = MarketId::new(&market.key);
            for raw in market.outcomes.0 {
                if self.parsed.prices_seen >= MAX_PRICES {
                    return Err(FeedError::TooLarge {
                        detail: format!(
                            "The Odds API sent more than {MAX_PRICES} prices; ask for fewer markets or regions"
                        ),
                    });
                }
                let Ok(wire) = serde_json::from_str::<WireOutcome>(raw.get()) else {
                    self.unreadable(at, "unreadable_outcome", raw.get());
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
                    Err(reason) => self.unreadable(at, reason, raw.get()),
                }
            }
        }
        Ok(())
    }

    /// Of two prices under one key the later one stays; of two equally late ones, the first listed.
    fn price(&mut self, price: Price, name: &str, at: usize, seen: &mut Seen) {
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

pub(super) fn bookmaker_id(key: &str) -> Option<BookmakerId> {
    BookmakerId::from_name(key).filter(|id| is_id(id.as_str()))
}

pub(super) fn selection_of(id: SelectionId, name: &str) -> Selection {
    Selection {
        id,
        name: name.to_owned(),
        status: SelectionStatus::Active,
        facts: Facts::new(),
    }
}

pub(super) fn event_of(wire: &WireEvent, id: EventId) -> Event {
    let text = |text: &Option<Cow<str>>| {
        text.as_deref()
            .map(|text| plain_text(text.trim(), MAX_TEXT_CHARS))
            .filter(|text| !text.is_empty())
    };
    let (home, away) = (text(&wire.home_team), text(&wire.away_team));
    let sport = match wire.sport_key.split_once('_') {
        Some((sport, _)) => sport.to_owned(),
        None => text(&wire.sport_title).unwrap_or_else(|| wire.sport_key.to_string()),
    };
    let name = match (&home, &away) {
        (Some(home), Some(away)) if AWAY_FIRST.contains(&sport.as_str()) => {
            format!("{away} @ {home}")
        }
        (Some(home), Some(away)) => format!("{home} v {away}"),
        (Some(one), None) | (None, Some(one)) => one.clone(),
        // Outright markets name no teams.
        (None, None) => text(&wire.sport_title).unwrap_or_else(|| wire.sport_key.to_string()),
    };
    let teams = [("home_team", home), ("away_team", away)];
    let facts = teams
        .into_iter()
        .filter_map(|(fact, team)| Some((fact, team?)))
        .collect();
    Event {
        id,
        source: Arc::from(SOURCE),
        sport,
        league: wire.sport_key.to_string(),
        venue: String::new(),
        name,
        starts_at: instant(wire.commence_time.as_deref()),
        day: None,
        status: EventStatus::Scheduled,
        in_play: false,
        listed: true,
        facts,
    }
}

/// Identities are stored as they are, so they have to be fit for that.
pub(super) fn is_id(text: &str) -> bool {
    !text.is_empty() && text.chars().count() <= MAX_ID_CHARS && !text.chars().any(char::is_control)
}

pub(super) fn instant(text: Option<&str>) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(text?.trim()).ok()?;
    Some(time.to_utc())
}
