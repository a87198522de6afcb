//! The faces that answer over HTTP: the router, the errors, and the accept loop.

mod changes;
mod event;
mod health;
mod invalidations;
mod metrics;
mod page;
mod read;
mod standing;
mod warm;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::audit::Audited;
use crate::cache::Reader;
use crate::clock::Clock;
use crate::live::Live;
use crate::rules_file::Rulebook;
use crate::store::Store;

pub use metrics::Waiting;
pub use warm::warm;

/// Connections at once; the next one waits to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// axum's own server leaves this without effect, which is why the accept loop is ours.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// What open requests get once we were asked to stop.
const GRACE: Duration = Duration::from_secs(5);

/// What every route can reach.
pub struct Face {
    pub store: Store,
    pub reader: Reader,
    pub rules: Rulebook,
    pub live: Live,
    pub clock: Clock,
    /// The feed is invented, and the page says so.
    pub simulated: bool,
    /// `None`: nobody audits.
    pub audited: Option<Audited>,
    pub waiting: Waiting,
    /// Whoever shows it may report changes; `None`: nobody may.
    pub report_token: Option<SecretString>,
    /// Rung when there is something to claim.
    pub bell: Arc<Notify>,
}

pub fn router(face: Arc<Face>) -> Router {
    Router::new()
        .route("/", get(page::document))
        .route("/page.js", get(page::script))
        .route("/page.css", get(page::style))
        .route("/v1/races/by-stage", get(read::races_by_stage))
        .route("/v1/events/{id}/prices", get(read::event_prices))
        .route("/v1/events/{id}/transitions", get(standing::transitions))
        .route("/v1/odds/{status}/{id}", get(standing::odds))
        .route("/v1/sidebar", get(standing::sidebar))
        .route("/v1/sidebar/{sport}", get(standing::sidebar_of_sport))
        .route(
            "/v1/sidebar/{sport}/{league}",
            get(standing::sidebar_of_league),
        )
        .route("/v1/movers", get(standing::movers))
        .route(
            "/v1/changes",
            post(changes::report).fallback(changes::only_post),
        )
        .route("/v1/freshness", get(health::freshness))
        .route("/v1/invalidations/stats", get(invalidations::stats))
        .route("/v1/invalidations/events", get(invalidations::events))
        .route(
            "/api/v1/shared/cache/invalidation/stats",
            get(invalidations::stats),
        )
        .route(
            "/api/v1/shared/cache/invalidation/events",
            get(invalidations::events),
        )
        .route("/metrics", get(metrics::metrics))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .fallback(unknown_path)
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path only answers to GET",
                "send a GET request",
            )
        })
        .with_state(face)
}

/// Serves until `stop`, then lets open requests finish within a bounded grace.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let (place, stream) = tokio::select! {
            accepted = async { (place.await, listener.accept().await) } => match accepted {
                (Ok(place), Ok((stream, _))) => (place, stream),
                (_, Err(why)) => {
                    // Out of file descriptors, or a client gone before it was accepted.
                    tracing::warn!(event = "http.accept_failed", error = %why, "A connection could not be accepted");
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
            drop(place);
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, drained).await.is_err() {
        tracing::warn!(
            event = "http.cut_off",
            open = connections.len(),
            "Requests were cut off at shutdown"
        );
    }
}

/// What went wrong, and what to do about it, as JSON.
pub struct Problem {
    status: StatusCode,
    error: String,
    hint: String,
}

impl Problem {
    pub fn new(status: StatusCode, error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            status,
            error: error.into(),
            hint: hint.into(),
        }
    }

    /// The database did not answer. Its own words go to the log, not to strangers.
    pub fn store(why: &crate::store::StoreError) -> Self {
        tracing::warn!(event = "http.store_failed", error = %why, "A request could not be answered from the database");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the database does not answer",
            "try again; /readyz?verbose says more",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": self.error, "hint": self.hint }).to_string();
        let kind = [(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        )];
        (self.status, kind, body).into_response()
    }
}

async fn unknown_path() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "no such path",
        "try /v1/races/by-stage, /v1/events/{id}/prices, /v1/events/{id}/transitions, /v1/odds/{status}/{id}, /v1/sidebar, \
         /v1/movers, /v1/changes, /v1/invalidations/events, /v1/freshness, /metrics, /livez or /readyz?verbose",
    )
}
