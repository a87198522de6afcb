//! Builds the HTTP responses of the racing stand-in: valid ones, and one for each [`RacingFault`].
//! The stand-in calls it for each request.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use super::{PASSWORD, USERNAME};

/// A way to fail. It stays until [`super::RacingProvider::clear`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RacingFault {
    /// The port is closed, and open connections are cut.
    Refuse,
    Unauthorized,
    Forbidden,
    NotFound,
    /// 404 and a web page.
    HtmlNotFound,
    /// 422 with the provider's list of details.
    Unprocessable,
    /// 429, with this `Retry-After` if any.
    TooMany {
        retry_after: Option<&'static str>,
    },
    /// Any other status, with an empty JSON object.
    Status(u16),
    /// 200 and a web page.
    Html,
    /// 200 and the first half of the answer, with a matching length.
    Truncated,
    /// The connection ends in the middle of the answer.
    DropConnection,
    Redirect,
    /// A small gzip body that becomes a very large one.
    Bomb,
    /// A card with a race over the limit.
    Oversize,
    /// Takes the request, never answers.
    Hang,
    /// Answers a byte at a time.
    SlowDrip,
    /// A well-formed day without races.
    EmptyCards,
    /// The first half of the races, well-formed, with a total to match.
    HalfCards,
    /// The first half of the races, with the total of all of them.
    ShortPage,
    /// Valid JSON of another call.
    WrongShape,
    /// Lists in lists, a hundred thousand deep.
    DeepJson,
}

pub(super) fn refusal(status: StatusCode, body: Value) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}

fn json_body(body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}

/// The answer as documented: compressed if the client accepts that, 304 if nothing changed.
pub(super) fn healthy(body: String, headers: &HeaderMap, etags: bool) -> Response {
    let etag = format!("\"{:x}\"", fingerprint(&body));
    let known = headers.get(header::IF_NONE_MATCH);
    if etags && known.is_some_and(|known| *known == etag) {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    let accepts = headers
        .get(header::ACCEPT_ENCODING)
        .and_then(|v| v.to_str().ok());
    let mut response = match accepts.is_some_and(|accepts| accepts.contains("gzip")) {
        true => gzip_body(body.as_bytes()),
        false => json_body(body),
    };
    if etags {
        let etag = etag.parse().expect("ASCII");
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

fn gzip_body(plain: &[u8]) -> Response {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(plain).expect("memory");
    let mut response = json_body(encoder.finish().expect("memory"));
    let gzip = header::HeaderValue::from_static("gzip");
    response
        .headers_mut()
        .insert(header::CONTENT_ENCODING, gzip);
    response
}

fn fingerprint(body: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}

pub(super) async fn faulty(fault: RacingFault, body: String) -> Response {
    let half = body.as_bytes()[..body.len() / 2].to_vec();
    match fault {
        RacingFault::Refuse => unreachable!("a closed port takes no request"),
        RacingFault::Unauthorized => refusal(
            StatusCode::UNAUTHORIZED,
            json!({"detail": format!("user {USERNAME} with {PASSWORD} is not on this plan")}),
        ),
        RacingFault::Forbidden => refusal(
            StatusCode::FORBIDDEN,
            json!({"detail": "Pro plan required"}),
        ),
        RacingFault::NotFound => refusal(StatusCode::NOT_FOUND, json!({"detail": "Not Found"})),
        RacingFault::HtmlNotFound => (
            StatusCode::NOT_FOUND,
            [(header::CONTENT_TYPE, "text/html")],
            "<!doctype html><title>Not Found</title>",
        )
            .into_response(),
        RacingFault::Unprocessable => refusal(
            StatusCode::UNPROCESSABLE_ENTITY,
            json!({"detail": [{"loc": ["query", "date"], "msg": "invalid date format", "type": "value_error"}]}),
        ),
        RacingFault::TooMany { retry_after } => {
            let detail = json!({"detail": "Too many requests"});
            let mut response = refusal(StatusCode::TOO_MANY_REQUESTS, detail);
            if let Some(wait) = retry_after {
                let wait = header::HeaderValue::from_static(wait);
                response.headers_mut().insert(header::RETRY_AFTER, wait);
            }
            response
        }
        RacingFault::Status(code) => {
            refusal(StatusCode::from_u16(code).expect("a status"), json!({}))
        }
        RacingFault::Html => (
            [(header::CONTENT_TYPE, "text/html")],
            "<!doctype html><title>Just a moment</title>",
        )
            .into_response(),
        RacingFault::Truncated => json_body(half),
        // The pause lets the first half leave: without it the client would not even see a status.
        RacingFault::DropConnection => {
            let cut = stream::once(async {
                tokio::task::yield_now().await;
                Err(std::io::Error::other("connection lost"))
            });
            let first = stream::once(async { Ok(Bytes::from(half)) });
            json_body(Body::from_stream(first.chain(cut)))
        }
        RacingFault::Redirect => {
            let to = format!("https://{USERNAME}:{PASSWORD}@elsewhere.example/login");
            (StatusCode::FOUND, [(header::LOCATION, to)]).into_response()
        }
        RacingFault::Bomb => gzip_body(&vec![b' '; 20 * 1024 * 1024]),
        RacingFault::Oversize => {
            let begin = Bytes::from_static(br#"{"racecards":[{"race_name":""#);
            let chunk = Bytes::from(vec![b'x'; 1024 * 1024]);
            let end = Bytes::from_static(br#""}]}"#);
            let chunks = std::iter::once(begin)
                .chain(std::iter::repeat_n(chunk, 17))
                .chain([end]);
            json_body(Body::from_stream(stream::iter(
                chunks.map(Ok::<_, Infallible>),
            )))
        }
        RacingFault::Hang => std::future::pending().await,
        RacingFault::SlowDrip => {
            let beat = tokio::time::interval(Duration::from_millis(20));
            let bytes = body.into_bytes().into_iter();
            let drip = stream::unfold((beat, bytes), |(mut beat, mut bytes)| async move {
                beat.tick().await;
                let byte = Bytes::from(vec![bytes.next()?]);
                Some((Ok::<_, Infallible>(byte), (beat, bytes)))
            });
            json_body(Body::from_stream(drip))
        }
        RacingFault::EmptyCards => json_body(
            json!({"racecards": [], "total": 0, "limit": 500, "skip": 0, "query": []}).to_string(),
        ),
        RacingFault::HalfCards | RacingFault::ShortPage => json_body(body),
        RacingFault::WrongShape => json_body(json!({"results": [], "total": 0}).to_string()),
        RacingFault::DeepJson => {
            let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
            json_body(format!("{{\"racecards\":[{open}{close}],\"total\":1}}"))
        }
    }
}
