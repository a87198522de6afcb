//! `rules check|test|explain`, which need neither a database nor a cache.

use serde_json::json;

use crate::harness::program::Program;

const RULES: &str = r#"version = 3
[[rule]]
name = "climate"
on = ["task_completed"]
when = { task = "build_climate" }
keys = ["climate:{run_id}:v2", "overview"]

[[rule]]
name = "moved"
on = ["price_changed"]
when = { movement = "significant" }
keys = ["best:{event_id}:{bookmaker}"]

[[test]]
name = "a run"
change = { change = "task_completed", task = "build_climate", run_id = "7" }
removes = ["climate:7:v2", "overview"]
"#;

/// A folder with this text as its rules file.
fn with(text: &str) -> Program {
    let oddsd = Program::new();
    write(&oddsd, "rules.toml", text);
    oddsd
}

fn write(oddsd: &Program, name: &str, text: &str) {
    std::fs::write(oddsd.folder().join(name), text).expect("written");
}

#[tokio::test]
async fn valid_file_passes_check_and_test() {
    let oddsd = with(RULES);
    oddsd
        .run(&["rules", "check"])
        .await
        .expect_code(0)
        .expect_texts(&["rules.toml: valid", "5 rules", "version 3 "]);
    let output = oddsd
        .run(&["rules", "check", "--json"])
        .await
        .expect_code(0)
        .json();
    assert_eq!(
        output["rules"],
        json!(["live-odds", "event", "sidebar", "climate", "moved"])
    );
    assert_eq!(
        (&output["tests"], &output["tests_failed"]),
        (&json!(1), &json!(0))
    );
    oddsd
        .run(&["rules", "test"])
        .await
        .expect_code(0)
        .expect_texts(&["1 tests pass"]);
    let output = oddsd
        .run(&["rules", "test", "rules.toml", "--json"])
        .await
        .expect_code(0)
        .json();
    assert_eq!(
        (&output["tests"], &output["failed"]),
        (&json!(1), &json!([]))
    );
    // Another file, by argument and by setting.
    write(
        &oddsd,
        "other.json",
        r#"{"rules":{"t":{"invalidates_cache":["a"]}},"cache_keys":{"a":"a:v1"}}"#,
    );
    oddsd
        .run(&["rules", "check", "other.json"])
        .await
        .expect_code(0)
        .expect_texts(&["other.json: valid", "4 rules"]);
    let oddsd = oddsd.with("RULES_FILE", "other.json");
    oddsd
        .run(&["rules", "check"])
        .await
        .expect_code(0)
        .expect_texts(&["other.json: valid"]);
    oddsd
        .run(&["rules", "test"])
        .await
        .expect_code(0)
        .expect_texts(&["holds no tests", "[[test]]"]);
}

#[tokio::test]
async fn invalid_file_is_reported_fault_by_fault() {
    let oddsd = with(
        "[[rule]]\nname = \"a\"\non = [\"odd_move\"]\nkeys = [\"odds:{evnt_id}\"]\nthen = \"warm\"\n",
    );
    for command in [
        &["rules", "check"][..],
        &["rules", "test", "rules.toml"],
        &["rules", "check", "--json"],
    ] {
        let output = oddsd.run(command).await.expect_code(78);
        output.expect_texts(&[
            "rules.toml:3:7: unknown change \"odd_move\"",
            "rules.toml:5:1: unknown then \"warm\"",
        ]);
    }
    let nowhere = Program::new();
    for command in [
        &["rules", "check"][..],
        &["rules", "test"],
        &["rules", "check", "nowhere.toml"],
    ] {
        nowhere.run(command).await.expect_code(78).expect_texts(&[
            "cannot read",
            ".toml",
            "RULES_FILE",
        ]);
    }
}

#[tokio::test]
async fn failing_test_is_reported_with_its_line() {
    let oddsd = with(&RULES.replace(
        "\"climate:7:v2\", \"overview\"]",
        "\"climate:8:v2\", \"overview\"]",
    ));
    oddsd
        .run(&["rules", "check"])
        .await
        .expect_code(0)
        .expect_texts(&["1 of its 1 tests fail"]);
    let output = oddsd.run(&["rules", "test"]).await.expect_code(1);
    output.expect_texts(&["rules.toml:14: test \"a run\" fails; not removed: climate:8:v2; removed as well: climate:7:v2", "1 of 1 tests fail"]);
    let output = oddsd
        .run(&["rules", "test", "--json"])
        .await
        .expect_code(1)
        .json();
    let failed = &output["failed"][0];
    assert_eq!(
        (&failed["line"], &failed["name"]),
        (&json!(14), &json!("a run"))
    );
    assert_eq!(
        (&failed["missing"], &failed["extra"]),
        (&json!(["climate:8:v2"]), &json!(["climate:7:v2"]))
    );
}

#[tokio::test]
async fn explain_lists_matching_rules_and_keys() {
    let oddsd = with(RULES);
    let task = r#"{"change":"task_completed","task":"build_climate","run_id":"ab-12"}"#;
    let output = oddsd
        .run(&["rules", "explain", "--change", task])
        .await
        .expect_code(0);
    output.expect_texts(&[
        "rule climate (TASK_COMPLETED, remove)",
        "target climate:{run_id}:v2",
        "-> climate:ab-12:v2",
        "-> overview",
    ]);
    let output = oddsd
        .run(&["rules", "explain", "--change", task, "--json"])
        .await
        .expect_code(0)
        .json();
    assert_eq!(output["matched"].as_array().map(Vec::len), Some(1));
    let rule = &output["matched"][0];
    assert_eq!(
        (&rule["rule"], &rule["reason"], &rule["then"]),
        (
            &json!("climate"),
            &json!("TASK_COMPLETED"),
            &json!("remove")
        )
    );
    assert_eq!(rule["targets"], json!(["climate:{run_id}:v2", "overview"]));
    assert_eq!(rule["keys"], json!(["climate:ab-12:v2", "overview"]));
    assert!(
        output["version"]
            .as_str()
            .is_some_and(|version| version.starts_with("3 "))
    );

    // Keys that cannot be formatted, keys that are kept, and rules that do not match.
    let task = r#"{"change":"task_completed","task":"build_climate"}"#;
    oddsd
        .run(&["rules", "explain", "--change", task])
        .await
        .expect_code(0)
        .expect_texts(&["-> overview", "error:", "run_id"]);
    let other = r#"{"change":"task_completed","task":"other"}"#;
    oddsd
        .run(&["rules", "explain", "--change", other])
        .await
        .expect_code(0)
        .expect_texts(&[
            "removes nothing",
            "climate does not match: only for task build_climate",
        ]);
    let small = r#"{"change":"price_changed","event_id":"e*","current_status":"live","market":"win","bookmaker":"b","movement":"10%"}"#;
    let output = oddsd
        .run(&["rules", "explain", "--change", small])
        .await
        .expect_code(0);
    output
        .expect_texts(&["-> odds:live:e%2A", "only for movements over 10 %"])
        .expect_none_of(&["-> best:"]);
    let large = small.replace("\"10%\"", "\"10.01%\"");
    oddsd
        .run(&["rules", "explain", "--change", &large])
        .await
        .expect_code(0)
        .expect_texts(&["rule moved (ODDS_MOVEMENT, remove)", "-> best:e%2A:b"]);
    // Without a file the built-in rules apply.
    let none = Program::new();
    let added = r#"{"change":"event_added","event_id":"e","sport_id":"s","league_id":"l"}"#;
    none.run(&["rules", "explain", "--change", added])
        .await
        .expect_code(0)
        .expect_texts(&["rule sidebar", "-> sidebar:s:l:*", "-> odds:postponed:e"]);
    for (change, word) in [
        ("{", "not JSON"),
        (r#"{"change":"odd_move"}"#, "unknown change"),
        ("[]", "object"),
    ] {
        none.run(&["rules", "explain", "--change", change])
            .await
            .expect_code(78)
            .expect_texts(&["--change", word]);
    }
}
