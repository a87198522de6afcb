//! Routes that depend on the status of events: prices under a status, sidebar, movers, and an event's
//! status transitions. The router serves them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::event::{event_body, number};
use super::read::{event_id, no_such_event, read_through_cache, reject_parameters};
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
    State(state): State<Arc<AppState>>,
    Path((status, id)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    reject_parameters(query)?;
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
        ..Policy::fresh_for(state.clock.real_duration(status.ttl()))
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
                other => LoadedValue {
                    absent: true,
                    ..LoadedValue::new(
                        wrong_status(status, other.map(|o| o.event.status)),
                        found.snapshot,
                    )
                },
            })
        }
    };
    read_through_cache(&state, &headers, &key, &policy, load).await
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
    State(state): State<Arc<AppState>>,
    Path(SidebarPath { sport, league }): Path<SidebarPath>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    reject_parameters(query)?;
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
        ..Policy::fresh_for(state.clock.real_duration(SIDEBAR_TTL))
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
    read_through_cache(&state, &headers, &key, &policy, load).await
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
    State(state): State<Arc<AppState>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    reject_parameters(query)?;
    let policy = Policy::fresh_for(state.clock.real_duration(MOVERS_TTL));
    let key = Key::movers();
    read_through_cache(&state, &headers, &key, &policy, load_movers).await
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
    let price_line = |step: &PriceStep| {
        (
            step.event.clone(),
            step.selection.clone(),
            step.market.clone(),
        )
    };
    let mut found: Vec<(Mover, &PriceStep, &Event)> = Vec::new();
    for line in steps.chunk_by(|a, b| price_line(a) == price_line(b)) {
        let steps: Vec<OddsStep> = line
            .iter()
            .map(|step| OddsStep {
                price: step.price,
                at: step.at,
                odds: step.odds,
                first: step.first,
            })
            .collect();
        if let (Some(mover), Some(event)) = (detect_mover(&steps, now), events.get(&line[0].event))
        {
            found.push((mover, &line[0], event));
        }
    }
    // The largest movement comes first.
    found.sort_by_key(|(mover, ..)| std::cmp::Reverse(mover.since_open.abs()));
    let heading = |heading: MoveDirection| -> Vec<Value> {
        let movers = found
            .iter()
            .filter(|(mover, ..)| mover.direction == heading);
        movers
            .map(|(mover, step, event)| mover_body(mover, step, event))
            .collect()
    };
    json!({
        "steamers": heading(MoveDirection::Steaming),
        "drifters": heading(MoveDirection::Drifting),
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
    State(state): State<Arc<AppState>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    reject_parameters(query)?;
    let id = event_id(id)?;
    let found = state.store.transitions(&id).await;
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
    let body = json!({ "event_id": id, "transitions": all }).to_string();
    let no_cache = [(header::CACHE_CONTROL, "no-cache")];
    Ok((no_cache, json_response(StatusCode::OK, body)).into_response())
}
