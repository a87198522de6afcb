//! Changes that other programs report remove the keys of their rules, and no similar ones.

use serde_json::json;

use super::{DatabaseBackend, Engine, on_every_backend};
use oddsd_testkit::log::CapturedLog;

on_every_backend!(
    reported_task_removes_its_keys_and_no_others,
    reported_id_with_special_characters_removes_only_its_own_key,
    reported_unknown_task_is_settled_without_a_removal,
    target_that_cannot_be_rendered_does_not_stop_the_others,
    repeated_report_is_harmless,
    report_writes_only_our_own_tables,
);

const TASKS: &str = r#"{
  "version": "1.4",
  "rules": {
    "build_climate": { "invalidates_cache": ["climate", "overview", "pages"] },
    "build_nothing": { "invalidates_cache": [] }
  },
  "cache_keys": { "climate": "climate:{run_id}:v2", "overview": "overview", "pages": "page:{run_id}:*" }
}"#;

const ROWS: &str = r#"
[[rule]]
name = "user-stats"
on = ["row_changed", "task_completed"]
keys = ["stats:{user_id}", "stats:site"]

[[rule]]
name = "climate"
on = ["task_completed"]
when = { task = "build_climate" }
keys = ["climate:{run_id}:v2"]
"#;

async fn reported_task_removes_its_keys_and_no_others(backend: DatabaseBackend) {
    let done = json!({ "change": "task_completed", "task": "build_climate", "run_id": "ab-12" });
    let others = [
        "climate:ab-1:v2",
        "climate:ab-12:v1",
        "climate:*:v2",
        "climate:ab-??:v2",
        "overview:x",
        "Overview",
    ];
    for (name, text) in [("rules.json", TASKS), ("rules.toml", ROWS)] {
        let engine = Engine::by(backend, name, Some(text)).await;
        engine
            .put(&["climate:ab-12:v2", "overview", "stats:site"])
            .await;
        engine.put(&others).await;
        engine.report(done.clone()).await;
        engine.drain().await;
        assert_eq!(engine.left(&["climate:ab-12:v2"]).await, [""; 0], "{name}");
        assert_eq!(engine.left(&others).await, others, "{name}");
        assert_eq!(engine.home.outbox().await, [0; 0]);
        let own = match name {
            "rules.json" => ("overview", "stats:site"),
            _ => ("stats:site", "overview"),
        };
        assert_eq!(engine.left(&[own.0, own.1]).await, [own.1], "{name}");
        let log = engine.log().await;
        assert!(
            log.iter().all(|line| line.reason == "TASK_COMPLETED"),
            "{log:?}"
        );
        assert!(
            log.iter()
                .all(|line| line.entity.as_deref() == Some("build_climate"))
        );
        let version = engine.relay.rules.current().version().to_string();
        assert!(log.iter().all(|line| line.rules == version), "{log:?}");
    }
}

async fn reported_id_with_special_characters_removes_only_its_own_key(backend: DatabaseBackend) {
    let engine = Engine::with(backend, ROWS).await;
    for id in ["*", "?", "[ab]", "a\\", "{x}", "a:b", "%2A", " "] {
        let row = json!({ "change": "row_changed", "table": "tlog", "row": { "user_id": id } });
        engine.report(row).await;
        engine
            .put(&["stats:a", "stats:b", "stats:*", "stats:a:b", "stats:site"])
            .await;
        engine.drain().await;
        let left = engine.left(&["stats:a", "stats:b", "stats:*", "stats:a:b", "stats:site"]);
        assert_eq!(
            left.await,
            ["stats:a", "stats:b", "stats:*", "stats:a:b"],
            "{id}"
        );
    }
    let log = engine.log().await;
    let named: Vec<&str> = log.iter().map(|line| line.keys[0].as_str()).collect();
    assert!(
        named.contains(&"stats:%2A") && named.contains(&"stats:%252A"),
        "{named:?}"
    );
}

async fn reported_unknown_task_is_settled_without_a_removal(backend: DatabaseBackend) {
    let engine = Engine::by(backend, "rules.json", Some(TASKS)).await;
    engine.put(&["overview"]).await;
    for task in ["build_nothing", "nobody_knows_it"] {
        engine
            .report(json!({ "change": "task_completed", "task": task }))
            .await;
    }
    engine
        .report(json!({ "change": "row_changed", "table": "tlog", "row": {} }))
        .await;
    engine.drain().await;
    assert_eq!(engine.home.outbox().await, [0; 0]);
    assert_eq!(engine.left(&["overview"]).await, ["overview"]);
    assert_eq!(engine.log().await, []);
}

async fn target_that_cannot_be_rendered_does_not_stop_the_others(backend: DatabaseBackend) {
    let (log, _listening) = CapturedLog::start();
    let engine = Engine::by(backend, "rules.json", Some(TASKS)).await;
    engine.put(&["overview", "climate::v2"]).await;
    engine
        .report(json!({ "change": "task_completed", "task": "build_climate" }))
        .await;
    engine
        .report(json!({ "change": "task_completed", "task": "build_climate", "run_id": "" }))
        .await;
    engine.drain().await;
    assert_eq!(
        engine.left(&["overview", "climate::v2"]).await,
        ["climate::v2"]
    );
    assert_eq!(engine.home.outbox().await, [0; 0]);
    let told = log.lines("rules.target_failed");
    assert!(
        told.iter()
            .any(|line| line.contains("climate:{run_id}:v2") && line.contains("run_id")),
        "{told:?}"
    );
    assert!(
        told.iter().any(|line| line.contains("is empty")),
        "{told:?}"
    );
}

async fn repeated_report_is_harmless(backend: DatabaseBackend) {
    let engine = Engine::with(backend, ROWS).await;
    let row = json!({ "change": "row_changed", "table": "tlog", "row": { "user_id": 7 } });
    engine.put(&["stats:7", "stats:site"]).await;
    for _ in 0..3 {
        engine.report(row.clone()).await;
    }
    engine.drain().await;
    let log = engine.log().await;
    assert_eq!(log.len(), 1, "told three times, removed once: {log:?}");
    assert_eq!(log[0].keys, ["stats:7", "stats:site"]);
    assert_eq!(log[0].existed, 2);
    engine.report(row).await;
    engine.drain().await;
    let log = engine.log().await;
    assert_eq!((log.len(), log[1].existed), (2, 0));
}

async fn report_writes_only_our_own_tables(backend: DatabaseBackend) {
    let engine = Engine::with(backend, ROWS).await;
    let home = &engine.home;
    // The words of the application that reports.
    home.write("CREATE TABLE tlog (id bigint PRIMARY KEY, user_id bigint)")
        .await;
    home.write("CREATE TABLE background_tasks (task_name text PRIMARY KEY, enabled bool)")
        .await;
    home.write("INSERT INTO tlog VALUES (1, 7)").await;
    home.write("INSERT INTO background_tasks VALUES ('build_climate', true)")
        .await;
    let rows = [
        "SELECT CAST(id AS text) || ' ' || CAST(user_id AS text) FROM tlog",
        "SELECT task_name || ' ' || CAST(enabled AS text) FROM background_tasks",
    ];
    let before = [home.query(rows[0]).await, home.query(rows[1]).await];
    for n in 0..20 {
        engine
            .report(json!({ "change": "task_completed", "task": "build_climate", "run_id": n }))
            .await;
        engine
            .report(json!({ "change": "row_changed", "table": "tlog", "row": { "user_id": n } }))
            .await;
    }
    engine.drain().await;
    assert!(!engine.log().await.is_empty());
    assert_eq!(
        [home.query(rows[0]).await, home.query(rows[1]).await],
        before
    );
}
