//! The invalidation log of all daemons and its statistics: which targets were removed, for which change.
//! The router serves them at `/v1/invalidations/{stats,events}` and, for clients of the usual service, at
//! `/api/v1/shared/cache/invalidation/{stats,events}`. The JSON names, the parameters and the status 400 are an interface
//! (`docs/invalidation.md`, `tests/engine/removal_log.rs`).

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Response;
use serde_json::json;

use super::read::ReadRequest;
use super::{AppState, Problem, uncached_json};
use oddsd_core::model::sanitize_text;
use oddsd_core::rules::{REASONS, suggestion};
use oddsd_store::LogFilter;

const DEFAULT_LIMIT: i64 = 50;
const MAX_LIMIT: i64 = 1_000;

pub async fn stats(request: ReadRequest) -> Result<Response, Problem> {
    let stats = request.state.store.removal_stats().await?;
    Ok(uncached_json(&json!(stats)))
}

/// Returns the newest removals, or with `after` those that follow that id; the oldest first. `event_id` is another
/// name of `entity`; of a repeated parameter the last counts.
pub async fn events(
    State(state): State<Arc<AppState>>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, Problem> {
    let wanted = parse_filter(query)?;
    let events = state.store.removals(&wanted).await?;
    let last = events.last().map(|event| event.id).or(wanted.after);
    let body = json!({ "events": events, "count": events.len(), "after": last });
    Ok(uncached_json(&body))
}

fn parse_filter(query: Vec<(String, String)>) -> Result<LogFilter, Problem> {
    let mut wanted = LogFilter {
        limit: DEFAULT_LIMIT,
        ..LogFilter::default()
    };
    for (name, value) in query {
        match name.as_str() {
            "limit" => {
                let limit = value.parse().ok();
                let limit = limit.filter(|limit| (1..=MAX_LIMIT).contains(limit));
                let error = format!("limit is a number from 1 to {MAX_LIMIT}, not {value:?}");
                wanted.limit = limit.ok_or_else(|| invalid(error))?;
            }
            "after" => {
                let after = value.parse().ok().filter(|after: &i64| *after >= 0);
                let error = format!("after is the id of a logged event, not {value:?}");
                wanted.after = Some(after.ok_or_else(|| invalid(error))?);
            }
            "reason" if REASONS.contains(&value.as_str()) => wanted.reason = Some(value),
            "reason" => {
                let meant = suggestion(&value, REASONS);
                return Err(invalid(format!("unknown reason {value:?}{meant}")));
            }
            // Names of events, tables and tasks have no control characters, and Postgres rejects NUL.
            "event_id" | "entity" if value.chars().any(char::is_control) => {
                return Err(invalid(format!("{name} holds a control character")));
            }
            "event_id" | "entity" => wanted.entity = Some(value),
            _ => {
                let known = ["limit", "reason", "event_id", "entity", "after"];
                let meant = suggestion(&name, known);
                return Err(invalid(format!("unknown parameter {name:?}{meant}")));
            }
        }
    }
    Ok(wanted)
}

fn invalid(error: String) -> Problem {
    let hint = "this path accepts limit=, reason=, event_id=, entity= and after=";
    Problem::bad_request(sanitize_text(&error, 300), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_parameters_are_decoded_and_validated() {
        let read = |query: &str| {
            let path = format!("/?{query}").parse().expect("a path");
            let Query(query) = Query::try_from_uri(&path).expect("pairs");
            parse_filter(query).ok()
        };
        let some = read("limit=5&reason=PRICE_CHANGE&event_id=a%20b%2Fc&after=7").expect("valid");
        assert_eq!((some.limit, some.after), (5, Some(7)));
        assert_eq!(some.entity.as_deref(), Some("a b/c"));
        assert_eq!(read("").expect("valid").limit, DEFAULT_LIMIT);
        for invalid in ["limit=0", "limit=x", "after=-1", "reason=price", "resaon=x"] {
            assert_eq!(read(invalid), None, "{invalid}");
        }
    }
}
