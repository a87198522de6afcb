//! The real program as a child process: settings only from the story, a folder of its own, every
//! line it says kept and waited for, and an end by signal.

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::PATIENCE;

/// What the program is started with. A later setting of the same name wins.
#[derive(Clone, Default)]
pub struct Settings(Vec<(String, String)>);

impl Settings {
    pub fn with(&self, name: &str, value: impl Into<String>) -> Self {
        let mut settings = self.clone();
        settings.0.retain(|(known, _)| known != name);
        settings.0.push((name.into(), value.into()));
        settings
    }
}

#[derive(Default)]
struct Said {
    lines: Mutex<Vec<String>>,
    more: Notify,
}

impl Said {
    fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("unpoisoned").clone()
    }
}

/// A running oddsd. Dropped, it is killed.
pub struct Daemon {
    child: Child,
    pid: String,
    said: Arc<Said>,
    heard: usize,
    listening: Vec<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

/// How a program ended, and all that it said.
pub struct Ended {
    pub status: ExitStatus,
    pub lines: Vec<String>,
}

impl Ended {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// Lines that hold `text`.
    pub fn count(&self, text: &str) -> usize {
        self.lines.iter().filter(|line| line.contains(text)).count()
    }

    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "it said:\n{}", self.text());
        self
    }
}

impl Daemon {
    pub fn start(settings: &Settings, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut child = Command::new(env!("CARGO_BIN_EXE_oddsd"))
            .args(args)
            .env_clear()
            .envs(settings.0.iter().map(|(name, value)| (name, value)))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("oddsd starts");
        let said = Arc::new(Said::default());
        let listening = vec![
            listen(child.stdout.take().expect("piped"), Arc::clone(&said)),
            listen(child.stderr.take().expect("piped"), Arc::clone(&said)),
        ];
        Self {
            pid: child.id().expect("running").to_string(),
            child,
            said,
            heard: 0,
            listening,
            _folder: folder,
        }
    }

    /// The next line, after the last one that was waited for, that holds `text`.
    pub async fn says(&mut self, text: &str) -> String {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let more = self.said.more.notified();
                let lines = self.said.lines();
                let found = lines[self.heard..].iter().position(|l| l.contains(text));
                if let Some(at) = found {
                    self.heard += at + 1;
                    return lines[self.heard - 1].clone();
                }
                // Whoever has ended says nothing more.
                tokio::select! {
                    () = more => {}
                    _ = self.child.wait() => {
                        for listener in &mut self.listening {
                            if !listener.is_finished() {
                                let _ = listener.await;
                            }
                        }
                        let lines = self.said.lines();
                        assert!(
                            lines[self.heard..].iter().any(|l| l.contains(text)),
                            "it ended without saying {text:?}:\n{}", lines.join("\n")
                        );
                    }
                }
            }
        });
        let Ok(line) = waited.await else {
            panic!("it never said {text:?}:\n{}", self.said.lines().join("\n"));
        };
        line
    }

    /// As [`Daemon::says`], for lines of tasks that run beside each other: all of them, whichever
    /// comes first.
    pub async fn says_all<const N: usize>(&mut self, texts: [&str; N]) -> [String; N] {
        let (from, mut to) = (self.heard, self.heard);
        let mut said = [const { String::new() }; N];
        for (text, line) in texts.iter().zip(&mut said) {
            self.heard = from;
            *line = self.says(text).await;
            to = to.max(self.heard);
        }
        self.heard = to;
        said
    }

    /// As [`Daemon::says`], and content with what was said at any time.
    pub async fn has_said(&mut self, text: &str) {
        if self.count(text) == 0 {
            self.says(text).await;
        }
    }

    /// Forgets what was said so far: the next [`Daemon::says`] waits for something new.
    pub fn listen_anew(&mut self) {
        self.heard = self.said.lines().len();
    }

    /// Lines so far that hold `text`.
    pub fn count(&self, text: &str) -> usize {
        let lines = self.said.lines();
        lines.iter().filter(|line| line.contains(text)).count()
    }

    /// Where the read API answers, once it does.
    pub async fn url(&mut self) -> String {
        let line = self.says("event=http.listening").await;
        let address = field(&line, "address").expect("an address");
        format!("http://{address}")
    }

    pub fn signal(&self, signal: &str) {
        let status = std::process::Command::new("kill")
            .args([signal, &self.pid])
            .status();
        assert!(
            status.expect("kill(1)").success(),
            "kill {signal} {}",
            self.pid
        );
    }

    /// As a crash: nothing is finished.
    pub async fn crash(mut self) {
        self.child.kill().await.expect("kill oddsd");
    }

    pub async fn stop(self) -> Ended {
        self.signal("-TERM");
        self.ends().await
    }

    /// Waits until it has ended by itself.
    pub async fn ends(mut self) -> Ended {
        let waited = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let Ok(status) = waited else {
            panic!("it does not end:\n{}", self.said.lines().join("\n"));
        };
        for listener in self.listening.drain(..) {
            let _ = listener.await;
        }
        Ended {
            status: status.expect("a status"),
            lines: self.said.lines(),
        }
    }
}

/// The value of a field in a logfmt line.
pub fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!(" {name}="))?;
    match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => rest.split(' ').next(),
    }
}

fn listen(stream: impl AsyncRead + Unpin + Send + 'static, said: Arc<Said>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            said.lines.lock().expect("unpoisoned").push(line);
            // One waits at most; a permit is kept should it be looking just now.
            said.more.notify_one();
        }
    })
}
