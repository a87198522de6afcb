//! Runs the real program as a daemon: settings from the test alone, a folder of its own, its log, its end.
//! The end-to-end tests use it.

use std::panic::Location;
use std::process::{ExitStatus, Stdio};

use oddsd_testkit::lines::LogReader;
use tokio::io::AsyncRead;
use tokio::process::{Child, Command};

use super::RUN_LIMIT;

/// The program's environment. A later setting of the same name wins.
#[derive(Clone, Default)]
pub struct DaemonEnv(Vec<(String, String)>);

impl DaemonEnv {
    pub fn with(&self, name: &str, value: impl Into<String>) -> Self {
        let mut settings = self.clone();
        settings.0.retain(|(known, _)| known != name);
        settings.0.push((name.into(), value.into()));
        settings
    }
}

/// A running oddsd. Dropped, it is killed.
pub struct DaemonProcess {
    child: Child,
    pid: String,
    log: LogReader,
    _folder: tempfile::TempDir,
}

/// A program's exit status and all lines of its output.
pub struct DaemonExit {
    pub status: ExitStatus,
    pub lines: Vec<String>,
}

impl DaemonExit {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// The number of lines that contain `text`.
    pub fn count(&self, text: &str) -> usize {
        self.lines.iter().filter(|line| line.contains(text)).count()
    }

    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "its output:\n{}", self.text());
        self
    }
}

impl DaemonProcess {
    pub fn start(settings: &DaemonEnv, args: &[&str]) -> Self {
        Self::start_with_output(settings, args, Stdio::piped(), Stdio::piped())
    }

    /// As `start`, with other streams. Only those that are [`Stdio::piped`] are read.
    pub fn start_with_output(
        settings: &DaemonEnv,
        args: &[&str],
        stdout: Stdio,
        stderr: Stdio,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut child = Command::new(env!("CARGO_BIN_EXE_oddsd"))
            .args(args)
            .env_clear()
            .envs(settings.0.iter().map(|(name, value)| (name, value)))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .expect("oddsd starts");
        let mut log = LogReader::default();
        if let Some(stdout) = child.stdout.take() {
            log.attach(stdout);
        }
        if let Some(stderr) = child.stderr.take() {
            log.attach(stderr);
        }
        Self {
            pid: child.id().expect("running").to_string(),
            child,
            log,
            _folder: folder,
        }
    }

    /// Reads a stream that was not read so far.
    pub fn read_log(&mut self, stream: impl AsyncRead + Unpin + Send + 'static) {
        self.log.attach(stream);
    }

    /// Waits for the next line, after the last one that was waited for, that contains `text`.
    #[track_caller]
    pub fn wait_for_log(&mut self, text: &str) -> impl Future<Output = String> {
        let caller = Location::caller();
        async move {
            let found = self.log.wait_for(text).await;
            found.unwrap_or_else(|why| panic!("{caller}: {why}"))
        }
    }

    /// As [`DaemonProcess::wait_for_log`], for lines that come in any order.
    pub async fn wait_for_logs<const N: usize>(&mut self, texts: [&str; N]) -> [String; N] {
        let (from, mut to) = (self.log.position(), self.log.position());
        let mut found = [const { String::new() }; N];
        for (text, line) in texts.iter().zip(&mut found) {
            self.log.set_position(from);
            *line = self.wait_for_log(text).await;
            to = to.max(self.log.position());
        }
        self.log.set_position(to);
        found
    }

    /// As [`DaemonProcess::wait_for_log`]; a line at any earlier time is enough.
    pub async fn ensure_logged(&mut self, text: &str) {
        if self.count_log(text) == 0 {
            self.wait_for_log(text).await;
        }
    }

    /// Skips the lines so far: the next [`DaemonProcess::wait_for_log`] waits for a new one.
    pub fn skip_log(&mut self) {
        self.log.skip_to_end();
    }

    /// The number of lines so far that contain `text`.
    pub fn count_log(&self, text: &str) -> usize {
        self.log.count(text)
    }

    /// The URL of the read API, as soon as it listens.
    pub async fn url(&mut self) -> String {
        let line = self.wait_for_log("event=http.listening").await;
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

    /// Kills it, as a crash does.
    pub async fn crash(mut self) {
        self.child.kill().await.expect("kill oddsd");
    }

    pub async fn stop(self) -> DaemonExit {
        self.signal("-TERM");
        self.wait_for_exit().await
    }

    /// Waits until it has ended by itself.
    pub async fn wait_for_exit(mut self) -> DaemonExit {
        let waited = tokio::time::timeout(RUN_LIMIT, self.child.wait()).await;
        let Ok(status) = waited else {
            panic!("it does not end:\n{}", self.log.text());
        };
        self.log.finish().await;
        DaemonExit {
            status: status.expect("a status"),
            lines: self.log.lines(),
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
