//! `bench`: a small size of it, for its results and never for its times. What it measures is right,
//! what it says has a shape, what it made is gone.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::harness::daemon::{Daemon, Settings};
use crate::harness::program::Oddsd;
use oddsd_testkit::WAIT_LIMIT as PATIENCE;
use oddsd_testkit::postgres;

/// Every measure, by the name that others quote.
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

/// A role of this story on the test server, and a URL that logs in as it: whose databases are left
/// over can then be told apart from those of other stories.
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
async fn every_measure_is_taken_and_every_row_is_right() {
    let mut role = Role::new("whole", "CREATEDB").await;
    let oddsd = Oddsd::new();
    let told = oddsd
        .run(&["bench", "--quick", "--json", "--database-url", &role.url])
        .await
        .is(0);
    let report = told.json();
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
    assert_eq!(oddsd.left_behind(), [""; 0]);
}

/// Without a URL there is a server of its own, in a folder that goes with it.
#[tokio::test]
async fn without_a_url_it_brings_its_own_server() {
    // A server that is not run as root has to get into the folder, too.
    let oddsd = Oddsd::new();
    let open = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(oddsd.folder(), open).expect("our folder");
    // What the environment says is where real prices are.
    let oddsd = oddsd.with("DATABASE_URL", "postgres://nobody@127.0.0.1:1/prices");
    let told = oddsd
        .run(&["bench", "--quick", "--only", "quiet_body"])
        .await;
    let told = told.is(0).says(&[
        "starting a private PostgreSQL",
        "quiet_body_equal",
        "server_version",
        "ms CPU",
    ]);
    told.says_not(&["write_12k"]);
    assert_eq!(oddsd.left_behind(), [""; 0]);
}

#[tokio::test]
async fn it_stops_when_told_and_takes_everything_with_it() {
    let mut role = Role::new("stopped", "CREATEDB").await;
    let mut bench = Daemon::start(
        &Settings::default(),
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
    bench.says("1/1: rss_12k").await;
    let begun = async {
        while role.databases().await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let begun = tokio::time::timeout(PATIENCE, begun).await;
    begun.expect("it makes a database");
    let ended = bench.stop().await.expect(1);
    assert!(
        ended.text().contains("stopped before the end"),
        "{}",
        ended.text()
    );
    assert_eq!(role.databases().await, [""; 0], "left behind");
}

/// A fast wrong answer is no result.
#[tokio::test]
async fn rows_that_are_wrong_end_it() {
    let mut role = Role::new("meddled", "CREATEDB").await;
    let bench = Daemon::start(
        &Settings::default(),
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
    let meddled = tokio::time::timeout(PATIENCE, meddle(&mut role)).await;
    meddled.expect("it stores prices");
    let ended = bench.ends().await.expect(1);
    assert_eq!(ended.count("quiet_12k  "), 0, "{}", ended.text());
    assert_eq!(role.databases().await, [""; 0], "left behind");
}

/// Takes out a price as soon as there is one.
async fn meddle(role: &mut Role) {
    loop {
        for name in role.databases().await {
            let url = role.url.replace("/postgres", &format!("/{name}"));
            let Ok(mut db) = PgConnection::connect(&url).await else {
                continue;
            };
            let meddle = db.execute("DELETE FROM oddsd.prices WHERE id = 1").await;
            if meddle.is_ok_and(|done| done.rows_affected() == 1) {
                return;
            }
        }
    }
}

#[tokio::test]
async fn it_asks_politely_for_what_it_needs() {
    let role = Role::new("plain", "NOCREATEDB").await;
    let oddsd = Oddsd::new();
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
        .is(1)
        .says(&["cannot create a database", "CREATEDB", "private server"]);
    oddsd
        .run(&["bench", "--database-url", "sqlite:odds.db"])
        .await
        .is(78)
        .says(&["postgres://"]);
    oddsd
        .run(&["bench", "--only", "quantum"])
        .await
        .is(78)
        .says(&["quantum", "write_12k_90_vs_copy"]);
    assert!(!oddsd.folder().join("odds.db").exists());
}

/// What `bench freshness` promises under faults.
const FAULT_BARS: [&str; 4] = [
    "keys_stuck",
    "read_errors",
    "stale_per_million",
    "stale_per_million_but_hangs",
];
const FAULT_FIGURES: [&str; 5] = ["stale", "stuck", "reads", "hits", "refused"];
const OTHER_SCHEMES: [&str; 3] = ["remove_after_commit", "timestamps", "leases"];

/// The same as in minutes, in seconds: everything fails that can, and no reader sees it.
#[tokio::test]
async fn no_reader_sees_the_past_while_everything_fails() {
    let mut role = Role::new("fresh", "CREATEDB").await;
    let oddsd = Oddsd::new();
    let args = ["bench", "freshness", "--quick", "--json", "--database-url"];
    let told = oddsd.run(&[&args[..], &[&role.url]].concat()).await.is(0);
    let report = told.json();
    assert_eq!(report["machine"]["sizes"]["quick"], true);
    assert!(report["machine"]["sizes"]["seed"].is_u64(), "{report}");

    let measures = report["measures"].as_array().expect("a list");
    let measure = |name: &str| {
        let of = measures.iter().find(|m| m["name"] == name);
        of.unwrap_or_else(|| panic!("no {name} in {report}"))
    };
    for name in FAULT_BARS {
        assert_eq!(measure(name)["ours"], 0.0, "{told}");
        assert_eq!(measure(name)["met"], true, "{told}");
    }
    // Each kind of fault, or the run would have failed.
    assert!(measure("faults")["ours"].as_f64() >= Some(24.0), "{told}");
    for scheme in OTHER_SCHEMES {
        for figure in FAULT_FIGURES {
            let compared = measure(&format!("{figure}_vs_{scheme}"));
            assert!(compared["baseline"].is_number(), "{compared}");
            assert_eq!(compared["bar"], Value::Null, "{compared}");
        }
    }
    assert_eq!(role.databases().await, [""; 0], "left behind");
    assert_eq!(oddsd.left_behind(), [""; 0]);
}

#[tokio::test]
async fn without_a_redis_it_says_what_to_install() {
    let role = Role::new("noredis", "CREATEDB").await;
    Oddsd::new()
        .with("PATH", "/nowhere")
        .run(&["bench", "freshness", "--quick", "--database-url", &role.url])
        .await
        .is(1)
        .says(&["redis-server", "install"]);
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

/// Each write that is timed is one that was reported, each removal one that was made.
#[tokio::test]
async fn what_other_writers_pay_is_measured() {
    let mut role = Role::new("others", "CREATEDB").await;
    let oddsd = Oddsd::new();
    let args = [
        "bench",
        "invalidation",
        "--quick",
        "--json",
        "--database-url",
    ];
    let told = oddsd.run(&[&args[..], &[&role.url]].concat()).await.is(0);
    let report = told.json();
    assert_eq!(report["machine"]["sizes"]["quick"], true);
    let measures = report["measures"].as_array().expect("a list");
    let names: BTreeSet<&str> = measures.iter().filter_map(|m| m["name"].as_str()).collect();
    assert!(names.is_superset(&BTreeSet::from(INVALIDATION)), "{told}");
    for measure in measures {
        assert!(
            measure["ours"].as_f64().is_some_and(|ours| ours > 0.0),
            "{measure}"
        );
    }
    assert_eq!(role.databases().await, [""; 0], "left behind");
    assert_eq!(oddsd.left_behind(), [""; 0]);
}
