//! A wire between a client and a server that takes its time in both directions, as a network does
//! (bytes travel one behind the other, the delay is not paid again for each), and that counts how
//! often the client asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

const BUFFER: usize = 64 * 1024;
/// Pieces on their way; the sender waits beyond that, as for a full window.
const IN_FLIGHT: usize = 1024;

pub struct Wire {
    pub port: u16,
    counted: Arc<Counted>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Counted {
    questions: AtomicU64,
    sent: AtomicU64,
}

impl Wire {
    /// Half the round trip goes each way.
    pub async fn before(server: SocketAddr, round_trip: Duration) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let counted = Arc::new(Counted::default());
        let accepting = tokio::spawn(accept(
            listener,
            server,
            round_trip / 2,
            Arc::clone(&counted),
        ));
        Ok(Self {
            port,
            counted,
            accepting,
        })
    }

    /// Round trips begun: times that the client sent something when the last answer was there.
    pub fn round_trips(&self) -> u64 {
        self.counted.questions.load(SeqCst)
    }

    pub fn bytes_sent(&self) -> u64 {
        self.counted.sent.load(SeqCst)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, delay: Duration, counted: Arc<Counted>) {
    // With this task go the connections.
    let mut carried = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(server).await else {
            continue;
        };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let answered = Arc::new(AtomicBool::new(true));
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let asked = {
            let (answered, counted) = (Arc::clone(&answered), Arc::clone(&counted));
            move |bytes: usize| {
                if answered.swap(false, SeqCst) {
                    counted.questions.fetch_add(1, SeqCst);
                }
                counted.sent.fetch_add(bytes as u64, SeqCst);
            }
        };
        carried.spawn(carry(from_client, to_server, delay, asked));
        carried.spawn(carry(from_server, to_client, delay, move |_| {
            answered.store(true, SeqCst);
        }));
    }
}

/// Everything that comes in goes out a delay later, until either side ends.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    delay: Duration,
    seen: impl Fn(usize),
) {
    let (on_its_way, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(IN_FLIGHT);
    let receive = async {
        let mut buffer = vec![0; BUFFER];
        while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
            seen(bytes);
            let piece = (Instant::now() + delay, buffer[..bytes].to_vec());
            if on_its_way.send(piece).await.is_err() {
                break;
            }
        }
        drop(on_its_way);
    };
    let deliver = async {
        while let Some((due, piece)) = arriving.recv().await {
            if !delay.is_zero() {
                sleep_until(due).await;
            }
            if to.write_all(&piece).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(receive, deliver);
}
