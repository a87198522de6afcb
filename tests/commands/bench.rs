//! Tests of `bench` at a small size: its measures and its verification of rows, never its times.
//! It leaves nothing behind.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::harness::daemon::{DaemonEnv, DaemonProcess};
use crate::harness::program::Program;
use oddsd_testkit::eventually;
use oddsd_testkit::postgres;

/// Every measure, by its public name.
const MEASURES: [&str; 39] = [
    "answer_to_commit_12k_1",
    "cold_start_1m",
    "diff_1m",
    "diff_1m_quiet",
    "parse_known",
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
    let oddsd = Program::new();
    let reported = oddsd
        .run(&["bench", "--quick", "--json", "--database-url", &role.url])
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
    assert_eq!(oddsd.temporary_files(), [""; 0]);
}

/// Without a URL the bench starts a server in a temporary folder.
#[tokio::test]
async fn bench_without_a_url_starts_a_private_server() {
    // A server that is not run as root has to get into the folder, too.
    let oddsd = Program::new();
    let open = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(oddsd.folder(), open).expect("our folder");
    // DATABASE_URL may name real prices, so the bench ignores it.
    let oddsd = oddsd.with("DATABASE_URL", "postgres://nobody@127.0.0.1:1/prices");
    let reported = oddsd
        .run(&["bench", "--quick", "--only", "quiet_body"])
        .await;
    let reported = reported.expect_code(0).expect_texts(&[
        "starting a private PostgreSQL",
        "quiet_body_equal",
        "server_version",
        "ms CPU",
    ]);
    reported.expect_none_of(&["write_12k"]);
    assert_eq!(oddsd.temporary_files(), [""; 0]);
}

#[tokio::test]
async fn bench_stops_on_a_signal_and_cleans_up() {
    let mut role = Role::new("stopped", "CREATEDB").await;
    let mut bench = DaemonProcess::start(
        &DaemonEnv::default(),
        &[
            "bench",
            "--quick",
            "--runs",
            "1000",
            "--only",
            "rss_12k",
            "--database-url",
            &role.url,
        ],
    );
    bench.wait_for_log("1/1: rss_12k").await;
    eventually("the bench makes a database", async || {
        let made = role.databases().await;
        (!made.is_empty()).then_some(()).ok_or(made)
    })
    .await;
    let ended = bench.stop().await.expect_code(1);
    assert!(
        ended.text().contains("stopped before the end"),
        "{}",
        ended.text()
    );
    assert_eq!(role.databases().await, [""; 0], "left behind");
}

/// A fast wrong answer is no result.
#[tokio::test]
async fn bench_fails_when_stored_rows_are_wrong() {
    let mut role = Role::new("meddled", "CREATEDB").await;
    let bench = DaemonProcess::start(
        &DaemonEnv::default(),
        &[
            "bench",
            "--quick",
            "--runs",
            "1000",
            "--only",
            "quiet_12k",
            "--database-url",
            &role.url,
        ],
    );
    eventually("the bench stores prices", async || {
        delete_price(&mut role).await
    })
    .await;
    let ended = bench.wait_for_exit().await.expect_code(1);
    assert_eq!(ended.count("quiet_12k  "), 0, "{}", ended.text());
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
    let oddsd = Program::new();
    oddsd
        .run(&[
            "bench",
            "--quick",
            "--only",
            "quiet",
            "--database-url",
            &role.url,
        ])
        .await
        .expect_code(1)
        .expect_texts(&["cannot create a database", "CREATEDB", "private server"]);
    oddsd
        .run(&["bench", "--database-url", "sqlite:odds.db"])
        .await
        .expect_code(78)
        .expect_texts(&["postgres://"]);
    oddsd
        .run(&["bench", "--only", "quantum"])
        .await
        .expect_code(78)
        .expect_texts(&["quantum", "write_12k_90_vs_copy"]);
    assert!(!oddsd.folder().join("odds.db").exists());
}

/// The targets of `bench freshness` under faults.
const FAULT_BARS: [&str; 4] = [
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
    let oddsd = Program::new();
    let args = ["bench", "freshness", "--quick", "--json", "--database-url"];
    let reported = oddsd
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
    for name in FAULT_BARS {
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
    assert_eq!(oddsd.temporary_files(), [""; 0]);
}

#[tokio::test]
async fn bench_freshness_without_redis_names_the_package() {
    let role = Role::new("noredis", "CREATEDB").await;
    Program::new()
        .with("PATH", "/nowhere")
        .run(&["bench", "freshness", "--quick", "--database-url", &role.url])
        .await
        .expect_code(1)
        .expect_texts(&["redis-server", "install"]);
}

/// Every measure of `bench invalidation`.
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
    let oddsd = Program::new();
    let args = [
        "bench",
        "invalidation",
        "--quick",
        "--json",
        "--database-url",
    ];
    let reported = oddsd
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
    assert_eq!(oddsd.temporary_files(), [""; 0]);
}
