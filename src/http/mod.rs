//! The HTTP server: router, shared state, error responses and accept loop. The daemon serves it, tests serve the
//! same router, and `warm` sends requests through it.

mod changes;
mod event;
mod health;
mod invalidations;
mod metrics;
mod page;
mod read;
mod status_routes;
mod warm;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::map_response_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use chrono::{DateTime, SecondsFormat, Utc};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use secrecy::SecretString;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::audit::AuditHandle;
use crate::clock::{Clock, ClockSkew};
use crate::live::{DaemonEvent, EventBus};
use crate::rules_file::RulesHandle;
use oddsd_cache::Reader;
use oddsd_store::{Store, StoreError};

pub use metrics::OutboxGauge;
pub use warm::warm;

/// Maximum number of open connections. The next one waits to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// A client has this long to send the head of a request. axum's own server cannot set it, so the accept loop is our own.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for open requests to finish after the stop signal.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// Longest time that health checks and metrics wait for the database or the cache.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The state that all handlers share.
pub struct AppState {
    pub store: Store,
    pub reader: Reader,
    pub rules: RulesHandle,
    pub events: EventBus,
    pub clock: Clock,
    pub skew: Arc<ClockSkew>,
    /// The feed is simulated, so the page shows a notice.
    pub simulated: bool,
    /// `None` if `AUDIT=false`.
    pub audit: Option<AuditHandle>,
    pub outbox_gauge: OutboxGauge,
    /// The token that reports of changes must carry. `None`: reports are refused.
    pub report_token: Option<SecretString>,
    /// Wakes the relay up when a reported change is in the outbox.
    pub relay_wakeup: Arc<Notify>,
}

pub fn router(state: Arc<AppState>) -> Router {
    use status_routes::{movers, odds, sidebar, transitions};
    // The paths of another invalidation service, for its clients.
    const COMPATIBLE: &str = "/api/v1/shared/cache/invalidation";
    Router::new()
        .route("/", get(page::document))
        .route("/page.js", get(page::script))
        .route("/page.css", get(page::style))
        .route("/v1/races/by-stage", get(read::races_by_stage))
        .route("/v1/events/{id}/prices", get(read::event_prices))
        .route("/v1/events/{id}/transitions", get(transitions))
        .route("/v1/odds/{status}/{id}", get(odds))
        .route("/v1/sidebar", get(sidebar))
        .route("/v1/sidebar/{sport}", get(sidebar))
        .route("/v1/sidebar/{sport}/{league}", get(sidebar))
        .route("/v1/movers", get(movers))
        .route(
            "/v1/changes",
            post(changes::report).fallback(changes::method_not_allowed),
        )
        .route("/v1/freshness", get(health::freshness))
        .route("/v1/invalidations/stats", get(invalidations::stats))
        .route("/v1/invalidations/events", get(invalidations::events))
        .route(&format!("{COMPATIBLE}/stats"), get(invalidations::stats))
        .route(&format!("{COMPATIBLE}/events"), get(invalidations::events))
        .route("/metrics", get(metrics::metrics))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .fallback(unknown_path)
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path only accepts GET",
                "send a GET request",
            )
        })
        .layer(map_response_with_state(Arc::clone(&state), log_failure))
        .with_state(state)
}

/// Serves until `stop` is cancelled, then waits for open requests within a bounded grace.
pub async fn serve(listener: TcpListener, state: Arc<AppState>, stop: CancellationToken) {
    let router = router(Arc::clone(&state));
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // A full server accepts nothing until a connection ends.
        let permit = Arc::clone(&permits).acquire_owned();
        let (permit, stream) = tokio::select! {
            accepted = async { (permit.await, listener.accept().await) } => match accepted {
                (Ok(permit), Ok((stream, _))) => (permit, stream),
                (_, Err(why)) => {
                    // No file descriptor was free, or the client left before it was accepted.
                    let error = why.to_string();
                    state.events.publish(DaemonEvent::AcceptFailed { error });
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
                (Err(_), _) => break,
            },
            () = stop.cancelled() => break,
        };
        let (service, stop) = (TowerToHyperService::new(router.clone()), stop.clone());
        connections.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => {}
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
            drop(permit);
        });
        // Frees the tasks that have ended.
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_GRACE, drained).await.is_err() {
        tracing::warn!(
            event = "http.cut_off",
            open = connections.len(),
            "Requests were cut off at shutdown"
        );
    }
}

/// An error response: a JSON object with the error and the next step. It has the purpose of the problem
/// details of RFC 9457, with members of its own.
pub struct Problem {
    status: StatusCode,
    error: String,
    hint: String,
    failure: Option<StoreFailure>,
}

impl Problem {
    pub fn new(status: StatusCode, error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            status,
            error: error.into(),
            hint: hint.into(),
            failure: None,
        }
    }

    fn not_found(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error, hint)
    }

    fn bad_request(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, hint)
    }
}

impl From<StoreError> for Problem {
    /// The database failed. Its error text goes to the log only, because it may name internals.
    fn from(why: StoreError) -> Self {
        Self {
            failure: Some(StoreFailure(why)),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the database does not answer",
                "try again; /readyz?verbose has details",
            )
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": self.error, "hint": self.hint });
        let mut response = json_response(self.status, body.to_string());
        if let Some(failure) = self.failure {
            response.extensions_mut().insert(failure);
        }
        response
    }
}

/// The database's error, as an extension of the response that does not show it.
#[derive(Clone)]
struct StoreFailure(StoreError);

async fn log_failure(State(state): State<Arc<AppState>>, response: Response) -> Response {
    if let Some(StoreFailure(why)) = response.extensions().get() {
        let error = why.to_string();
        state.events.publish(DaemonEvent::RequestFailed { error });
    }
    response
}

fn json_response(status: StatusCode, body: impl Into<Body>) -> Response {
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    (status, content_type, body.into()).into_response()
}

/// An answer that no cache keeps.
fn uncached_json(body: &impl Serialize) -> Response {
    let body = serde_json::to_string(body).expect("the body is JSON");
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    (no_store, json_response(StatusCode::OK, body)).into_response()
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

async fn unknown_path() -> Problem {
    Problem::not_found(
        "no such path",
        "try /v1/races/by-stage, /v1/events/{id}/prices, /v1/events/{id}/transitions, /v1/odds/{status}/{id}, /v1/sidebar, \
         /v1/movers, /v1/changes, /v1/invalidations/events, /v1/freshness, /metrics, /livez or /readyz?verbose",
    )
}
