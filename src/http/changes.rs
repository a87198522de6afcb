//! `POST /v1/changes`: other programs report a batch of changes, which is stored in the outbox before the
//! response is sent. The relay then invalidates by the rules.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use super::{AppState, Problem, json_response};
use oddsd_core::model::{
    ChangeKind, EventId, ExternalChange, sanitize_text, strip_byte_order_mark, suggest,
};

const MAX_CHANGES: usize = 1_000;
const MAX_BYTES: usize = 1 << 20;
const MAX_NAME_CHARS: usize = 64;
const MAX_VALUE_CHARS: usize = 512;
/// From here on a double cannot represent every integer.
const EXACT: f64 = 9_007_199_254_740_992.0;
const RETRY_AFTER: &str = "5";
/// Bounds the memory of requests that are read and stored at the same time.
static PERMITS: Semaphore = Semaphore::const_new(16);
/// Time for a body to arrive. A slower request gives its permit back.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const SHAPE: &str = "send one change, an array of them, or {\"changes\": [...]}, e.g. \
                     {\"change\":\"row_changed\",\"table\":\"tlog\",\"op\":\"insert\",\"row\":{\"user_id\":3}}";

pub async fn method_not_allowed() -> Response {
    let problem = Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path only accepts POST",
        SHAPE,
    );
    ([(header::ALLOW, "POST")], problem).into_response()
}

pub async fn report(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    if let Some(refusal) = check_token(state.report_token.as_ref(), &head.headers) {
        return Ok(refusal);
    }
    let _permit = PERMITS.acquire().await;
    let body = read_body(&head.headers, body).await?;
    let items = items(&body)?;
    let (mut changes, mut rejected) = (Vec::with_capacity(items.len()), Vec::new());
    for (index, item) in items.iter().enumerate() {
        match parse_change(item.get()) {
            Ok(change) => changes.push(change),
            Err(Problem { error, hint, .. }) => {
                rejected.push(json!({ "index": index, "error": error, "hint": hint }));
            }
        }
    }
    if changes.is_empty() {
        let error = match items.is_empty() {
            true => "the request holds no change",
            false => "no change of the request is valid",
        };
        let body = json!({ "error": error, "hint": SHAPE, "accepted": 0, "rejected": rejected });
        return Ok(json_response(StatusCode::BAD_REQUEST, body.to_string()));
    }
    if let Err(why) = state.store.report_changes(&changes).await {
        return Ok(([(header::RETRY_AFTER, RETRY_AFTER)], Problem::from(why)).into_response());
    }
    state.relay_wakeup.notify_one();
    let body = json!({ "accepted": changes.len(), "rejected": rejected });
    Ok(json_response(StatusCode::ACCEPTED, body.to_string()))
}

/// The response to a request without the right token; `None` if the token is right.
fn check_token(token: Option<&SecretString>, headers: &HeaderMap) -> Option<Response> {
    let Some(token) = token else {
        let off = Problem::new(
            StatusCode::FORBIDDEN,
            "reports of changes are off",
            "set REPORT_TOKEN and restart the daemon; then send it as Authorization: Bearer …",
        );
        return Some(off.into_response());
    };
    let sent = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| bearer(value.as_bytes()));
    let error = match sent {
        Some(sent) if is_token(token.expose_secret().trim().as_bytes(), sent) => return None,
        Some(_) => "the token is wrong",
        None => "the request has no token",
    };
    let problem = Problem::new(
        StatusCode::UNAUTHORIZED,
        error,
        "send the daemon's REPORT_TOKEN as Authorization: Bearer …",
    );
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer realm=\"oddsd\"")];
    Some((challenge, problem).into_response())
}

fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then_some(token.trim_ascii())
}

/// Compares in constant time, so that the duration does not reveal a common beginning.
fn is_token(token: &[u8], sent: &[u8]) -> bool {
    token.ct_eq(sent).into()
}

/// Reads the body up to the limit. A body whose declared length is over it is not read at all.
async fn read_body(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let too_long = || {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a request holds at most {MAX_CHANGES} changes in {MAX_BYTES} bytes"),
            "send the rest in another request",
        )
    };
    let declared = headers.get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|bytes| bytes > MAX_BYTES) {
        return Err(too_long());
    }
    match tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, MAX_BYTES)).await {
        // Also a body whose connection broke; its client gets no response.
        Ok(body) => body.map_err(|_| too_long()),
        Err(_) => {
            let seconds = BODY_TIMEOUT.as_secs();
            let error = format!("the body did not arrive within {seconds} s");
            let hint = "send it again, in smaller batches";
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, error, hint))
        }
    }
}

/// Splits the body into its changes. Each stays raw, so that an invalid one does not affect the others.
fn items(body: &[u8]) -> Result<Vec<&RawValue>, Problem> {
    #[derive(Deserialize)]
    struct ReportBatch<'a> {
        #[serde(borrow)]
        changes: Option<Vec<&'a RawValue>>,
    }
    let unreadable = |why: serde_json::Error| {
        let why = sanitize_text(&why.to_string(), 200);
        Problem::bad_request(format!("the body cannot be read: {why}"), SHAPE)
    };
    let body = strip_byte_order_mark(body);
    let items: Vec<&RawValue> = match body.trim_ascii_start().first() {
        Some(b'[') => serde_json::from_slice(body).map_err(unreadable)?,
        _ => match serde_json::from_slice(body).map_err(unreadable)? {
            ReportBatch {
                changes: Some(changes),
            } => changes,
            ReportBatch { changes: None } => {
                vec![serde_json::from_slice(body).map_err(unreadable)?]
            }
        },
    };
    if items.len() > MAX_CHANGES {
        return Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!(
                "{} changes are more than the {MAX_CHANGES} of one request",
                items.len()
            ),
            "send the rest in another request",
        ));
    }
    Ok(items)
}

/// A change that is rejected alone.
fn invalid<T>(error: impl Into<String>, hint: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::bad_request(error, hint))
}

fn parse_change(text: &str) -> Result<ExternalChange, Problem> {
    let Ok(mut fields) = serde_json::from_str::<Map<String, Value>>(text) else {
        return invalid("a change must be an object", SHAPE);
    };
    let kind = match fields.remove("change") {
        Some(Value::String(kind)) => kind_of(&kind)?,
        _ => {
            let hint = format!("one of {}", kinds().join(", "));
            return invalid("the member \"change\" is missing", hint);
        }
    };
    for (name, value) in &fields {
        match value {
            Value::Object(row) if name == "row" => {
                for (name, value) in row {
                    check_field(name, value)?;
                }
            }
            value => check_field(name, value)?,
        }
    }
    let identifier = match kind {
        ChangeKind::RowChanged => "table",
        ChangeKind::TaskCompleted => "task",
        _ => "event_id",
    };
    let event = match fields.get(identifier) {
        Some(Value::String(id)) if !id.is_empty() => {
            (identifier == "event_id").then(|| EventId::new(id))
        }
        _ => {
            return invalid(
                format!("{} needs {identifier:?}", kind.as_str()),
                format!("add {identifier:?} with a text that is not empty"),
            );
        }
    };
    if event.is_some() {
        fields.remove(identifier);
    }
    Ok(ExternalChange {
        kind,
        event,
        detail: Value::Object(fields).to_string(),
    })
}

/// The changes that may be reported. Manual removals are requested by `oddsd invalidate`.
fn kinds() -> Vec<&'static str> {
    let kinds = ChangeKind::ALL.into_iter();
    kinds
        .filter(|kind| *kind != ChangeKind::Manual)
        .map(ChangeKind::as_str)
        .collect()
}

fn kind_of(text: &str) -> Result<ChangeKind, Problem> {
    if let Some(kind) = ChangeKind::parse(text).filter(|kind| *kind != ChangeKind::Manual) {
        return Ok(kind);
    }
    let shown = sanitize_text(text, MAX_NAME_CHARS);
    let hint = match suggest(&shown, kinds()) {
        Some(meant) => format!("did you mean {meant:?}?"),
        None => format!("one of {}", kinds().join(", ")),
    };
    invalid(format!("unknown change {shown:?}"), hint)
}

fn check_field(name: &str, value: &Value) -> Result<(), Problem> {
    let mut letters = name.chars();
    let begins = letters
        .next()
        .is_some_and(|first| first.is_alphabetic() || first == '_');
    let is_name = begins
        && letters.all(|letter| letter.is_alphanumeric() || letter == '_')
        && name.chars().count() <= MAX_NAME_CHARS;
    if !is_name {
        let shown = sanitize_text(name, MAX_NAME_CHARS);
        return invalid(
            format!("{shown:?} is not a field name"),
            format!("a letter, then letters, digits and _, at most {MAX_NAME_CHARS}"),
        );
    }
    match value {
        Value::String(text) if text.chars().count() > MAX_VALUE_CHARS => invalid(
            format!("{name:?} is longer than {MAX_VALUE_CHARS} characters"),
            "report the columns that identify a row, not its content",
        ),
        Value::Number(number)
            if number.is_f64() && number.as_f64().is_some_and(|float| float.abs() >= EXACT) =>
        {
            invalid(
                format!("{name:?} is a number that JSON does not keep exactly"),
                "send it as a text",
            )
        }
        Value::Array(_) | Value::Object(_) => invalid(
            format!("{name:?} is not a single value"),
            "send a text, a number, or true or false; the row's own fields go into \"row\"",
        ),
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Number(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_token_is_accepted() {
        assert!(is_token(b"secret", b"secret"));
        for other in ["", "s", "secre", "secrets", "secretsecret", "Secret"] {
            assert!(!is_token(b"secret", other.as_bytes()), "{other:?}");
        }
        assert_eq!(bearer(b"bearer  x "), Some(&b"x"[..]));
        assert_eq!(bearer(b"Basic x"), None);
        assert_eq!(bearer(b"Bear"), None);
    }

    #[test]
    fn fields_of_a_change_are_kept() {
        let parse = |text| parse_change(text).map_err(|invalid| invalid.error);
        let change = parse(r#"{"change":"price_changed","event_id":"rac_1","market":"win"}"#);
        assert_eq!(
            change,
            Ok(ExternalChange {
                kind: ChangeKind::PriceChanged,
                event: Some("rac_1".into()),
                detail: r#"{"market":"win"}"#.into(),
            })
        );
        let number =
            parse(r#"{"change":"row_changed","table":"t","row":{"id":123456789012345678901234}}"#);
        assert!(number.expect_err("too long").contains("exactly"));
    }
}
