//! A PostgreSQL of our own, for a machine where no URL is given: made in a temporary folder, on a
//! free loopback port, and gone when this is dropped.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::folder::Folder;

const SUPERUSER: &str = "oddsd";
/// PostgreSQL refuses to run as root; its packages make this user.
const UNPRIVILEGED: &str = "postgres";
/// Somebody may take the port between our look and the server's start.
const PORTS_TRIED: usize = 5;
/// Everything is as PostgreSQL comes, but for this: a checkpoint in the middle of a run makes whoever
/// writes next log whole pages, and falls on one variant and not on the others.
const SETTINGS: &str = "-c max_wal_size=8GB -c checkpoint_timeout=1h";
const PACKAGES: &str = "/usr/lib/postgresql";

pub struct Server {
    /// It goes when this has ended its server.
    folder: Folder,
    programs: PathBuf,
    pub url: String,
}

impl Server {
    pub fn start() -> anyhow::Result<Self> {
        let programs = programs().context(
            "no PostgreSQL programs (initdb, pg_ctl) on this machine; install postgresql, or give --database-url",
        )?;
        let mut server = Self {
            folder: Folder::new()?,
            programs,
            url: String::new(),
        };
        server.begin()?;
        Ok(server)
    }

    fn begin(&mut self) -> anyhow::Result<()> {
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
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let settings = format!(
                "{SETTINGS} -c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={}",
                self.folder.path().display()
            );
            let started = finished(
                self.program("pg_ctl")
                    .args(["-w", "-t", "60", "-o", &settings, "-l"])
                    .arg(self.folder.path().join("log"))
                    .arg("-D")
                    .arg(&data)
                    .arg("start"),
            );
            match started {
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

impl Drop for Server {
    fn drop(&mut self) {
        // By the process id in the folder; without one there is nothing to end.
        let mut stop = self.program("pg_ctl");
        stop.args(["-m", "immediate", "-w", "-D"])
            .arg(self.data())
            .arg("stop");
        let _ = finished(&mut stop);
    }
}

/// Where the newest PostgreSQL of this machine has its programs.
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

/// Runs it to its end; what it said is the error.
fn finished(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().display().to_string();
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {name}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("{name} ended with {}: {}", output.status, said.trim())
}
