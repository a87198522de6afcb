//! An event in one pass: for those in which nothing is odd, and nearly all are such. At the first thing
//! that is, the event is left to the long way, which says the same of everything that came before.

use std::borrow::Cow;

use chrono::{DateTime, Utc};

use super::outcome::outcome;
use super::parse::{MAX_PRICES, Reading, bookmaker_id, event_of, instant, is_id, selection_of};
use super::rows::{MAX_ROWS, WireEvent, WireOutcome};
use crate::feed::cursor::Cursor;
use crate::model::{BookmakerId, EventId, EventSnapshot, MarketId, Price, PriceKey, SelectionId};

/// Names that are looked through one by one; with more, an event is left to the long way.
const MAX_NAMES: usize = 64;

/// What repeats from row to row.
#[derive(Default)]
pub(super) struct Remembered {
    keys: Vec<(Box<str>, BookmakerId)>,
    markets: Vec<MarketId>,
    time: Option<(Box<str>, Option<DateTime<Utc>>)>,
}

impl Remembered {
    pub(super) fn instant(&mut self, text: Option<&str>) -> Option<DateTime<Utc>> {
        let text = text?;
        if let Some((known, time)) = &self.time
            && **known == *text
        {
            return *time;
        }
        let time = instant(Some(text));
        self.time = Some((text.into(), time));
        time
    }

    fn bookmaker(&mut self, key: &str) -> Option<BookmakerId> {
        if let Some((_, id)) = self.keys.iter().find(|(known, _)| **known == *key) {
            return Some(id.clone());
        }
        let id = bookmaker_id(key)?;
        if self.keys.len() < MAX_NAMES {
            self.keys.push((key.into(), id.clone()));
        }
        Some(id)
    }

    fn market(&mut self, key: &str) -> Option<MarketId> {
        if let Some(id) = self.markets.iter().find(|known| known.as_str() == key) {
            return Some(id.clone());
        }
        let id = is_id(key).then(|| MarketId::new(key))?;
        if self.markets.len() < MAX_NAMES {
            self.markets.push(id.clone());
        }
        Some(id)
    }
}

#[derive(Default)]
struct Bookmaker<'a> {
    key: Cow<'a, str>,
    title: Cow<'a, str>,
    last_update: Option<Cow<'a, str>>,
    markets: Vec<Market<'a>>,
}

#[derive(Default)]
struct Market<'a> {
    key: Cow<'a, str>,
    last_update: Option<Cow<'a, str>>,
    outcomes: Vec<WireOutcome<'a>>,
}

impl Reading<'_> {
    /// `None` at the first thing that is odd. By then bookmakers may have been listed: the same, and
    /// in the same order, as the long way lists them.
    pub(super) fn in_one_pass(&mut self, text: &str) -> Option<()> {
        let mut cursor = Cursor::new(text);
        let (wire, bookmakers) = event(&mut cursor)?;
        cursor.end()?;
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
        let mut met = Vec::with_capacity(bookmakers.len());
        for bookmaker in &bookmakers {
            let id = self.remembered.bookmaker(&bookmaker.key)?;
            if met.contains(&id) {
                return None;
            }
            self.list(&id, &bookmaker.title);
            self.markets(bookmaker, &id, &mut found)?;
            met.push(id);
        }
        self.parsed.prices_seen += found.prices.len() as u64;
        self.by_event.insert(id, (self.parsed.events.len(), None));
        self.parsed.events.push(found);
        Some(())
    }

    fn markets(
        &mut self,
        bookmaker: &Bookmaker<'_>,
        id: &BookmakerId,
        found: &mut EventSnapshot,
    ) -> Option<()> {
        for (n, market) in bookmaker.markets.iter().enumerate() {
            let before = &bookmaker.markets[..n];
            if n > MAX_NAMES || before.iter().any(|before| before.key == market.key) {
                return None;
            }
            let market_id = self.remembered.market(&market.key)?;
            let times = [&market.last_update, &bookmaker.last_update].map(Option::as_deref);
            let observed_at = self.observed_at(times);
            let first = found.prices.len();
            if self.parsed.prices_seen + (first + market.outcomes.len()) as u64 > MAX_PRICES {
                return None;
            }
            for wire in &market.outcomes {
                let (name, offer) = outcome(wire, self.format).ok()?;
                let selection = selection(&name, found)?;
                let again = |price: &Price| price.key.selection == selection;
                if found.prices[first..].iter().any(again) {
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
}

/// Who is called this, from now on if not before.
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

/// An event, and its bookmakers aside.
fn event<'a>(cursor: &mut Cursor<'a>) -> Option<(WireEvent<'a>, Vec<Bookmaker<'a>>)> {
    let (mut id, mut sport_key, mut sport_title, mut commence_time) = (None, None, None, None);
    let (mut home_team, mut away_team, mut bookmakers) = (None, None, None);
    cursor.object(|cursor, name| match name {
        "id" => once(&mut id, cursor.string()?),
        "sport_key" => once(&mut sport_key, cursor.string()?),
        "sport_title" => once(&mut sport_title, text(cursor)?),
        "commence_time" => once(&mut commence_time, text(cursor)?),
        "home_team" => once(&mut home_team, text(cursor)?),
        "away_team" => once(&mut away_team, text(cursor)?),
        "bookmakers" => once(&mut bookmakers, list(cursor, bookmaker)?),
        _ => cursor.skip(),
    })?;
    let wire = WireEvent {
        id: id?,
        sport_key: sport_key?,
        sport_title: sport_title.flatten(),
        commence_time: commence_time.flatten(),
        home_team: home_team.flatten(),
        away_team: away_team.flatten(),
        bookmakers: Default::default(),
    };
    Some((wire, bookmakers.unwrap_or_default()))
}

fn bookmaker<'a>(cursor: &mut Cursor<'a>) -> Option<Bookmaker<'a>> {
    let (mut key, mut title, mut last_update, mut markets) = (None, None, None, None);
    cursor.object(|cursor, name| match name {
        "key" => once(&mut key, cursor.string()?),
        "title" => once(&mut title, cursor.string()?),
        "last_update" => once(&mut last_update, text(cursor)?),
        "markets" => once(&mut markets, list(cursor, market)?),
        _ => cursor.skip(),
    })?;
    Some(Bookmaker {
        key: key?,
        title: title.unwrap_or_default(),
        last_update: last_update.flatten(),
        markets: markets.unwrap_or_default(),
    })
}

fn market<'a>(cursor: &mut Cursor<'a>) -> Option<Market<'a>> {
    let (mut key, mut last_update, mut outcomes) = (None, None, None);
    cursor.object(|cursor, name| match name {
        "key" => once(&mut key, cursor.string()?),
        "last_update" => once(&mut last_update, text(cursor)?),
        "outcomes" => once(&mut outcomes, list(cursor, row)?),
        _ => cursor.skip(),
    })?;
    Some(Market {
        key: key?,
        last_update: last_update.flatten(),
        outcomes: outcomes.unwrap_or_default(),
    })
}

fn row<'a>(cursor: &mut Cursor<'a>) -> Option<WireOutcome<'a>> {
    let (mut name, mut description, mut price, mut point) = (None, None, None, None);
    cursor.object(|cursor, field| match field {
        "name" => once(&mut name, cursor.string()?),
        "description" => once(&mut description, text(cursor)?),
        "price" => once(&mut price, cursor.number()?),
        "point" => once(&mut point, cursor.number()?),
        _ => cursor.skip(),
    })?;
    Some(WireOutcome {
        name: name?,
        description: description.flatten(),
        price,
        point,
    })
}

/// Text or null.
fn text<'a>(cursor: &mut Cursor<'a>) -> Option<Option<Cow<'a, str>>> {
    match cursor.is_null()? {
        true => Some(None),
        false => cursor.string().map(Some),
    }
}

/// A field that comes twice is for the long way.
fn once<T>(field: &mut Option<T>, value: T) -> Option<()> {
    field.replace(value).is_none().then_some(())
}

fn list<'a, T>(
    cursor: &mut Cursor<'a>,
    row: impl Fn(&mut Cursor<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    // Null is no list here.
    if cursor.is_null()? {
        return None;
    }
    let mut rows = Vec::new();
    cursor.list(|cursor| {
        rows.push(row(cursor)?);
        (rows.len() <= MAX_ROWS).then_some(())
    })?;
    Some(rows)
}

#[cfg(test)]
mod laws;
