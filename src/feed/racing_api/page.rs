//! One answer while it comes in: each race is read, or known and skipped, as soon as it is whole.

use std::collections::HashMap;
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::reader::{Place, Read, Reader};
use super::row::{Envelope, Field, Rows};
use crate::diff::Take;
use crate::feed::FeedError;
use crate::feed::slices::{List, Rest, Slicer, Uncut};
use crate::model::{Slice, plain_text};

pub(super) const MAX_RACES: u64 = 2_000;
const LIST: List = List::Named("racecards");

/// What one answer said as a whole.
#[derive(Debug)]
pub(super) struct Told {
    /// Races that the whole day has, over all pages; `None` where the answer does not say.
    pub(super) total: Option<u64>,
    /// Races listed in this answer, usable or not: how far paging has come.
    pub(super) races_seen: u64,
    /// The texts of its races, in order.
    pub(super) slices: Arc<[Slice]>,
    /// Each race was handed over, by its text or to be known by it.
    pub(super) whole: bool,
}

/// Takes an answer's bytes, and hands over its races.
pub(super) struct Page<'a> {
    slicer: Slicer,
    races: Races<'a>,
}

struct Races<'a> {
    reader: &'a mut Reader,
    to: &'a mut dyn Take,
    place: Place,
    seen: u64,
    usable: u64,
    over: u64,
    whole: bool,
}

impl<'a> Page<'a> {
    /// `before` are the slices of the last answer from the same place.
    pub(super) fn new(
        reader: &'a mut Reader,
        to: &'a mut dyn Take,
        place: Place,
        max_rest: usize,
        before: Arc<[Slice]>,
    ) -> Self {
        Self {
            slicer: Slicer::new(LIST, max_rest, before),
            races: Races {
                reader,
                to,
                place,
                seen: 0,
                usable: 0,
                over: 0,
                whole: true,
            },
        }
    }

    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<(), FeedError> {
        let races = &mut self.races;
        let pushed = self
            .slicer
            .push(chunk, &mut |text, slice| races.race(text, slice));
        pushed.map_err(|Unusable(error)| error)
    }

    /// Only what cannot be a racecard at all is an error.
    pub(super) fn finish(self) -> Result<Told, FeedError> {
        let mut races = self.races;
        let rest = self
            .slicer
            .finish(&mut |text, slice| races.race(text, slice));
        let told = rest.and_then(|rest| races.told(rest));
        told.map_err(|Unusable(error)| error)
    }
}

impl Races<'_> {
    fn race(&mut self, text: &[u8], slice: Slice) -> Result<(), Unusable> {
        self.seen += 1;
        if self.seen > MAX_RACES {
            self.over += 1;
            serde_json::from_slice::<IgnoredAny>(text)?;
            return Ok(());
        }
        // One that was met before is read like any other: to be counted.
        if let Some(id) = self.to.knows(&slice)
            && self.reader.meet(&id, self.place)
        {
            self.usable += 1;
            self.to.same(&slice);
            return Ok(());
        }
        let aside = self.reader.aside;
        let race = self.reader.race(utf8(text)?, self.place)?;
        let clean = self.reader.aside == aside;
        self.whole &= clean;
        self.usable += u64::from(!matches!(race, Read::Unreadable));
        if let Read::Race(race) = race {
            self.to.take(race, clean.then_some(slice));
        }
        Ok(())
    }

    fn told(&mut self, rest: Rest) -> Result<Told, Unusable> {
        let text = utf8(&rest.text)?;
        if !text.trim_start().starts_with('{') {
            return Err(bad("something that is not a JSON object".into()));
        }
        let envelope: Envelope<'_> = serde_json::from_str(text)?;
        if envelope.racecards.is_some() {
            // Empty by now, unless the list's name was spelt with escapes.
            let races = Rows::of(envelope.racecards, MAX_RACES as usize)
                .ok_or_else(|| bad("\"racecards\" that is not a list".into()))?;
            self.outside_the_list(&races.kept)?;
            self.seen += races.over;
            self.over += races.over;
            self.reader.partial |= self.reader.over(self.over, "races");
        } else if envelope.race_id.is_some() {
            self.outside_the_list(&[serde_json::from_str(text)?])?;
        } else {
            return Err(bad(format!("no \"racecards\", but {}", names_of(text))));
        }
        if self.usable == 0 && self.seen > 0 {
            return Err(bad(format!(
                "no readable race among {} ({})",
                self.seen, self.reader.rejects
            )));
        }
        Ok(Told {
            total: envelope.total.number(),
            races_seen: self.seen,
            slices: rest.slices,
            whole: self.whole && self.over == 0,
        })
    }

    /// Races that are not among the answer's slices.
    fn outside_the_list(&mut self, races: &[&RawValue]) -> Result<(), Unusable> {
        self.whole &= races.is_empty();
        for race in races {
            let text = race.get().as_bytes();
            self.race(text, Slice::of(text))?;
        }
        Ok(())
    }
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

/// Why an answer is of no use.
struct Unusable(FeedError);

fn bad(what: String) -> Unusable {
    Unusable(FeedError::BadAnswer {
        detail: format!("The Racing API sent {what}"),
    })
}

fn utf8(text: &[u8]) -> Result<&str, Unusable> {
    std::str::from_utf8(text).map_err(|_| bad("a body that is not UTF-8, not JSON".into()))
}

impl From<serde_json::Error> for Unusable {
    fn from(why: serde_json::Error) -> Self {
        bad(format!("JSON that cannot be read ({why})"))
    }
}

impl From<Uncut> for Unusable {
    fn from(why: Uncut) -> Self {
        match why {
            Uncut::Malformed { .. } => bad(format!("JSON that cannot be read ({why})")),
            Uncut::LongElement | Uncut::LongRest { .. } => Self(FeedError::TooLarge {
                detail: format!("The Racing API sent {why}"),
            }),
        }
    }
}
