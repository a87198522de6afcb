//! Tests of `oddsd-bench` at a small size: its measures and its verification of rows, never its times.
//! They also check that it leaves no database, file or process behind.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::process::{Child, Command};

use oddsd_testkit::eventually;
use oddsd_testkit::lines::LogReader;
use oddsd_testkit::postgres;

/// A quick run on a loaded machine; only a broken one reaches it.
const RUN_LIMIT: Duration = Duration::from_secs(300);

/// The program with a folder and an environment of its own.
struct Bench {
    folder: tempfile::TempDir,
    env: Vec<(&'static str, &'static str)>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("tmp")).expect("a folder for temporary files");
        // It finds redis-server there.
        let path = std::env::var("PATH").expect("PATH").leak();
        Self {
            folder,
            env: vec![("PATH", path)],
        }
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.env.retain(|(known, _)| *known != name);
        self.env.push((name, value));
        self
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Files that it left in the folder for temporary files.
    fn temporary_files(&self) -> Vec<String> {
        std::fs::read_dir(self.folder().join("tmp"))
            .expect("the folder is there")
            .map(|entry| entry.expect("readable").file_name().display().to_string())
            .collect()
    }

    fn start(&self, args: &[&str]) -> RunningBench {
        let mut child = Command::new(env!("CARGO_BIN_EXE_oddsd-bench"))
            .args(args)
            .env_clear()
            .envs(self.env.iter().copied())
            .env("TMPDIR", self.folder().join("tmp"))
            .current_dir(self.folder())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("oddsd-bench starts");
        let (mut stdout, mut stderr) = (LogReader::default(), LogReader::default());
        stdout.attach(child.stdout.take().expect("piped"));
        stderr.attach(child.stderr.take().expect("piped"));
        RunningBench {
            child,
            stdout,
            stderr,
        }
    }

    async fn run(&self, args: &[&str]) -> BenchOutput {
        self.start(args).wait().await
    }
}

struct RunningBench {
    child: Child,
    stdout: LogReader,
    stderr: LogReader,
}

impl RunningBench {
    async fn wait_for_progress(&mut self, text: &str) {
        let found = self.stderr.wait_for(text).await;
        found.expect("a line of its progress");
    }

    async fn stop(self) -> BenchOutput {
        let id = self.child.id().expect("running").to_string();
        let status = Command::new("kill").arg(&id).status().await;
        assert!(status.expect("kill(1)").success(), "kill {id}");
        self.wait().await
    }

    async fn wait(mut self) -> BenchOutput {
        let status = tokio::time::timeout(RUN_LIMIT, self.child.wait()).await;
        let Ok(status) = status else {
            panic!("it does not end:\n{}", self.stderr.text());
        };
        self.stdout.finish().await;
        self.stderr.finish().await;
        BenchOutput {
            code: status.expect("a status").code(),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        }
    }
}

struct BenchOutput {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl BenchOutput {
    #[track_caller]
    fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// Asserts that each text is on either stream.
    #[track_caller]
    fn expect_texts(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.contains(text), "{text:?} is missing in:\n{self}");
        }
        self
    }

    fn contains(&self, text: &str) -> bool {
        self.stdout.contains(text) || self.stderr.contains(text)
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|why| panic!("no JSON ({why}):\n{self}"))
    }
}

impl std::fmt::Display for BenchOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (code, stdout, stderr) = (self.code, &self.stdout, &self.stderr);
        write!(
            f,
            "exit {code:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}"
        )
    }
}

/// Every measure, by its public name.
const MEASURES: [&str; 38] = [
    "answer_to_commit_12k_1",
    "cold_start_1m",
    "diff_1m",
    "diff_1m_quiet",
    "parse_strict",
    "quiet_12k",
    "quiet_body_equal",
    "quiet_process_cpu",
    "quiet_restamped",
    "quiet_statements",
    "reader_p99",
    "remote_20ms_12k_10",
    "remote_round_trips",
    "rss_12k",
    "rss_1m",
    "rss_1m_all_gone",
    "sqlite_12k_1",
    "sqlite_12k_10",
    "sqlite_12k_90",
    "statements_a_cycle",
    "wal_10800",
    "write_12k_0_vs_multirow",
    "write_12k_0_vs_unnest_compare",
    "write_12k_10_vs_copy",
    "write_12k_10_vs_multirow",
    "write_12k_10_vs_unnest_compare",
    "write_12k_1_vs_copy",
    "write_12k_1_vs_multirow",
    "write_12k_1_vs_unnest_compare",
    "write_12k_90_vs_copy",
    "write_12k_90_vs_multirow",
    "write_12k_90_vs_row_by_row",
    "write_12k_90_vs_server_side",
    "write_12k_90_vs_unnest_compare",
    "write_1m_10_vs_copy",
    "write_1m_10_vs_unnest_compare",
    "write_1m_1_vs_copy",
    "write_1m_90_vs_copy",
];

/// A role of this test on the server and a URL that logs in as it, so that databases left behind can be
/// counted.
struct Role {
    name: String,
    url: String,
    admin: PgConnection,
}

impl Role {
    async fn new(name: &str, rights: &str) -> Self {
        let name = format!("bench_{name}_{}", std::process::id());
        let server = postgres::server_url();
        let mut admin = postgres::connect(&server).await;
        let create = format!("CREATE ROLE {name} LOGIN {rights}");
        admin.execute(AssertSqlSafe(create)).await.expect("a role");
        let (scheme, rest) = server.split_once("://").expect("a URL");
        let (_, host) = rest.split_once('@').expect("a user");
        Self {
            url: format!("{scheme}://{name}@{host}"),
            name,
            admin,
        }
    }

    async fn databases(&mut self) -> Vec<String> {
        let owned = "SELECT datname::text FROM pg_database JOIN pg_roles r ON r.oid = datdba WHERE rolname = $1";
        let owned = sqlx::query_scalar(owned).bind(&self.name);
        owned.fetch_all(&mut self.admin).await.expect("a list")
    }
}

#[tokio::test]
async fn bench_write_takes_every_measure_and_verifies_rows() {
    let mut role = Role::new("whole", "CREATEDB").await;
    let bench = Bench::new();
    let reported = bench
        .run(&["write", "--quick", "--json", "--database-url", &role.url])
        .await
        .expect_code(0);
    let report = reported.json();
    assert_eq!(report["runs"], 2);
    assert_eq!(report["machine"]["sizes"]["quick"], true);
    assert_eq!(report["machine"]["private_server"], false);
    assert!(report["machine"]["cores"].as_u64() > Some(0));
    for setting in ["server_version", "fsync", "shared_buffers"] {
        assert!(
            report["machine"]["postgres"][setting].is_string(),
            "{setting}"
        );
    }

    let measures = report["measures"].as_array().expect("a list");
    let names: BTreeSet<&str> = measures.iter().filter_map(|m| m["name"].as_str()).collect();
    assert_eq!(names, BTreeSet::from(MEASURES));
    let mut missed = Vec::new();
    for measure in measures {
        let number = |field: &str| measure[field].as_f64();
        // A number that is not finite would be null.
        assert!(number("ours").is_some_and(|ours| ours >= 0.0), "{measure}");
        assert_eq!(
            measure["bar"].is_string(),
            measure["met"].is_boolean(),
            "{measure}"
        );
        assert_eq!(
            number("baseline").is_some(),
            number("ratio").is_some(),
            "{measure}"
        );
        assert!(measure["unit"].is_string() && measure["note"].is_string());
        if measure["met"] == false {
            missed.push(measure["name"].clone());
        }
    }
    assert_eq!(report["missed"], Value::Array(missed));

    let measured = |name: &str| {
        let of = measures.iter().find(|m| m["name"] == name);
        of.and_then(|m| m["ours"].as_f64()).expect("a number")
    };
    assert_eq!(measured("quiet_statements"), 0.0);
    assert!((1.0..=3.0).contains(&measured("remote_round_trips")));
    assert!(measured("statements_a_cycle") >= 1.0);
    assert!(measured("wal_10800") > 0.0);
    assert_eq!(role.databases().await, [""; 0], "left behind");
    assert_eq!(bench.temporary_files(), [""; 0]);
}

/// Without a URL the bench starts a server in a temporary folder.
#[tokio::test]
async fn bench_without_a_url_starts_a_private_server() {
    // A server that is not run as root has to get into the folder, too.
    let bench = Bench::new();
    let open = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(bench.folder(), open).expect("the test's folder");
    // DATABASE_URL may name real prices, so the bench ignores it.
    let bench = bench.with("DATABASE_URL", "postgres://nobody@127.0.0.1:1/prices");
    let reported = bench
        .run(&["write", "--quick", "--only", "quiet_body"])
        .await;
    let reported = reported.expect_code(0).expect_texts(&[
        "starting a private PostgreSQL",
        "quiet_body_equal",
        "server_version",
        "ms CPU",
    ]);
    assert!(!reported.contains("write_12k"), "{reported}");
    assert_eq!(bench.temporary_files(), [""; 0]);
}

#[tokio::test]
async fn bench_stops_on_a_signal_and_cleans_up() {
    let mut role = Role::new("stopped", "CREATEDB").await;
    let bench = Bench::new();
    let mut running = bench.start(&[
        "write",
        "--quick",
        "--runs",
        "1000",
        "--only",
        "rss_12k",
        "--database-url",
        &role.url,
    ]);
    running.wait_for_progress("1/1: rss_12k").await;
    eventually("the bench makes a database", async || {
        let made = role.databases().await;
        (!made.is_empty()).then_some(()).ok_or(made)
    })
    .await;
    let ended = running.stop().await.expect_code(1);
    ended.expect_texts(&["stopped before the end"]);
    assert_eq!(role.databases().await, [""; 0], "left behind");
}

/// A fast wrong answer is no result.
#[tokio::test]
async fn bench_fails_when_stored_rows_are_wrong() {
    let mut role = Role::new("corrupted", "CREATEDB").await;
    let bench = Bench::new();
    let running = bench.start(&[
        "write",
        "--quick",
        "--runs",
        "1000",
        "--only",
        "quiet_12k",
        "--database-url",
        &role.url,
    ]);
    eventually("the bench stores prices", async || {
        delete_price(&mut role).await
    })
    .await;
    let ended = running.wait().await.expect_code(1);
    assert!(!ended.contains("quiet_12k  "), "{ended}");
    assert_eq!(role.databases().await, [""; 0], "left behind");
}

/// Deletes the first price, or returns the databases that have none yet.
async fn delete_price(role: &mut Role) -> Result<(), Vec<String>> {
    let names = role.databases().await;
    for name in &names {
        let url = role.url.replace("/postgres", &format!("/{name}"));
        let Ok(mut db) = PgConnection::connect(&url).await else {
            continue;
        };
        let deleted = db.execute("DELETE FROM oddsd.prices WHERE id = 1").await;
        if deleted.is_ok_and(|done| done.rows_affected() == 1) {
            return Ok(());
        }
    }
    Err(names)
}

#[tokio::test]
async fn bench_names_missing_rights_and_wrong_arguments() {
    let role = Role::new("plain", "NOCREATEDB").await;
    let bench = Bench::new();
    bench
        .run(&[
            "write",
            "--quick",
            "--only",
            "quiet",
            "--database-url",
            &role.url,
        ])
        .await
        .expect_code(1)
        .expect_texts(&["cannot create a database", "CREATEDB", "private server"]);
    bench
        .run(&["write", "--database-url", "sqlite:odds.db"])
        .await
        .expect_code(2)
        .expect_texts(&["postgres://"]);
    bench
        .run(&["write", "--only", "quantum"])
        .await
        .expect_code(2)
        .expect_texts(&["quantum", "write_12k_90_vs_copy"]);
    assert!(!bench.folder().join("odds.db").exists());
}

/// The targets of `freshness` under faults.
const FAULT_TARGETS: [&str; 4] = [
    "keys_stuck",
    "read_errors",
    "stale_per_million",
    "stale_per_million_but_hangs",
];
const FAULT_FIGURES: [&str; 5] = ["stale", "stuck", "reads", "hits", "refused"];
const OTHER_SCHEMES: [&str; 3] = ["remove_after_commit", "timestamps", "leases"];

/// A short run with every kind of fault.
#[tokio::test]
async fn bench_freshness_sees_no_stale_read_under_faults() {
    let mut role = Role::new("fresh", "CREATEDB").await;
    let bench = Bench::new();
    let args = ["freshness", "--quick", "--json", "--database-url"];
    let reported = bench
        .run(&[&args[..], &[&role.url]].concat())
        .await
        .expect_code(0);
    let report = reported.json();
    assert_eq!(report["machine"]["sizes"]["quick"], true);
    assert!(report["machine"]["sizes"]["seed"].is_u64(), "{report}");

    let measures = report["measures"].as_array().expect("a list");
    let measure = |name: &str| {
        let of = measures.iter().find(|m| m["name"] == name);
        of.unwrap_or_else(|| panic!("no {name} in {report}"))
    };
    for name in FAULT_TARGETS {
        assert_eq!(measure(name)["ours"], 0.0, "{reported}");
        assert_eq!(measure(name)["met"], true, "{reported}");
    }
    // Each kind of fault, or the run would have failed.
    assert!(
        measure("faults")["ours"].as_f64() >= Some(24.0),
        "{reported}"
    );
    for scheme in OTHER_SCHEMES {
        for figure in FAULT_FIGURES {
            let compared = measure(&format!("{figure}_vs_{scheme}"));
            assert!(compared["baseline"].is_number(), "{compared}");
            assert_eq!(compared["bar"], Value::Null, "{compared}");
        }
    }
    assert_eq!(role.databases().await, [""; 0], "left behind");
    assert_eq!(bench.temporary_files(), [""; 0]);
}

#[tokio::test]
async fn bench_freshness_without_redis_names_the_package() {
    let role = Role::new("noredis", "CREATEDB").await;
    Bench::new()
        .with("PATH", "/nowhere")
        .run(&["freshness", "--quick", "--database-url", &role.url])
        .await
        .expect_code(1)
        .expect_texts(&["redis-server", "install"]);
}

/// Every measure of `invalidation`.
const INVALIDATION: [&str; 11] = [
    "others_commit_to_gone_p50",
    "others_commit_to_gone_p99",
    "reported_changes",
    "reported_changes_memory",
    "watched_bulk_insert",
    "watched_bulk_insert_table",
    "watched_bulk_update",
    "watched_bulk_update_table",
    "watched_insert",
    "watched_insert_quiet",
    "watched_insert_table",
];

/// Each timed write was reported, and each timed removal was made.
#[tokio::test]
async fn bench_invalidation_takes_every_measure() {
    let mut role = Role::new("others", "CREATEDB").await;
    let bench = Bench::new();
    let args = ["invalidation", "--quick", "--json", "--database-url"];
    let reported = bench
        .run(&[&args[..], &[&role.url]].concat())
        .await
        .expect_code(0);
    let report = reported.json();
    assert_eq!(report["machine"]["sizes"]["quick"], true);
    let measures = report["measures"].as_array().expect("a list");
    let names: BTreeSet<&str> = measures.iter().filter_map(|m| m["name"].as_str()).collect();
    assert!(
        names.is_superset(&BTreeSet::from(INVALIDATION)),
        "{reported}"
    );
    for measure in measures {
        assert!(
            measure["ours"].as_f64().is_some_and(|ours| ours > 0.0),
            "{measure}"
        );
    }
    assert_eq!(role.databases().await, [""; 0], "left behind");
    assert_eq!(bench.temporary_files(), [""; 0]);
}
