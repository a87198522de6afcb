//! A Redis of our own: on a free loopback port, in a temporary folder, gone when this is dropped. It
//! can be killed, started again (empty, or with an old copy of its memory) and made to hang. With it a
//! client that says anything, for whatever ours is compared with.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

use super::folder::Folder;

const PROGRAM: &str = "redis-server";
/// Somebody may take the port between our look and the server's start.
const PORTS_TRIED: usize = 5;
/// It says PONG within this of its start, also on a machine that is busy.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

pub struct RedisServer {
    folder: Folder,
    port: u16,
    process: Mutex<Option<Child>>,
}

impl RedisServer {
    pub async fn start() -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let mut server = Self {
            folder,
            port: 0,
            process: Mutex::default(),
        };
        let mut why = anyhow::anyhow!("no free port");
        for _ in 0..PORTS_TRIED {
            server.port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            match server.begin().await {
                Ok(()) => return Ok(server),
                Err(error) if error.is::<Missing>() => return Err(error),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub async fn connect(&self) -> anyhow::Result<Resp> {
        Resp::connect(self.port).await
    }

    /// Resident memory's owner, for whoever wants to look at it.
    pub fn process_id(&self) -> Option<u32> {
        self.process().as_ref().map(Child::id)
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&self) -> anyhow::Result<()> {
        if let Some(mut child) = self.process().take() {
            child.kill().context("cannot end the private Redis")?;
            child.wait().context("cannot end the private Redis")?;
        }
        Ok(())
    }

    /// On the same port, with nothing in it.
    pub async fn restart_empty(&self) -> anyhow::Result<()> {
        self.kill()?;
        match std::fs::remove_file(self.dump()) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => return Err(why.into()),
            _ => {}
        }
        self.begin().await
    }

    /// Keeps a copy of what is in it now, for `restart_from_copy`.
    pub async fn copy(&self) -> anyhow::Result<()> {
        self.connect().await?.ok(&["SAVE"]).await?;
        std::fs::rename(self.dump(), self.old()).context("the saved memory")?;
        Ok(())
    }

    /// On the same port, with what was in it at the last `copy`.
    pub async fn restart_from_copy(&self) -> anyhow::Result<()> {
        self.kill()?;
        std::fs::copy(self.old(), self.dump()).context("the saved memory")?;
        self.begin().await
    }

    /// Makes it hang: it accepts connections and never answers.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal("-STOP")
    }

    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal("-CONT")
    }

    fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let id = self.process_id().context("a Redis that runs")?.to_string();
        let done = Command::new("kill").args([signal, &id]).status()?;
        match done.success() {
            true => Ok(()),
            false => bail!("kill {signal} {id} ended with {done}"),
        }
    }

    async fn begin(&self) -> anyhow::Result<()> {
        let log = self.folder.path().join("log");
        let child = Command::new(PROGRAM)
            .args(["--port", &self.port.to_string()])
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(self.folder.path())
            .arg("--logfile")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = match child {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => bail!(Missing),
            child => child.context("cannot run redis-server")?,
        };
        *self.process() = Some(child);
        let began = Instant::now();
        loop {
            if let Ok(mut connection) = self.connect().await
                && let Ok(Reply::Status(said)) = connection.command(&["PING"]).await
                && said == "PONG"
            {
                break;
            }
            let ended = self.process().as_mut().map(Child::try_wait).transpose()?;
            if let Some(Some(status)) = ended {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("redis-server ended with {status}: {}", said.trim());
            }
            if began.elapsed() > STARTS_WITHIN {
                bail!(
                    "redis-server says nothing within {} s",
                    STARTS_WITHIN.as_secs()
                );
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        // Another server may have been quicker on this port.
        let mut connection = self.connect().await?;
        let told = connection.command(&["INFO", "server"]).await?.text();
        let own = self.process_id().unwrap_or_default();
        match told.lines().any(|line| line == format!("process_id:{own}")) {
            true => Ok(()),
            false => bail!("port {} is another server's", self.port),
        }
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dump(&self) -> PathBuf {
        self.folder.path().join("dump.rdb")
    }

    fn old(&self) -> PathBuf {
        self.folder.path().join("old.rdb")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

#[derive(Debug)]
struct Missing;

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no redis-server on this machine; install redis (Debian: redis-server), and see that it is in PATH")
    }
}

impl std::error::Error for Missing {}

#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Status(String),
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Reply>),
}

impl Reply {
    pub fn text(&self) -> String {
        match self {
            Self::Status(text) | Self::Error(text) => text.clone(),
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => format!("{other:?}"),
        }
    }
}

/// One connection. After an error nothing is known of it: drop it.
pub struct Resp(BufStream<TcpStream>);

impl Resp {
    pub async fn connect(port: u16) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self(BufStream::new(stream)))
    }

    pub async fn command<A: AsRef<[u8]>>(&mut self, args: &[A]) -> anyhow::Result<Reply> {
        self.write(args).await?;
        self.flush().await?;
        self.reply().await
    }

    /// A command whose answer is OK.
    pub async fn ok<A: AsRef<[u8]>>(&mut self, args: &[A]) -> anyhow::Result<()> {
        match self.command(args).await? {
            Reply::Status(said) if said == "OK" => Ok(()),
            other => bail!("the private Redis said {}", other.text()),
        }
    }

    /// Without waiting: a pipeline. `flush`, then one `reply` each.
    pub async fn write<A: AsRef<[u8]>>(&mut self, args: &[A]) -> anyhow::Result<()> {
        let head = format!("*{}\r\n", args.len());
        self.0.write_all(head.as_bytes()).await?;
        for arg in args {
            let arg = arg.as_ref();
            let head = format!("${}\r\n", arg.len());
            self.0.write_all(head.as_bytes()).await?;
            self.0.write_all(arg).await?;
            self.0.write_all(b"\r\n").await?;
        }
        Ok(())
    }

    pub async fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.0.flush().await?)
    }

    pub async fn reply(&mut self) -> anyhow::Result<Reply> {
        let mut line = String::new();
        if self.0.read_line(&mut line).await? == 0 {
            bail!("the private Redis has closed the connection");
        }
        let line = line.trim_end_matches(['\r', '\n']);
        let (kind, rest) = line.split_at_checked(1).context("an answer")?;
        Ok(match kind {
            "+" => Reply::Status(rest.into()),
            "-" => Reply::Error(rest.into()),
            ":" => Reply::Int(rest.parse()?),
            "$" => match usize::try_from(rest.parse::<i64>()?) {
                Err(_) => Reply::Nil,
                Ok(len) => {
                    let mut bytes = vec![0; len + 2];
                    self.0.read_exact(&mut bytes).await?;
                    bytes.truncate(len);
                    Reply::Bulk(bytes)
                }
            },
            "*" => match usize::try_from(rest.parse::<i64>()?) {
                Err(_) => Reply::Nil,
                Ok(len) => {
                    let mut items = Vec::with_capacity(len);
                    for _ in 0..len {
                        items.push(Box::pin(self.reply()).await?);
                    }
                    Reply::Array(items)
                }
            },
            _ => bail!("not an answer: {line}"),
        })
    }
}
