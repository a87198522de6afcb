//! A stand-in for The Racing API: the documented calls over given races, and every fault of [`RacingFault`].
//! Feed, daemon and command tests use it.

mod answers;
pub mod races;

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
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

pub use self::answers::RacingFault;
use self::answers::{faulty, healthy, refusal};
use crate::ports;
use crate::wait::within;

pub const USERNAME: &str = "oddsd-tests";
pub const PASSWORD: &str = "paddock-pass";
/// `USERNAME:PASSWORD` as Basic credentials.
const AUTHORIZATION: &str = "Basic b2Rkc2QtdGVzdHM6cGFkZG9jay1wYXNz";
const BASE_PATH: &str = "/v1";

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    /// Without the base: `/racecards/pro`.
    pub path: String,
    pub query: String,
    pub at: Instant,
    /// It carried `If-None-Match`.
    pub conditional: bool,
}

enum RaceSource {
    Cards(Vec<Value>),
    Day {
        day: Box<dyn SimulatedDay>,
        now: DateTime<Utc>,
    },
}

/// A race day that changes with time. The tests implement it for the daemon's simulator.
pub trait SimulatedDay: Send {
    /// The whole card, as the provider answers.
    fn card_at(&mut self, now: DateTime<Utc>) -> String;

    /// One race, as the provider answers.
    fn race_at(&mut self, id: &str, now: DateTime<Utc>) -> Option<String>;
}

struct Inner {
    source: RaceSource,
    fault: Option<RacingFault>,
    /// How many more requests fail like this; later ones succeed.
    next: Option<(RacingFault, usize)>,
    faults_on: Vec<(String, RacingFault)>,
    requests: Vec<SeenRequest>,
    etags: bool,
    page_moves: bool,
}

struct ProviderState {
    inner: Mutex<Inner>,
    arrived: Notify,
}

impl ProviderState {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("unpoisoned")
    }
}

/// A running stand-in. Dropped, it closes its port and its connections.
pub struct RacingProvider {
    port: u16,
    shared: Arc<ProviderState>,
    server: Mutex<Option<JoinHandle<()>>>,
}

impl RacingProvider {
    /// On a free port of 127.0.0.1, serving a day without races at first.
    pub async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = ports::listener();
        let port = listener.local_addr().expect("bound").port();
        let shared = Arc::new(ProviderState {
            inner: Mutex::new(Inner {
                source: RaceSource::Cards(Vec::new()),
                fault: None,
                next: None,
                faults_on: Vec::new(),
                requests: Vec::new(),
                etags: false,
                page_moves: false,
            }),
            arrived: Notify::new(),
        });
        let server = tokio::spawn(accept(listener, shared.clone()));
        Self {
            port,
            shared,
            server: Mutex::new(Some(server)),
        }
    }

    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}{BASE_PATH}", self.port)
    }

    /// These races, as the JSON that they are.
    pub fn serve_cards(&self, races: Vec<Value>) {
        self.shared.inner().source = RaceSource::Cards(races);
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

    /// A simulated day, as it is at `now` until [`RacingProvider::set_time`] moves it on.
    pub fn serve_day(&self, day: Box<dyn SimulatedDay>, now: DateTime<Utc>) {
        self.shared.inner().source = RaceSource::Day { day, now };
    }

    /// Moves the simulated day to another moment.
    pub fn set_time(&self, moment: DateTime<Utc>) {
        if let RaceSource::Day { now, .. } = &mut self.shared.inner().source {
            *now = moment;
        }
    }

    /// Answers carry an `ETag`, and a matching `If-None-Match` gets 304.
    pub fn use_etags(&self) {
        self.shared.inner().etags = true;
    }

    /// From now on the first race leaves the list after each page: pages never fit together.
    pub fn move_pages(&self) {
        self.shared.inner().page_moves = true;
    }

    /// Every request fails like this.
    pub async fn fault(&self, fault: RacingFault) {
        if fault == RacingFault::Refuse {
            let server = self.server.lock().expect("unpoisoned").take();
            if let Some(server) = server {
                server.abort();
                let _ = server.await;
            }
        }
        self.shared.inner().fault = Some(fault);
    }

    /// The next `count` requests fail like this, and no later one.
    pub fn fault_next(&self, fault: RacingFault, count: usize) {
        assert_ne!(
            fault,
            RacingFault::Refuse,
            "a port is closed for all requests"
        );
        self.shared.inner().next = Some((fault, count));
    }

    /// Requests whose path and query contain `part` fail like this.
    pub fn fault_on(&self, part: &str, fault: RacingFault) {
        assert_ne!(
            fault,
            RacingFault::Refuse,
            "a port is closed for all requests"
        );
        self.shared.inner().faults_on.push((part.to_owned(), fault));
    }

    /// All faults are over; a closed port opens again under the same number.
    pub async fn clear(&self) {
        {
            let mut inner = self.shared.inner();
            inner.fault = None;
            inner.faults_on.clear();
        }
        let closed = self.server.lock().expect("unpoisoned").is_none();
        if closed {
            let listener = TcpListener::bind(("127.0.0.1", self.port)).await;
            let listener = listener.expect("the provider's own port");
            let server = tokio::spawn(accept(listener, self.shared.clone()));
            *self.server.lock().expect("unpoisoned") = Some(server);
        }
    }

    /// All requests so far, in the order in which they arrived.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.shared.inner().requests.clone()
    }

    /// Waits until so many requests have arrived in all.
    #[track_caller]
    pub fn until_requests(&self, count: usize) -> impl Future<Output = ()> {
        let shared = Arc::clone(&self.shared);
        within(&format!("{count} requests"), async move {
            loop {
                let arrived = shared.arrived.notified();
                if shared.inner().requests.len() >= count {
                    return;
                }
                arrived.await;
            }
        })
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
async fn accept(listener: TcpListener, shared: Arc<ProviderState>) {
    let service = TowerToHyperService::new(Router::new().fallback(answer).with_state(shared));
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service.clone());
        connections.spawn(connection);
    }
}

async fn answer(State(shared): State<Arc<ProviderState>>, request: Request<Body>) -> Response {
    let uri = request.uri().clone();
    let headers = request.headers();
    let path = uri.path().strip_prefix(BASE_PATH).unwrap_or(uri.path());
    let query = uri.query().unwrap_or_default();
    let (fault, body, etags) = {
        let mut inner = shared.inner();
        inner.requests.push(SeenRequest {
            path: path.to_owned(),
            query: query.to_owned(),
            at: Instant::now(),
            conditional: headers.contains_key(header::IF_NONE_MATCH),
        });
        let target = format!("{path}?{query}");
        let on = inner
            .faults_on
            .iter()
            .find(|(part, _)| target.contains(part));
        let fault = on.map(|(_, fault)| fault.clone()).or(inner.fault.clone());
        let fault = inner.next().or(fault);
        let body = inner.body(path, query, fault.as_ref());
        (fault, body, inner.etags)
    };
    shared.arrived.notify_waiters();
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
        None => healthy(body, headers, etags),
    }
}

impl Inner {
    fn next(&mut self) -> Option<RacingFault> {
        let (fault, left) = self.next.as_mut()?;
        let fault = fault.clone();
        *left -= 1;
        if *left == 0 {
            self.next = None;
        }
        Some(fault)
    }

    /// The answer of a documented call; `None` is 404.
    fn body(&mut self, path: &str, query: &str, fault: Option<&RacingFault>) -> Option<String> {
        if path == "/racecards/pro" {
            return Some(self.cards(query, fault).to_string());
        }
        let id = path.strip_prefix("/racecards/")?.strip_suffix("/pro")?;
        match &mut self.source {
            RaceSource::Cards(races) => {
                let race = races.iter().find(|race| race["race_id"] == id)?;
                Some(race.to_string())
            }
            RaceSource::Day { day, now } => day.race_at(id, *now),
        }
    }

    fn cards(&mut self, query: &str, fault: Option<&RacingFault>) -> Value {
        let all = match &mut self.source {
            RaceSource::Cards(races) => races.clone(),
            RaceSource::Day { day, now } => {
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
        if fault == Some(&RacingFault::HalfCards) {
            races.truncate(races.len() / 2);
        }
        let total = races.len();
        if fault == Some(&RacingFault::ShortPage) {
            races.truncate(races.len() / 2);
        }
        let (limit, skip) = (number("limit", 500), number("skip", 0));
        let page: Vec<Value> = races.into_iter().skip(skip).take(limit).collect();
        if self.page_moves
            && let RaceSource::Cards(races) = &mut self.source
            && !races.is_empty()
        {
            races.remove(0);
        }
        json!({"racecards": page, "total": total, "limit": limit, "skip": skip, "query": asked})
    }
}
