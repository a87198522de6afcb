//! Racecards to events: pure, tolerant of single bad rows, and exact about them. Every price row
//! ends as a `Price` or as a counted reject; a race or runner that is set aside counts as its price
//! rows, or as one row where it has none.
//!
//! What was set aside may have been anything, so absence next to it proves nothing: the race is then
//! no longer `complete`, and an answer that lost a whole race is `partial`. Otherwise a garbled row
//! would look like a withdrawal.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::card::{event, selection};
use super::row::{Envelope, Field, Odds, Race, Rows, Runner, name, number, row, text};
use super::times::observed_at;
use super::{SOURCE, price};
use crate::feed::FeedError;
use crate::model::{
    Bookmaker, BookmakerId, EventId, EventSnapshot, MarketId, Offer, Price, PriceKey, Rejects,
    Selection, SelectionId, plain_text,
};

const MAX_RACES: usize = 2_000;
const MAX_RUNNERS: usize = 100;
const MAX_ODDS: usize = 200;
const MAX_ID_CHARS: usize = 100;

/// What one answer holds.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    pub events: Vec<EventSnapshot>,
    /// Each bookmaker once, as first spelt.
    pub bookmakers: Vec<Bookmaker>,
    pub rejects: Rejects,
    /// A race could not be read: one that is missing here may still be on the card.
    pub partial: bool,
    /// Races that the whole day has, over all pages; `None` where the answer does not say.
    pub total: Option<u64>,
    /// Races listed in this answer, usable or not: how far paging has come.
    pub races_seen: u64,
    /// Rows met: equals the prices in `events` plus the rows in `rejects`.
    pub prices_seen: u64,
}

impl Parsed {
    /// Puts the next page behind this one. A race that both hold (it changed its day in between) is
    /// taken once.
    pub(in crate::feed) fn append(&mut self, mut page: Self) {
        let known: HashSet<_> = self.events.iter().map(|e| e.event.id.clone()).collect();
        page.events.retain(|found| {
            let new = !known.contains(&found.event.id);
            if !new {
                let prices = found.prices.len() as u64;
                let rows = prices.max(1);
                page.prices_seen += rows - prices;
                page.rejects
                    .add_rows("duplicate_race", rows, &found.event.id);
            }
            new
        });
        for bookmaker in page.bookmakers {
            if self.bookmakers.iter().all(|b| b.id != bookmaker.id) {
                self.bookmakers.push(bookmaker);
            }
        }
        self.events.extend(page.events);
        self.rejects.merge(page.rejects);
        self.partial |= page.partial;
        self.total = page.total.or(self.total);
        self.races_seen += page.races_seen;
        self.prices_seen += page.prices_seen;
    }
}

/// Reads a day's answer, or the single race of a one-race call. Only what cannot be a racecard at
/// all is an error.
pub fn parse_cards(body: &str, as_of: DateTime<Utc>) -> Result<Parsed, FeedError> {
    let bad = |what: String| FeedError::BadAnswer {
        detail: format!("The Racing API sent {what}"),
    };
    if !body.trim_start().starts_with('{') {
        return Err(bad("something that is not a JSON object".into()));
    }
    let envelope: Envelope<'_> =
        serde_json::from_str(body).map_err(|e| bad(format!("JSON that cannot be read ({e})")))?;
    let mut reader = Reader::new(as_of);
    reader.parsed.total = number(envelope.total);
    if envelope.racecards.is_some() {
        let races = Rows::of(envelope.racecards, MAX_RACES)
            .ok_or_else(|| bad("\"racecards\" that is not a list".into()))?;
        reader.parsed.races_seen = races.kept.len() as u64 + races.over;
        for raw in races.kept {
            reader.race(raw);
        }
        reader.parsed.partial |= reader.over(races.over, "races");
    } else if envelope.race_id.is_some() {
        let raw = serde_json::from_str(body)
            .map_err(|e| bad(format!("JSON that cannot be read ({e})")))?;
        reader.parsed.races_seen = 1;
        reader.race(raw);
    } else {
        return Err(bad(format!("no \"racecards\", but {}", names_of(body))));
    }
    let parsed = reader.parsed;
    if parsed.events.is_empty() && parsed.races_seen > 0 {
        return Err(bad(format!(
            "no readable race among {} ({})",
            parsed.races_seen, parsed.rejects
        )));
    }
    Ok(parsed)
}

/// The names in an object, for a reader who has to guess what was sent instead.
fn names_of(body: &str) -> String {
    let object: HashMap<String, IgnoredAny> = serde_json::from_str(body).unwrap_or_default();
    let mut names: Vec<_> = object.keys().map(|name| plain_text(name, 30)).collect();
    names.sort();
    names.truncate(8);
    match names.is_empty() {
        true => "nothing else either".into(),
        false => names.join(", "),
    }
}

/// Why a row cannot be used: the reason, which is counted, and what it looked like.
type SetAside = (&'static str, String);

struct Reader {
    as_of: DateTime<Utc>,
    parsed: Parsed,
    races: HashSet<EventId>,
    /// By the name as spelt: a dozen thousand rows share a few dozen names.
    bookmakers: HashMap<String, BookmakerId>,
    /// One `updated` serves a whole race: read it once.
    updated: (String, DateTime<Utc>),
    win: MarketId,
    source: Arc<str>,
}

impl Reader {
    fn new(as_of: DateTime<Utc>) -> Self {
        Self {
            as_of,
            parsed: Parsed::default(),
            races: HashSet::new(),
            bookmakers: HashMap::new(),
            updated: (String::new(), as_of),
            win: MarketId::new("win"),
            source: Arc::from(SOURCE),
        }
    }

    fn set_aside(&mut self, rows: u64, (reason, sample): SetAside) {
        self.parsed.prices_seen += rows;
        self.parsed.rejects.add_rows(reason, rows, sample);
    }

    /// True when there were rows over the cap.
    fn over(&mut self, rows: u64, what: &str) -> bool {
        if rows > 0 {
            self.set_aside(rows, ("row_cap", format!("{rows} {what} over the cap")));
        }
        rows > 0
    }

    fn unreadable(&mut self, race: &mut EventSnapshot, rows: u64, aside: SetAside) {
        race.complete = false;
        self.set_aside(rows, aside);
    }

    fn unreadable_race(&mut self, rows: u64, aside: SetAside) {
        self.parsed.partial = true;
        self.set_aside(rows, aside);
    }

    fn race(&mut self, raw: &RawValue) {
        let Some(race) = row::<Race<'_>>(raw) else {
            return self.unreadable_race(1, ("bad_race", raw.get().chars().take(200).collect()));
        };
        let Some(runners) = Rows::of(race.runners, MAX_RUNNERS) else {
            return self.unreadable_race(
                1,
                ("bad_race", format!("{}: no runners", name(race.race_id))),
            );
        };
        let id = match usable_id(race.race_id) {
            Ok(id) => EventId::new(id),
            Err(aside) => return self.unreadable_race(odds_in(&runners), aside),
        };
        if !self.races.insert(id.clone()) {
            return self.set_aside(odds_in(&runners), ("duplicate_race", id.to_string()));
        }
        let event = event(&race, id, self.source.clone());
        let mut snapshot = EventSnapshot {
            event,
            selections: Vec::with_capacity(runners.kept.len()),
            prices: Vec::new(),
            complete: true,
        };
        let mut seen = HashSet::new();
        for raw in &runners.kept {
            self.runner(raw, &mut snapshot, &mut seen);
        }
        if self.over(runners.over, "runners") {
            snapshot.complete = false;
        }
        self.parsed.events.push(snapshot);
    }

    fn runner(
        &mut self,
        raw: &RawValue,
        race: &mut EventSnapshot,
        seen: &mut HashSet<SelectionId>,
    ) {
        let Some(runner) = row::<Runner<'_>>(raw) else {
            let sample = raw.get().chars().take(200).collect();
            return self.unreadable(race, 1, ("bad_runner", sample));
        };
        let id = match usable_id(runner.horse_id) {
            Ok(id) => SelectionId::new(id),
            Err((reason, sample)) => {
                let sample = format!("{}: {} {sample}", race.event.id, name(runner.horse));
                return self.unreadable(race, odds_of(&runner), (reason, sample));
            }
        };
        let place = format!("{} {id}", race.event.id);
        if !seen.insert(id.clone()) {
            return self.set_aside(odds_of(&runner), ("duplicate_runner", place));
        }
        let selection = selection(&runner, id);
        match Rows::of(runner.odds, MAX_ODDS) {
            Some(odds) => {
                self.prices(&odds, &selection, race);
                if self.over(odds.over, "odds rows") {
                    race.complete = false;
                }
            }
            None => self.unreadable(race, 1, ("bad_odds", place)),
        }
        race.selections.push(selection);
    }

    fn prices(&mut self, odds: &Rows<'_>, selection: &Selection, race: &mut EventSnapshot) {
        let nothing_offered = selection.status.is_out() || race.event.status.is_final();
        let place = format!("{} {}", race.event.id, selection.id);
        let mut seen: HashMap<BookmakerId, usize> = HashMap::with_capacity(odds.kept.len());
        for raw in &odds.kept {
            let (bookmaker, offer, observed_at) = match self.odds(raw) {
                Ok(read) => read,
                Err((reason, sample)) => {
                    self.unreadable(race, 1, (reason, format!("{place} {sample}")));
                    continue;
                }
            };
            let price = Price {
                key: PriceKey {
                    market: self.win.clone(),
                    selection: selection.id.clone(),
                    bookmaker: bookmaker.clone(),
                },
                offer: offer.filter(|_| !nothing_offered),
                suspended: false,
                observed_at,
            };
            // Two spellings of one bookmaker: the later word counts, then the first listed.
            if let Some(&at) = seen.get(&bookmaker) {
                let aside = ("duplicate_bookmaker", format!("{place} {bookmaker}"));
                if price.observed_at > race.prices[at].observed_at {
                    race.prices[at] = price;
                }
                self.set_aside(1, aside);
                continue;
            }
            seen.insert(bookmaker, race.prices.len());
            race.prices.push(price);
            self.parsed.prices_seen += 1;
        }
    }

    fn odds(
        &mut self,
        raw: &RawValue,
    ) -> Result<(BookmakerId, Option<Offer>, DateTime<Utc>), SetAside> {
        let odds: Odds<'_> =
            row(raw).ok_or_else(|| ("bad_odds", raw.get().chars().take(100).collect()))?;
        let spelt = name(odds.bookmaker);
        let bookmaker = self
            .bookmaker(&spelt)
            .ok_or_else(|| ("no_bookmaker", "no bookmaker's name".to_owned()))?;
        let offer = price::offer(&odds)
            .map_err(|bad| ("bad_decimal", format!("{spelt}: decimal {:?}", bad.0)))?;
        let updated = text(odds.updated);
        let observed_at = match updated.as_deref() {
            Some(updated) if updated == self.updated.0 => self.updated.1,
            Some(updated) => {
                let at = observed_at(Some(updated), self.as_of);
                self.updated = (updated.to_owned(), at);
                at
            }
            None => self.as_of,
        };
        Ok((bookmaker, offer, observed_at))
    }

    fn bookmaker(&mut self, spelt: &str) -> Option<BookmakerId> {
        if let Some(id) = self.bookmakers.get(spelt) {
            return Some(id.clone());
        }
        let id = BookmakerId::from_name(spelt)?;
        if self.parsed.bookmakers.iter().all(|known| known.id != id) {
            self.parsed.bookmakers.push(Bookmaker {
                id: id.clone(),
                name: spelt.to_owned(),
            });
        }
        self.bookmakers.insert(spelt.to_owned(), id.clone());
        Some(id)
    }
}

fn usable_id(field: Field<'_>) -> Result<String, SetAside> {
    let Some(id) = text(field) else {
        return Err(("no_id", "without id".into()));
    };
    if id.chars().count() > MAX_ID_CHARS || id.chars().any(char::is_control) {
        return Err(("bad_id", format!("id {id:?}")));
    }
    Ok(id.into_owned())
}

/// Price rows of a race that is set aside, or one where it has none.
fn odds_in(runners: &Rows<'_>) -> u64 {
    let rows = runners.kept.iter().map(|raw| match row::<Runner<'_>>(raw) {
        Some(runner) => Rows::of(runner.odds, MAX_ODDS).map_or(0, |o| o.kept.len() as u64 + o.over),
        None => 0,
    });
    rows.sum::<u64>().max(1)
}

fn odds_of(runner: &Runner<'_>) -> u64 {
    let odds = Rows::of(runner.odds, MAX_ODDS).unwrap_or_default();
    (odds.kept.len() as u64 + odds.over).max(1)
}
