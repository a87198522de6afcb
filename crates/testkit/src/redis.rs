//! Private Redis servers on loopback, in temporary folders, ended when dropped: one server, a cluster of
//! three, a sentinel. Tests and benches kill them, restart them on their port and make them hang.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};

use anyhow::{Context, bail, ensure};

use crate::ports::free_port;
use crate::resp::{RespClient, RespReply};
use crate::wait::eventually;

const PROGRAM: &str = "redis-server";
/// Another program can take a port between its choice and the server's start.
const PORTS_TRIED: usize = 5;

pub struct RedisServer {
    folder: tempfile::TempDir,
    port: u16,
    settings: Vec<String>,
    /// Further lines of the configuration file; a sentinel accepts its master only there.
    config: String,
    password: Option<String>,
    process: Mutex<Option<Child>>,
}

impl RedisServer {
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With further settings, as on redis-server's command line: `--maxmemory`, `2mb`, ….
    pub async fn with(settings: &[&str]) -> Self {
        Self::launch(settings, "", None).await.expect("a Redis")
    }

    pub async fn with_password(password: &str) -> Self {
        let settings = ["--requirepass", password];
        let server = Self::launch(&settings, "", Some(password)).await;
        server.expect("a Redis with a password")
    }

    /// A sentinel that watches `primary` under the name `odds`.
    pub async fn sentinel(primary: &RedisServer) -> Self {
        let monitor = format!("sentinel monitor odds 127.0.0.1 {} 1\n", primary.port);
        let server = Self::launch(&["--sentinel"], &monitor, None).await;
        server.expect("a Redis sentinel")
    }

    /// As [`RedisServer::start`], with the reason why there is none.
    pub async fn try_start() -> anyhow::Result<Self> {
        Self::launch(&[], "", None).await
    }

    async fn launch(
        settings: &[&str],
        config: &str,
        password: Option<&str>,
    ) -> anyhow::Result<Self> {
        let mut server = Self {
            folder: tempfile::tempdir()?,
            port: 0,
            settings: settings.iter().map(ToString::to_string).collect(),
            config: config.into(),
            password: password.map(Into::into),
            process: Mutex::default(),
        };
        let mut last = anyhow::anyhow!("no free port");
        for _ in 0..PORTS_TRIED {
            server.port = free_port();
            match server.run().await {
                Ok(()) => return Ok(server),
                Err(why) if why.is::<std::io::Error>() => {
                    return Err(why.context("no redis-server on this machine; install redis (Debian: redis-server), and see that it is in PATH"));
                }
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        match &self.password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{}", self.port),
            None => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    pub fn process_id(&self) -> Option<u32> {
        self.process().as_ref().map(Child::id)
    }

    /// A new connection, logged in.
    pub async fn connect(&self) -> anyhow::Result<RespClient> {
        let mut connection = RespClient::connect(self.port).await?;
        if let Some(password) = &self.password {
            let reply = connection.command(&["AUTH", password]).await?;
            ensure!(reply == RespReply::Status("OK".into()), "{}", reply.text());
        }
        Ok(connection)
    }

    /// One command over a connection of its own.
    pub async fn command(&self, args: &[&str]) -> RespReply {
        let mut connection = self.connect().await.expect("a connection to Redis");
        connection.command(args).await.expect("a reply of Redis")
    }

    /// Ends it at once, as a crash does.
    pub async fn kill(&self) {
        self.end();
    }

    /// Starts it again on the same port, empty.
    pub async fn restart(&self) {
        self.end();
        let _ = std::fs::remove_file(self.dump());
        self.run().await.expect("Redis starts again");
    }

    /// Saves a copy of its memory for [`RedisServer::restart_from_copy`].
    pub async fn copy(&self) {
        assert_ok(self.command(&["SAVE"]).await);
        std::fs::rename(self.dump(), self.saved()).expect("the saved memory");
    }

    /// Starts it again on the same port, with the memory of the last copy.
    pub async fn restart_from_copy(&self) {
        self.end();
        std::fs::copy(self.saved(), self.dump()).expect("the saved memory");
        self.run().await.expect("Redis starts again");
    }

    /// Makes it hang: it accepts connections and never answers.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.process_id().expect("a running redis-server");
        let args = [signal.to_owned(), id.to_string()];
        let status = Command::new("kill").args(args).status().expect("kill(1)");
        assert!(status.success(), "kill {signal} {id}");
    }

    fn end(&self) {
        if let Some(mut child) = self.process().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts the program and waits until it, and not another server on this port, answers.
    async fn run(&self) -> anyhow::Result<()> {
        let (folder, log) = (self.folder.path(), self.folder.path().join("log"));
        let config = format!(
            "port {}\nbind 127.0.0.1\ndir {}\nlogfile {}\n{}",
            self.port,
            folder.display(),
            log.display(),
            self.config
        );
        let file = folder.join("redis.conf");
        std::fs::write(&file, config).map_err(|why| anyhow::anyhow!("redis.conf: {why}"))?;
        let mut command = Command::new(PROGRAM);
        command.arg(file);
        if self.config.is_empty() {
            command.args(["--save", "", "--appendonly", "no"]);
        }
        let child = command
            .args(&self.settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let id = child.id();
        *self.process() = Some(child);
        let server = eventually("redis-server", async || {
            let ended = self.process().as_mut().map(Child::try_wait);
            if let Some(Ok(Some(status))) = ended {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                return Ok(Err(format!("redis-server ended with {status}: {log}")));
            }
            match self.server_info().await {
                Ok(info) => Ok(Ok(info)),
                Err(why) => Err(why),
            }
        });
        match server.await {
            Err(why) => bail!(why),
            Ok(info) if info.lines().any(|line| line == format!("process_id:{id}")) => Ok(()),
            Ok(_) => bail!("port {} is another server's", self.port),
        }
    }

    async fn server_info(&self) -> anyhow::Result<String> {
        let mut connection = self.connect().await?;
        match connection.command(&["INFO", "server"]).await? {
            RespReply::Bulk(info) => String::from_utf8(info).context("INFO"),
            other => bail!(other.text()),
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().expect("unpoisoned")
    }

    fn dump(&self) -> PathBuf {
        self.folder.path().join("dump.rdb")
    }

    fn saved(&self) -> PathBuf {
        self.folder.path().join("saved.rdb")
    }

    /// Three nodes that own a third of the slots each.
    pub async fn cluster() -> RedisCluster {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            let bus = free_port().to_string();
            let settings = ["--cluster-enabled", "yes", "--cluster-port", &bus];
            nodes.push((Self::with(&settings).await, bus));
        }
        for (n, (from, to)) in [("0", "5460"), ("5461", "10922"), ("10923", "16383")]
            .into_iter()
            .enumerate()
        {
            let (node, epoch) = (&nodes[n].0, (n + 1).to_string());
            assert_ok(node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await);
            assert_ok(node.command(&["CLUSTER", "ADDSLOTSRANGE", from, to]).await);
        }
        for (node, bus) in &nodes[1..] {
            let meet = ["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string(), bus];
            assert_ok(nodes[0].0.command(&meet).await);
        }
        let nodes: Vec<Self> = nodes.into_iter().map(|(node, _)| node).collect();
        for node in &nodes {
            eventually("the cluster's state is ok", async || {
                let info = node.command(&["CLUSTER", "INFO"]).await.text();
                let ready = info.contains("cluster_state:ok") && info.contains("known_nodes:3");
                ready.then_some(()).ok_or(info)
            })
            .await;
        }
        RedisCluster { nodes }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.end();
    }
}

pub struct RedisCluster {
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    pub fn url(&self) -> String {
        format!(
            "redis-cluster://127.0.0.1:{}?node=127.0.0.1:{}&node=127.0.0.1:{}",
            self.nodes[0].port, self.nodes[1].port, self.nodes[2].port
        )
    }
}

#[track_caller]
fn assert_ok(reply: RespReply) {
    assert_eq!(reply, RespReply::Status("OK".into()));
}
