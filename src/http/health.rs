//! Liveness (`/livez`), readiness (`/readyz`) and freshness (`/v1/freshness`). Balancers, `oddsd
//! healthcheck`, operators and the page request them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::time::timeout;

use super::{AppState, PROBE_TIMEOUT, Problem, json_response, uncached_json};
use crate::audit::AuditReport;

/// The newest offenders that the API shows.
const SHOWN_OFFENDERS: usize = 5;

pub async fn live() -> &'static str {
    "ok\n"
}

/// 200 if the database answers. A cache that is down is reported, but readers are still served, so it
/// does not make the daemon unready.
pub async fn ready(
    State(state): State<Arc<AppState>>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    if query.contains_key("verbose") {
        return Box::pin(verbose(&state)).await;
    }
    // The cheapest query, because balancers repeat it every few seconds.
    match timeout(PROBE_TIMEOUT, state.store.server_time()).await {
        Ok(Ok(_)) => (StatusCode::OK, "ready\n").into_response(),
        Ok(Err(why)) => not_ready(&why.to_string()),
        Err(_) => not_ready("the database does not answer"),
    }
}

fn not_ready(why: &str) -> Response {
    let text = format!("not ready: {why}; /readyz?verbose has details\n");
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

/// How fresh readers are, and the last stale reads.
pub async fn freshness(State(state): State<Arc<AppState>>) -> Result<Response, Problem> {
    let report = report(&state).ok_or_else(|| {
        let hint = "set AUDIT=true and restart the daemon";
        Problem::not_found("freshness is not audited (AUDIT=false)", hint)
    })?;
    Ok(uncached_json(&report))
}

fn report(state: &AppState) -> Option<AuditReport> {
    let mut report = state.audit.as_ref()?.report(Instant::now());
    report.offenders.truncate(SHOWN_OFFENDERS);
    Some(report)
}

/// The state of the database, the cache, the clock, the rules, the counters and the audit.
async fn verbose(state: &AppState) -> Response {
    let cache = state.reader.cache();
    let (status, ping) = tokio::join!(
        timeout(PROBE_TIMEOUT, state.store.status()),
        timeout(PROBE_TIMEOUT, cache.ping())
    );
    let backend = state.store.backend();
    let database = match status {
        Ok(Ok(status)) => json!({
            "ok": true, "backend": backend, "holder": status.holder, "last_cycle": status.last_cycle,
            "events": status.events, "open_prices": status.open_prices,
            "outbox_pending": status.outbox_pending, "outbox_oldest_seconds": status.outbox_oldest_seconds,
        }),
        Ok(Err(why)) => failed(backend, why.to_string()),
        Err(_) => failed(backend, no_answer()),
    };
    let cache = match ping {
        Ok(Ok(())) => json!({ "ok": true, "backend": cache.backend() }),
        Ok(Err(why)) => failed(cache.backend(), why.to_string()),
        Err(_) => failed(cache.backend(), no_answer()),
    };
    let code = match database["ok"].as_bool() {
        Some(true) => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = json!({
        "ready": code == StatusCode::OK, "database": database, "cache": cache, "counters": state.events.counters(),
        "clock_skew_seconds": state.skew.seconds(), "rules": state.rules.state(), "audit": report(state),
    });
    json_response(code, body.to_string())
}

fn failed(backend: &str, error: String) -> serde_json::Value {
    json!({ "ok": false, "backend": backend, "error": error })
}

fn no_answer() -> String {
    format!("no answer within {} s", PROBE_TIMEOUT.as_secs())
}
