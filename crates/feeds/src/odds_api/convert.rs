//! Converts the provider's fields to the model: ids, times, events and outcomes. `OddsParser` calls it for
//! each row.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde_json::value::RawValue;
use strum::{EnumString, IntoStaticStr, VariantNames};

use super::SOURCE;
use super::fields::EventJson;
use crate::number;
use oddsd_core::model::{BookmakerId, Event, EventId, EventStatus, MarketId, Offer, sanitize_text};

pub(super) const MAX_TEXT_CHARS: usize = 200;
pub(super) const MAX_ID_CHARS: usize = 100;
/// Largest odds and line that are accepted.
const MAX_ODDS: Decimal = Decimal::from_parts(1_000_000, 0, 0, false, 0);
/// Names and keys up to this number are searched one by one, more of them by hash.
pub(super) const MAX_NAMES: usize = 64;
/// Sports in which the visitor is named first: "Yankees @ Red Sox".
const AWAY_FIRST: &[&str] = &["americanfootball", "baseball", "basketball", "icehockey"];

/// The notation of prices, requested with `oddsFormat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum OddsFormat {
    American,
    Decimal,
}

impl OddsFormat {
    fn offer(self, price: Decimal) -> Option<Offer> {
        match self {
            Self::American if price.is_integer() => Offer::american(price.to_i64()?),
            Self::American => None,
            Self::Decimal => {
                (price > Decimal::ONE && price <= MAX_ODDS).then(|| Offer::decimal(price))
            }
        }
    }

    /// Whether the number stands for a price that is not there yet. A negative decimal is malformed: it may be
    /// American odds.
    fn is_placeholder(self, price: Decimal) -> bool {
        match self {
            Self::American => price.is_zero(),
            Self::Decimal => (Decimal::ZERO..=Decimal::ONE).contains(&price),
        }
    }

    /// Returns the offer of an outcome, `None` if it has no price, or the reason of its rejection.
    pub(super) fn read_offer(
        self,
        price: Option<&RawValue>,
        point: Option<Decimal>,
    ) -> Result<Option<Offer>, &'static str> {
        let Some(price) = price else {
            return Ok(None);
        };
        let price = number::exact(price).ok_or("bad_price")?;
        match self.offer(price) {
            Some(offer) => Ok(Some(Offer { point, ..offer })),
            None if self.is_placeholder(price) => Ok(None),
            None => Err("bad_price"),
        }
    }
}

/// Returns an outcome's name, or `None` if it has none.
pub(super) fn outcome_name<'a>(
    name: &'a str,
    description: Option<&'a str>,
) -> Option<Cow<'a, str>> {
    let name = sanitize(name.trim());
    if name.is_empty() {
        return None;
    }
    // A player's prop: the player is part of the name, because "Over" alone is ambiguous.
    match description.map(str::trim) {
        Some(whose) if !whose.is_empty() => {
            Some(Cow::Owned(format!("{} / {name}", sanitize(whose))))
        }
        _ => Some(name),
    }
}

/// Returns a line, or the reason of its rejection.
pub(super) fn read_point(raw: Option<&RawValue>) -> Result<Option<Decimal>, &'static str> {
    let point = |raw| number::exact(raw).filter(|point| point.abs() <= MAX_ODDS);
    raw.map(|raw| point(raw).ok_or("unreadable_point"))
        .transpose()
}

/// [`sanitize_text`], without a copy if the text is plain already.
fn sanitize(text: &str) -> Cow<'_, str> {
    let is_plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    match is_plain && text.len() <= MAX_TEXT_CHARS {
        true => Cow::Borrowed(text),
        false => Cow::Owned(sanitize_text(text, MAX_TEXT_CHARS)),
    }
}

pub(super) fn build_event<const LENIENT: bool>(
    wire: &EventJson<'_, LENIENT>,
    id: EventId,
) -> Event {
    let text = |text: &Option<Cow<str>>| {
        text.as_deref()
            .map(|text| sanitize_text(text.trim(), MAX_TEXT_CHARS))
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
    let attributes = teams
        .into_iter()
        .filter_map(|(name, team)| Some((name, team?)))
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
        attributes,
    }
}

/// Ids are stored as they are, so they must be short and printable.
pub(super) fn is_id(text: &str) -> bool {
    !text.is_empty() && text.chars().count() <= MAX_ID_CHARS && !text.chars().any(char::is_control)
}

fn instant(text: Option<&str>) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(text?.trim()).ok()?;
    Some(time.to_utc())
}

/// Conversions of texts that repeat from row to row.
#[derive(Default)]
pub(super) struct ParseCache {
    keys: Vec<(Box<str>, BookmakerId)>,
    /// With whether they offer lines.
    markets: Vec<(MarketId, bool)>,
    time: Option<(Box<str>, Option<DateTime<Utc>>)>,
}

impl ParseCache {
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

    pub(super) fn bookmaker(&mut self, key: &str) -> Option<BookmakerId> {
        if let Some((_, id)) = self.keys.iter().find(|(known, _)| **known == *key) {
            return Some(id.clone());
        }
        let id = BookmakerId::from_name(key).filter(|id| is_id(id.as_str()))?;
        if self.keys.len() < MAX_NAMES {
            self.keys.push((key.into(), id.clone()));
        }
        Some(id)
    }

    /// Returns the market, and whether it offers several lines of one outcome by its name.
    pub(super) fn market(&mut self, key: &str) -> Option<(MarketId, bool)> {
        if let Some(known) = self.markets.iter().find(|known| known.0.as_str() == key) {
            return Some(known.clone());
        }
        let id = is_id(key).then(|| MarketId::new(key))?;
        let market = (id.clone(), id.offers_lines());
        if self.markets.len() < MAX_NAMES {
            self.markets.push(market.clone());
        }
        Some(market)
    }
}
