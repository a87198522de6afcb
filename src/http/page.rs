//! The page: a document, a script and a style sheet, embedded in the binary. Browsers load them from the
//! read API.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::AppState;

/// Allows no content from other origins, no frames and no forms.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn asset(content_type: &'static str, body: impl Into<Body>) -> impl IntoResponse {
    (
        [
            (header::CONTENT_TYPE, content_type),
            (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            // A new version of oddsd may have a new page.
            (header::CACHE_CONTROL, "no-cache"),
        ],
        body.into(),
    )
}

/// The document. On a simulated day it begins with a notice.
pub async fn document(State(state): State<Arc<AppState>>) -> impl IntoResponse {
    const SIMULATED: &str = include_str!("page/simulated.html");
    let notice = if state.simulated { SIMULATED } else { "" };
    let page = include_str!("page/index.html").replace("<!-- notice -->", notice);
    asset("text/html; charset=utf-8", page)
}

pub async fn script() -> impl IntoResponse {
    let script = include_str!("page/page.js");
    asset("text/javascript; charset=utf-8", script)
}

pub async fn style() -> impl IntoResponse {
    asset("text/css; charset=utf-8", include_str!("page/page.css"))
}

#[cfg(test)]
mod tests {
    use oddsd_core::stage::Stage;

    #[test]
    fn script_shows_every_stage_and_requests_existing_paths() {
        let script = include_str!("page/page.js");
        for stage in Stage::ALL {
            assert!(script.contains(&format!("[\"{}\"", stage.as_str())));
        }
        for path in ["/v1/races/by-stage", "/v1/freshness", "/v1/movers"] {
            assert!(script.contains(&format!("fetch(\"{path}\"")), "{path}");
        }
    }
}
