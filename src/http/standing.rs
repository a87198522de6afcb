//! Answers that go by where events stand: prices under a status, the sidebar, the movers, and the log of an
//! event's transitions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::event::{event_body, number};
use super::read::{no_parameters, no_such_event, read};
use super::{Face, Problem};
use crate::cache::{Loaded, Policy};
use crate::key::Key;
use crate::model::{Event, EventId, EventStatus};
use crate::stage::{Heading, Mover, Step, mover, movers_from};
use crate::store::PriceStep;

/// How long it is kept that there is nothing.
const NOTHING: Duration = Duration::from_secs(5);
const SIDEBAR: Duration = Duration::from_secs(60);
const MOVERS: Duration = Duration::from_secs(30);

pub async fn odds(
    State(face): State<Arc<Face>>,
    Path((status, id)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    no_parameters(query)?;
    let Some(status) = EventStatus::parse(&status) else {
        let all: Vec<&str> = EventStatus::ALL.iter().map(|s| s.as_str()).collect();
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            format!("unknown status {:?}", crate::model::plain_text(&status, 40)),
            format!("take one of {}", all.join(", ")),
        ));
    };
    let id = event_id(id)?;
    let policy = Policy {
        absent: NOTHING,
        ..Policy::fresh_for(face.clock.real(status.ttl()))
    };
    let key = Key::odds(status, &id);
    let loader = Arc::clone(&face);
    let load = move || {
        let (face, id) = (Arc::clone(&loader), id.clone());
        async move {
            let found = face.store.event_prices(&id).await?;
            Ok(match found.value {
                Some(event) if event.event.status == status => {
                    Loaded::new(event_body(&event), found.view)
                }
                other => Loaded {
                    absent: true,
                    ..Loaded::new(elsewhere(status, other.map(|o| o.event.status)), found.view)
                },
            })
        }
    };
    read(&face, &headers, &key, &policy, load).await
}

/// The body of the 404.
fn elsewhere(asked: EventStatus, is: Option<EventStatus>) -> Vec<u8> {
    let body = match is {
        Some(is) => json!({
            "error": format!("the event is not {}, it is {}", asked.as_str(), is.as_str()),
            "hint": format!("ask for /v1/odds/{}/…, or for /v1/events/…/prices whatever its status", is.as_str()),
            "status": is.as_str(),
        }),
        None => return Vec::new(),
    };
    body.to_string().into_bytes()
}

pub async fn sidebar(
    State(face): State<Arc<Face>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    no_parameters(query)?;
    list(face, headers, None, None).await
}

pub async fn sidebar_of_sport(
    State(face): State<Arc<Face>>,
    Path(sport): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    no_parameters(query)?;
    list(face, headers, Some(sport), None).await
}

pub async fn sidebar_of_league(
    State(face): State<Arc<Face>>,
    Path((sport, league)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    no_parameters(query)?;
    list(face, headers, Some(sport), Some(league)).await
}

async fn list(
    face: Arc<Face>,
    headers: HeaderMap,
    sport: Option<String>,
    league: Option<String>,
) -> Result<Response, Problem> {
    for name in [&sport, &league].into_iter().flatten() {
        // No feed's name has one, and no database takes a NUL.
        if name.chars().any(char::is_control) {
            return Err(Problem::new(
                StatusCode::NOT_FOUND,
                "no such sport or league",
                "take them from /v1/sidebar",
            ));
        }
    }
    let key = Key::sidebar(sport.as_deref(), league.as_deref());
    let policy = Policy {
        // Rules remove it by pattern.
        tags: key.families(),
        ..Policy::fresh_for(face.clock.real(SIDEBAR))
    };
    let loader = Arc::clone(&face);
    let load = move || {
        let (face, sport, league) = (Arc::clone(&loader), sport.clone(), league.clone());
        async move {
            let (sport, league) = (sport.as_deref(), league.as_deref());
            let found = face.store.open_events(sport, league).await?;
            let body = grouped(&found.value).to_string();
            Ok(Loaded {
                // Names that nobody plays under are not worth keeping.
                fresh: found.value.is_empty().then_some(NOTHING),
                ..Loaded::new(body.into_bytes(), found.view)
            })
        }
    };
    read(&face, &headers, &key, &policy, load).await
}

/// Sport, league, events: each league's in the order in which they come, by start.
fn grouped(events: &[Event]) -> Value {
    let mut sports: BTreeMap<&str, BTreeMap<&str, Vec<Value>>> = BTreeMap::new();
    for event in events {
        let leagues = sports.entry(&event.sport).or_default();
        leagues.entry(&event.league).or_default().push(json!({
            "event_id": event.id,
            "name": event.name,
            "venue": event.venue,
            "starts_at": event.starts_at.map(rfc3339),
            "status": event.status.as_str(),
            "in_play": event.in_play,
        }));
    }
    let leagues = |leagues: BTreeMap<&str, Vec<Value>>| {
        let named = leagues.into_iter();
        let named = named.map(|(league, events)| json!({ "league_id": league, "events": events }));
        named.collect::<Vec<_>>()
    };
    let sports = sports.into_iter();
    let sports = sports.map(|(sport, of)| json!({ "sport_id": sport, "leagues": leagues(of) }));
    json!({ "sports": sports.collect::<Vec<_>>(), "total_events": events.len() })
}

pub async fn movers(
    State(face): State<Arc<Face>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    no_parameters(query)?;
    let policy = Policy::fresh_for(face.clock.real(MOVERS));
    let loader = Arc::clone(&face);
    let load = move || {
        let face = Arc::clone(&loader);
        async move {
            let now = face.clock.now();
            // The view of the first: the steps hold that much, or more.
            let events = face.store.open_events(None, None).await?;
            let steps = face.store.price_steps(movers_from(now)).await?;
            let body = moving(&events.value, &steps, now).to_string();
            Ok(Loaded::new(body.into_bytes(), events.view))
        }
    };
    read(&face, &headers, &Key::movers(), &policy, load).await
}

fn moving(events: &[Event], steps: &[PriceStep], now: DateTime<Utc>) -> Value {
    let events: BTreeMap<&EventId, &Event> = events.iter().map(|e| (&e.id, e)).collect();
    let line = |step: &PriceStep| {
        (
            step.event.clone(),
            step.selection.clone(),
            step.market.clone(),
        )
    };
    let mut found: Vec<(Mover, &PriceStep, &Event)> = Vec::new();
    for line in steps.chunk_by(|one, other| line(one) == line(other)) {
        let steps: Vec<Step> = line
            .iter()
            .map(|step| Step {
                price: step.price,
                at: step.at,
                odds: step.odds,
                first: step.first,
            })
            .collect();
        if let (Some(mover), Some(event)) = (mover(&steps, now), events.get(&line[0].event)) {
            found.push((mover, &line[0], event));
        }
    }
    // What moved farthest first.
    found.sort_by_key(|(mover, ..)| std::cmp::Reverse(mover.since_open.abs()));
    let of = |heading: Heading| -> Vec<Value> {
        let of = found.iter().filter(|(mover, ..)| mover.heading == heading);
        of.map(|(mover, step, event)| told(mover, step, event))
            .collect()
    };
    json!({
        "steamers": of(Heading::Steaming),
        "drifters": of(Heading::Drifting),
        "timestamp": rfc3339(now),
    })
}

fn told(mover: &Mover, step: &PriceStep, event: &Event) -> Value {
    let moves = mover.moves.iter();
    let moves =
        moves.map(|(at, odds)| json!({ "at": rfc3339(*at), "odds_decimal": number(*odds) }));
    json!({
        "event_id": event.id,
        "sport_id": event.sport,
        "league_id": event.league,
        "venue": event.venue,
        "name": event.name,
        "starts_at": event.starts_at.map(rfc3339),
        "status": event.status.as_str(),
        "selection_id": step.selection,
        "selection": step.selection_name,
        "market": step.market,
        "best_odds_decimal": number(mover.best),
        "opened_odds_decimal": number(mover.opened),
        "since_open_percent": number(mover.since_open),
        "in_15_min_percent": mover.in_15_min.map(number),
        "moves": moves.collect::<Vec<_>>(),
    })
}

/// Read from the database each time: it is looked at by people, and seldom.
pub async fn transitions(
    State(face): State<Arc<Face>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    no_parameters(query)?;
    let id = event_id(id)?;
    let found = face.store.transitions(&id).await;
    let found = found.map_err(|why| Problem::store(&why))?;
    let found = found.ok_or_else(no_such_event)?;
    let all: Vec<Value> = found
        .iter()
        .map(|transition| {
            json!({
                "id": transition.id,
                "at": rfc3339(transition.at),
                "feed_time": rfc3339(transition.feed_time),
                "before": transition.before.map(EventStatus::as_str),
                "after": transition.after.as_str(),
                "source": transition.source.as_str(),
            })
        })
        .collect();
    let kind = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    let body = json!({ "event_id": id, "transitions": all }).to_string();
    Ok((kind, body).into_response())
}

fn event_id(text: String) -> Result<EventId, Problem> {
    match text.chars().any(char::is_control) {
        // No feed's id has one, and no database takes a NUL.
        true => Err(no_such_event()),
        false => Ok(EventId::new(text)),
    }
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
