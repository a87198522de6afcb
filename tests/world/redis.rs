//! Real Redis servers on free loopback ports, in temporary folders, gone when dropped: one server,
//! a cluster of three, a sentinel. They can be killed, restarted on their port, and made to hang.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::PATIENCE;
use super::ports::free_port;
use super::resp::{Reply, Resp};

pub struct RedisServer {
    port: u16,
    args: Vec<String>,
    dir: tempfile::TempDir,
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    password: Option<String>,
}

impl RedisServer {
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With further settings, as on redis-server's command line: `--maxmemory`, `2mb`, ….
    pub async fn with(settings: &[&str]) -> Self {
        let port = free_port();
        let args = ["--save", "", "--appendonly", "no"];
        let args = args.iter().chain(settings).map(ToString::to_string);
        Self::launch(port, args.collect(), "Ready to accept connections").await
    }

    pub async fn with_password(password: &str) -> Self {
        let mut server = Self::with(&["--requirepass", password]).await;
        server.password = Some(password.into());
        server
    }

    /// A sentinel that watches `primary` under the name `odds`.
    pub async fn sentinel(primary: &RedisServer) -> Self {
        let monitor = format!("--sentinel monitor odds 127.0.0.1 {} 1", primary.port);
        let args = vec!["--sentinel".into(), monitor];
        Self::launch(free_port(), args, "+monitor master").await
    }

    async fn launch(port: u16, args: Vec<String>, ready: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (child, lines) = spawn(port, &args, dir.path());
        let mut server = Self {
            port,
            args,
            dir,
            child,
            lines,
            password: None,
        };
        server.says(ready).await;
        server
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

    /// One command over a connection of its own.
    pub async fn cli(&self, args: &[&str]) -> Reply {
        let mut connection = Resp::connect(self.port).await.expect("connect to Redis");
        if let Some(password) = &self.password {
            let auth = connection.command(&["AUTH", password]).await;
            assert_eq!(auth.expect("AUTH"), Reply::Status("OK".into()));
        }
        connection.command(args).await.expect("an answer")
    }

    /// Ends it at once, as a crash would.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("kill redis-server");
    }

    /// Starts it again on the same port, empty.
    pub async fn restart(&mut self) {
        if self.child.id().is_some() {
            self.kill().await;
        }
        (self.child, self.lines) = spawn(self.port, &self.args, self.dir.path());
        self.says("Ready to accept connections").await;
    }

    /// Makes it hang: it accepts connections and never answers.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("a running redis-server").to_string();
        let status = std::process::Command::new("kill")
            .args([signal, &pid])
            .status();
        assert!(status.expect("kill(1)").success(), "kill {signal} {pid}");
    }

    /// Waits until the server's log says `text`.
    async fn says(&mut self, text: &str) {
        let mut said = Vec::new();
        let wait = async {
            while let Some(line) = self.lines.recv().await {
                let found = line.contains(text);
                said.push(line);
                if found {
                    return true;
                }
            }
            false
        };
        let found = tokio::time::timeout(PATIENCE, wait).await.unwrap_or(false);
        assert!(
            found,
            "redis-server never said {text:?}:\n{}",
            said.join("\n")
        );
    }

    /// Three nodes that own a third of the slots each.
    pub async fn cluster() -> RedisCluster {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            let bus = free_port().to_string();
            let settings = ["--cluster-enabled", "yes", "--cluster-port", &bus];
            nodes.push((Self::with(&settings).await, bus));
        }
        for (n, range) in [("0", "5460"), ("5461", "10922"), ("10923", "16383")]
            .iter()
            .enumerate()
        {
            let (node, _) = &nodes[n];
            let epoch = (n + 1).to_string();
            ok(node.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await);
            ok(node
                .cli(&["CLUSTER", "ADDSLOTSRANGE", range.0, range.1])
                .await);
        }
        for (node, bus) in &nodes[1..] {
            let port = node.port.to_string();
            ok(nodes[0]
                .0
                .cli(&["CLUSTER", "MEET", "127.0.0.1", &port, bus])
                .await);
        }
        let mut nodes: Vec<Self> = nodes.into_iter().map(|(node, _)| node).collect();
        for node in &mut nodes {
            node.says("Cluster state changed: ok").await;
        }
        RedisCluster { nodes }
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

fn ok(reply: Reply) {
    assert_eq!(reply, Reply::Status("OK".into()));
}

fn spawn(
    port: u16,
    args: &[String],
    dir: &std::path::Path,
) -> (Child, mpsc::UnboundedReceiver<String>) {
    // A configuration file, because sentinels insist on one; settings of the command line follow it.
    let config = dir.join("redis.conf");
    std::fs::write(
        &config,
        format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nlogfile \"\"\n",
            dir.display()
        ),
    )
    .expect("write redis.conf");
    let (mode, settings): (&[&str], Vec<&String>) = match args.first().map(String::as_str) {
        Some("--sentinel") => {
            let monitor = args[1].trim_start_matches("--");
            let text = std::fs::read_to_string(&config).expect("read redis.conf");
            std::fs::write(&config, format!("{text}{monitor}\n")).expect("write redis.conf");
            (&["--sentinel"], Vec::new())
        }
        _ => (&[], args.iter().collect()),
    };
    let mut child = Command::new("redis-server")
        .arg(&config)
        .args(mode)
        .args(settings)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|why| {
            panic!(
                "redis-server does not start ({why}): run ./test, it installs what the tests need"
            )
        });
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            // Nobody may be listening any more; the pipe must be read all the same.
            let _ = sender.send(line);
        }
    });
    (child, receiver)
}
