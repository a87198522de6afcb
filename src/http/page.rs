//! The page: one document, one script, one style sheet, all inside the binary.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse;

use super::Face;

/// Nothing from elsewhere is loaded, framed or sent.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn asset(kind: &'static str, body: impl Into<Body>) -> impl IntoResponse {
    let says = |name: HeaderName, value: &'static str| (name, HeaderValue::from_static(value));
    (
        [
            says(header::CONTENT_TYPE, kind),
            says(header::CONTENT_SECURITY_POLICY, POLICY),
            says(header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            says(header::REFERRER_POLICY, "no-referrer"),
            // A new binary may carry a new page.
            says(header::CACHE_CONTROL, "no-cache"),
        ],
        body.into(),
    )
}

/// The document; on an invented day it says so, in the first line that anybody reads.
pub async fn document(State(face): State<Arc<Face>>) -> impl IntoResponse {
    const SIMULATED: &str = include_str!("page/simulated.html");
    let notice = if face.simulated { SIMULATED } else { "" };
    let page = include_str!("page/index.html").replace("<!-- notice -->", notice);
    asset("text/html; charset=utf-8", page)
}

pub async fn script() -> impl IntoResponse {
    asset(
        "text/javascript; charset=utf-8",
        include_str!("page/page.js"),
    )
}

pub async fn style() -> impl IntoResponse {
    asset("text/css; charset=utf-8", include_str!("page/page.css"))
}

#[cfg(test)]
mod tests {
    use crate::stage::Stage;

    #[test]
    fn the_page_shows_every_stage_and_asks_for_what_is_there() {
        let script = include_str!("page/page.js");
        for stage in Stage::ALL {
            assert!(script.contains(&format!("[\"{}\"", stage.as_str())));
        }
        for path in ["/v1/races/by-stage", "/v1/freshness", "/v1/movers"] {
            assert!(script.contains(&format!("fetch(\"{path}\"")), "{path}");
        }
    }
}
