//! A league's answer while it comes in: each event is read, or known and skipped, as soon as it is
//! whole.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::parse::{Parsed, Reading, bad_answer};
use super::rows::MAX_ROWS;
use crate::diff::Take;
use crate::feed::FeedError;
use crate::feed::slices::{List, MAX_REST, Rest, Slicer, Uncut};
use crate::model::{EventId, Slice};

/// Takes an answer's bytes, and hands over its events.
pub(super) struct Answer<'a> {
    slicer: Slicer,
    events: Events<'a>,
}

struct Events<'a> {
    reading: Reading<'a>,
    to: &'a mut dyn Take,
    /// What must not be told.
    secrets: &'a [String],
    met: HashSet<EventId>,
    rows: u64,
    twice: bool,
}

/// What became of an answer.
pub(super) enum Told {
    /// Its events have been handed over. The slices are what it consisted of.
    All(Box<Parsed>, Arc<[Slice]>),
    /// It lists an event twice, whose prices are one set: that can be told only with all of it in
    /// hand.
    Twice,
}

impl<'a> Answer<'a> {
    /// `before` are the slices of the last answer to the same question.
    pub(super) fn new(
        reading: Reading<'a>,
        to: &'a mut dyn Take,
        secrets: &'a [String],
        before: Arc<[Slice]>,
    ) -> Self {
        Self {
            slicer: Slicer::new(List::Whole, MAX_REST, before),
            events: Events {
                reading,
                to,
                secrets,
                met: HashSet::new(),
                rows: 0,
                twice: false,
            },
        }
    }

    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<(), FeedError> {
        let events = &mut self.events;
        let pushed = self
            .slicer
            .push(chunk, &mut |text, slice| events.row(text, slice));
        pushed.map_err(|Unusable(error)| error)
    }

    pub(super) fn finish(self) -> Result<Told, FeedError> {
        let mut events = self.events;
        let rest = self
            .slicer
            .finish(&mut |text, slice| events.row(text, slice));
        let told = rest.and_then(|rest| events.told(rest));
        told.map_err(|Unusable(error)| error)
    }
}

impl Events<'_> {
    fn row(&mut self, text: &[u8], slice: Slice) -> Result<(), Unusable> {
        self.rows += 1;
        if self.rows > MAX_ROWS as u64 {
            return Err(unreadable(format!("it has more than {MAX_ROWS} rows")));
        }
        if self.twice {
            return Ok(());
        }
        if let Some(id) = self.to.knows(&slice) {
            self.twice |= !self.met.insert(id);
            if !self.twice {
                self.to.same(&slice);
            }
            return Ok(());
        }
        let text = std::str::from_utf8(text).map_err(|_| not_text())?;
        let masked = masked(text, self.secrets);
        let before = self.reading.set_aside();
        if self.reading.in_one_pass(&masked).is_none() {
            serde_json::from_str::<&RawValue>(&masked)
                .map_err(|error| unreadable(error.to_string()))?;
            self.reading.row_by_row(&masked).map_err(Unusable)?;
        }
        // A text that holds a secret has to be read each time, for the secret to be taken out.
        let clean = self.reading.set_aside() == before && matches!(masked, Cow::Borrowed(_));
        if let Some(event) = self.reading.take_event() {
            self.twice |= !self.met.insert(event.event.id.clone());
            self.to.take(event, clean.then_some(slice));
        }
        Ok(())
    }

    fn told(self, rest: Rest) -> Result<Told, Unusable> {
        let text = std::str::from_utf8(&rest.text).map_err(|_| not_text())?;
        let text = masked(text, self.secrets);
        serde_json::from_str::<[(); 0]>(&text)
            .map_err(|error| Unusable(bad_answer(&text, rest.bytes, &error)))?;
        if self.twice {
            return Ok(Told::Twice);
        }
        let parsed = self.reading.finish(self.met.len() as u64);
        Ok(Told::All(Box::new(parsed.map_err(Unusable)?), rest.slices))
    }
}

/// The text without what must not be told.
pub(super) fn masked<'t>(text: &'t str, secrets: &[String]) -> Cow<'t, str> {
    let mut masked = Cow::Borrowed(text);
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        if masked.contains(secret.as_str()) {
            masked = Cow::Owned(masked.replace(secret.as_str(), "***"));
        }
    }
    masked
}

/// Why an answer is of no use.
struct Unusable(FeedError);

fn not_text() -> Unusable {
    Unusable(FeedError::BadAnswer {
        detail: "The Odds API sent a body that is not UTF-8, not JSON".into(),
    })
}

fn unreadable(why: String) -> Unusable {
    Unusable(FeedError::BadAnswer {
        detail: format!("The Odds API sent a list of events that cannot be read: {why}"),
    })
}

impl From<Uncut> for Unusable {
    fn from(why: Uncut) -> Self {
        match why {
            Uncut::Malformed { .. } => unreadable(why.to_string()),
            Uncut::LongElement | Uncut::LongRest { .. } => Self(FeedError::TooLarge {
                detail: format!("The Odds API sent {why}"),
            }),
        }
    }
}
