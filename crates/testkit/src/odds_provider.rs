//! A stand-in for The Odds API that sends queued replies, valid or broken, and records the requests.
//! Feed tests and command tests use it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The reaction to one request.
#[derive(Clone, Debug)]
pub enum OddsReply {
    Complete {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// Announces more than it sends, then closes the connection.
    Truncated,
    /// Accepts the request and never answers.
    Hang,
}

impl OddsReply {
    pub fn complete(status: u16, body: impl Into<String>) -> Self {
        Self::Complete {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        if let Self::Complete { headers, .. } = &mut self {
            headers.push((name, value.to_string()));
        }
        self
    }
}

pub struct OddsProvider {
    pub url: String,
    state: Arc<Mutex<ReplyQueue>>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct ReplyQueue {
    replies: VecDeque<OddsReply>,
    asked: Vec<String>,
}

impl OddsProvider {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let state = Arc::new(Mutex::new(ReplyQueue::default()));
        let server = tokio::spawn(serve(listener, state.clone()));
        Self { url, state, server }
    }

    /// Queues a reply. A request without a queued reply gets 404.
    pub fn push_reply(&self, reply: OddsReply) {
        self.state
            .lock()
            .expect("unpoisoned")
            .replies
            .push_back(reply);
    }

    /// Paths and queries of the requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().expect("unpoisoned").asked.clone()
    }
}

impl Drop for OddsProvider {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<Mutex<ReplyQueue>>) {
    let mut silent = Vec::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        let Some(asked) = request(&mut stream).await else {
            continue;
        };
        let reply = {
            let mut state = state.lock().expect("unpoisoned");
            state.asked.push(asked);
            state.replies.pop_front()
        };
        let answer = match reply.unwrap_or_else(|| OddsReply::complete(404, "{}")) {
            OddsReply::Complete {
                status,
                headers,
                body,
            } => {
                let headers: String = headers
                    .iter()
                    .map(|(name, value)| format!("{name}: {value}\r\n"))
                    .collect();
                format!(
                    "HTTP/1.1 {status} Reply\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}",
                    body.len()
                )
            }
            OddsReply::Truncated => {
                "HTTP/1.1 200 OK\r\ncontent-length: 9000\r\n\r\n[{\"id\":".into()
            }
            OddsReply::Hang => {
                silent.push(stream);
                continue;
            }
        };
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

/// The request's path and query.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    Some(head.split(' ').nth(1)?.to_owned())
}
