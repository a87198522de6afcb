//! One race to an event: pure, tolerant of single bad rows, and exact about them. Every price row
//! ends as a `Price` or as a counted reject; a race or runner that is set aside counts as its price
//! rows, or as one row where it has none.
//!
//! What was set aside may have been anything, so absence next to it proves nothing: the race is then
//! no longer `complete`, and an answer that lost a whole race is `partial`. Otherwise a garbled row
//! would look like a withdrawal.
//!
//! A race in which nothing is odd, and nearly all are such, is read in one pass. The long way reads
//! the others, and says the same of those that are not odd.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

use super::bookmakers::Bookmakers;
use super::card::{event, selection};
use super::row::{
    Field, MAX_ODDS, MAX_RUNNERS, Odds, Race, Raw, Rows, Runner, WholeRace, in_one_pass, row,
};
use super::times::Seen;
use super::{SOURCE, price};
use crate::model::{
    EventId, EventSnapshot, MarketId, Offer, Price, PriceKey, Rejects, Selection, SelectionId,
};

const MAX_ID_CHARS: usize = 100;
/// Of a row that cannot be read.
const SAMPLE_CHARS: usize = 200;

/// Why a row cannot be used: the reason, which is counted, and what it looked like.
type SetAside = (&'static str, String);

/// Where in a look a race is listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) day: usize,
    pub(super) page: usize,
}

/// What became of one race.
#[derive(Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are races")]
pub(super) enum Read {
    Race(EventSnapshot),
    /// It was listed before, and has been counted.
    MetBefore,
    /// It has been set aside.
    Unreadable,
}

/// What a look has brought so far, but for its events.
pub(super) struct Reader {
    pub(super) bookmakers: Bookmakers,
    pub(super) rejects: Rejects,
    /// A race could not be read: one that is missing may still be on the card.
    pub(super) partial: bool,
    /// Rows met: prices and rejects.
    pub(super) prices_seen: u64,
    /// Rows that were set aside.
    pub(super) aside: u64,
    /// Listed on two pages of one day.
    pub(super) twice: Option<EventId>,
    races: HashMap<EventId, Place>,
    seen: Seen,
    win: MarketId,
    source: Arc<str>,
}

impl Reader {
    pub(super) fn new(as_of: DateTime<Utc>) -> Self {
        Self {
            bookmakers: Bookmakers::default(),
            rejects: Rejects::default(),
            partial: false,
            prices_seen: 0,
            aside: 0,
            twice: None,
            races: HashMap::new(),
            seen: Seen::new(as_of),
            win: MarketId::new("win"),
            source: Arc::from(SOURCE),
        }
    }

    /// Notes a race that need not be read; false where it was met before.
    pub(super) fn meet(&mut self, id: &EventId, place: Place) -> bool {
        let new = !self.races.contains_key(id);
        if new {
            self.races.insert(id.clone(), place);
        }
        new
    }

    /// A race that was met before and has not been read: how many rows it has is not known.
    pub(super) fn again(&mut self, id: &EventId, place: Place) {
        self.note_twice(id, place);
        self.set_aside(1, ("duplicate_race", id.to_string()));
    }

    fn note_twice(&mut self, id: &EventId, place: Place) {
        let before = self.races.get(id).copied().unwrap_or(place);
        if before.day == place.day && before.page != place.page {
            self.twice.get_or_insert_with(|| id.clone());
        }
    }

    /// One race. Fails where the text is no JSON.
    pub(super) fn race(&mut self, text: &str, place: Place) -> Result<Read, serde_json::Error> {
        match self.in_one_pass(text, place) {
            Some(race) => Ok(Read::Race(race)),
            None => self.row_by_row(text, place),
        }
    }

    /// `None` at the first thing that is not as it should be. By then bookmakers may have been
    /// listed: the same, and in the same order, as the long way lists them.
    fn in_one_pass(&mut self, text: &str, place: Place) -> Option<EventSnapshot> {
        let race: WholeRace<'_> = in_one_pass(text)?;
        let id = EventId::new(usable_id(&race.race_id).ok()?);
        if self.races.contains_key(&id) {
            return None;
        }
        let rows = race.runners.iter().map(|runner| runner.odds.len());
        let mut snapshot = EventSnapshot {
            event: event(&race, id.clone(), self.source.clone()),
            selections: Vec::with_capacity(race.runners.len()),
            prices: Vec::with_capacity(rows.sum()),
            complete: true,
        };
        for runner in &race.runners {
            let id = SelectionId::new(usable_id(&runner.horse_id).ok()?);
            if snapshot.selections.iter().any(|known| known.id == id) {
                return None;
            }
            let selection = selection(runner, id);
            let nothing_offered = nothing_offered(&snapshot, &selection);
            self.bookmakers.begin_list();
            for (at, odds) in runner.odds.iter().enumerate() {
                let spelt = odds.bookmaker.text()?;
                let bookmaker = self.bookmakers.place(at, &spelt)?;
                if self.bookmakers.is_again(bookmaker) {
                    return None;
                }
                let offer = price::offer(odds).ok()?;
                snapshot.prices.push(Price {
                    key: PriceKey {
                        market: self.win.clone(),
                        selection: selection.id.clone(),
                        bookmaker: self.bookmakers.id(bookmaker).clone(),
                    },
                    offer: offer.filter(|_| !nothing_offered),
                    suspended: false,
                    observed_at: self.seen.at(odds.updated.text().as_deref()),
                });
            }
            snapshot.selections.push(selection);
        }
        self.races.insert(id, place);
        self.prices_seen += snapshot.prices.len() as u64;
        Some(snapshot)
    }

    fn row_by_row(&mut self, text: &str, place: Place) -> Result<Read, serde_json::Error> {
        let raw: &RawValue = serde_json::from_str(text)?;
        Ok(match self.tolerantly(raw, place) {
            Ok(Some(race)) => Read::Race(race),
            Ok(None) => Read::MetBefore,
            Err((rows, aside)) => {
                self.partial = true;
                self.set_aside(rows, aside);
                Read::Unreadable
            }
        })
    }

    fn set_aside(&mut self, rows: u64, (reason, sample): SetAside) {
        self.prices_seen += rows;
        self.aside += rows;
        self.rejects.add_rows(reason, rows, sample);
    }

    /// True when there were rows over the cap.
    pub(super) fn over(&mut self, rows: u64, what: &str) -> bool {
        if rows > 0 {
            self.set_aside(rows, ("row_cap", format!("{rows} {what} over the cap")));
        }
        rows > 0
    }

    fn unreadable(&mut self, race: &mut EventSnapshot, rows: u64, aside: SetAside) {
        race.complete = false;
        self.set_aside(rows, aside);
    }

    /// `None` for a race that was met before; an error for one that cannot be read.
    fn tolerantly(
        &mut self,
        raw: &RawValue,
        place: Place,
    ) -> Result<Option<EventSnapshot>, (u64, SetAside)> {
        let race: Race<Raw<'_>, Raw<'_>> =
            row(raw).ok_or_else(|| (1, ("bad_race", sample(raw))))?;
        let runners = Rows::of(race.runners, MAX_RUNNERS).ok_or_else(|| {
            let sample = format!("{}: no runners", race.race_id.name());
            (1, ("bad_race", sample))
        })?;
        let id = usable_id(&race.race_id).map_err(|aside| (odds_in(&runners), aside))?;
        let id = EventId::new(id);
        if self.races.contains_key(&id) {
            self.note_twice(&id, place);
            self.set_aside(odds_in(&runners), ("duplicate_race", id.to_string()));
            return Ok(None);
        }
        self.races.insert(id.clone(), place);
        let mut snapshot = EventSnapshot {
            event: event(&race, id, self.source.clone()),
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
        Ok(Some(snapshot))
    }

    fn runner(
        &mut self,
        raw: &RawValue,
        race: &mut EventSnapshot,
        seen: &mut HashSet<SelectionId>,
    ) {
        let Some(runner) = row::<Runner<Raw<'_>, Raw<'_>>>(raw) else {
            return self.unreadable(race, 1, ("bad_runner", sample(raw)));
        };
        let id = match usable_id(&runner.horse_id) {
            Ok(id) => SelectionId::new(id),
            Err((reason, sample)) => {
                let sample = format!("{}: {} {sample}", race.event.id, runner.horse.name());
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
        let nothing_offered = nothing_offered(race, selection);
        let place = format!("{} {}", race.event.id, selection.id);
        let mut seen: HashMap<usize, usize> = HashMap::with_capacity(odds.kept.len());
        for (at, raw) in odds.kept.iter().enumerate() {
            let (bookmaker, offer, observed_at) = match self.odds(at, raw) {
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
                    bookmaker: self.bookmakers.id(bookmaker).clone(),
                },
                offer: offer.filter(|_| !nothing_offered),
                suspended: false,
                observed_at,
            };
            // Two spellings of one bookmaker: the later word counts, then the first listed.
            if let Some(&at) = seen.get(&bookmaker) {
                let sample = format!("{place} {}", price.key.bookmaker);
                if price.observed_at > race.prices[at].observed_at {
                    race.prices[at] = price;
                }
                self.set_aside(1, ("duplicate_bookmaker", sample));
                continue;
            }
            seen.insert(bookmaker, race.prices.len());
            race.prices.push(price);
            self.prices_seen += 1;
        }
    }

    fn odds(
        &mut self,
        at: usize,
        raw: &RawValue,
    ) -> Result<(usize, Option<Offer>, DateTime<Utc>), SetAside> {
        let odds: Odds<Raw<'_>> = row(raw).ok_or_else(|| {
            (
                "bad_odds",
                raw.get().chars().take(SAMPLE_CHARS / 2).collect(),
            )
        })?;
        let spelt = odds.bookmaker.text();
        let bookmaker = spelt.and_then(|spelt| self.bookmakers.place(at, &spelt));
        let bookmaker =
            bookmaker.ok_or_else(|| ("no_bookmaker", "no bookmaker's name".to_owned()))?;
        let offer = price::offer(&odds).map_err(|bad| {
            let spelt = odds.bookmaker.name();
            ("bad_decimal", format!("{spelt}: decimal {:?}", bad.0))
        })?;
        let observed_at = self.seen.at(odds.updated.text().as_deref());
        Ok((bookmaker, offer, observed_at))
    }
}

fn nothing_offered(race: &EventSnapshot, selection: &Selection) -> bool {
    selection.status.is_out() || race.event.status.is_final()
}

fn sample(raw: &RawValue) -> String {
    raw.get().chars().take(SAMPLE_CHARS).collect()
}

fn usable_id<F: Field>(field: &F) -> Result<String, SetAside> {
    let Some(id) = field.text() else {
        return Err(("no_id", "without id".into()));
    };
    if id.chars().count() > MAX_ID_CHARS || id.chars().any(char::is_control) {
        return Err(("bad_id", format!("id {id:?}")));
    }
    Ok(id.into_owned())
}

/// Price rows of a race that is set aside, or one where it has none.
fn odds_in(runners: &Rows<'_>) -> u64 {
    let rows = runners.kept.iter().map(|raw| {
        let runner = row::<Runner<Raw<'_>, Raw<'_>>>(raw);
        let odds = runner.and_then(|runner| Rows::of(runner.odds, MAX_ODDS));
        odds.map_or(0, |odds| odds.kept.len() as u64 + odds.over)
    });
    rows.sum::<u64>().max(1)
}

fn odds_of(runner: &Runner<Raw<'_>, Raw<'_>>) -> u64 {
    let odds = Rows::of(runner.odds, MAX_ODDS).unwrap_or_default();
    (odds.kept.len() as u64 + odds.over).max(1)
}

#[cfg(test)]
mod laws;
