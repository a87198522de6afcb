//! Collects the lines that a child process writes, and waits for one of them.
//! The test harness reads the daemon's log with it.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::WAIT_LIMIT;

/// All lines of one or more streams, in the order of their arrival, and a read position.
pub struct LogReader {
    shared: Arc<LineBuffer>,
    position: usize,
    readers: Vec<JoinHandle<()>>,
}

struct LineBuffer {
    lines: Mutex<Vec<String>>,
    /// Lines so far and streams that are still open.
    state: watch::Sender<(usize, usize)>,
}

impl LineBuffer {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().expect("unpoisoned")
    }
}

impl Default for LogReader {
    fn default() -> Self {
        let shared = LineBuffer {
            lines: Mutex::default(),
            state: watch::Sender::new((0, 0)),
        };
        Self {
            shared: Arc::new(shared),
            position: 0,
            readers: Vec::new(),
        }
    }
}

impl LogReader {
    /// Reads `stream` until it ends.
    pub fn attach(&mut self, stream: impl AsyncRead + Unpin + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        shared.state.send_modify(|(_, open)| *open += 1);
        self.readers.push(tokio::spawn(async move {
            let mut lines = BufReader::new(stream).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                shared.lines().push(line);
                shared.state.send_modify(|(lines, _)| *lines += 1);
            }
            shared.state.send_modify(|(_, open)| *open -= 1);
        }));
    }

    pub fn lines(&self) -> Vec<String> {
        self.shared.lines().clone()
    }

    pub fn text(&self) -> String {
        self.shared.lines().join("\n")
    }

    /// The number of lines that contain `text`.
    pub fn count(&self, text: &str) -> usize {
        let lines = self.shared.lines();
        lines.iter().filter(|line| line.contains(text)).count()
    }

    pub fn position(&self) -> usize {
        self.position
    }

    pub fn set_position(&mut self, position: usize) {
        self.position = position;
    }

    /// Moves the position behind the last line.
    pub fn skip_to_end(&mut self) {
        self.position = self.shared.lines().len();
    }

    /// The next line behind the position that contains `text`; an error if the streams end before.
    pub async fn wait_for(&mut self, text: &str) -> Result<String, String> {
        let mut state = self.shared.state.subscribe();
        let find = async {
            loop {
                let (_, open) = *state.borrow_and_update();
                let found = {
                    let lines = self.shared.lines();
                    let behind = lines.get(self.position..).unwrap_or_default();
                    let found = behind.iter().position(|line| line.contains(text));
                    found.map(|at| (self.position + at + 1, behind[at].clone()))
                };
                if let Some((position, line)) = found {
                    self.position = position;
                    return Ok(line);
                }
                if open == 0 || state.changed().await.is_err() {
                    return Err(format!("it ended without {text:?}"));
                }
            }
        };
        let found = tokio::time::timeout(WAIT_LIMIT, find).await;
        found
            .unwrap_or_else(|_| Err(format!("waited {WAIT_LIMIT:?} for {text:?}")))
            .map_err(|why| format!("{why}; its output:\n{}", self.text()))
    }

    /// Waits until all streams have ended.
    pub async fn finish(&mut self) {
        for reader in self.readers.drain(..) {
            let _ = reader.await;
        }
    }
}
