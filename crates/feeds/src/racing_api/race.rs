//! Parses one race into an event. [`parse_page`](super::answer::parse_page) calls it for every race whose text
//! is not stored.
//!
//! Every price row becomes a `Price` or a counted reject; a rejected race or runner counts as its price rows,
//! or as one row if it has none. A rejected row puts in doubt what it may have been: its own key, as far as that
//! could be read. Otherwise a malformed row would look like a withdrawal. All else that is missing is removed.
//!
//! A race is read into strict borrowed structs first, because that is fastest. A race that these refuse is read
//! leniently, row by row. Both forms go through the same code, so a race that both accept gives the same result.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::bookmakers::BookmakerInterner;
use super::card::{build_event, build_selection};
use super::fields::{
    JsonScalar, LenientRace, MAX_ODDS, MAX_RUNNERS, OddsJson, RaceJson, Rows, RunnerJson,
    StrictRace,
};
use super::times::TimestampCache;
use super::{SOURCE, price};
use crate::json::{find_field, parse_object, sample};
use oddsd_core::model::{
    BookmakerId, EventId, EventSnapshot, EventsInDoubt, MarketId, Offer, Price, PriceKey,
    RejectedRows, RowInDoubt, Selection, SelectionId,
};

const MAX_ID_CHARS: usize = 100;
/// Prices of one race.
const MAX_PRICES: u64 = (MAX_RUNNERS * MAX_ODDS) as u64;

/// Why a row cannot be used: the reason, which is counted, and a sample.
type Rejection = (&'static str, String);
/// Index of the bookmaker, offer and feed time.
type OddsRead = (usize, Option<Offer>, Option<DateTime<Utc>>);

/// The place of a race in the answers of one fetch.
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
    /// See [`super::ParsedCards::in_doubt`].
    pub(super) in_doubt: EventsInDoubt,
    /// Races listed so far, and those of them that could be read.
    pub(super) listed: u64,
    pub(super) readable: u64,
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
            in_doubt: EventsInDoubt::default(),
            listed: 0,
            readable: 0,
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

    pub(super) fn parse(&mut self, text: &str, position: ListPosition) -> ParseOutcome {
        match parse_object::<StrictRace<'_>>(text) {
            Ok(race) => self.add_race(&race, position),
            Err(_) => self.parse_lenient(text, position),
        }
    }

    fn parse_lenient(&mut self, text: &str, position: ListPosition) -> ParseOutcome {
        match parse_object::<LenientRace<'_>>(text) {
            Ok(race) => self.add_race(&race, position),
            Err(_) => {
                let id = find_field(text, "race_id");
                let id = usable_id(&id).ok().map(EventId::new);
                self.reject_race(id, 1, ("bad_race", sample(text)))
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

    /// Rejects rows of one selection or price.
    fn reject_in(
        &mut self,
        race: &mut EventSnapshot,
        row: RowInDoubt,
        rows: u64,
        rejection: Rejection,
    ) {
        race.in_doubt.push(row);
        self.reject(rows, rejection);
    }

    fn reject_race(
        &mut self,
        id: Option<EventId>,
        rows: u64,
        rejection: Rejection,
    ) -> ParseOutcome {
        self.in_doubt.add(id);
        self.reject(rows, rejection);
        ParseOutcome::Unreadable
    }

    fn add_race<F: JsonScalar, const LENIENT: bool>(
        &mut self,
        race: &RaceJson<F, LENIENT>,
        position: ListPosition,
    ) -> ParseOutcome {
        let id = usable_id(&race.race_id).map(EventId::new);
        let Some(runners) = &race.runners.0 else {
            let sample = format!("{}: no runners", race.race_id.name());
            return self.reject_race(id.ok(), 1, ("bad_race", sample));
        };
        let readable = runners.kept.iter().filter_map(|row| row.0.as_ref().ok());
        let odds_rows: u64 = readable.map(odds_rows).sum();
        let id = match id {
            Ok(id) => id,
            Err(rejection) => return self.reject_race(None, odds_rows.max(1), rejection),
        };
        if self.races.contains_key(&id) {
            self.note_repeated(&id, position);
            self.reject(odds_rows.max(1), ("duplicate_race", id.to_string()));
            return ParseOutcome::Repeated;
        }
        self.races.insert(id.clone(), position);
        let mut snapshot = EventSnapshot {
            event: build_event(race, id, self.source.clone()),
            selections: Vec::with_capacity(runners.kept.len()),
            prices: Vec::with_capacity(odds_rows.min(MAX_PRICES) as usize),
            complete: true,
            in_doubt: Vec::new(),
        };
        for row in &runners.kept {
            match &row.0 {
                Ok(runner) => self.add_runner(runner, &mut snapshot),
                Err(bad) => {
                    let id = find_field(&bad.text, "horse_id");
                    let row = match usable_id(&id) {
                        Ok(id) => prices_in_doubt(&SelectionId::new(id), None),
                        Err(_) => RowInDoubt::Selection,
                    };
                    self.reject_in(&mut snapshot, row, 1, ("bad_runner", bad.sample.clone()));
                }
            }
        }
        if self.reject_over(runners.over, "runners") {
            snapshot.in_doubt.push(RowInDoubt::Selection);
        }
        // Rejected rows leave capacity unused.
        snapshot.prices.shrink_to_fit();
        ParseOutcome::Race(snapshot)
    }

    fn add_runner<F: JsonScalar, const LENIENT: bool>(
        &mut self,
        runner: &RunnerJson<F, LENIENT>,
        race: &mut EventSnapshot,
    ) {
        let id = match usable_id(&runner.horse_id) {
            Ok(id) => SelectionId::new(id),
            Err((reason, sample)) => {
                let sample = format!("{}: {} {sample}", race.event.id, runner.horse.name());
                let rows = odds_rows(runner).max(1);
                return self.reject_in(race, RowInDoubt::Selection, rows, (reason, sample));
            }
        };
        if race.selections.iter().any(|known| known.id == id) {
            let sample = format!("{} {id}", race.event.id);
            return self.reject(odds_rows(runner).max(1), ("duplicate_runner", sample));
        }
        let selection = build_selection(runner, id);
        match &runner.odds.0 {
            Some(odds) => self.add_prices(odds, &selection, race),
            None => {
                let sample = format!("{} {}", race.event.id, selection.id);
                let row = prices_in_doubt(&selection.id, None);
                self.reject_in(race, row, 1, ("bad_odds", sample));
            }
        }
        race.selections.push(selection);
    }

    fn add_prices<F: JsonScalar, const LENIENT: bool>(
        &mut self,
        odds: &Rows<OddsJson<F>, MAX_ODDS, LENIENT>,
        selection: &Selection,
        race: &mut EventSnapshot,
    ) {
        let nothing_offered = selection.status.is_withdrawn() || race.event.status.is_final();
        self.bookmakers.begin_list();
        for (at, row) in odds.kept.iter().enumerate() {
            let read = match &row.0 {
                Ok(odds) => self.read_odds(at, odds),
                Err(bad) if &*bad.text == "null" => Ok(None),
                Err(bad) => {
                    let name = find_field(&bad.text, "bookmaker");
                    let bookmaker = name.text().and_then(|name| BookmakerId::from_name(&name));
                    Err((bookmaker, ("bad_odds", format!("{:.100}", bad.sample))))
                }
            };
            let (bookmaker, offer, observed_at) = match read {
                Ok(Some(read)) => read,
                Ok(None) => continue,
                Err((bookmaker, (reason, sample))) => {
                    let sample = format!("{} {} {sample}", race.event.id, selection.id);
                    let row = prices_in_doubt(&selection.id, bookmaker);
                    self.reject_in(race, row, 1, (reason, sample));
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
            // Two spellings of one bookmaker: the later price is kept, or the first if both are equally late.
            if let Some(first) = self.bookmakers.listed_before(bookmaker, race.prices.len()) {
                let bookmaker = &price.key.bookmaker;
                let sample = format!("{} {} {bookmaker}", race.event.id, selection.id);
                if price.observed_at > race.prices[first].observed_at {
                    race.prices[first] = price;
                }
                self.reject(1, ("duplicate_bookmaker", sample));
                continue;
            }
            race.prices.push(price);
            self.prices_seen += 1;
        }
        if self.reject_over(odds.over, "odds rows") {
            let row = prices_in_doubt(&selection.id, None);
            race.in_doubt.push(row);
        }
    }

    /// Returns the index of the bookmaker, its offer and the feed time. `None`: the row names neither a bookmaker
    /// nor a price. Fails with the bookmaker, if the row names one, and the reason.
    fn read_odds<F: JsonScalar>(
        &mut self,
        at: usize,
        odds: &OddsJson<F>,
    ) -> Result<Option<OddsRead>, (Option<BookmakerId>, Rejection)> {
        let name = odds.bookmaker.text();
        let bookmaker = name.and_then(|name| self.bookmakers.intern(at, &name));
        let offer = price::read_offer(odds);
        let Some(bookmaker) = bookmaker else {
            let sample = "no bookmaker's name".to_owned();
            return match offer {
                Ok(None) => Ok(None),
                Ok(Some(_)) | Err(_) => Err((None, ("no_bookmaker", sample))),
            };
        };
        let offer = offer.map_err(|bad| {
            let name = odds.bookmaker.name();
            let rejection = ("bad_decimal", format!("{name}: decimal {bad:?}"));
            (Some(self.bookmakers.id(bookmaker).clone()), rejection)
        })?;
        let observed_at = self.timestamps.parse(odds.updated.text().as_deref());
        Ok(Some((bookmaker, offer, observed_at)))
    }
}

/// The prices of one selection, all of them or those of one bookmaker. Every market is meant, as there is only one.
fn prices_in_doubt(selection: &SelectionId, bookmaker: Option<BookmakerId>) -> RowInDoubt {
    RowInDoubt::Price {
        market: None,
        selection: Some(selection.clone()),
        bookmaker,
    }
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

/// The number of a runner's price rows. A rejected race or runner counts as its price rows, or as one if it has
/// none.
fn odds_rows<F, const LENIENT: bool>(runner: &RunnerJson<F, LENIENT>) -> u64 {
    let odds = runner.odds.0.as_ref();
    odds.map_or(0, |odds| odds.kept.len() as u64 + odds.over)
}

#[cfg(test)]
mod properties;
