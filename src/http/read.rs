//! The read API, read through the cache: a hit is the stored body, a miss asks the database once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::value::RawValue;

use super::{Face, Problem};
use crate::cache::{Bytes, ReadState, Served};
use crate::key::Key;
use crate::live::{self, Activity};
use crate::model::{Event, EventId};
use crate::stage::{OddsRow, RaceRow, RunnerRow, payload, payload_ttl};
use crate::store::{EventPrices, Runner, StoreError};

/// Races that start within this are on the card: today and tomorrow, whatever the hour.
const AHEAD: TimeDelta = TimeDelta::hours(48);
const EVENT_TTL: Duration = Duration::from_secs(60);
const RACING: [&str; 2] = ["horse_racing", "greyhounds"];

/// Why a loader has no body.
enum Miss {
    Store(StoreError),
    NoSuchEvent,
}

pub async fn races_by_stage(
    State(face): State<Arc<Face>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    no_parameters(query)?;
    let load = || async {
        let now = face.clock.now();
        let runners = face
            .store
            .runners(now, now + AHEAD)
            .await
            .map_err(Miss::Store)?;
        let races = races(runners);
        let offs: Vec<DateTime<Utc>> = races.iter().filter_map(|race| race.off).collect();
        // None: a boundary is less than a second away. Answered, and not kept.
        let ttl = payload_ttl(now, offs).unwrap_or_default();
        let body = serde_json::to_vec(&payload(races, now)).expect("the payload is JSON");
        Ok((body, face.clock.real(ttl)))
    };
    read(&face, &headers, Key::races_by_stage(), load).await
}

pub async fn event_prices(
    State(face): State<Arc<Face>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    no_parameters(query)?;
    if id.chars().any(char::is_control) {
        // No feed's id has one, and no database takes a NUL.
        return Err(no_such_event());
    }
    let id = EventId::new(id);
    let load = || async {
        let found = face
            .store
            .event_prices(&id)
            .await
            .map_err(Miss::Store)?
            .ok_or(Miss::NoSuchEvent)?;
        Ok((event_body(&found), face.clock.real(EVENT_TTL)))
    };
    read(&face, &headers, Key::event_prices(&id), load).await
}

/// One read through the cache, with the headers that say how it went.
async fn read<F>(
    face: &Face,
    headers: &HeaderMap,
    key: Key,
    load: impl FnOnce() -> F,
) -> Result<Response, Problem>
where
    F: Future<Output = Result<(Vec<u8>, Duration), Miss>>,
{
    let started = Instant::now();
    let asks_fresh = headers.get_all(header::CACHE_CONTROL).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|text| text.to_ascii_lowercase().contains("no-cache"))
    });
    let served = if asks_fresh {
        load().await.map(|(body, remaining)| Served {
            body: Bytes::from(body),
            state: ReadState::Bypass,
            remaining,
        })
    } else {
        face.reader.read(&key, load).await
    };
    let served = served.map_err(|miss| match miss {
        Miss::Store(why) => Problem::store(&why),
        Miss::NoSuchEvent => no_such_event(),
    })?;
    let (state, word) = match served.state {
        ReadState::Hit => (live::ReadState::Hit, "HIT"),
        ReadState::Miss => (live::ReadState::Miss, "MISS"),
        ReadState::Bypass => (live::ReadState::Bypass, "BYPASS"),
    };
    face.live.say(Activity::Read {
        key: key.clone(),
        state,
        took_ms: started.elapsed().as_millis() as u64,
        cycle: None,
    });
    let mut answer = (
        [
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            ),
            // Whoever stands between us and the reader must not keep what we cannot remove.
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (
                HeaderName::from_static("x-cache-status"),
                HeaderValue::from_static(word),
            ),
        ],
        served.body,
    )
        .into_response();
    let mut add = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            answer
                .headers_mut()
                .insert(HeaderName::from_static(name), value);
        }
    };
    add("x-cache-key", key.to_string());
    if served.state == ReadState::Hit {
        add("x-cache-ttl", served.remaining.as_secs().to_string());
    }
    Ok(answer)
}

fn no_such_event() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "no event of this id is stored",
        "take an id from /v1/races/by-stage (race_id)",
    )
}

/// These routes take no parameters: a misspelt one must not look as if it had worked.
fn no_parameters(query: Option<String>) -> Result<(), Problem> {
    match query.as_deref().filter(|query| !query.is_empty()) {
        None => Ok(()),
        Some(query) => {
            let name =
                crate::model::plain_text(query.split(['=', '&']).next().unwrap_or_default(), 40);
            Err(Problem::new(
                StatusCode::BAD_REQUEST,
                format!("unknown parameter {name:?}"),
                "this path takes no parameters; send the request without them",
            ))
        }
    }
}

/// Rows of runners, grouped into races.
fn races(runners: Vec<Runner>) -> Vec<RaceRow> {
    let mut races: std::collections::BTreeMap<EventId, RaceRow> = Default::default();
    for runner in runners {
        if !RACING.contains(&runner.event.sport.as_str()) {
            continue;
        }
        let race = races
            .entry(runner.event.id.clone())
            .or_insert_with(|| race(&runner.event));
        race.last_updated = race.last_updated.max(Some(runner.updated_at));
        race.runners.push(RunnerRow {
            id: runner.selection.id,
            name: runner.selection.name,
            number: runner.selection.facts.get("number").cloned(),
            status: runner.selection.status,
            odds: runner
                .prices
                .into_iter()
                .map(|price| OddsRow {
                    bookmaker: price.bookmaker,
                    fractional: price.fractional,
                    decimal: price.decimal,
                })
                .collect(),
        });
    }
    races.into_values().collect()
}

fn race(event: &Event) -> RaceRow {
    let fact = |name: &str| event.facts.get(name).cloned();
    RaceRow {
        id: event.id.clone(),
        day: event.day,
        time: fact("race_time"),
        off: event.starts_at,
        course: event.venue.clone(),
        name: event.name.clone(),
        race_type: fact("race_type"),
        distance: fact("distance"),
        status: event.status,
        in_play: event.in_play,
        listed: event.listed,
        last_updated: None,
        runners: Vec::new(),
    }
}

fn event_body(found: &EventPrices) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Body<'a> {
        event_id: &'a EventId,
        sport: &'a str,
        league: &'a str,
        venue: &'a str,
        name: &'a str,
        starts_at: Option<String>,
        status: &'a str,
        in_play: bool,
        listed: bool,
        facts: &'a crate::model::Facts,
        checked_at: String,
        selections: Vec<SelectionBody<'a>>,
    }
    #[derive(serde::Serialize)]
    struct SelectionBody<'a> {
        selection_id: &'a str,
        name: &'a str,
        status: &'a str,
        facts: &'a crate::model::Facts,
        prices: Vec<PriceBody<'a>>,
    }
    #[derive(serde::Serialize)]
    struct PriceBody<'a> {
        market: &'a str,
        bookmaker: &'a str,
        bookmaker_name: &'a str,
        status: &'a str,
        odds_decimal: Box<RawValue>,
        odds_fractional: Option<&'a str>,
        point: Option<Box<RawValue>>,
        ew_places: Option<u16>,
        ew_denom: Option<u16>,
        opening: Box<RawValue>,
        high: Box<RawValue>,
        low: Box<RawValue>,
        observed_at: String,
    }
    let event = &found.event;
    let body = Body {
        event_id: &event.id,
        sport: &event.sport,
        league: &event.league,
        venue: &event.venue,
        name: &event.name,
        starts_at: event.starts_at.map(rfc3339),
        status: event.status.as_str(),
        in_play: event.in_play,
        listed: event.listed,
        facts: &event.facts,
        checked_at: rfc3339(found.checked_at),
        selections: found
            .selections
            .iter()
            .map(|selection| SelectionBody {
                selection_id: selection.id.as_str(),
                name: &selection.name,
                status: selection.status.as_str(),
                facts: &selection.facts,
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
                        odds_fractional: price.offer.fractional.as_deref(),
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

/// An exact decimal as a JSON number, digit by digit.
fn number(decimal: rust_decimal::Decimal) -> Box<RawValue> {
    RawValue::from_string(decimal.normalize().to_string()).expect("a decimal is a JSON number")
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
