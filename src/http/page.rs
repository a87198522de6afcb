//! The page: one document, one script, one style sheet, all inside the binary.

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse;

/// Nothing from elsewhere is loaded, framed or sent.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn asset(kind: &'static str, body: &'static str) -> impl IntoResponse {
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
        body,
    )
}

pub async fn document() -> impl IntoResponse {
    asset("text/html; charset=utf-8", include_str!("page/index.html"))
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
