//! A local server that answers like The Racing API with the fixture's prices, and a production poller that reads from
//! it. The process measures of `write` and the poll cycles of `freshness` use both.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::fixture::Fixture;
use oddsd::clock::Clock;
use oddsd::live::EventBus;
use oddsd::poller::{Poller, PollerSettings};
use oddsd_feeds::Feed;
use oddsd_feeds::racing_api::{RacingApi, RacingApiSettings};
use oddsd_store::{CommitNotifier, LastChecked, Retention, Store};

const NO_RACES: &str = r#"{"racecards":[],"total":0,"limit":500,"skip":0,"query":[]}"#;
/// Longer than any run, so that nothing is cleaned up.
const KEEP_ALL: Duration = Duration::from_secs(365 * 24 * 3600);
/// The stand-in has no rate limit.
const UNLIMITED: f64 = 1_000_000.0;

/// The fixture that is served now; `None`: no races on any day.
type ServedFixture = Arc<Mutex<Option<Arc<Fixture>>>>;

pub struct FixtureProvider {
    address: SocketAddr,
    fixture: ServedFixture,
    accept_task: JoinHandle<()>,
}

impl FixtureProvider {
    pub async fn start(fixture: Fixture) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let fixture = Arc::new(Mutex::new(Some(Arc::new(fixture))));
        let accept_task = tokio::spawn(accept_connections(listener, Arc::clone(&fixture)));
        Ok(Self {
            address,
            fixture,
            accept_task,
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Serves this fixture from now on.
    pub fn serve(&self, fixture: Fixture) {
        *self.fixture.lock() = Some(Arc::new(fixture));
    }

    /// Serves no races on any day from now on.
    pub fn serve_no_races(&self) {
        *self.fixture.lock() = None;
    }
}

impl Drop for FixtureProvider {
    fn drop(&mut self) {
        self.accept_task.abort();
    }
}

async fn accept_connections(listener: TcpListener, fixture: ServedFixture) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(answer_requests(stream, Arc::clone(&fixture)));
    }
}

/// Only the poller of this repository connects, so requests are well-formed.
async fn answer_requests(stream: TcpStream, fixture: ServedFixture) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let (mut request, mut line) = (String::new(), String::new());
        // An empty line, which ends a request, has two bytes.
        while stream.read_line(&mut line).await? > 2 {
            request.push_str(&line);
            line.clear();
        }
        if request.is_empty() {
            return Ok(());
        }
        let date = request.split_once("date=").map_or("", |(_, rest)| {
            rest.split(['&', ' ']).next().unwrap_or_default()
        });
        let served = fixture.lock().clone();
        let body = served.map_or_else(|| NO_RACES.to_owned(), |fixture| fixture.page_of(date));
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        stream.flush().await?;
    }
}

/// The daemon's poller, which reads from `base_url` without a rate limit.
pub fn build_poller(
    base_url: String,
    days: u16,
    store: Store,
    notifier: CommitNotifier,
) -> anyhow::Result<Poller> {
    let feed = RacingApi::new(RacingApiSettings {
        base_url,
        days,
        cards_per_second: UNLIMITED,
        ..RacingApiSettings::new("bench".to_owned().into(), "bench".to_owned().into())
    })?;
    let settings = PollerSettings {
        max_removed_fraction: 0.5,
        // The answers of a benchmark follow each other at once.
        recheck_removed_after: Duration::ZERO,
        retention: Retention {
            history: KEEP_ALL,
            finished_events: KEEP_ALL,
        },
    };
    Ok(Poller::new(
        Feed::RacingApi(Box::new(feed)),
        store,
        EventBus::new(),
        Clock::Real,
        settings,
        notifier,
        LastChecked::default(),
    ))
}
