//! The Racing API on loopback, serving the bench's card over HTTP to the process that is measured.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::card::Card;

const NO_RACES: &str = r#"{"racecards":[],"total":0,"limit":500,"skip":0,"query":[]}"#;

type Served = Arc<Mutex<Option<Arc<Card>>>>;

pub struct Provider {
    address: SocketAddr,
    card: Served,
    accepting: JoinHandle<()>,
}

impl Provider {
    pub async fn serving(card: Card) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let card = Arc::new(Mutex::new(Some(Arc::new(card))));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&card)));
        Ok(Self {
            address,
            card,
            accepting,
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// What is answered from now on.
    pub fn serve(&self, card: Card) {
        *self.card.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(card));
    }

    /// No races on any day from now on.
    pub fn serve_no_races(&self) {
        *self.card.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, card: Served) {
    let mut answering = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        answering.spawn(answer(stream, Arc::clone(&card)));
    }
}

/// Request after request on one connection. The client is ours: what it asks is well-formed.
async fn answer(stream: TcpStream, card: Served) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let (mut request, mut line) = (String::new(), String::new());
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
        let now = card.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let body = now.map_or_else(|| NO_RACES.to_owned(), |card| card.page_of(date));
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        stream.flush().await?;
    }
}
