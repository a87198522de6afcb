//! Loads removed answers again where a rule says `remove_and_warm`, by the request that a reader would
//! send. The daemon runs it beside the relay, which sends the keys.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{AppState, router};
use oddsd_core::key::Key;

/// Runs until `stop` is cancelled.
pub async fn warm(state: Arc<AppState>, mut keys: mpsc::Receiver<Key>, stop: CancellationToken) {
    let router = TowerToHyperService::new(router(state));
    loop {
        let key = tokio::select! {
            key = keys.recv() => key,
            () = stop.cancelled() => return,
        };
        let Some(key) = key else {
            return stop.cancelled().await;
        };
        if let Some(path) = key.api_path()
            && let Ok(request) = Request::get(path).body(Body::empty())
        {
            let Ok(answer) = router.call(request).await;
            let status = answer.status().as_u16();
            tracing::debug!(event = "cache.warmed", key = %key, status, "loaded again");
        }
    }
}
