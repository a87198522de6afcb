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

mod answers;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use chrono::{DateTime, Utc};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use oddsd::feed::racing_api::RacingApiSettings;
use oddsd::feed::simulator::RaceDay;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

pub use self::answers::Fault;
use self::answers::{faulty, refusal, well};
use super::{PATIENCE, ports};

pub const USERNAME: &str = "oddsd-tests";
pub const PASSWORD: &str = "paddock-pass";
/// `USERNAME:PASSWORD` as Basic credentials.
const AUTHORIZATION: &str = "Basic b2Rkc2QtdGVzdHM6cGFkZG9jay1wYXNz";
const BASE_PATH: &str = "/v1";

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
    /// How many more requests fail so, before all is well again.
    next: Option<(Fault, usize)>,
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
        let listener = ports::listener().await;
        let port = listener.local_addr().expect("bound").port();
        let desk = Arc::new(Desk {
            inner: Mutex::new(Inner {
                source: Source::Cards(Vec::new()),
                fault: None,
                next: None,
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

    /// The next `count` requests fail like this, and no later one.
    pub fn fault_next(&self, fault: Fault, count: usize) {
        assert_ne!(fault, Fault::Refuse, "a port is closed for all requests");
        self.desk.inner().next = Some((fault, count));
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
        let waited = tokio::time::timeout(PATIENCE, enough).await;
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
        let fault = inner.next().or(fault);
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
    fn next(&mut self) -> Option<Fault> {
        let (fault, left) = self.next.as_mut()?;
        let fault = fault.clone();
        *left -= 1;
        if *left == 0 {
            self.next = None;
        }
        Some(fault)
    }

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
