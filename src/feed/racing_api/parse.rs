//! A whole answer at once: for recordings, the simulator and tests. It goes the way of an answer that
//! comes in piece by piece.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::SOURCE;
use super::page::{Page, Told};
use super::reader::{Place, Reader};
use crate::diff::{Collected, Take};
use crate::feed::FeedError;
use crate::feed::slices::MAX_ELEMENT;
use crate::model::{Bookmaker, EventSnapshot, Look, Rejects, Scope, Slice};

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
    let mut events = Collected::default();
    let (reader, told) = read([body.as_bytes()], as_of, Arc::default(), &mut events)?;
    Ok(Parsed {
        events: events.0,
        bookmakers: reader.bookmakers.listed,
        rejects: reader.rejects,
        partial: reader.partial,
        total: told.total,
        races_seen: told.races_seen,
        prices_seen: reader.prices_seen,
    })
}

/// The same from its pieces, handed over race by race. `before` are the texts of the last answer, as
/// this returns them. What it speaks for is for the asker to say: the look lists only what it holds.
pub fn read_cards<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    as_of: DateTime<Utc>,
    before: Arc<[Slice]>,
    to: &mut dyn Take,
) -> Result<(Look, Arc<[Slice]>), FeedError> {
    to.begin(as_of);
    let (reader, told) = read(pieces, as_of, before, to)?;
    let look = Look {
        source: SOURCE.into(),
        as_of,
        scope: Scope::Listed,
        bookmakers: reader.bookmakers.listed,
        rejects: reader.rejects,
    };
    Ok((look, told.slices))
}

fn read<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    as_of: DateTime<Utc>,
    before: Arc<[Slice]>,
    to: &mut dyn Take,
) -> Result<(Reader, Told), FeedError> {
    let mut reader = Reader::new(as_of);
    // A single race is all rest and no list.
    let mut page = Page::new(&mut reader, to, Place::default(), MAX_ELEMENT, before);
    for piece in pieces {
        page.push(piece)?;
    }
    let told = page.finish()?;
    Ok((reader, told))
}
