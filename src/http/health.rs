//! Alive, and ready. `/livez` asks nobody; `/readyz` asks the database and the cache.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::{Face, Problem};
use crate::audit::Report;

/// A health check that waits longer than this has its answer.
const PATIENCE: Duration = Duration::from_secs(2);

pub async fn live() -> &'static str {
    "ok\n"
}

/// 200 when the database answers. A cache that is away is told, but readers are still served, so
/// it makes nobody unready.
pub async fn ready(
    State(face): State<Arc<Face>>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    if query.contains_key("verbose") {
        return verbose(&face).await;
    }
    // The cheapest question there is: balancers ask this every few seconds.
    match tokio::time::timeout(PATIENCE, face.store.clock()).await {
        Ok(Ok(_)) => (StatusCode::OK, "ready\n").into_response(),
        _ => (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: the database does not answer; /readyz?verbose says more\n",
        )
            .into_response(),
    }
}

/// How fresh readers are, and the last that were not.
pub async fn freshness(State(face): State<Arc<Face>>) -> Result<Response, Problem> {
    let Some(report) = report(&face) else {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "nobody audits (AUDIT=false)",
            "set AUDIT=true and start the daemon again",
        ));
    };
    let says = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    let body = serde_json::to_string(&report).expect("a report is JSON");
    Ok((says, body).into_response())
}

fn report(face: &Face) -> Option<Report> {
    let audited = face.audited.as_ref()?;
    Some(audited.report(Instant::now()).short())
}

/// What every door says, and what waits in the outbox.
async fn verbose(face: &Face) -> Response {
    let (status, cache) = tokio::join!(
        tokio::time::timeout(PATIENCE, face.store.status()),
        tokio::time::timeout(PATIENCE, face.reader.cache().ping())
    );
    let code = if matches!(status, Ok(Ok(_))) {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let slow = || format!("no answer within {} s", PATIENCE.as_secs());
    let database = match status {
        Ok(Ok(status)) => json!({
            "ok": true, "backend": face.store.backend(), "holder": status.holder, "last_cycle": status.last_cycle,
            "events": status.events, "open_prices": status.open_prices,
            "outbox_pending": status.outbox_pending, "outbox_oldest_seconds": status.outbox_oldest_seconds,
        }),
        Ok(Err(why)) => {
            json!({ "ok": false, "backend": face.store.backend(), "error": why.to_string() })
        }
        Err(_) => json!({ "ok": false, "backend": face.store.backend(), "error": slow() }),
    };
    let backend = face.reader.cache().backend();
    let cache = match cache {
        Ok(Ok(())) => json!({ "ok": true, "backend": backend }),
        Ok(Err(why)) => json!({ "ok": false, "backend": backend, "error": why.to_string() }),
        Err(_) => json!({ "ok": false, "backend": backend, "error": slow() }),
    };
    let body = json!({
        "ready": code == StatusCode::OK, "database": database, "cache": cache, "counters": face.live.counters(),
        "rules": face.rules.state(), "audit": report(face),
    });
    let kind = [(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    )];
    (code, kind, body.to_string()).into_response()
}
