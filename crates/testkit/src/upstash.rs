//! A stand-in for Upstash: its REST protocol over a real Redis, with the faults that Upstash and its local
//! look-alikes were seen to have. The cache's tests use it, and the official clients are run against it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::resp::{RespClient, RespReply};

const MAX_REQUEST_BYTES: usize = 10_000_000;

/// A script flag that Upstash accepts and Redis refuses.
const UPSTASH_SHEBANG: &str = "#!lua flags=allow-key-locking\n";

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum UpstashFault {
    Unauthorized,
    Status500,
    /// Status 200 with failed items in it.
    ItemErrors,
    /// Status 200, and the last item of a pipeline has neither a result nor an error.
    EmptyItem,
    Unknown400,
    NoPerm,
    Hang,
    Html,
    TruncatedJson,
    Redirect,
}

pub struct UpstashStandIn {
    address: std::net::SocketAddr,
    shared: Arc<StandInState>,
    server: JoinHandle<()>,
}

struct StandInState {
    redis_port: u16,
    token: String,
    fault: Mutex<Option<UpstashFault>>,
    billed: AtomicU64,
    requests: AtomicU64,
    /// Sync tokens that clients sent back.
    sync_tokens: Mutex<Vec<String>>,
    /// The names of the headers that every request since the last call of `common_headers` had.
    common_headers: Mutex<Option<BTreeSet<String>>>,
}

impl UpstashStandIn {
    pub async fn start(redis_port: u16, token: &str) -> Self {
        let shared = Arc::new(StandInState {
            redis_port,
            token: token.into(),
            fault: Mutex::new(None),
            billed: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            sync_tokens: Mutex::default(),
            common_headers: Mutex::default(),
        });
        let router = Router::new()
            .route("/", post(one))
            .route("/pipeline", post(pipeline))
            .route("/multi-exec", post(multi_exec))
            .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
            .with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("serve");
        });
        Self {
            address,
            shared,
            server,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn fail(&self, fault: impl Into<Option<UpstashFault>>) {
        *self.shared.fault.lock().expect("unpoisoned") = fault.into();
    }

    /// Commands that Upstash would charge for.
    pub fn billed(&self) -> u64 {
        self.shared.billed.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Takes the names of the headers that every request since the last call had.
    pub fn common_headers(&self) -> BTreeSet<String> {
        let common = self
            .shared
            .common_headers
            .lock()
            .expect("unpoisoned")
            .take();
        common.expect("a request")
    }

    pub fn sync_tokens(&self) -> Vec<String> {
        self.shared.sync_tokens.lock().expect("unpoisoned").clone()
    }
}

impl Drop for UpstashStandIn {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn one(State(shared): State<Arc<StandInState>>, headers: HeaderMap, body: Bytes) -> Response {
    if let Some(refusal) = shared.admit(&headers, false).await {
        return refusal;
    }
    let Some(command) = parse(&body).as_ref().and_then(arguments) else {
        return error(StatusCode::BAD_REQUEST, "ERR failed to parse command");
    };
    shared.bill(1);
    let reply = shared.run(&[command], false).await;
    match reply.as_deref() {
        Ok([RespReply::Error(text)]) => error(StatusCode::BAD_REQUEST, text),
        Ok([reply, ..]) => shared.answer(item(reply, wants_base64(&headers))),
        Ok([]) => error(StatusCode::BAD_REQUEST, "ERR empty answer"),
        Err(_) => error(StatusCode::BAD_REQUEST, "ERR connection refused"),
    }
}

async fn pipeline(
    State(shared): State<Arc<StandInState>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    shared.many(&headers, &body, false).await
}

async fn multi_exec(
    State(shared): State<Arc<StandInState>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    shared.many(&headers, &body, true).await
}

impl StandInState {
    async fn many(&self, headers: &HeaderMap, body: &[u8], atomic: bool) -> Response {
        if let Some(refusal) = self.admit(headers, true).await {
            return refusal;
        }
        let commands = parse(body).and_then(|value| {
            let commands = value.as_array()?.iter().map(arguments);
            commands.collect::<Option<Vec<_>>>()
        });
        let Some(commands) = commands else {
            return error(StatusCode::BAD_REQUEST, "ERR failed to parse pipeline");
        };
        self.bill(commands.len() as u64);
        match self.run(&commands, atomic).await {
            Ok(replies) => {
                let base64 = wants_base64(headers);
                let items = replies.iter().map(|reply| item(reply, base64));
                let mut items: Vec<Value> = items.collect();
                let fault = *self.fault.lock().expect("unpoisoned");
                if fault == Some(UpstashFault::EmptyItem) {
                    *items.last_mut().expect("a command") = json!({});
                }
                self.answer(items.into())
            }
            Err(_) => error(StatusCode::BAD_REQUEST, "ERR connection refused"),
        }
    }

    /// A refusal: wrong credentials, or the current fault.
    async fn admit(&self, headers: &HeaderMap, is_pipeline: bool) -> Option<Response> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        self.note_headers(headers);
        let bearer = format!("Bearer {}", self.token);
        let sent = headers.get(header::AUTHORIZATION);
        let fault = *self.fault.lock().expect("unpoisoned");
        if sent.is_none_or(|sent| sent.as_bytes() != bearer.as_bytes())
            || fault == Some(UpstashFault::Unauthorized)
        {
            let text = "WRONGPASS invalid or missing auth token";
            return Some(error(StatusCode::UNAUTHORIZED, text));
        }
        // A compatible local server does not parse a body without it; the official clients send it.
        let kind = headers.get(header::CONTENT_TYPE);
        if kind.is_none_or(|kind| kind.as_bytes() != b"application/json") {
            let text = "commands.map is not a function";
            return Some(error(StatusCode::INTERNAL_SERVER_ERROR, text));
        }
        if let Some(token) = headers.get("upstash-sync-token")
            && !token.is_empty()
        {
            let token = token.to_str().expect("text").to_owned();
            self.sync_tokens.lock().expect("unpoisoned").push(token);
        }
        let html = "<html><body>Bad gateway</body></html>";
        Some(match fault? {
            UpstashFault::Unauthorized | UpstashFault::EmptyItem => return None,
            UpstashFault::Status500 => error(StatusCode::INTERNAL_SERVER_ERROR, "ERR internal"),
            UpstashFault::ItemErrors if is_pipeline => {
                axum::Json(json!([{"error": "ERR connection refused"}])).into_response()
            }
            UpstashFault::ItemErrors => {
                axum::Json(json!({"error": "ERR connection refused"})).into_response()
            }
            UpstashFault::Unknown400 => error(StatusCode::BAD_REQUEST, "ERR something went wrong"),
            UpstashFault::NoPerm => {
                let text = "NOPERM this user has no permissions to run the 'unlink' command";
                error(StatusCode::BAD_REQUEST, text)
            }
            UpstashFault::Hang => std::future::pending().await,
            UpstashFault::Html => (StatusCode::OK, html).into_response(),
            UpstashFault::TruncatedJson => (StatusCode::OK, r#"{"result":"#).into_response(),
            UpstashFault::Redirect => {
                let to = [(header::LOCATION, "http://127.0.0.1:9/")];
                (StatusCode::TEMPORARY_REDIRECT, to).into_response()
            }
        })
    }

    fn note_headers(&self, headers: &HeaderMap) {
        let names: BTreeSet<String> = headers.keys().map(ToString::to_string).collect();
        let mut common = self.common_headers.lock().expect("unpoisoned");
        *common = Some(match common.take() {
            Some(common) => &common & &names,
            None => names,
        });
    }

    fn bill(&self, commands: u64) {
        self.billed.fetch_add(commands, Ordering::SeqCst);
    }

    fn answer(&self, body: Value) -> Response {
        let token = format!("sync-{}", self.requests.load(Ordering::SeqCst));
        ([("upstash-sync-token", token)], axum::Json(body)).into_response()
    }

    async fn run(
        &self,
        commands: &[Vec<Vec<u8>>],
        atomic: bool,
    ) -> std::io::Result<Vec<RespReply>> {
        let mut redis = RespClient::connect(self.redis_port).await?;
        if atomic {
            redis.command(&["MULTI"]).await?;
        }
        let mut replies = Vec::new();
        for command in commands {
            replies.push(redis.command(command).await?);
        }
        if atomic {
            return Ok(match redis.command(&["EXEC"]).await? {
                RespReply::Array(replies) => replies,
                other => vec![other],
            });
        }
        Ok(replies)
    }
}

fn parse(body: &[u8]) -> Option<Value> {
    serde_json::from_slice(body).ok()
}

/// A command as Redis takes it: numbers and flags become text, as Upstash does it.
fn arguments(command: &Value) -> Option<Vec<Vec<u8>>> {
    let arguments = command.as_array()?.iter().map(|argument| match argument {
        Value::String(text) => {
            let text = text.strip_prefix(UPSTASH_SHEBANG).unwrap_or(text);
            text.as_bytes().to_vec()
        }
        other => other.to_string().into_bytes(),
    });
    let arguments: Vec<_> = arguments.collect();
    (!arguments.is_empty()).then_some(arguments)
}

fn item(reply: &RespReply, base64: bool) -> Value {
    match reply {
        RespReply::Error(text) => json!({"error": text}),
        reply => json!({"result": value(reply, base64)}),
    }
}

fn value(reply: &RespReply, base64: bool) -> Value {
    match reply {
        RespReply::Nil => Value::Null,
        RespReply::Int(number) => json!(number),
        RespReply::Status(text) if text == "OK" => json!(text),
        RespReply::Status(text) | RespReply::Error(text) => string(text.as_bytes(), base64),
        RespReply::Bulk(bytes) => string(bytes, base64),
        RespReply::Array(items) => items.iter().map(|item| value(item, base64)).collect(),
    }
}

fn string(bytes: &[u8], base64: bool) -> Value {
    if base64 {
        return json!(BASE64_STANDARD.encode(bytes));
    }
    json!(String::from_utf8_lossy(bytes))
}

fn wants_base64(headers: &HeaderMap) -> bool {
    headers
        .get("upstash-encoding")
        .is_some_and(|encoding| encoding == "base64")
}

fn error(status: StatusCode, text: &str) -> Response {
    (status, axum::Json(json!({ "error": text }))).into_response()
}
