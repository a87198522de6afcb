//! The JSON body of one event: its prices, each with its opening, highest and lowest value. The read API
//! serves it under the event's id and under its status.

use serde_json::value::RawValue;

use super::rfc3339;
use oddsd_core::model::{EventId, Fraction};
use oddsd_store::EventPrices;

/// Serialises the event with its prices.
pub fn event_body(found: &EventPrices) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct EventBody<'a> {
        event_id: &'a EventId,
        sport: &'a str,
        league: &'a str,
        venue: &'a str,
        name: &'a str,
        starts_at: Option<String>,
        status: &'a str,
        in_play: bool,
        listed: bool,
        facts: &'a oddsd_core::model::Attributes,
        checked_at: String,
        selections: Vec<SelectionBody<'a>>,
    }
    #[derive(serde::Serialize)]
    struct SelectionBody<'a> {
        selection_id: &'a str,
        name: &'a str,
        status: &'a str,
        facts: &'a oddsd_core::model::Attributes,
        prices: Vec<PriceBody<'a>>,
    }
    #[derive(serde::Serialize)]
    struct PriceBody<'a> {
        market: &'a str,
        bookmaker: &'a str,
        bookmaker_name: &'a str,
        status: &'a str,
        odds_decimal: Box<RawValue>,
        odds_fractional: Option<Fraction>,
        point: Option<Box<RawValue>>,
        ew_places: Option<u16>,
        ew_denom: Option<u16>,
        opening: Box<RawValue>,
        high: Box<RawValue>,
        low: Box<RawValue>,
        observed_at: String,
    }
    let event = &found.event;
    let body = EventBody {
        event_id: &event.id,
        sport: &event.sport,
        league: &event.league,
        venue: &event.venue,
        name: &event.name,
        starts_at: event.starts_at.map(rfc3339),
        status: event.status.as_str(),
        in_play: event.in_play,
        listed: event.listed,
        facts: &event.attributes,
        checked_at: rfc3339(found.checked_at),
        selections: found
            .selections
            .iter()
            .map(|selection| SelectionBody {
                selection_id: selection.id.as_str(),
                name: &selection.name,
                status: selection.status.as_str(),
                facts: &selection.attributes,
                prices: found
                    .prices
                    .iter()
                    .filter(|price| price.selection == selection.id.as_str())
                    .map(|price| PriceBody {
                        market: &price.market,
                        bookmaker: &price.bookmaker,
                        bookmaker_name: &price.bookmaker_name,
                        status: price.status.as_str(),
                        odds_decimal: number(price.offer.decimal),
                        odds_fractional: price.offer.fractional,
                        point: price.offer.point.map(number),
                        ew_places: price.offer.each_way.map(|ew| ew.places),
                        ew_denom: price.offer.each_way.map(|ew| ew.denom),
                        opening: number(price.opening),
                        high: number(price.high),
                        low: number(price.low),
                        observed_at: rfc3339(price.observed_at),
                    })
                    .collect(),
            })
            .collect(),
    };
    serde_json::to_vec(&body).expect("the body is JSON")
}

/// An exact decimal as a JSON number, without a detour over floating point.
pub fn number(decimal: rust_decimal::Decimal) -> Box<RawValue> {
    RawValue::from_string(decimal.normalize().to_string()).expect("a decimal is a JSON number")
}
