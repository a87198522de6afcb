//! The read API's racecard and event prices, and the read through the cache that all its routes share: a hit
//! is the stored body, and a miss loads it from the database once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Europe::London;

use super::event::event_body;
use super::{AppState, Problem, json_response};
use crate::live::{DaemonEvent, read_state_name};
use oddsd_cache::{Bytes, CacheRead, CacheReadState, LoadedValue, Policy, ReadError};
use oddsd_core::key::Key;
use oddsd_core::model::{Event, EventId, EventStatus, sanitize_text};
use oddsd_core::stage::{
    StoredOdds, StoredRace, StoredRunner, build_races_by_stage, races_by_stage_ttl,
};
use oddsd_store::{Runner, StoreError};

/// The card holds races that start within this time: today and tomorrow, at any hour.
const CARD_WINDOW: TimeDelta = TimeDelta::hours(48);
/// Time for which an event's prices are fresh, and for which they may be served stale during a refresh.
const EVENT_FRESH: Duration = Duration::from_secs(30);
const RACING: [&str; 2] = ["horse_racing", "greyhounds"];

/// A request to a path that takes no query parameters.
pub struct ReadRequest {
    pub state: Arc<AppState>,
    headers: HeaderMap,
}

impl FromRequestParts<Arc<AppState>> for ReadRequest {
    type Rejection = Problem;

    /// Refuses every query parameter, so that a misspelt one is not ignored silently.
    async fn from_request_parts(parts: &mut Parts, state: &Arc<AppState>) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        if !query.is_empty() {
            let name = sanitize_text(query.split(['=', '&']).next().unwrap_or_default(), 40);
            return Err(Problem::bad_request(
                format!("unknown parameter {name:?}"),
                "this path takes no parameters; send the request without them",
            ));
        }
        let (state, headers) = (Arc::clone(state), parts.headers.clone());
        Ok(Self { state, headers })
    }
}

pub async fn races_by_stage(request: ReadRequest) -> Result<Response, Problem> {
    // The answer depends on the clock, so it is never served stale, and a minute bounds its time to live.
    let policy = Policy::fresh_for(Duration::from_secs(60));
    request
        .read_through_cache(&Key::races_by_stage(), &policy, load_card)
        .await
}

async fn load_card(state: Arc<AppState>) -> anyhow::Result<LoadedValue> {
    let now = state.clock.now();
    let found = state.store.runners(now, now + CARD_WINDOW).await?;
    let races = group_by_race(found.value, now);
    let starts: Vec<DateTime<Utc>> = races.iter().filter_map(|race| race.off).collect();
    // Without a TTL the next stage begins within a second, so the answer is not stored.
    let ttl = races_by_stage_ttl(now, starts).unwrap_or_default();
    let body = serde_json::to_vec(&build_races_by_stage(races, now)).expect("the payload is JSON");
    Ok(LoadedValue {
        fresh: Some(state.clock.real_duration(ttl)),
        ..LoadedValue::new(body, found.snapshot)
    })
}

pub async fn event_prices(
    Path(id): Path<String>,
    request: ReadRequest,
) -> Result<Response, Problem> {
    let id = event_id(id)?;
    let fresh = request.state.clock.real_duration(EVENT_FRESH);
    let policy = Policy::fresh_for(fresh)
        .while_revalidating(fresh)
        .on_error(fresh);
    let key = Key::event_prices(&id);
    let load = move |state: Arc<AppState>| {
        let id = id.clone();
        async move {
            let found = state.store.event_prices(&id).await?;
            Ok(match found.value {
                Some(event) => LoadedValue::new(event_body(&event), found.snapshot),
                None => LoadedValue::absent(found.snapshot),
            })
        }
    };
    request.read_through_cache(&key, &policy, load).await
}

impl ReadRequest {
    /// Answers from the cache, or loads the body and stores it. The headers describe how the read went.
    pub async fn read_through_cache<F, Fut>(
        self,
        key: &Key,
        policy: &Policy,
        load: F,
    ) -> Result<Response, Problem>
    where
        F: Fn(Arc<AppState>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<LoadedValue>> + Send + 'static,
    {
        let started = Instant::now();
        let Self { state, headers } = self;
        let loader_state = Arc::clone(&state);
        let load = move || load(Arc::clone(&loader_state));
        let is_no_cache = |value: &HeaderValue| {
            let text = value.to_str().map(str::to_ascii_lowercase);
            text.is_ok_and(|text| text.contains("no-cache"))
        };
        let mut directives = headers.get_all(header::CACHE_CONTROL).iter();
        let served = match directives.any(is_no_cache) {
            true => state.reader.bypass(policy, load).await,
            false => state.reader.read(key, policy, load).await,
        };
        let served = served.map_err(|why| load_problem(&why))?;
        if served.entry.absent {
            return match served.body() {
                empty if empty.is_empty() => Err(no_such_event()),
                // The loader made an error body of its own.
                body => Ok(json_response(StatusCode::NOT_FOUND, body.clone())),
            };
        }
        state.events.publish(DaemonEvent::Read {
            key: key.clone(),
            state: served.state,
            took_ms: started.elapsed().as_millis() as u64,
        });
        Ok(cached_response(&headers, key, &served))
    }
}

/// The response with its validator and the cache headers, or 304 if the reader has this body.
fn cached_response(request: &HeaderMap, key: &Key, served: &CacheRead) -> Response {
    let etag = etag(served.body());
    let unchanged = request.get(header::IF_NONE_MATCH).is_some_and(|known| {
        let mut known = known.to_str().unwrap_or_default().split(',').map(str::trim);
        known.any(|tag| tag == "*" || tag == etag)
    });
    let mut response = match unchanged {
        true => json_response(StatusCode::NOT_MODIFIED, Bytes::new()),
        false => json_response(StatusCode::OK, served.body().clone()),
    };
    let mut add = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            let name = HeaderName::from_static(name);
            response.headers_mut().insert(name, value);
        }
    };
    let (ttl, age) = (served.remaining().as_secs(), served.age());
    // `Cache-Status` is RFC 9211.
    let cache_status = match served.state {
        CacheReadState::Hit => format!("oddsd; hit; ttl={ttl}"),
        CacheReadState::Stale => {
            let over = age.saturating_sub(served.entry.fresh).as_secs();
            format!("oddsd; hit; ttl=-{over}")
        }
        CacheReadState::Miss => "oddsd; fwd=uri-miss".into(),
        CacheReadState::Bypass => "oddsd; fwd=bypass".into(),
    };
    let status = read_state_name(served.state).to_ascii_uppercase();
    // A cache between oddsd and the reader must revalidate, because oddsd cannot remove entries there.
    add("cache-control", "no-cache");
    add("etag", &etag);
    add("x-cache-key", key.as_str());
    add("x-cache-status", &status);
    add("cache-status", &cache_status);
    if matches!(served.state, CacheReadState::Hit | CacheReadState::Stale) {
        add("x-cache-ttl", &ttl.to_string());
        add("x-cache-age", &age.as_secs().to_string());
    }
    response
}

/// The response to a failed load, without the database's own error text.
fn load_problem(why: &ReadError) -> Problem {
    let store = match why {
        ReadError::Failed(why) => why.downcast_ref::<StoreError>().cloned(),
        ReadError::Panicked | ReadError::TookTooLong(_) => None,
    };
    store
        .unwrap_or_else(|| StoreError::Failed(why.to_string()))
        .into()
}

/// A strong validator: equal bodies have equal tags, in every process and version.
fn etag(body: &[u8]) -> String {
    format!("\"{:016x}\"", xxhash_rust::xxh3::xxh3_64(body))
}

pub(super) fn no_such_event() -> Problem {
    Problem::not_found(
        "no event with this id is stored",
        "take an id from /v1/races/by-stage (race_id)",
    )
}

/// Reads an event's id from a path. An id with control characters cannot exist, and Postgres rejects NUL.
pub(super) fn event_id(text: String) -> Result<EventId, Problem> {
    match text.chars().any(char::is_control) {
        true => Err(no_such_event()),
        false => Ok(EventId::new(text)),
    }
}

fn group_by_race(runners: Vec<Runner>, now: DateTime<Utc>) -> Vec<StoredRace> {
    let mut races: BTreeMap<EventId, StoredRace> = BTreeMap::new();
    for runner in runners {
        if !RACING.contains(&runner.event.sport.as_str()) {
            continue;
        }
        let race = races.entry(runner.event.id.clone());
        let race = race.or_insert_with(|| stored_race(&runner.event, now));
        race.last_updated = race.last_updated.max(Some(runner.updated_at));
        let odds = runner.prices.into_iter().map(|price| StoredOdds {
            bookmaker: price.bookmaker,
            fractional: price.fractional,
            decimal: price.decimal,
        });
        race.runners.push(StoredRunner {
            id: runner.selection.id,
            name: runner.selection.name,
            number: runner.selection.attributes.get("number").map(Into::into),
            status: runner.selection.status,
            odds: odds.collect(),
        });
    }
    races.into_values().collect()
}

/// The time on the 24-hour clock of Britain. The provider's own text is a 12-hour clock without am or pm.
fn uk_clock(at: DateTime<Utc>) -> String {
    at.with_timezone(&London).format("%H:%M").to_string()
}

fn stored_race(event: &Event, now: DateTime<Utc>) -> StoredRace {
    let fact = |name: &str| event.attributes.get(name).map(Into::into);
    // The clock made it live, and then its start was postponed, so it is still to be run.
    let postponed = event.status == EventStatus::Live && !event.in_play;
    let status = match event.starts_at {
        Some(off) if postponed && off > now => EventStatus::Upcoming,
        _ => event.status,
    };
    StoredRace {
        id: event.id.clone(),
        day: event.day,
        time: event.starts_at.map(uk_clock),
        off: event.starts_at,
        course: event.venue.clone(),
        name: event.name.clone(),
        race_type: fact("race_type"),
        distance: fact("distance"),
        status,
        in_play: event.in_play,
        listed: event.listed,
        last_updated: None,
        runners: Vec::new(),
    }
}
