//! A wire between a client and a server on loopback that can be slow, silent, refused or cut, at
//! exactly the byte that a story is about, and that counts what goes over it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{PATIENCE, ports};

/// What happens on the wire from now on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wire {
    Pass,
    /// Nothing comes back any more; connections stay open.
    Hang,
    /// Every connection ends, new ones too.
    Cut,
    /// Each answer takes this much longer.
    Slow(Duration),
    /// Every connection ends once the client has sent this many bytes more, which still arrive.
    CutAfter(u64),
    /// The server gets the question with this text in it; every connection ends instead of its answer.
    CutAnswerTo(&'static str),
    /// The server gets the question with this text in it, and has answered; the answer stays on the
    /// wire until something else is set. All other talk passes.
    HoldAnswerTo(&'static str),
}

#[derive(Default)]
struct Counts {
    flushes: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

pub struct Proxy {
    address: SocketAddr,
    wire: watch::Sender<Wire>,
    /// Answers on the wire that are not let through.
    held: watch::Sender<u64>,
    counts: Arc<Counts>,
    accepting: Option<JoinHandle<()>>,
}

impl Proxy {
    pub async fn before(server: SocketAddr) -> Self {
        let listener = ports::listener().await;
        let address = listener.local_addr().expect("bound");
        let (wire, held) = (watch::Sender::new(Wire::Pass), watch::Sender::new(0));
        let counts = Arc::new(Counts::default());
        let line = Line {
            server,
            wire: wire.clone(),
            held: held.clone(),
            counts: Arc::clone(&counts),
        };
        let accepting = tokio::spawn(line.accept(listener));
        Self {
            address,
            wire,
            held,
            counts,
            accepting: Some(accepting),
        }
    }

    /// In front of the server of this URL; returns the URL through the wire.
    pub async fn before_url(url: &str) -> (Self, String) {
        let (scheme, rest) = url.split_once("://").expect("a URL");
        let authority = rest.split('/').next().expect("a host");
        let host = authority.rsplit('@').next().expect("a host");
        let proxy = Self::before(host.parse().expect("an address")).await;
        let through = authority.replace(host, &proxy.address.to_string());
        let url = format!("{scheme}://{}", rest.replacen(authority, &through, 1));
        (proxy, url)
    }

    pub fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }

    /// Waits until a story's own wire has done what it was set to do.
    pub async fn until_cut(&self) {
        let mut wire = self.wire.subscribe();
        let cut = wire.wait_for(|wire| *wire == Wire::Cut);
        let done = tokio::time::timeout(PATIENCE, cut).await;
        done.expect("the wire is cut in time")
            .expect("the proxy lives");
    }

    /// Waits until the answer that is held has come.
    pub async fn until_held(&self) {
        let mut held = self.held.subscribe();
        let one = held.wait_for(|held| *held > 0);
        let done = tokio::time::timeout(PATIENCE, one).await;
        done.expect("the question is asked in time")
            .expect("the proxy lives");
    }

    /// From now on the port refuses, as when no server runs.
    pub async fn refuse(&mut self) {
        self.set(Wire::Cut);
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            accepting.await.ok();
        }
    }

    /// Times that the client sent something after the server had answered, and bytes it sent.
    pub fn round_trips(&self) -> u64 {
        self.counts.flushes.load(SeqCst)
    }

    pub fn bytes_sent(&self) -> u64 {
        self.counts.sent.load(SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.wire.send_replace(Wire::Cut);
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

/// What every connection has of the proxy.
#[derive(Clone)]
struct Line {
    server: SocketAddr,
    wire: watch::Sender<Wire>,
    held: watch::Sender<u64>,
    counts: Arc<Counts>,
}

impl Line {
    async fn accept(self, listener: TcpListener) {
        while let Ok((client, _)) = listener.accept().await {
            if *self.wire.borrow() == Wire::Cut {
                continue;
            }
            tokio::spawn(self.clone().carry(client));
        }
    }

    async fn carry(self, mut client: TcpStream) {
        let Ok(mut server) = TcpStream::connect(self.server).await else {
            return;
        };
        client.set_nodelay(true).ok();
        server.set_nodelay(true).ok();
        let (mut asking, mut answering) = (vec![0; 65_536], vec![0; 65_536]);
        let mut watched = self.wire.subscribe();
        let (mut answered, mut question) = (true, Question::default());
        loop {
            let now = *watched.borrow_and_update();
            if now == Wire::Cut {
                return;
            }
            tokio::select! {
                changed = watched.changed() => if changed.is_err() { return },
                asked = client.read(&mut asking) => {
                    let Ok(mut bytes @ 1..) = asked else { return };
                    if std::mem::take(&mut answered) {
                        self.counts.flushes.fetch_add(1, SeqCst);
                    }
                    self.counts.sent.fetch_add(bytes as u64, SeqCst);
                    match now {
                        Wire::CutAfter(left) => {
                            let after = left.saturating_sub(bytes as u64);
                            bytes = bytes.min(left as usize);
                            self.wire.send_replace(if after == 0 { Wire::Cut } else { Wire::CutAfter(after) });
                        }
                        Wire::CutAnswerTo(text) | Wire::HoldAnswerTo(text) => question.hear(&asking[..bytes], text),
                        _ => {}
                    }
                    if server.write_all(&asking[..bytes]).await.is_err() {
                        return;
                    }
                }
                got = server.read(&mut answering), if now != Wire::Hang => {
                    let Ok(bytes @ 1..) = got else { return };
                    answered = true;
                    self.counts.received.fetch_add(bytes as u64, SeqCst);
                    match now {
                        Wire::CutAnswerTo(_) if question.asked => {
                            self.wire.send_replace(Wire::Cut);
                            return;
                        }
                        Wire::HoldAnswerTo(_) if std::mem::take(&mut question).asked => {
                            self.held.send_modify(|held| *held += 1);
                            let over = watched.wait_for(|wire| *wire != now).await.is_err();
                            self.held.send_modify(|held| *held -= 1);
                            if over || *self.wire.borrow() == Wire::Cut {
                                return;
                            }
                        }
                        Wire::Slow(delay) => tokio::time::sleep_until(Instant::now() + delay).await,
                        _ => {}
                    }
                    if client.write_all(&answering[..bytes]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Whether a text was said, also when it came in two pieces.
#[derive(Default)]
struct Question {
    tail: Vec<u8>,
    asked: bool,
}

impl Question {
    fn hear(&mut self, bytes: &[u8], text: &str) {
        self.tail.extend_from_slice(bytes);
        let mut parts = self.tail.windows(text.len());
        self.asked |= parts.any(|part| part == text.as_bytes());
        let old = self.tail.len().saturating_sub(text.len() - 1);
        self.tail.drain(..old);
    }
}
