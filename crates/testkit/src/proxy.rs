//! A TCP proxy between a client and a loopback server that delays, holds, cuts or refuses the traffic at
//! an exact byte, and counts round trips and bytes. Tests of faults and benches of remote servers use it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::ports;
use crate::wait::within;

/// Pieces under way; the sender waits beyond that, as for a full TCP window.
const IN_FLIGHT: usize = 1024;

/// The proxy's treatment of traffic from now on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ProxyMode {
    Pass,
    /// No answer comes back; connections stay open.
    Hang,
    /// Nothing passes, in either direction; connections stay open.
    Stop,
    /// As `Stop` for the connections that are open now; new ones work.
    StopOpen,
    /// Every connection ends, new ones too.
    Cut,
    /// Each round trip takes this much longer, half of it each way. Bytes travel one behind the other: the
    /// delay is not paid again for each.
    Slow(Duration),
    /// Every connection ends once the client has sent this many bytes more, which still arrive.
    CutAfter(u64),
    /// The server gets the request with this text in it; every connection ends instead of its answer.
    CutAnswerTo(&'static str),
    /// The server gets the request with this text in it and answers; the answer is held until another
    /// mode is set. All other traffic passes.
    HoldAnswerTo(&'static str),
}

#[derive(Default)]
struct TrafficCounts {
    round_trips: AtomicU64,
    sent: AtomicU64,
}

pub struct FaultProxy {
    address: SocketAddr,
    wire: watch::Sender<ProxyMode>,
    /// Answers that are held now.
    held: watch::Sender<u64>,
    counts: Arc<TrafficCounts>,
    accepting: Option<JoinHandle<()>>,
}

impl FaultProxy {
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub async fn in_front_of(server: SocketAddr) -> Self {
        let listener = ports::listener();
        let address = listener.local_addr().expect("bound");
        let (wire, held) = (watch::Sender::new(ProxyMode::Pass), watch::Sender::new(0));
        let counts = Arc::new(TrafficCounts::default());
        let connection = ProxiedConnection {
            server,
            wire: wire.clone(),
            held: held.clone(),
            counts: Arc::clone(&counts),
        };
        let accepting = tokio::spawn(connection.accept(listener));
        Self {
            address,
            wire,
            held,
            counts,
            accepting: Some(accepting),
        }
    }

    /// In front of the server of this URL; returns the URL through the proxy.
    pub async fn in_front_of_url(url: &str) -> (Self, String) {
        let (scheme, rest) = url.split_once("://").expect("a URL");
        let authority = rest.split('/').next().expect("a host");
        let host = authority.rsplit('@').next().expect("a host");
        let proxy = Self::in_front_of(host.parse().expect("an address")).await;
        let through = authority.replace(host, &proxy.address.to_string());
        let url = format!("{scheme}://{}", rest.replacen(authority, &through, 1));
        (proxy, url)
    }

    pub fn set(&self, wire: ProxyMode) {
        self.wire.send_replace(wire);
    }

    /// Waits until a mode that ends in a cut has cut the connections.
    #[track_caller]
    pub fn until_cut(&self) -> impl Future<Output = ()> {
        let mut wire = self.wire.subscribe();
        within("the proxy to cut", async move {
            let cut = wire.wait_for(|wire| *wire == ProxyMode::Cut).await;
            cut.expect("the proxy runs");
        })
    }

    /// Waits until an answer is held.
    #[track_caller]
    pub fn until_held(&self) -> impl Future<Output = ()> {
        let mut held = self.held.subscribe();
        within("an answer to hold", async move {
            let one = held.wait_for(|held| *held > 0).await;
            one.expect("the proxy runs");
        })
    }

    /// From now on the port refuses, as when no server runs.
    pub async fn refuse(&mut self) {
        self.set(ProxyMode::Cut);
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            accepting.await.ok();
        }
    }

    /// Round trips: times that the client sent something after the server had answered.
    pub fn round_trips(&self) -> u64 {
        self.counts.round_trips.load(SeqCst)
    }

    pub fn bytes_sent(&self) -> u64 {
        self.counts.sent.load(SeqCst)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.wire.send_replace(ProxyMode::Cut);
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

/// A connection's share of the proxy's state.
#[derive(Clone)]
struct ProxiedConnection {
    server: SocketAddr,
    wire: watch::Sender<ProxyMode>,
    held: watch::Sender<u64>,
    counts: Arc<TrafficCounts>,
}

impl ProxiedConnection {
    async fn accept(self, listener: TcpListener) {
        while let Ok((client, _)) = listener.accept().await {
            if *self.wire.borrow() == ProxyMode::Cut {
                continue;
            }
            tokio::spawn(self.clone().carry(client));
        }
    }

    async fn carry(self, client: TcpStream) {
        let Ok(server) = TcpStream::connect(self.server).await else {
            return;
        };
        client.set_nodelay(true).ok();
        server.set_nodelay(true).ok();
        let (mut client, to_client) = client.into_split();
        let (mut server, to_server) = server.into_split();
        let (to_client, to_server) = (deliver_to(to_client), deliver_to(to_server));
        let (mut asking, mut answering) = (vec![0; 65_536], vec![0; 65_536]);
        let mut watched = self.wire.subscribe();
        let mut is_new = *watched.borrow() == ProxyMode::StopOpen;
        let (mut answered, mut search) = (true, TextSearch::default());
        loop {
            let now = *watched.borrow_and_update();
            is_new &= now == ProxyMode::StopOpen;
            let passes = is_new || !matches!(now, ProxyMode::Stop | ProxyMode::StopOpen);
            let delay = match now {
                ProxyMode::Cut => return,
                ProxyMode::Slow(delay) => delay / 2,
                _ => Duration::ZERO,
            };
            tokio::select! {
                changed = watched.changed() => if changed.is_err() { return },
                asked = client.read(&mut asking), if passes => {
                    let Ok(mut bytes @ 1..) = asked else { return };
                    if std::mem::take(&mut answered) {
                        self.counts.round_trips.fetch_add(1, SeqCst);
                    }
                    self.counts.sent.fetch_add(bytes as u64, SeqCst);
                    match now {
                        ProxyMode::CutAfter(left) => {
                            let after = left.saturating_sub(bytes as u64);
                            bytes = bytes.min(left as usize);
                            self.wire.send_replace(if after == 0 { ProxyMode::Cut } else { ProxyMode::CutAfter(after) });
                        }
                        ProxyMode::CutAnswerTo(text) | ProxyMode::HoldAnswerTo(text) => search.add(&asking[..bytes], text),
                        _ => {}
                    }
                    let piece = (Instant::now() + delay, asking[..bytes].to_vec());
                    if to_server.send(piece).await.is_err() {
                        return;
                    }
                }
                got = server.read(&mut answering), if passes && now != ProxyMode::Hang => {
                    let Ok(bytes @ 1..) = got else { return };
                    answered = true;
                    match now {
                        ProxyMode::CutAnswerTo(_) if search.found => {
                            self.wire.send_replace(ProxyMode::Cut);
                            return;
                        }
                        ProxyMode::HoldAnswerTo(_) if std::mem::take(&mut search).found => {
                            self.held.send_modify(|held| *held += 1);
                            let over = watched.wait_for(|wire| *wire != now).await.is_err();
                            self.held.send_modify(|held| *held -= 1);
                            if over || *self.wire.borrow() == ProxyMode::Cut {
                                return;
                            }
                        }
                        _ => {}
                    }
                    let piece = (Instant::now() + delay, answering[..bytes].to_vec());
                    if to_client.send(piece).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Writes pieces when they are due. The stream is closed behind the last one.
fn deliver_to(mut stream: OwnedWriteHalf) -> mpsc::Sender<(Instant, Vec<u8>)> {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(IN_FLIGHT);
    tokio::spawn(async move {
        while let Some((due, piece)) = pieces.recv().await {
            if due > Instant::now() {
                tokio::time::sleep_until(due).await;
            }
            if stream.write_all(&piece).await.is_err() {
                return;
            }
        }
        stream.shutdown().await.ok();
    });
    sender
}

/// Finds a text in a stream, also across two pieces.
#[derive(Default)]
struct TextSearch {
    tail: Vec<u8>,
    found: bool,
}

impl TextSearch {
    fn add(&mut self, bytes: &[u8], text: &str) {
        self.tail.extend_from_slice(bytes);
        let mut parts = self.tail.windows(text.len());
        self.found |= parts.any(|part| part == text.as_bytes());
        let old = self.tail.len().saturating_sub(text.len() - 1);
        self.tail.drain(..old);
    }
}
