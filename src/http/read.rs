//! The read API, read through the cache: a hit is the stored body, a miss asks the database once.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};

use super::event::event_body;
use super::{Face, Problem};
use crate::cache::{Bytes, ReadState, Served};
use crate::key::Key;
use crate::live::{self, Activity};
use crate::model::{Event, EventId};
use crate::stage::{OddsRow, RaceRow, RunnerRow, payload, payload_ttl};
use crate::store::{Runner, StoreError};

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
    let etag = etag(&served.body);
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| {
        let known = known.to_str().unwrap_or_default();
        known
            .split(',')
            .any(|tag| matches!(tag.trim(), "*") || tag.trim() == etag)
    });
    let (status, body) = match known {
        true => (StatusCode::NOT_MODIFIED, Bytes::new()),
        false => (StatusCode::OK, served.body),
    };
    let mut answer = (
        status,
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
        body,
    )
        .into_response();
    let mut add = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            answer
                .headers_mut()
                .insert(HeaderName::from_static(name), value);
        }
    };
    let ttl = served.remaining.as_secs();
    add("etag", etag);
    add("x-cache-key", key.to_string());
    // RFC 9211.
    add(
        "cache-status",
        match served.state {
            ReadState::Hit => format!("oddsd; hit; ttl={ttl}"),
            ReadState::Miss => "oddsd; fwd=uri-miss".into(),
            ReadState::Bypass => "oddsd; fwd=bypass".into(),
        },
    );
    if served.state == ReadState::Hit {
        add("x-cache-ttl", ttl.to_string());
    }
    Ok(answer)
}

/// The same body has the same tag in every process of one version, which is all that a reader who
/// comes back needs.
fn etag(body: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
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
            number: runner.selection.facts.get("number").map(Into::into),
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
    let fact = |name: &str| event.facts.get(name).map(Into::into);
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
