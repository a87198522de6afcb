//! Routes that depend on the status of events: prices under a status, sidebar, movers, and an event's
//! status transitions. The router serves them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::event::{event_body, number};
use super::read::{ReadRequest, event_id, no_such_event};
use super::{AppState, Problem, json_response, rfc3339};
use oddsd_cache::{LoadedValue, Policy};
use oddsd_core::key::Key;
use oddsd_core::model::{Event, EventId, EventStatus, sanitize_text};
use oddsd_core::stage::{MoveDirection, Mover, OddsStep, detect_mover, mover_window_start};
use oddsd_store::PriceStep;

/// Time to live of an answer that something does not exist.
const ABSENT_TTL: Duration = Duration::from_secs(5);
const SIDEBAR_TTL: Duration = Duration::from_secs(60);
const MOVERS_TTL: Duration = Duration::from_secs(30);

pub async fn odds(
    Path((status, id)): Path<(String, String)>,
    request: ReadRequest,
) -> Result<Response, Problem> {
    let Some(status) = EventStatus::parse(&status) else {
        let all: Vec<&str> = EventStatus::ALL.iter().map(|s| s.as_str()).collect();
        return Err(Problem::not_found(
            format!("unknown status {:?}", sanitize_text(&status, 40)),
            format!("use one of {}", all.join(", ")),
        ));
    };
    let id = event_id(id)?;
    let policy = Policy {
        absent: ABSENT_TTL,
        ..Policy::fresh_for(request.state.clock.real_duration(status.ttl()))
    };
    let key = Key::odds(status, &id);
    let load = move |state: Arc<AppState>| {
        let id = id.clone();
        async move {
            let found = state.store.event_prices(&id).await?;
            Ok(match found.value {
                Some(event) if event.event.status == status => {
                    LoadedValue::new(event_body(&event), found.snapshot)
                }
                other => {
                    let body = wrong_status(status, other.map(|other| other.event.status));
                    LoadedValue {
                        absent: true,
                        ..LoadedValue::new(body, found.snapshot)
                    }
                }
            })
        }
    };
    request.read_through_cache(&key, &policy, load).await
}

/// The body of a 404 that names the event's status; empty if there is no such event.
fn wrong_status(requested: EventStatus, actual: Option<EventStatus>) -> Vec<u8> {
    let Some(actual) = actual.map(EventStatus::as_str) else {
        return Vec::new();
    };
    let body = json!({
        "error": format!("the event is not {}, it is {actual}", requested.as_str()),
        "hint": format!("request /v1/odds/{actual}/…, or /v1/events/…/prices for any status"),
        "status": actual,
    });
    body.to_string().into_bytes()
}

/// The part of the sidebar that a path names; all of it by default.
#[derive(serde::Deserialize)]
pub struct SidebarPath {
    sport: Option<String>,
    league: Option<String>,
}

pub async fn sidebar(
    Path(SidebarPath { sport, league }): Path<SidebarPath>,
    request: ReadRequest,
) -> Result<Response, Problem> {
    for name in [&sport, &league].into_iter().flatten() {
        // Names have no control characters, and Postgres rejects NUL.
        if name.chars().any(char::is_control) {
            return Err(Problem::not_found(
                "no such sport or league",
                "take them from /v1/sidebar",
            ));
        }
    }
    let key = Key::sidebar(sport.as_deref(), league.as_deref());
    let policy = Policy {
        // Rules remove it by these tags.
        tags: key.prefix_tags(),
        ..Policy::fresh_for(request.state.clock.real_duration(SIDEBAR_TTL))
    };
    let load = move |state: Arc<AppState>| {
        let (sport, league) = (sport.clone(), league.clone());
        async move {
            let (sport, league) = (sport.as_deref(), league.as_deref());
            let found = state.store.open_events(sport, league).await?;
            let body = grouped(&found.value).to_string();
            Ok(LoadedValue {
                // Unknown names must not fill the cache.
                fresh: found.value.is_empty().then_some(ABSENT_TTL),
                ..LoadedValue::new(body.into_bytes(), found.snapshot)
            })
        }
    };
    request.read_through_cache(&key, &policy, load).await
}

/// Groups events by sport and league and keeps their order, which is by start.
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
    let sports = sports.into_iter().map(|(sport, leagues)| {
        let leagues = leagues.into_iter();
        let leagues = leagues.map(|(id, events)| json!({ "league_id": id, "events": events }));
        json!({ "sport_id": sport, "leagues": leagues.collect::<Vec<_>>() })
    });
    json!({ "sports": sports.collect::<Vec<_>>(), "total_events": events.len() })
}

pub async fn movers(request: ReadRequest) -> Result<Response, Problem> {
    let policy = Policy::fresh_for(request.state.clock.real_duration(MOVERS_TTL));
    request
        .read_through_cache(&Key::movers(), &policy, load_movers)
        .await
}

async fn load_movers(state: Arc<AppState>) -> anyhow::Result<LoadedValue> {
    let now = state.clock.now();
    // The snapshot of the first query is the answer's; the second one sees at least as much.
    let events = state.store.open_events(None, None).await?;
    let steps = state.store.price_steps(mover_window_start(now)).await?;
    let body = movers_body(&events.value, &steps, now).to_string();
    Ok(LoadedValue::new(body.into_bytes(), events.snapshot))
}

fn movers_body(events: &[Event], steps: &[PriceStep], now: DateTime<Utc>) -> Value {
    let events: BTreeMap<&EventId, &Event> = events.iter().map(|e| (&e.id, e)).collect();
    let is_same_line = |a: &PriceStep, b: &PriceStep| {
        (&a.event, &a.selection, &a.market) == (&b.event, &b.selection, &b.market)
    };
    let mut found: Vec<(Mover, &PriceStep, &Event)> = Vec::new();
    for line in steps.chunk_by(is_same_line) {
        let steps = line.iter().map(|step| OddsStep {
            price: step.price,
            at: step.at,
            odds: step.odds,
            first: step.first,
        });
        let steps: Vec<OddsStep> = steps.collect();
        if let (Some(mover), Some(event)) = (detect_mover(&steps, now), events.get(&line[0].event))
        {
            found.push((mover, &line[0], event));
        }
    }
    // The largest movement comes first.
    found.sort_by_key(|(mover, ..)| std::cmp::Reverse(mover.since_open.abs()));
    let in_direction = |direction: MoveDirection| -> Vec<Value> {
        let movers = found.iter();
        let movers = movers.filter(|(mover, ..)| mover.direction == direction);
        let bodies = movers.map(|(mover, step, event)| mover_body(mover, step, event));
        bodies.collect()
    };
    json!({
        "steamers": in_direction(MoveDirection::Steaming),
        "drifters": in_direction(MoveDirection::Drifting),
        "timestamp": rfc3339(now),
    })
}

fn mover_body(mover: &Mover, step: &PriceStep, event: &Event) -> Value {
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

/// Not cached, because only operators request it.
pub async fn transitions(
    Path(id): Path<String>,
    request: ReadRequest,
) -> Result<Response, Problem> {
    let id = event_id(id)?;
    let found = request.state.store.transitions(&id).await?;
    let found = found.ok_or_else(no_such_event)?;
    let all = found.iter().map(|transition| {
        json!({
            "id": transition.id,
            "at": rfc3339(transition.at),
            "feed_time": rfc3339(transition.feed_time),
            "before": transition.before.map(EventStatus::as_str),
            "after": transition.after.as_str(),
            "source": transition.source.as_str(),
        })
    });
    let all: Vec<Value> = all.collect();
    let body = json!({ "event_id": id, "transitions": all }).to_string();
    let no_cache = [(header::CACHE_CONTROL, "no-cache")];
    Ok((no_cache, json_response(StatusCode::OK, body)).into_response())
}
