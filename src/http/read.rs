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
use crate::cache::{Bytes, Loaded, Policy, ReadError, ReadState};
use crate::key::Key;
use crate::live::{self, Activity};
use crate::model::{Event, EventId, EventStatus};
use crate::stage::{OddsRow, RaceRow, RunnerRow, payload, payload_ttl};
use crate::store::{Runner, StoreError};

/// Races that start within this are on the card: today and tomorrow, whatever the hour.
const AHEAD: TimeDelta = TimeDelta::hours(48);
/// An event's prices are served for this long, and then for as long again while they are loaded anew.
const EVENT_FRESH: Duration = Duration::from_secs(30);
const JSON: [(HeaderName, HeaderValue); 1] = [(
    header::CONTENT_TYPE,
    HeaderValue::from_static("application/json"),
)];
const RACING: [&str; 2] = ["horse_racing", "greyhounds"];

pub async fn races_by_stage(
    State(face): State<Arc<Face>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    no_parameters(query)?;
    // The answer depends on the clock, so it is never served past its time; and a minute bounds it
    // whatever it says itself.
    let policy = Policy::fresh_for(Duration::from_secs(60));
    let loader = Arc::clone(&face);
    let load = move || {
        let face = Arc::clone(&loader);
        async move { load_card(&face).await }
    };
    read(&face, &headers, &Key::races_by_stage(), &policy, load).await
}

async fn load_card(face: &Face) -> anyhow::Result<Loaded> {
    let now = face.clock.now();
    let found = face.store.runners(now, now + AHEAD).await?;
    let races = races(found.value, now);
    let offs: Vec<DateTime<Utc>> = races.iter().filter_map(|race| race.off).collect();
    // None: a boundary is less than a second away. Answered, and not kept.
    let ttl = payload_ttl(now, offs).unwrap_or_default();
    let body = serde_json::to_vec(&payload(races, now)).expect("the payload is JSON");
    Ok(Loaded {
        fresh: Some(face.clock.real(ttl)),
        ..Loaded::new(body, found.view)
    })
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
    let fresh = face.clock.real(EVENT_FRESH);
    let policy = Policy::fresh_for(fresh)
        .while_revalidating(fresh)
        .on_error(fresh);
    let (loader, id) = (Arc::clone(&face), EventId::new(id));
    let key = Key::event_prices(&id);
    let load = move || {
        let (face, id) = (Arc::clone(&loader), id.clone());
        async move {
            let found = face.store.event_prices(&id).await?;
            Ok(match found.value {
                Some(event) => Loaded::new(event_body(&event), found.view),
                None => Loaded::absent(found.view),
            })
        }
    };
    read(&face, &headers, &key, &policy, load).await
}

/// One read through the cache, with the headers that say how it went.
pub(super) async fn read<F, Fut>(
    face: &Face,
    headers: &HeaderMap,
    key: &Key,
    policy: &Policy,
    load: F,
) -> Result<Response, Problem>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = anyhow::Result<Loaded>> + Send + 'static,
{
    let started = Instant::now();
    let asks_fresh = headers.get_all(header::CACHE_CONTROL).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|text| text.to_ascii_lowercase().contains("no-cache"))
    });
    let served = match asks_fresh {
        true => face.reader.bypass(policy, load).await,
        false => face.reader.read(key, policy, load).await,
    };
    let served = served.map_err(|why| problem(&why))?;
    if served.entry.absent {
        return match served.body() {
            none if none.is_empty() => Err(no_such_event()),
            // Whoever loaded it knows more.
            why => Ok((StatusCode::NOT_FOUND, JSON, why.clone()).into_response()),
        };
    }
    let (state, word) = match served.state {
        ReadState::Hit => (live::ReadState::Hit, "HIT"),
        ReadState::Stale => (live::ReadState::Stale, "STALE"),
        ReadState::Miss => (live::ReadState::Miss, "MISS"),
        ReadState::Bypass => (live::ReadState::Bypass, "BYPASS"),
    };
    face.live.say(Activity::Read {
        key: key.clone(),
        state,
        took_ms: started.elapsed().as_millis() as u64,
        cycle: None,
    });
    let etag = etag(served.body());
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| {
        let known = known.to_str().unwrap_or_default();
        known
            .split(',')
            .any(|tag| matches!(tag.trim(), "*") || tag.trim() == etag)
    });
    let (status, body) = match known {
        true => (StatusCode::NOT_MODIFIED, Bytes::new()),
        false => (StatusCode::OK, served.body().clone()),
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
    let ttl = served.remaining().as_secs();
    add("etag", etag);
    add("x-cache-key", key.to_string());
    // RFC 9211.
    add(
        "cache-status",
        match served.state {
            ReadState::Hit => format!("oddsd; hit; ttl={ttl}"),
            ReadState::Stale => {
                let over = served.age().saturating_sub(served.entry.fresh);
                format!("oddsd; hit; ttl=-{}", over.as_secs())
            }
            ReadState::Miss => "oddsd; fwd=uri-miss".into(),
            ReadState::Bypass => "oddsd; fwd=bypass".into(),
        },
    );
    if matches!(served.state, ReadState::Hit | ReadState::Stale) {
        add("x-cache-ttl", ttl.to_string());
        add("x-cache-age", served.age().as_secs().to_string());
    }
    Ok(answer)
}

/// A loader that failed, told without the database's own words.
fn problem(why: &ReadError) -> Problem {
    let store = match why {
        ReadError::Failed(why) => why.downcast_ref::<StoreError>(),
        ReadError::Panicked | ReadError::TookTooLong(_) => None,
    };
    match store {
        Some(why) => Problem::store(why),
        None => Problem::store(&StoreError::Failed(why.to_string())),
    }
}

/// The same body has the same tag in every process of one version, which is all that a reader who
/// comes back needs.
fn etag(body: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

pub(super) fn no_such_event() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "no event of this id is stored",
        "take an id from /v1/races/by-stage (race_id)",
    )
}

/// These routes take no parameters: a misspelt one must not look as if it had worked.
pub(super) fn no_parameters(query: Option<String>) -> Result<(), Problem> {
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
fn races(runners: Vec<Runner>, now: DateTime<Utc>) -> Vec<RaceRow> {
    let mut races: std::collections::BTreeMap<EventId, RaceRow> = Default::default();
    for runner in runners {
        if !RACING.contains(&runner.event.sport.as_str()) {
            continue;
        }
        let race = races
            .entry(runner.event.id.clone())
            .or_insert_with(|| race(&runner.event, now));
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

fn race(event: &Event, now: DateTime<Utc>) -> RaceRow {
    let fact = |name: &str| event.facts.get(name).map(Into::into);
    // Off by the clock, and then its off was put back: it is still to be run.
    let put_back = event.status == EventStatus::Live && !event.in_play;
    let status = match event.starts_at {
        Some(off) if put_back && off > now => EventStatus::Upcoming,
        _ => event.status,
    };
    RaceRow {
        id: event.id.clone(),
        day: event.day,
        time: fact("race_time"),
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
