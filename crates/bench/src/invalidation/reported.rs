//! Measures the rate of changes that a daemon accepts through `POST /v1/changes`, and its memory meanwhile: the whole
//! daemon with its relay in a process of its own. It is a section of `oddsd-bench invalidation`.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use secrecy::ExposeSecret;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

use super::sizes::InvalidationSizes;
use crate::database::Database;
use crate::machine::memory_of;
use crate::report::{Measure, Target};
use oddsd_testkit::ports::free_port;
use oddsd_testkit::redis::RedisServer;
use tempfile::TempDir;

pub const MEASURES: [&str; 2] = ["reported_changes", "reported_changes_memory"];
const BATCH: u64 = 1_000;
const CLIENTS: u64 = 4;
/// Also on a loaded machine.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
const POLL_PAUSE: Duration = Duration::from_millis(20);

pub async fn measure(db: &Database, sizes: &InvalidationSizes) -> anyhow::Result<Vec<Measure>> {
    let redis = RedisServer::try_start().await?;
    let mut daemon = MeasuredDaemon::start(db, &redis)?;
    daemon.wait_until_ready().await?;
    let accepted = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let client = ReportClient::connect(&daemon, client, Arc::clone(&accepted)).await?;
        clients.spawn(client.report(began, sizes.reporting));
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    let seconds = began.elapsed().as_secs_f64();
    let accepted = accepted.load(Relaxed);
    let store = db.store().await?;
    let waiting = store.status().await?.outbox_pending;
    store.close().await;
    ensure!(accepted >= BATCH, "nothing was accepted");
    let peak = memory_of(daemon.process.id()).map_or(f64::NAN, |(_, peak)| peak as f64 / 1e6);
    daemon.stop()?;
    Ok(vec![
        Measure::new(
            "reported_changes",
            "changes/s",
            accepted as f64 / seconds,
            Target::AtLeast(50_000.0),
        )
        .note(format!(
            "{accepted} changes in batches of {BATCH} from {CLIENTS} clients, each stored before its answer; {waiting} \
             outbox rows waited at the end"
        )),
        Measure::new("reported_changes_memory", "MB", peak, Target::AtMost(100.0))
            .note("peak resident memory of the daemon meanwhile"),
    ])
}

/// The daemon's process. Dropped, it is killed.
struct MeasuredDaemon {
    process: Child,
    port: u16,
    token: String,
    _folder: TempDir,
}

impl Drop for MeasuredDaemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl MeasuredDaemon {
    fn start(db: &Database, redis: &RedisServer) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let port = free_port();
        let token = format!("{:016x}", fastrand::u64(..));
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        // This environment may have settings of another daemon.
        let process = Command::new(program)
            .arg("daemon")
            .env_clear()
            .env("FEED", "simulator")
            .env("DATABASE_URL", db.settings().url.expose_secret())
            .env("REDIS_URL", redis.url())
            .env("LISTEN", format!("127.0.0.1:{port}"))
            .env("REPORT_TOKEN", &token)
            .env("LOG_LEVEL", "error")
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .context("cannot start this program again")?;
        Ok(Self {
            process,
            port,
            token,
            _folder: folder,
        })
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            if let Some(status) = self.process.try_wait()? {
                bail!("the measured daemon ended with {status}");
            }
            ensure!(
                began.elapsed() < STARTS_WITHIN,
                "the measured daemon does not answer"
            );
            tokio::time::sleep(POLL_PAUSE).await;
        }
        Ok(())
    }

    fn stop(mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

/// One connection that posts one batch after the other.
struct ReportClient {
    stream: BufStream<TcpStream>,
    head: String,
    next: u64,
    accepted: Arc<AtomicU64>,
}

impl ReportClient {
    async fn connect(
        daemon: &MeasuredDaemon,
        nth: u64,
        accepted: Arc<AtomicU64>,
    ) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", daemon.port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufStream::new(stream),
            head: format!(
                "POST /v1/changes HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n",
                daemon.token
            ),
            next: nth << 40,
            accepted,
        })
    }

    async fn report(mut self, began: Instant, during: Duration) -> anyhow::Result<()> {
        loop {
            let answer = self.post().await?;
            let reply: serde_json::Value = serde_json::from_slice(&answer)
                .with_context(|| String::from_utf8_lossy(&answer).into_owned())?;
            ensure!(
                reply["accepted"] == BATCH,
                "a batch was answered with {reply}"
            );
            self.accepted.fetch_add(BATCH, Relaxed);
            if began.elapsed() >= during {
                return Ok(());
            }
        }
    }

    async fn post(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut body = String::from("[");
        for n in self.next..self.next + BATCH {
            use std::fmt::Write;
            let comma = if n == self.next { "" } else { "," };
            write!(
                body,
                "{comma}{{\"change\":\"row_changed\",\"table\":\"tlog\",\"op\":\"insert\",\"row\":{{\"trig_id\":{n},\"user_id\":{}}}}}",
                n % 50_000
            )?;
        }
        body.push(']');
        self.next += BATCH;
        let length = format!("Content-Length: {}\r\n\r\n", body.len());
        self.stream.write_all(self.head.as_bytes()).await?;
        self.stream.write_all(length.as_bytes()).await?;
        self.stream.write_all(body.as_bytes()).await?;
        self.stream.flush().await?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).await?;
            match line.trim_end() {
                "" => break,
                line => {
                    let (name, value) = line.split_once(':').unwrap_or((line, ""));
                    if name.eq_ignore_ascii_case("content-length") {
                        length = value.trim().parse()?;
                    }
                }
            }
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).await?;
        Ok(answer)
    }
}
