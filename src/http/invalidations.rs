//! What was removed, for what, and why: the log of all daemons, and its statistics.

use std::sync::Arc;

use axum::extract::{Query, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::{Face, Problem};
use crate::model::plain_text;
use crate::rules::{REASONS, suggestion};
use crate::store::Wanted;

const USUAL: i64 = 50;
const MOST: i64 = 1_000;

pub async fn stats(
    State(face): State<Arc<Face>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    super::read::no_parameters(query)?;
    let stats = face
        .store
        .removal_stats()
        .await
        .map_err(|why| Problem::store(&why))?;
    Ok(answer(&json!(stats)))
}

/// Without `after` the newest ones; with it those after that id. Oldest first either way.
pub async fn events(
    State(face): State<Arc<Face>>,
    Query(query): Query<Asked>,
) -> Result<Response, Problem> {
    let wanted = wanted(query)?;
    let events = face
        .store
        .removals(&wanted)
        .await
        .map_err(|why| Problem::store(&why))?;
    let last = events.last().map(|event| event.id).or(wanted.after);
    Ok(answer(
        &json!({ "events": events, "count": events.len(), "after": last }),
    ))
}

fn answer(body: &serde_json::Value) -> Response {
    let says = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (says, body.to_string()).into_response()
}

/// Each name with its value, in their order.
type Asked = Vec<(String, String)>;

fn wanted(query: Asked) -> Result<Wanted, Problem> {
    let mut wanted = Wanted {
        limit: USUAL,
        ..Wanted::default()
    };
    for (name, value) in query {
        match name.as_str() {
            "limit" => {
                let limit = value
                    .parse()
                    .ok()
                    .filter(|limit| (1..=MOST).contains(limit));
                wanted.limit = limit.ok_or_else(|| {
                    bad(format!("limit is a number from 1 to {MOST}, not {value:?}"))
                })?;
            }
            "after" => {
                let after = value.parse().ok().filter(|after: &i64| *after >= 0);
                wanted.after =
                    Some(after.ok_or_else(|| {
                        bad(format!("after is the id of an event, not {value:?}"))
                    })?);
            }
            "reason" if REASONS.contains(&value.as_str()) => wanted.reason = Some(value),
            "reason" => {
                return Err(bad(format!(
                    "unknown reason {value:?}{}",
                    suggestion(&value, REASONS)
                )));
            }
            // No event, table or task has one, and no database takes a NUL.
            "event_id" | "entity" if value.chars().any(char::is_control) => {
                return Err(bad(format!("{name} holds a control character")));
            }
            "event_id" | "entity" => wanted.entity = Some(value),
            _ => {
                let known = ["limit", "reason", "event_id", "entity", "after"];
                return Err(bad(format!(
                    "unknown parameter {name:?}{}",
                    suggestion(&name, known)
                )));
            }
        }
    }
    Ok(wanted)
}

fn bad(error: String) -> Problem {
    let hint = "limit=, reason=, event_id=, entity= and after= are all that this path takes";
    Problem::new(StatusCode::BAD_REQUEST, plain_text(&error, 300), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_as_browsers_write_it() {
        let read = |query: &str| {
            let path = format!("/?{query}").parse().expect("a path");
            let Query(query) = Query::<Asked>::try_from_uri(&path).expect("pairs");
            wanted(query).ok()
        };
        let some = read("limit=5&reason=PRICE_CHANGE&event_id=a%20b%2Fc&after=7").expect("valid");
        assert_eq!((some.limit, some.after), (5, Some(7)));
        assert_eq!(some.entity.as_deref(), Some("a b/c"));
        assert_eq!(read("").expect("valid").limit, USUAL);
        for bad in ["limit=0", "limit=x", "after=-1", "reason=price", "resaon=x"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
