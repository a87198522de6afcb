//! What other writers report: a batch of changes, stored before the answer says so.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use super::{Face, Problem};
use crate::model::{ChangeKind, EventId, Reported, nearest, plain_text};

const MOST_CHANGES: usize = 1_000;
const MOST_BYTES: usize = 1 << 20;
const LONGEST_NAME: usize = 64;
const LONGEST_VALUE: usize = 512;
/// Past this a number of JSON is no longer every whole one.
const EXACT: f64 = 9_007_199_254_740_992.0;
const RETRY_AFTER: &str = "5";
/// Requests that are read and stored at once: what they hold is bounded, however many are sent.
const AT_ONCE: usize = 16;
static PLACES: Semaphore = Semaphore::const_new(AT_ONCE);
/// A body that takes longer gives its place away.
const BODY_WITHIN: Duration = Duration::from_secs(30);
const SHAPE: &str = "send one change, an array of them, or {\"changes\": [...]}, e.g. \
                     {\"change\":\"row_changed\",\"table\":\"tlog\",\"op\":\"insert\",\"row\":{\"user_id\":3}}";

pub async fn report(State(face): State<Arc<Face>>, request: Request) -> Response {
    match reported(&face, request).await {
        Ok(answer) => answer,
        Err(problem) => problem.into_response(),
    }
}

/// As `Problem` is, for whoever sends anything else to this path.
pub async fn only_post() -> Response {
    let problem = Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path only answers to POST",
        SHAPE,
    );
    with(problem, header::ALLOW, "POST")
}

async fn reported(face: &Face, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    if let Some(refused) = refused(face.report_token.as_ref(), &head.headers) {
        return Ok(refused);
    }
    let _place = PLACES.acquire().await;
    let body = whole(&head.headers, body).await?;
    let items = items(&body)?;
    let (mut changes, mut rejected) = (Vec::with_capacity(items.len()), Vec::new());
    for (index, item) in items.iter().enumerate() {
        match change(item.get()) {
            Ok(change) => changes.push(change),
            Err(Bad { error, hint }) => {
                rejected.push(json!({ "index": index, "error": error, "hint": hint }));
            }
        }
    }
    if changes.is_empty() {
        let answer = json!({
            "error": if items.is_empty() { "there is no change in it" } else { "no change of these could be read" },
            "hint": SHAPE, "accepted": 0, "rejected": rejected,
        });
        return Ok(answered(StatusCode::BAD_REQUEST, &answer));
    }
    if let Err(why) = face.store.report(&changes).await {
        return Ok(with(Problem::store(&why), header::RETRY_AFTER, RETRY_AFTER));
    }
    face.bell.notify_one();
    let answer = json!({ "accepted": changes.len(), "rejected": rejected });
    Ok(answered(StatusCode::ACCEPTED, &answer))
}

/// What whoever does not show the token is told.
fn refused(token: Option<&SecretString>, headers: &HeaderMap) -> Option<Response> {
    let Some(token) = token else {
        let off = Problem::new(
            StatusCode::FORBIDDEN,
            "nobody may report changes here",
            "set REPORT_TOKEN and start the daemon again; then send it as Authorization: Bearer …",
        );
        return Some(off.into_response());
    };
    let shown = headers
        .get(header::AUTHORIZATION)
        .and_then(|shown| bearer(shown.as_bytes()));
    if shown.is_some_and(|shown| same(token.expose_secret().trim().as_bytes(), shown)) {
        return None;
    }
    let why = match shown {
        Some(_) => "this is not the token",
        None => "there is no token",
    };
    let problem = Problem::new(
        StatusCode::UNAUTHORIZED,
        why,
        "send the daemon's REPORT_TOKEN as Authorization: Bearer …",
    );
    Some(with(
        problem,
        header::WWW_AUTHENTICATE,
        "Bearer realm=\"oddsd\"",
    ))
}

fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then_some(token.trim_ascii())
}

/// How long it takes says nothing about where they differ.
fn same(token: &[u8], shown: &[u8]) -> bool {
    let mut differ = u8::from(token.len() != shown.len());
    for (n, byte) in shown.iter().enumerate() {
        differ |= byte ^ token.get(n % token.len().max(1)).unwrap_or(&0);
    }
    std::hint::black_box(differ) == 0
}

/// The body, if it is no longer than it may be: one that says so is not even read.
async fn whole(headers: &HeaderMap, body: Body) -> Result<axum::body::Bytes, Problem> {
    let too_long = || {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a request holds at most {MOST_CHANGES} changes in {MOST_BYTES} bytes"),
            "send the rest in another request",
        )
    };
    let told = headers.get(header::CONTENT_LENGTH);
    let told = told.and_then(|told| told.to_str().ok()?.parse::<usize>().ok());
    if told.is_some_and(|bytes| bytes > MOST_BYTES) {
        return Err(too_long());
    }
    match tokio::time::timeout(BODY_WITHIN, axum::body::to_bytes(body, MOST_BYTES)).await {
        // Also what ends in the middle: nobody hears that answer.
        Ok(body) => body.map_err(|_| too_long()),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not come within {} s", BODY_WITHIN.as_secs()),
            "send it again, in smaller batches",
        )),
    }
}

/// The changes, each still as it was sent: one that cannot be read spoils no other.
fn items(body: &[u8]) -> Result<Vec<&RawValue>, Problem> {
    #[derive(Deserialize)]
    struct Batch<'a> {
        #[serde(borrow)]
        changes: Option<Vec<&'a RawValue>>,
    }
    let unreadable = |why: serde_json::Error| {
        let why = plain_text(&why.to_string(), 200);
        Problem::new(
            StatusCode::BAD_REQUEST,
            format!("the body cannot be read: {why}"),
            SHAPE,
        )
    };
    let items: Vec<&RawValue> = match body.trim_ascii_start().first() {
        Some(b'[') => serde_json::from_slice(body).map_err(unreadable)?,
        _ => match serde_json::from_slice(body).map_err(unreadable)? {
            Batch {
                changes: Some(changes),
            } => changes,
            Batch { changes: None } => vec![serde_json::from_slice(body).map_err(unreadable)?],
        },
    };
    if items.len() > MOST_CHANGES {
        return Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!(
                "{} changes are more than the {MOST_CHANGES} of one request",
                items.len()
            ),
            "send the rest in another request",
        ));
    }
    Ok(items)
}

/// Why one change cannot be taken, and what to do.
struct Bad {
    error: String,
    hint: String,
}

fn bad<T>(error: impl Into<String>, hint: impl Into<String>) -> Result<T, Bad> {
    let (error, hint) = (error.into(), hint.into());
    Err(Bad { error, hint })
}

fn change(text: &str) -> Result<Reported, Bad> {
    let mut fields: Map<String, Value> = match serde_json::from_str(text) {
        Ok(fields) => fields,
        Err(_) => return bad("a change is an object", SHAPE),
    };
    let kind = match fields.remove("change") {
        Some(Value::String(kind)) => kind_of(&kind)?,
        _ => {
            return bad(
                "it has no \"change\"",
                format!("one of {}", kinds().join(", ")),
            );
        }
    };
    for (name, value) in &fields {
        match value {
            Value::Object(row) if name == "row" => {
                named(name)?;
                for (name, value) in row {
                    named(name)?;
                    scalar(name, value)?;
                }
            }
            value => {
                named(name)?;
                scalar(name, value)?;
            }
        }
    }
    let needed = |name: &str| match fields.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(()),
        _ => bad(
            format!("{} needs {name:?}", kind.as_str()),
            format!("add {name:?} with a text that is not empty"),
        ),
    };
    let event = match kind {
        ChangeKind::RowChanged => {
            needed("table")?;
            None
        }
        ChangeKind::TaskCompleted => {
            needed("task")?;
            None
        }
        _ => {
            needed("event_id")?;
            match fields.remove("event_id") {
                Some(Value::String(id)) => Some(EventId::new(id)),
                _ => None,
            }
        }
    };
    Ok(Reported {
        kind,
        event,
        detail: Value::Object(fields).to_string(),
    })
}

/// Removals by hand have a path of their own.
fn kinds() -> Vec<&'static str> {
    let kinds = ChangeKind::ALL.into_iter();
    kinds
        .filter(|kind| *kind != ChangeKind::Manual)
        .map(ChangeKind::as_str)
        .collect()
}

fn kind_of(text: &str) -> Result<ChangeKind, Bad> {
    let known = ChangeKind::parse(text).filter(|kind| *kind != ChangeKind::Manual);
    known.map_or_else(
        || {
            let shown = plain_text(text, LONGEST_NAME);
            let hint = match nearest(&shown, kinds()) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => format!("one of {}", kinds().join(", ")),
            };
            bad(format!("unknown change {shown:?}"), hint)
        },
        Ok,
    )
}

fn named(name: &str) -> Result<(), Bad> {
    let mut letters = name.chars();
    let begins = letters
        .next()
        .is_some_and(|first| first.is_alphabetic() || first == '_');
    if begins
        && letters.all(|letter| letter.is_alphanumeric() || letter == '_')
        && name.chars().count() <= LONGEST_NAME
    {
        return Ok(());
    }
    bad(
        format!("{:?} is no name of a field", plain_text(name, LONGEST_NAME)),
        format!("a letter, then letters, digits and _, at most {LONGEST_NAME}"),
    )
}

fn scalar(name: &str, value: &Value) -> Result<(), Bad> {
    match value {
        Value::Null | Value::Bool(_) => Ok(()),
        Value::String(text) if text.chars().count() <= LONGEST_VALUE => Ok(()),
        Value::String(_) => bad(
            format!("{name:?} is longer than {LONGEST_VALUE} characters"),
            "report what identifies a row, not what is in it",
        ),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.abs() >= EXACT => bad(
                format!("{name:?} is a number that JSON does not keep exactly"),
                "send it as a text",
            ),
            _ => Ok(()),
        },
        Value::Array(_) | Value::Object(_) => bad(
            format!("{name:?} is no single value"),
            "a text, a number, or true or false; the row's own fields go into \"row\"",
        ),
    }
}

fn with(problem: Problem, name: header::HeaderName, value: &'static str) -> Response {
    let mut answer = problem.into_response();
    answer
        .headers_mut()
        .insert(name, HeaderValue::from_static(value));
    answer
}

fn answered(status: StatusCode, answer: &Value) -> Response {
    let kind = [(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    )];
    (status, kind, answer.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_the_token() {
        assert!(same(b"secret", b"secret"));
        for other in [
            &b""[..],
            b"s",
            b"secre",
            b"secrets",
            b"secretsecret",
            b"Secret",
        ] {
            assert!(!same(b"secret", other), "{other:?}");
        }
        assert_eq!(bearer(b"bearer  x "), Some(&b"x"[..]));
        assert_eq!(bearer(b"Basic x"), None);
        assert_eq!(bearer(b"Bear"), None);
    }

    #[test]
    fn a_change_keeps_what_it_says() {
        let change = |text| change(text).map_err(|bad| bad.error);
        let told = change(r#"{"change":"price_changed","event_id":"rac_1","market":"win"}"#);
        assert_eq!(
            told,
            Ok(Reported {
                kind: ChangeKind::PriceChanged,
                event: Some("rac_1".into()),
                detail: r#"{"market":"win"}"#.into(),
            })
        );
        let number =
            change(r#"{"change":"row_changed","table":"t","row":{"id":123456789012345678901234}}"#);
        assert!(number.expect_err("too long").contains("exactly"));
    }
}
