//! Parses one response body: a page of a day's races, or a single race. `RacingApi` hands its pages over with
//! it; recordings, the simulator and benches call [`parse_cards`] or [`CardsReader`].

use std::collections::HashMap;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::SOURCE;
use super::fields::{JsonScalar, RawField};
use super::race::{ListPosition, ParseOutcome, RaceParser};
use crate::FeedError;
use crate::json::{JsonRows, MAX_ROW_BYTES};
use oddsd_core::diff::{CollectingSink, EventSink};
use oddsd_core::model::{
    Bookmaker, EventSnapshot, EventsInDoubt, Fingerprint, RejectedRows, Scope, SnapshotMeta,
    sanitize_text,
};

const MAX_RACES: usize = 2_000;
const MAX_DETAIL_CHARS: usize = 200;

/// One parsed response body.
#[derive(Clone, Debug)]
pub struct ParsedCards {
    pub events: Vec<EventSnapshot>,
    /// Each bookmaker once, with the first spelling of its name.
    pub bookmakers: Vec<Bookmaker>,
    pub rejected: RejectedRows,
    /// Races that could not be read: they may still be on the card.
    pub in_doubt: EventsInDoubt,
    /// Races that the whole day has, over all pages; `None` if the body does not say.
    pub total: Option<u64>,
    /// Races listed in this body, usable or not: how far paging has come.
    pub races_seen: u64,
    /// Price rows in the body: equals the prices in `events` plus the rows in `rejects`.
    pub prices_seen: u64,
}

/// Parses a body into memory. Fails only if it cannot be a racecard at all.
pub fn parse_cards(body: &str, as_of: DateTime<Utc>) -> Result<ParsedCards, FeedError> {
    parse_pages([body], as_of)
}

/// Parses the bodies of one fetch into memory. A race that is in two of them (it changed its day in between) is
/// kept once.
pub(crate) fn parse_pages<'a>(
    bodies: impl IntoIterator<Item = &'a str>,
    as_of: DateTime<Utc>,
) -> Result<ParsedCards, FeedError> {
    let mut events = CollectingSink::default();
    let mut parser = RaceParser::new(as_of);
    let (mut total, mut races_seen) = (None, 0);
    for body in bodies {
        let page = parse_page(
            body,
            None,
            &mut parser,
            &mut events,
            ListPosition::default(),
        )?;
        total = page.total.or(total);
        races_seen += page.races_seen;
    }
    ensure_readable(&parser)?;
    Ok(ParsedCards {
        events: events.0,
        bookmakers: parser.bookmakers.listed,
        rejected: parser.rejects,
        in_doubt: parser.in_doubt,
        total,
        races_seen,
        prices_seen: parser.prices_seen,
    })
}

/// Reads one body after the other, as the feed reads the pages of one URL.
#[derive(Default)]
pub struct CardsReader(Option<PageSummary>);

impl CardsReader {
    /// Parses a body and hands each race over as soon as it is parsed; a race whose text is stored is not parsed.
    /// The returned scope covers the listed races only: the caller knows what was asked for.
    pub fn read(
        &mut self,
        body: &str,
        as_of: DateTime<Utc>,
        to: &mut dyn EventSink,
    ) -> Result<SnapshotMeta, FeedError> {
        to.start(as_of);
        let mut parser = RaceParser::new(as_of);
        let last = self.0.as_ref();
        let page = parse_page(body, last, &mut parser, to, ListPosition::default())?;
        ensure_readable(&parser)?;
        self.0 = Some(page);
        Ok(SnapshotMeta {
            source: SOURCE.into(),
            as_of,
            scope: Scope::Listed,
            in_doubt: parser.in_doubt,
            bookmakers: parser.bookmakers.listed,
            rejected: parser.rejects,
        })
    }
}

/// A page apart from its races. While all of them are stored, the same page need not be parsed again, whether it
/// arrives with the same bytes or the provider calls it unmodified.
#[derive(Clone, Debug)]
pub(super) struct PageSummary {
    pub(super) body: Fingerprint,
    /// See [`ParsedCards::total`].
    pub(super) total: Option<u64>,
    /// See [`ParsedCards::races_seen`].
    pub(super) races_seen: u64,
    /// The fingerprints of its races, in order.
    pub(super) fingerprints: Vec<Fingerprint>,
    /// Each race was handed over, or skipped because it is stored.
    pub(super) whole: bool,
}

impl PageSummary {
    /// Whether each of its races is stored exactly as it was on this page.
    pub(super) fn is_stored(&self, to: &dyn EventSink) -> bool {
        let mut fingerprints = self.fingerprints.iter();
        self.whole && fingerprints.all(|fingerprint| to.find_unchanged(fingerprint).is_some())
    }

    /// Hands its races over again.
    pub(super) fn hand_over(
        &self,
        parser: &mut RaceParser,
        to: &mut dyn EventSink,
        position: ListPosition,
    ) {
        parser.listed += self.races_seen;
        parser.readable += self.races_seen;
        for fingerprint in &self.fingerprints {
            let Some(id) = to.find_unchanged(fingerprint) else {
                // It was stored when the request was sent. Without it no other race may be taken for gone.
                parser.in_doubt.add(None);
                continue;
            };
            if parser.note_unchanged(&id, position) {
                to.mark_unchanged(fingerprint);
            } else {
                // It moved to this day from another one, whose page had listed it already.
                parser.reject_repeated(&id, position);
            }
        }
    }
}

/// A day's response. The response for one race is the race itself.
#[derive(Deserialize)]
struct CardsEnvelope<'a> {
    #[serde(borrow)]
    racecards: Option<JsonRows<&'a RawValue, MAX_RACES>>,
    #[serde(borrow)]
    total: RawField<'a>,
    #[serde(borrow)]
    race_id: RawField<'a>,
}

/// Fails if races were listed and none of them could be read: an answer of another shape, not a damaged one.
pub(super) fn ensure_readable(parser: &RaceParser) -> Result<(), FeedError> {
    match (parser.listed, parser.readable) {
        (1.., 0) => Err(bad_answer(format_args!(
            "no readable race among {} ({})",
            parser.listed, parser.rejects
        ))),
        _ => Ok(()),
    }
}

/// Parses one body and hands its races over. It is not parsed if it is the same as the `last` one from its URL and all
/// races of that are stored. Fails only if it cannot be a racecard at all.
pub(super) fn parse_page(
    body: &str,
    last: Option<&PageSummary>,
    parser: &mut RaceParser,
    to: &mut dyn EventSink,
    position: ListPosition,
) -> Result<PageSummary, FeedError> {
    let body_fingerprint = Fingerprint::compute(body.as_bytes());
    if let Some(last) = last
        && last.body == body_fingerprint
        && last.is_stored(to)
    {
        last.hand_over(parser, to, position);
        return Ok(last.clone());
    }
    if !body.trim_start().starts_with('{') {
        return Err(bad_answer("something that is not a JSON object"));
    }
    let envelope: CardsEnvelope<'_> = serde_json::from_str(body).map_err(invalid_json)?;
    let races = match envelope.racecards {
        Some(races) => races,
        None if envelope.race_id.is_some() => JsonRows {
            kept: vec![serde_json::from_str(body).map_err(invalid_json)?],
            over: 0,
        },
        None => {
            let names = field_names(body);
            return Err(bad_answer(format_args!("no \"racecards\", but {names}")));
        }
    };
    let mut whole = races.over == 0;
    let mut fingerprints = Vec::with_capacity(races.kept.len());
    for raw in &races.kept {
        let text = raw.get();
        if text.len() > MAX_ROW_BYTES {
            return Err(FeedError::TooLarge(format!(
                "The Racing API sent more than {MAX_ROW_BYTES} bytes in one row of its list"
            )));
        }
        let fingerprint = Fingerprint::compute(text.as_bytes());
        fingerprints.push(fingerprint);
        // A stored race that is listed twice is parsed, so that its rows are counted.
        if let Some(id) = to.find_unchanged(&fingerprint)
            && parser.note_unchanged(&id, position)
        {
            parser.readable += 1;
            to.mark_unchanged(&fingerprint);
            continue;
        }
        let rejected = parser.rows_rejected;
        let race = parser.parse(text, position);
        let clean = parser.rows_rejected == rejected;
        whole &= clean;
        parser.readable += u64::from(!matches!(race, ParseOutcome::Unreadable));
        if let ParseOutcome::Race(race) = race {
            to.push(race, clean.then_some(fingerprint));
        }
    }
    if parser.reject_over(races.over, "races") {
        parser.in_doubt.add(None);
    }
    let races_seen = races.kept.len() as u64 + races.over;
    parser.listed += races_seen;
    Ok(PageSummary {
        body: body_fingerprint,
        total: envelope.total.number(),
        races_seen,
        fingerprints,
        whole,
    })
}

/// The field names of an object, which help to guess what was sent instead.
fn field_names(body: &str) -> String {
    let object: HashMap<String, IgnoredAny> = serde_json::from_str(body).unwrap_or_default();
    let mut names: Vec<_> = object.keys().map(|name| sanitize_text(name, 30)).collect();
    names.sort();
    names.truncate(8);
    match names.is_empty() {
        true => "nothing else either".into(),
        false => names.join(", "),
    }
}

fn bad_answer(what: impl fmt::Display) -> FeedError {
    FeedError::BadAnswer(format!("The Racing API sent {what}"))
}

fn invalid_json(why: serde_json::Error) -> FeedError {
    // Serde quotes the value that it did not expect.
    let detail = sanitize_text(&why.to_string(), MAX_DETAIL_CHARS);
    match why.is_data() {
        true => bad_answer(format_args!("\"racecards\" that are not a list ({detail})")),
        false => bad_answer(format_args!("JSON that cannot be read ({detail})")),
    }
}
