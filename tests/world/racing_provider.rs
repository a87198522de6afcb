//! The Racing API on this machine: the documented calls over whatever a story wants to serve, and
//! every way to fail that a story can ask for.
//!
//! ```ignore
//! let provider = RacingProvider::start().await;
//! provider.serve_cards(vec![json!({"race_id": "rac_1", …})]);
//! let mut feed = RacingApi::new(provider.settings())?;
//! provider.fault(Fault::TooMany { retry_after: Some("7") }).await;
//! ```

// Not every story needs every word of the stand-in.
#![allow(dead_code)]

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use futures_util::stream;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use oddsd::feed::racing_api::RacingApiSettings;
use oddsd::feed::simulator::RaceDay;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

pub const USERNAME: &str = "oddsd-tests";
pub const PASSWORD: &str = "paddock-pass";
/// `USERNAME:PASSWORD` as Basic credentials.
const AUTHORIZATION: &str = "Basic b2Rkc2QtdGVzdHM6cGFkZG9jay1wYXNz";
const BASE_PATH: &str = "/v1";
/// How long a story waits for a request before it fails.
const DEADLINE: Duration = Duration::from_secs(20);

/// A way to fail. It stays until [`RacingProvider::clear`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The port is closed, and open connections are cut.
    Refuse,
    Unauthorized,
    Forbidden,
    NotFound,
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
    /// 200 and the first half of the answer, as if that were all.
    Truncated,
    /// The connection ends in the middle of the answer.
    DropConnection,
    Redirect,
    /// A small gzip body that becomes a very large one.
    Bomb,
    /// A plain body over the limit.
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

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Without the base: `/racecards/pro`.
    pub path: String,
    pub query: String,
    pub at: Instant,
    /// It carried `If-None-Match`.
    pub conditional: bool,
}

enum Source {
    Cards(Vec<Value>),
    Day {
        day: Box<RaceDay>,
        now: DateTime<Utc>,
    },
}

struct Inner {
    source: Source,
    fault: Option<Fault>,
    faults_on: Vec<(String, Fault)>,
    requests: Vec<Seen>,
    etags: bool,
    page_moves: bool,
}

struct Desk {
    inner: Mutex<Inner>,
    arrived: Notify,
}

impl Desk {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .expect("no story panics while it holds the desk")
    }
}

/// A running stand-in. Dropped, it closes its port and its connections.
pub struct RacingProvider {
    port: u16,
    desk: Arc<Desk>,
    server: Mutex<Option<JoinHandle<()>>>,
}

impl RacingProvider {
    /// On a free port of 127.0.0.1, serving a day without races until told otherwise.
    pub async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let desk = Arc::new(Desk {
            inner: Mutex::new(Inner {
                source: Source::Cards(Vec::new()),
                fault: None,
                faults_on: Vec::new(),
                requests: Vec::new(),
                etags: false,
                page_moves: false,
            }),
            arrived: Notify::new(),
        });
        let server = tokio::spawn(accept(listener, desk.clone()));
        Self {
            port,
            desk,
            server: Mutex::new(Some(server)),
        }
    }

    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}{BASE_PATH}", self.port)
    }

    /// Settings that reach this provider, with the right credentials and no waiting for a rate.
    pub fn settings(&self) -> RacingApiSettings {
        RacingApiSettings {
            base_url: self.base_url(),
            cards_per_second: 10_000.0,
            races_per_second: 10_000.0,
            ..RacingApiSettings::new(USERNAME.to_owned().into(), PASSWORD.to_owned().into())
        }
    }

    /// These races, as the JSON that they are.
    pub fn serve_cards(&self, races: Vec<Value>) {
        self.desk.inner().source = Source::Cards(races);
    }

    /// The races of a recorded answer.
    pub fn serve_recording(&self, file: &Path) {
        let text = std::fs::read_to_string(file).expect("a recording");
        let mut json: Value = serde_json::from_str(&text).expect("a recording is JSON");
        match json["body"]["racecards"].take() {
            Value::Array(races) => self.serve_cards(races),
            other => panic!("{} holds no racecards but {other}", file.display()),
        }
    }

    /// A simulated day, as it is at `now` until [`RacingProvider::at`] moves it on.
    pub fn serve_day(&self, day: RaceDay, now: DateTime<Utc>) {
        let day = Box::new(day);
        self.desk.inner().source = Source::Day { day, now };
    }

    /// Moves the simulated day to another moment.
    pub fn at(&self, moment: DateTime<Utc>) {
        if let Source::Day { now, .. } = &mut self.desk.inner().source {
            *now = moment;
        }
    }

    /// Answers carry an `ETag`, and a matching `If-None-Match` gets 304.
    pub fn use_etags(&self) {
        self.desk.inner().etags = true;
    }

    /// From now on the first race leaves the list after each page: pages never fit together.
    pub fn move_pages(&self) {
        self.desk.inner().page_moves = true;
    }

    /// Every request fails like this.
    pub async fn fault(&self, fault: Fault) {
        if fault == Fault::Refuse {
            let server = self.server.lock().expect("held briefly").take();
            if let Some(server) = server {
                server.abort();
                let _ = server.await;
            }
        }
        self.desk.inner().fault = Some(fault);
    }

    /// Requests whose path and query contain `part` fail like this.
    pub fn fault_on(&self, part: &str, fault: Fault) {
        assert_ne!(fault, Fault::Refuse, "a port is closed for all requests");
        self.desk.inner().faults_on.push((part.to_owned(), fault));
    }

    /// All faults are over; a closed port opens again under the same number.
    pub async fn clear(&self) {
        {
            let mut inner = self.desk.inner();
            inner.fault = None;
            inner.faults_on.clear();
        }
        let closed = self.server.lock().expect("held briefly").is_none();
        if closed {
            let listener = TcpListener::bind(("127.0.0.1", self.port)).await;
            let server = tokio::spawn(accept(listener.expect("our port"), self.desk.clone()));
            *self.server.lock().expect("held briefly") = Some(server);
        }
    }

    /// All requests so far, in the order in which they arrived.
    pub fn requests(&self) -> Vec<Seen> {
        self.desk.inner().requests.clone()
    }

    /// Waits until there have been so many requests in all.
    pub async fn until_requests(&self, count: usize) {
        let enough = async {
            loop {
                let arrived = self.desk.arrived.notified();
                if self.desk.inner().requests.len() >= count {
                    return;
                }
                arrived.await;
            }
        };
        let waited = tokio::time::timeout(DEADLINE, enough).await;
        let seen = self.desk.inner().requests.len();
        assert!(waited.is_ok(), "waited for {count} requests, saw {seen}");
    }
}

impl Drop for RacingProvider {
    fn drop(&mut self) {
        if let Some(server) = self.server.lock().ok().and_then(|mut s| s.take()) {
            server.abort();
        }
    }
}

/// The set owns the connections: when this task ends, so do they.
async fn accept(listener: TcpListener, desk: Arc<Desk>) {
    let service = TowerToHyperService::new(Router::new().fallback(answer).with_state(desk));
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service.clone());
        connections.spawn(connection);
    }
}

async fn answer(State(desk): State<Arc<Desk>>, request: Request<Body>) -> Response {
    let uri = request.uri().clone();
    let headers = request.headers();
    let path = uri.path().strip_prefix(BASE_PATH).unwrap_or(uri.path());
    let query = uri.query().unwrap_or_default();
    let (fault, body, etags) = {
        let mut inner = desk.inner();
        inner.requests.push(Seen {
            path: path.to_owned(),
            query: query.to_owned(),
            at: Instant::now(),
            conditional: headers.contains_key(header::IF_NONE_MATCH),
        });
        let place = format!("{path}?{query}");
        let on = inner
            .faults_on
            .iter()
            .find(|(part, _)| place.contains(part));
        let fault = on.map(|(_, fault)| fault.clone()).or(inner.fault.clone());
        let body = inner.body(path, query, fault.as_ref());
        (fault, body, inner.etags)
    };
    desk.arrived.notify_waiters();
    let authorization = headers.get(header::AUTHORIZATION);
    if authorization.is_none_or(|given| given != AUTHORIZATION) {
        return refusal(
            StatusCode::UNAUTHORIZED,
            json!({"detail": "Incorrect username or password"}),
        );
    }
    let Some(body) = body else {
        return refusal(StatusCode::NOT_FOUND, json!({"detail": "Not Found"}));
    };
    match fault {
        Some(fault) => faulty(fault, body).await,
        None => well(body, headers, etags),
    }
}

impl Inner {
    /// What the documented calls answer; `None` is 404.
    fn body(&mut self, path: &str, query: &str, fault: Option<&Fault>) -> Option<String> {
        if path == "/racecards/pro" {
            return Some(self.cards(query, fault).to_string());
        }
        let id = path.strip_prefix("/racecards/")?.strip_suffix("/pro")?;
        match &mut self.source {
            Source::Cards(races) => {
                let race = races.iter().find(|race| race["race_id"] == id)?;
                Some(race.to_string())
            }
            Source::Day { day, now } => day.race_at(id, *now),
        }
    }

    fn cards(&mut self, query: &str, fault: Option<&Fault>) -> Value {
        let all = match &mut self.source {
            Source::Cards(races) => races.clone(),
            Source::Day { day, now } => {
                let mut card: Value = serde_json::from_str(&day.card_at(*now)).expect("JSON");
                match card["racecards"].take() {
                    Value::Array(races) => races,
                    _ => Vec::new(),
                }
            }
        };
        let asked: Vec<(&str, &str)> = query.split('&').filter_map(|p| p.split_once('=')).collect();
        let value = |name| {
            asked
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, value)| *value)
        };
        let number = |name, default| value(name).and_then(|n| n.parse().ok()).unwrap_or(default);
        let regions: Vec<_> = asked.iter().filter(|(n, _)| *n == "region_codes").collect();
        let mut races: Vec<Value> = all
            .into_iter()
            .filter(|race| match (race["date"].as_str(), value("date")) {
                (Some(date), Some(wanted)) => date == wanted,
                _ => true,
            })
            .filter(|race| match race["region"].as_str() {
                Some(region) if !regions.is_empty() => regions
                    .iter()
                    .any(|(_, code)| code.eq_ignore_ascii_case(region)),
                _ => true,
            })
            .collect();
        if fault == Some(&Fault::HalfCards) {
            races.truncate(races.len() / 2);
        }
        let total = races.len();
        if fault == Some(&Fault::ShortPage) {
            races.truncate(races.len() / 2);
        }
        let (limit, skip) = (number("limit", 500), number("skip", 0));
        let page: Vec<Value> = races.into_iter().skip(skip).take(limit).collect();
        if self.page_moves
            && let Source::Cards(races) = &mut self.source
            && !races.is_empty()
        {
            races.remove(0);
        }
        json!({"racecards": page, "total": total, "limit": limit, "skip": skip, "query": asked})
    }
}

fn refusal(status: StatusCode, body: Value) -> Response {
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

/// The answer as documented: compressed where that is accepted, 304 where nothing changed.
fn well(body: String, headers: &HeaderMap, etags: bool) -> Response {
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

async fn faulty(fault: Fault, body: String) -> Response {
    let half = body.as_bytes()[..body.len() / 2].to_vec();
    match fault {
        Fault::Refuse => unreachable!("a closed port takes no request"),
        Fault::Unauthorized => refusal(
            StatusCode::UNAUTHORIZED,
            json!({"detail": format!("user {USERNAME} with {PASSWORD} is not on this plan")}),
        ),
        Fault::Forbidden => refusal(
            StatusCode::FORBIDDEN,
            json!({"detail": "Pro plan required"}),
        ),
        Fault::NotFound => refusal(StatusCode::NOT_FOUND, json!({"detail": "Not Found"})),
        Fault::Unprocessable => refusal(
            StatusCode::UNPROCESSABLE_ENTITY,
            json!({"detail": [{"loc": ["query", "date"], "msg": "invalid date format", "type": "value_error"}]}),
        ),
        Fault::TooMany { retry_after } => {
            let detail = json!({"detail": "Too many requests"});
            let mut response = refusal(StatusCode::TOO_MANY_REQUESTS, detail);
            if let Some(wait) = retry_after {
                let wait = header::HeaderValue::from_static(wait);
                response.headers_mut().insert(header::RETRY_AFTER, wait);
            }
            response
        }
        Fault::Status(code) => refusal(StatusCode::from_u16(code).expect("a status"), json!({})),
        Fault::Html => (
            [(header::CONTENT_TYPE, "text/html")],
            "<!doctype html><title>Just a moment</title>",
        )
            .into_response(),
        Fault::Truncated => json_body(half),
        Fault::DropConnection => json_body(Body::from_stream(stream::iter([
            Ok(Bytes::from(half)),
            Err(std::io::Error::other("the line went dead")),
        ]))),
        Fault::Redirect => {
            let to = format!("https://{USERNAME}:{PASSWORD}@elsewhere.example/login");
            (StatusCode::FOUND, [(header::LOCATION, to)]).into_response()
        }
        Fault::Bomb => gzip_body(&vec![b' '; 20 * 1024 * 1024]),
        Fault::Oversize => {
            let chunk = Bytes::from(vec![b' '; 1024 * 1024]);
            let chunks = std::iter::repeat_n(Ok::<_, Infallible>(chunk), 65);
            json_body(Body::from_stream(stream::iter(chunks)))
        }
        Fault::Hang => std::future::pending().await,
        Fault::SlowDrip => {
            let beat = tokio::time::interval(Duration::from_millis(20));
            let bytes = body.into_bytes().into_iter();
            let drip = stream::unfold((beat, bytes), |(mut beat, mut bytes)| async move {
                beat.tick().await;
                let byte = Bytes::from(vec![bytes.next()?]);
                Some((Ok::<_, Infallible>(byte), (beat, bytes)))
            });
            json_body(Body::from_stream(drip))
        }
        Fault::EmptyCards => json_body(
            json!({"racecards": [], "total": 0, "limit": 500, "skip": 0, "query": []}).to_string(),
        ),
        Fault::HalfCards | Fault::ShortPage => json_body(body),
        Fault::WrongShape => json_body(json!({"results": [], "total": 0}).to_string()),
        Fault::DeepJson => {
            let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
            json_body(format!("{{\"racecards\":[{open}{close}],\"total\":1}}"))
        }
    }
}
