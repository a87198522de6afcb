//! A new database for each test on the private server that `./test` starts, and a private server for
//! benches on a machine without one. Integration tests and benches use it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::ports::free_port;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The private server's own URL.
pub fn server_url() -> String {
    std::env::var("ODDSD_TEST_POSTGRES_URL")
        .expect("no test database: run ./test, which starts a private PostgreSQL")
}

/// Creates an empty database and returns its URL.
pub async fn database() -> String {
    let server = server_url();
    let name = format!(
        "t{}_{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let mut admin = PgConnection::connect(&server)
        .await
        .expect("the private PostgreSQL answers");
    let create = format!("CREATE DATABASE {name} TEMPLATE template0");
    admin
        .execute(AssertSqlSafe(create))
        .await
        .expect("a database");
    admin.close().await.ok();
    let (base, _) = server
        .rsplit_once('/')
        .expect("a URL ends with a database name");
    format!("{base}/{name}")
}

/// A connection past the daemon's own code.
pub async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url)
        .await
        .expect("the test's database answers")
}

const SUPERUSER: &str = "oddsd";
/// PostgreSQL refuses to run as root; its packages make this user.
const UNPRIVILEGED: &str = "postgres";
/// Another program can take a port between its choice and the server's start.
const PORTS_TRIED: usize = 5;
/// The defaults, but no checkpoint in the middle of a measurement: the next writer would log whole pages.
const SETTINGS: &str = "-c max_wal_size=8GB -c checkpoint_timeout=1h";
const PACKAGES: &str = "/usr/lib/postgresql";

/// A PostgreSQL with a temporary folder and a free port, ended when dropped.
pub struct PostgresServer {
    folder: tempfile::TempDir,
    programs: PathBuf,
    /// Of the command line.
    settings: String,
    pub url: String,
}

impl PostgresServer {
    pub fn start() -> anyhow::Result<Self> {
        Self::with("")
    }

    /// With further settings, as `-c name=value`.
    pub fn with(settings: &str) -> anyhow::Result<Self> {
        let programs = programs().context(
            "no PostgreSQL programs (initdb, pg_ctl) on this machine; install postgresql, or give --database-url",
        )?;
        let mut server = Self {
            folder: tempfile::TempDir::new()?,
            programs,
            settings: String::new(),
            url: String::new(),
        };
        server.begin(settings)?;
        Ok(server)
    }

    fn begin(&mut self, more: &str) -> anyhow::Result<()> {
        if is_root() {
            let owner = format!("{UNPRIVILEGED}:");
            finished(Command::new("chown").arg(owner).arg(self.folder.path()))?;
        }
        let data = self.data();
        finished(
            self.program("initdb")
                .args([
                    "-U",
                    SUPERUSER,
                    "-A",
                    "trust",
                    "-E",
                    "UTF8",
                    "--locale=C.UTF-8",
                    "-D",
                ])
                .arg(&data),
        )?;
        let mut why = anyhow::anyhow!("no free port");
        for _ in 0..PORTS_TRIED {
            let port = free_port();
            self.settings = format!(
                "{SETTINGS} {more} -c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={}",
                self.folder.path().display()
            );
            match self.launch() {
                Ok(()) => {
                    self.url = format!("postgres://{SUPERUSER}@127.0.0.1:{port}/postgres");
                    return Ok(());
                }
                Err(error) => why = error,
            }
        }
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        bail!("PostgreSQL did not start: {why:#}\n{log}")
    }

    fn launch(&self) -> anyhow::Result<()> {
        finished(
            self.program("pg_ctl")
                .args(["-w", "-t", "60", "-o", &self.settings, "-l"])
                .arg(self.folder.path().join("log"))
                .arg("-D")
                .arg(self.data())
                .arg("start"),
        )
    }

    /// Ends the server, which cuts its sessions, and starts it again on the same port.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.stop("fast")?;
        self.launch()
    }

    fn stop(&self, mode: &str) -> anyhow::Result<()> {
        finished(
            self.program("pg_ctl")
                .args(["-m", mode, "-w", "-D"])
                .arg(self.data())
                .arg("stop"),
        )
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("pg")
    }

    fn program(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        let mut command = match is_root() {
            true => {
                let mut command = Command::new("setpriv");
                command
                    .arg(format!("--reuid={UNPRIVILEGED}"))
                    .arg(format!("--regid={UNPRIVILEGED}"))
                    .arg("--clear-groups")
                    .arg(program);
                command
            }
            false => Command::new(program),
        };
        command.current_dir(self.folder.path());
        command
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // By the process id in the folder; without one there is nothing to end.
        let _ = self.stop("immediate");
    }
}

/// The folder with the programs of the newest PostgreSQL on this machine.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir(PACKAGES).into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort();
    let packaged = versions.into_iter().rev().map(|(_, bin)| bin);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = std::env::split_paths(&path).collect();
    packaged
        .chain(on_path)
        .find(|bin| bin.join("initdb").is_file() && bin.join("pg_ctl").is_file())
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    Path::new("/proc/self")
        .metadata()
        .is_ok_and(|own| own.uid() == 0)
}

/// Runs a program to its end; its standard error becomes the error.
fn finished(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().display().to_string();
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {name}"))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    bail!("{name} ended with {}: {}", output.status, stderr.trim())
}
