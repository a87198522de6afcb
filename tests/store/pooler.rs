//! A real pooler in front of the real server: session mode works, transaction mode is refused.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use oddsd_store::{Store, StoreError};

use super::fixture::{DatabaseBackend, StateWriter, TestDay, offer, open, settings};
use oddsd_testkit::eventually;
use oddsd_testkit::ports::free_port;

struct Bouncer {
    child: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Starts `pgbouncer` before the server of this URL.
async fn pgbouncer(url: &str, mode: &str, sessions: u32) -> Bouncer {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, database) = url.rsplit_once('/').expect("a database");
    let (user, address) = server
        .trim_start_matches("postgres://")
        .split_once('@')
        .expect("a user");
    let (host, port) = address.rsplit_once(':').expect("a port");
    let users = folder.path().join("users.txt");
    std::fs::write(&users, format!("\"{user}\" \"\"\n")).expect("a file");
    let own = free_port();
    let ini = folder.path().join("pgbouncer.ini");
    let text = format!(
        "[databases]\n{database} = host={host} port={port} dbname={database}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = {own}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = {mode}\n\
         default_pool_size = {sessions}\n",
        users.display()
    );
    std::fs::write(&ini, text).expect("a file");
    let child = start(folder.path(), &ini)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("pgbouncer starts");
    let bouncer = Bouncer {
        child,
        url: format!("postgres://{user}@127.0.0.1:{own}/{database}"),
        _folder: folder,
    };
    eventually("pgbouncer listens", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", own)).await
    })
    .await;
    bouncer
}

/// It refuses to run as root, like the server itself.
fn start(folder: &Path, ini: &Path) -> Command {
    let root = std::fs::metadata("/proc/self")
        .is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    if !root {
        let mut command = Command::new("pgbouncer");
        command.arg(ini);
        return command;
    }
    let owned = Command::new("chown")
        .args(["-R", "postgres"])
        .arg(folder)
        .status();
    assert!(
        owned.is_ok_and(|status| status.success()),
        "the folder becomes the pooler's"
    );
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "pgbouncer",
        ])
        .arg(ini);
    command
}

#[tokio::test]
async fn transaction_pooler_is_refused() {
    let database = DatabaseBackend::Postgres.migrated().await;
    for sessions in [1, 2, 20] {
        let pooler = pgbouncer(&database.url, "transaction", sessions).await;
        match Store::open(&settings(&pooler.url)).await {
            Err(StoreError::Misconfigured(why)) => {
                assert!(
                    why.contains("transaction-mode pooler") && why.contains("session pooler"),
                    "{why}"
                );
            }
            Err(other) => panic!("{sessions} sessions: {other:?}"),
            Ok(_) => panic!("{sessions} sessions: it opens"),
        }
    }
}

#[tokio::test]
async fn session_pooler_works() {
    let database = DatabaseBackend::Postgres.empty().await;
    let pooler = pgbouncer(&database.url, "session", 20).await;
    let store = open(&pooler.url).await;
    store.migrate(false).await.expect("migrated");
    let mut leader = StateWriter::start(&store, "leader").await;
    let mut day = TestDay::with_races(2, 2, 2);
    for n in 0..10 {
        day.advance(10);
        day.set(0, 0, Some(offer(500 + n)));
        leader
            .commit_snapshot(&day.snapshot())
            .await
            .expect("a move");
    }
    let book = database.store.load().await.expect("the rows load").state;
    assert_eq!(book.open_prices(), 8);
    store.close().await;
}
