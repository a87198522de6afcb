//! Parses one race into an event. [`parse_page`](super::answer::parse_page) calls it for every race whose text
//! is not stored.
//!
//! Every price row becomes a `Price` or a counted reject; a rejected race or runner counts as its price rows,
//! or as one row if it has none. A rejected row may have been any price, so absence beside it proves nothing:
//! its race is not `complete`, and an answer that lost a whole race is `partial`. Otherwise a malformed row
//! would meta like a withdrawal.
//!
//! A race is read into strict borrowed structs first. The lenient path reads a race that these refuse, row by
//! row, and gives the same result for every race that they accept.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

use super::bookmakers::BookmakerInterner;
use super::card::{event, selection};
use super::fields::{
    JsonScalar, MAX_ODDS, MAX_RUNNERS, RawOdds, RawRace, RawRows, RawRunner, StrictRace,
    parse_object, parse_rows,
};
use super::times::TimestampCache;
use super::{SOURCE, price};
use crate::json::JsonObject;
use oddsd_core::model::{
    EventId, EventSnapshot, MarketId, Offer, Price, PriceKey, RejectedRows, Selection, SelectionId,
};

const MAX_ID_CHARS: usize = 100;
/// Of a row that cannot be read.
const SAMPLE_CHARS: usize = 200;

/// Why a row cannot be used: the reason, which is counted, and a sample.
type Rejection = (&'static str, String);

/// Where a race is listed in the answers of one fetch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ListPosition {
    pub(super) day: usize,
    pub(super) page: usize,
}

/// The result of parsing one race.
#[derive(Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are races")]
pub(super) enum ParseOutcome {
    Race(EventSnapshot),
    /// It was listed before; its rows are counted as rejects.
    Repeated,
    Unreadable,
}

/// Parses the races of one fetch, over all its pages, and collects what they share.
pub(super) struct RaceParser {
    pub(super) bookmakers: BookmakerInterner,
    pub(super) rejects: RejectedRows,
    /// See [`super::ParsedCards::partial`].
    pub(super) partial: bool,
    /// See [`super::ParsedCards::prices_seen`].
    pub(super) prices_seen: u64,
    pub(super) rows_rejected: u64,
    /// A race that is listed on two pages of one day.
    pub(super) listed_twice: Option<EventId>,
    races: HashMap<EventId, ListPosition>,
    timestamps: TimestampCache,
    win: MarketId,
    source: Arc<str>,
}

impl RaceParser {
    pub(super) fn new(as_of: DateTime<Utc>) -> Self {
        Self {
            bookmakers: BookmakerInterner::default(),
            rejects: RejectedRows::default(),
            partial: false,
            prices_seen: 0,
            rows_rejected: 0,
            listed_twice: None,
            races: HashMap::new(),
            timestamps: TimestampCache::new(as_of),
            win: MarketId::new("win"),
            source: Arc::from(SOURCE),
        }
    }

    /// Records a race that is not parsed because it is stored; false if it was listed before.
    pub(super) fn note_unchanged(&mut self, id: &EventId, position: ListPosition) -> bool {
        let new = !self.races.contains_key(id);
        if new {
            self.races.insert(id.clone(), position);
        }
        new
    }

    /// Rejects a race that was listed before and is not parsed: the number of its rows is unknown.
    pub(super) fn reject_repeated(&mut self, id: &EventId, position: ListPosition) {
        self.note_repeated(id, position);
        self.reject(1, ("duplicate_race", id.to_string()));
    }

    fn note_repeated(&mut self, id: &EventId, position: ListPosition) {
        let before = self.races.get(id).copied().unwrap_or(position);
        if before.day == position.day && before.page != position.page {
            self.listed_twice.get_or_insert_with(|| id.clone());
        }
    }

    pub(super) fn parse(&mut self, raw: &RawValue, position: ListPosition) -> ParseOutcome {
        match self.parse_strict(raw.get(), position) {
            Some(race) => ParseOutcome::Race(race),
            None => self.parse_lenient(raw, position),
        }
    }

    /// Returns `None` if anything in the race is not as documented. Bookmakers may have been interned by
    /// then; the lenient path interns the same ones in the same order.
    fn parse_strict(&mut self, text: &str, position: ListPosition) -> Option<EventSnapshot> {
        let mut race: StrictRace<'_> = parse_object(text)?;
        let runners = race.runners.take().unwrap_or_default();
        let id = EventId::new(usable_id(&race.race_id).ok()?);
        if runners.over > 0 || self.races.contains_key(&id) {
            return None;
        }
        let odds = runners
            .kept
            .iter()
            .filter_map(|runner| runner.0.odds.as_ref());
        let mut snapshot = EventSnapshot {
            event: event(&race, id.clone(), self.source.clone()),
            selections: Vec::with_capacity(runners.kept.len()),
            prices: Vec::with_capacity(odds.map(|odds| odds.kept.len()).sum()),
            complete: true,
        };
        for JsonObject(mut runner) in runners.kept {
            let rows = runner.odds.take().unwrap_or_default();
            let id = SelectionId::new(usable_id(&runner.horse_id).ok()?);
            if rows.over > 0 || snapshot.selections.iter().any(|known| known.id == id) {
                return None;
            }
            let selection = selection(&runner, id);
            let nothing_offered = nothing_offered(&snapshot, &selection);
            self.bookmakers.begin_list();
            for (at, JsonObject(odds)) in rows.kept.iter().enumerate() {
                let bookmaker = self.bookmakers.intern(at, &odds.bookmaker.text()?)?;
                if self.bookmakers.is_repeated(bookmaker) {
                    return None;
                }
                let offer = price::offer(odds).ok()?;
                let observed_at = self.timestamps.parse(odds.updated.text().as_deref());
                let offer = offer.filter(|_| !nothing_offered);
                let price = self.price(&selection, bookmaker, offer, observed_at);
                snapshot.prices.push(price);
            }
            snapshot.selections.push(selection);
        }
        self.races.insert(id, position);
        self.prices_seen += snapshot.prices.len() as u64;
        Some(snapshot)
    }

    fn price(
        &self,
        selection: &Selection,
        bookmaker: usize,
        offer: Option<Offer>,
        observed_at: DateTime<Utc>,
    ) -> Price {
        Price {
            key: PriceKey {
                market: self.win.clone(),
                selection: selection.id.clone(),
                bookmaker: self.bookmakers.id(bookmaker).clone(),
            },
            offer,
            suspended: false,
            observed_at,
        }
    }

    fn parse_lenient(&mut self, raw: &RawValue, position: ListPosition) -> ParseOutcome {
        match self.parse_rows(raw, position) {
            Ok(Some(race)) => ParseOutcome::Race(race),
            Ok(None) => ParseOutcome::Repeated,
            Err((rows, rejection)) => {
                self.partial = true;
                self.reject(rows, rejection);
                ParseOutcome::Unreadable
            }
        }
    }

    fn reject(&mut self, rows: u64, (reason, sample): Rejection) {
        self.prices_seen += rows;
        self.rows_rejected += rows;
        self.rejects.add_rows(reason, rows, sample);
    }

    /// Counts rows above a cap; true if there are any.
    pub(super) fn reject_over(&mut self, rows: u64, what: &str) -> bool {
        if rows > 0 {
            self.reject(rows, ("row_cap", format!("{rows} {what} over the cap")));
        }
        rows > 0
    }

    fn reject_in(&mut self, race: &mut EventSnapshot, rows: u64, rejection: Rejection) {
        race.complete = false;
        self.reject(rows, rejection);
    }

    /// Returns `None` for a race that was listed before; fails for one that cannot be read.
    fn parse_rows(
        &mut self,
        raw: &RawValue,
        position: ListPosition,
    ) -> Result<Option<EventSnapshot>, (u64, Rejection)> {
        let race: RawRace<'_> =
            parse_object(raw.get()).ok_or_else(|| (1, ("bad_race", sample(raw))))?;
        let runners: RawRows<'_, MAX_RUNNERS> = parse_rows(race.runners).ok_or_else(|| {
            let sample = format!("{}: no runners", race.race_id.name());
            (1, ("bad_race", sample))
        })?;
        let id = usable_id(&race.race_id).map_err(|rejection| (count_odds(&runners), rejection))?;
        let id = EventId::new(id);
        if self.races.contains_key(&id) {
            self.note_repeated(&id, position);
            self.reject(count_odds(&runners), ("duplicate_race", id.to_string()));
            return Ok(None);
        }
        self.races.insert(id.clone(), position);
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
        if self.reject_over(runners.over, "runners") {
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
        let Some(runner) = parse_object::<RawRunner<'_>>(raw.get()) else {
            return self.reject_in(race, 1, ("bad_runner", sample(raw)));
        };
        let id = match usable_id(&runner.horse_id) {
            Ok(id) => SelectionId::new(id),
            Err((reason, sample)) => {
                let sample = format!("{}: {} {sample}", race.event.id, runner.horse.name());
                return self.reject_in(race, odds_of(&runner), (reason, sample));
            }
        };
        let place = format!("{} {id}", race.event.id);
        if !seen.insert(id.clone()) {
            return self.reject(odds_of(&runner), ("duplicate_runner", place));
        }
        let selection = selection(&runner, id);
        match parse_rows(runner.odds) {
            Some(odds) => {
                self.prices(&odds, &selection, race);
                if self.reject_over(odds.over, "odds rows") {
                    race.complete = false;
                }
            }
            None => self.reject_in(race, 1, ("bad_odds", place)),
        }
        race.selections.push(selection);
    }

    fn prices(
        &mut self,
        odds: &RawRows<'_, MAX_ODDS>,
        selection: &Selection,
        race: &mut EventSnapshot,
    ) {
        let nothing_offered = nothing_offered(race, selection);
        let place = format!("{} {}", race.event.id, selection.id);
        let mut seen: HashMap<usize, usize> = HashMap::with_capacity(odds.kept.len());
        for (at, raw) in odds.kept.iter().enumerate() {
            let (bookmaker, offer, observed_at) = match self.odds(at, raw) {
                Ok(read) => read,
                Err((reason, sample)) => {
                    self.reject_in(race, 1, (reason, format!("{place} {sample}")));
                    continue;
                }
            };
            let offer = offer.filter(|_| !nothing_offered);
            let price = self.price(selection, bookmaker, offer, observed_at);
            // Two spellings of one bookmaker: the later price is kept, or the first if both are equally late.
            if let Some(&at) = seen.get(&bookmaker) {
                let sample = format!("{place} {}", price.key.bookmaker);
                if price.observed_at > race.prices[at].observed_at {
                    race.prices[at] = price;
                }
                self.reject(1, ("duplicate_bookmaker", sample));
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
    ) -> Result<(usize, Option<Offer>, DateTime<Utc>), Rejection> {
        let odds: RawOdds<'_> = parse_object(raw.get()).ok_or_else(|| {
            (
                "bad_odds",
                raw.get().chars().take(SAMPLE_CHARS / 2).collect(),
            )
        })?;
        let name = odds.bookmaker.text();
        let bookmaker = name.and_then(|name| self.bookmakers.intern(at, &name));
        let bookmaker =
            bookmaker.ok_or_else(|| ("no_bookmaker", "no bookmaker's name".to_owned()))?;
        let offer = price::offer(&odds).map_err(|bad| {
            let name = odds.bookmaker.name();
            ("bad_decimal", format!("{name}: decimal {:?}", bad.0))
        })?;
        let observed_at = self.timestamps.parse(odds.updated.text().as_deref());
        Ok((bookmaker, offer, observed_at))
    }
}

fn nothing_offered(race: &EventSnapshot, selection: &Selection) -> bool {
    selection.status.is_withdrawn() || race.event.status.is_final()
}

fn sample(raw: &RawValue) -> String {
    raw.get().chars().take(SAMPLE_CHARS).collect()
}

fn usable_id<F: JsonScalar>(field: &F) -> Result<String, Rejection> {
    let Some(id) = field.text() else {
        return Err(("no_id", "without id".into()));
    };
    if id.chars().count() > MAX_ID_CHARS || id.chars().any(char::is_control) {
        return Err(("bad_id", format!("id {id:?}")));
    }
    Ok(id.into_owned())
}

/// Price rows of a rejected race, or one if it has none.
fn count_odds(runners: &RawRows<'_, MAX_RUNNERS>) -> u64 {
    let rows = runners.kept.iter().map(|raw| {
        let runner = parse_object::<RawRunner<'_>>(raw.get());
        runner.map_or(0, |runner| odds_rows(&runner))
    });
    rows.sum::<u64>().max(1)
}

/// Price rows of a rejected runner, or one if it has none.
fn odds_of(runner: &RawRunner<'_>) -> u64 {
    odds_rows(runner).max(1)
}

fn odds_rows(runner: &RawRunner<'_>) -> u64 {
    let odds: RawRows<'_, MAX_ODDS> = parse_rows(runner.odds).unwrap_or_default();
    odds.kept.len() as u64 + odds.over
}

#[cfg(test)]
mod laws;
