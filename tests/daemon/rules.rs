//! Tests of the rules file of a running daemon: present at the start or later, edited, invalid, mended;
//! and of its status in the log and the API.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::DaemonStack;
use super::fixture::get;
use crate::harness::daemon::DaemonProcess;
use crate::harness::program::Program;
use oddsd_testkit::eventually;

const TOKEN: &str = "RulesCanary-77";

struct Ruled {
    stack: DaemonStack,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Ruled {
    async fn build() -> Self {
        let (mut stack, _) = DaemonStack::with_card().await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("rules.toml");
        stack.settings = stack
            .settings
            .with("RULES_FILE", file.display().to_string())
            .with("REPORT_TOKEN", TOKEN)
            .with("LEASE_SECONDS", "6");
        Self {
            stack,
            file,
            _folder: folder,
        }
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.file, text).expect("written");
    }

    fn swap(&self, text: &str) {
        let other = self.file.with_extension("new");
        std::fs::write(&other, text).expect("written");
        std::fs::rename(other, &self.file).expect("renamed");
    }

    /// The rules in the verbose readiness answer.
    async fn shown(&self, url: &str) -> Value {
        get(&format!("{url}/readyz?verbose")).await.json()["rules"].clone()
    }

    async fn status_shows(&self, texts: &[&str]) {
        let oddsd = Program::new().with("DATABASE_URL", &self.stack.database);
        eventually("oddsd status shows the rules", async || {
            let shown = oddsd.run(&["status"]).await.expect_code(0).all();
            let all = texts.iter().all(|text| shown.contains(text));
            all.then_some(()).ok_or(shown)
        })
        .await;
    }
}

fn rule(key: &str) -> String {
    format!("[[rule]]\nname = \"task\"\non = [\"task_completed\"]\nkeys = [\"{key}\"]\n")
}

/// Reports a finished job of another system.
async fn done(url: &str) {
    let body = json!({ "change": "task_completed", "task": "build" }).to_string();
    let client = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    let sent = client
        .post(format!("{url}/v1/changes"))
        .bearer_auth(TOKEN)
        .body(body)
        .send()
        .await;
    assert_eq!(sent.expect("an answer").status().as_u16(), 202);
}

/// The next removal for that job.
async fn removed(daemon: &mut DaemonProcess, url: &str) -> (String, Value) {
    let events = format!("{url}/v1/invalidations/events?entity=build");
    let count = async || {
        get(&events).await.json()["count"]
            .as_u64()
            .expect("a number")
    };
    let before = count().await;
    done(url).await;
    eventually("the removal is listed", async || {
        let now = count().await;
        (now != before).then_some(()).ok_or(now)
    })
    .await;
    daemon.skip_log();
    let page = get(&events).await.json();
    let last = page["events"]
        .as_array()
        .and_then(|all| all.last())
        .expect("an event")
        .clone();
    (
        last["rules_version"]
            .as_str()
            .expect("a version")
            .to_owned(),
        last["targets"].clone(),
    )
}

#[tokio::test]
async fn rules_reload_while_running_and_invalid_ones_are_refused() {
    let ruled = Ruled::build().await;
    let mut daemon = ruled.stack.run();
    let url = daemon.url().await;
    daemon.wait_for_log("Cycle complete").await;
    assert_eq!(ruled.shown(&url).await["version"], "built-in");

    ruled.write(&rule("a:v1"));
    daemon.wait_for_log("event=rules.loaded").await;
    let (first, targets) = removed(&mut daemon, &url).await;
    assert_eq!(targets, json!(["a:v1"]));
    let shown = ruled.shown(&url).await;
    assert_eq!(
        (&shown["version"], &shown["rules"], &shown["error"]),
        (&json!(first), &json!(4), &Value::Null)
    );

    ruled.swap(&rule("b:v1"));
    daemon.wait_for_log("event=rules.loaded").await;
    let (second, targets) = removed(&mut daemon, &url).await;
    assert_eq!(targets, json!(["b:v1"]));
    assert_ne!(first, second);

    ruled.swap("[[rule]]\nname = \"task\"\non = [\"task_complete\"]\nkeys = [\"c:v1\"]\n");
    let line = daemon.wait_for_log("event=rules.refused").await;
    assert!(
        line.contains("rules.toml:3:7: unknown change") && line.contains("did you mean"),
        "{line}"
    );
    assert_eq!(
        removed(&mut daemon, &url).await,
        (second.clone(), json!(["b:v1"]))
    );
    let shown = ruled.shown(&url).await;
    assert_eq!(shown["version"], json!(second));
    assert!(
        shown["error"]
            .as_str()
            .is_some_and(|why| why.contains("rules.toml:3:7")),
        "{shown}"
    );
    ruled
        .status_shows(&[
            "rules     4 of",
            "invalid now",
            "rules.toml:3:7: unknown change",
        ])
        .await;

    ruled.write(&rule("c:v1"));
    daemon.wait_for_log("event=rules.loaded").await;
    assert_eq!(removed(&mut daemon, &url).await.1, json!(["c:v1"]));
    assert_eq!(ruled.shown(&url).await["error"], Value::Null);
    let reported = daemon.stop().await.expect_code(0);
    assert_eq!(reported.count("event=rules.refused"), 1);
    assert_eq!(reported.count("event=rules.loaded"), 3);
}

#[tokio::test]
async fn invalid_rules_file_prevents_the_start() {
    let ruled = Ruled::build().await;
    for (text, place) in [
        ("= 1\n", "rules.toml:1:1"),
        (
            "version = 1\nbultin = false\n",
            "rules.toml:2:1: unknown field \"bultin\"",
        ),
    ] {
        ruled.write(text);
        let ended = ruled.stack.run().wait_for_exit().await.expect_code(78);
        assert!(ended.text().contains(place), "{}", ended.text());
        let ended = ruled.stack.run_once().await.expect_code(78);
        assert!(
            ended.text().contains("oddsd rules check"),
            "{}",
            ended.text()
        );
    }
    ruled.write(&rule("a:v1"));
    let mut daemon = ruled.stack.run();
    let url = daemon.url().await;
    assert_eq!(removed(&mut daemon, &url).await.1, json!(["a:v1"]));
    daemon.stop().await.expect_code(0);
}

/// A start with a corrupt or missing file: the daemon must not take the odds down with it.
#[tokio::test]
async fn start_without_a_valid_file_uses_the_last_valid_text_until_it_is_repaired() {
    let ruled = Ruled::build().await;
    ruled.write(&rule("a:v1"));
    ruled.stack.run_once().await.expect_code(0);
    std::fs::remove_file(&ruled.file).expect("removed");
    for damage in [None, Some("[[rule\n"), Some("name = \"\u{0}\"")] {
        if let Some(text) = damage {
            ruled.write(text);
        }
        let mut daemon = ruled.stack.run();
        let line = daemon.wait_for_log("event=rules.kept").await;
        assert!(line.contains("rules.toml"), "{line}");
        let url = daemon.url().await;
        assert_eq!(removed(&mut daemon, &url).await.1, json!(["a:v1"]));
        let shown = ruled.shown(&url).await;
        assert!(shown["error"].is_string(), "{shown}");
        ruled.status_shows(&["rules     4 of", "invalid now"]).await;
        daemon.stop().await.expect_code(0);
    }

    // Repaired while it runs, the file is in force, and its text is the one that is kept.
    let mut daemon = ruled.stack.run();
    let url = daemon.url().await;
    ruled.write(&rule("b:v1"));
    daemon.wait_for_log("event=rules.loaded").await;
    assert_eq!(ruled.shown(&url).await["error"], Value::Null);
    assert_eq!(removed(&mut daemon, &url).await.1, json!(["b:v1"]));
    let kept =
        "SELECT count(*) FROM oddsd.kept_settings WHERE name = 'rules' AND value LIKE '%b:v1%'";
    eventually("the new text is kept", async || {
        let rows = ruled.stack.number(kept).await;
        (rows == 1).then_some(()).ok_or(rows)
    })
    .await;
    daemon.stop().await.expect_code(0);
}
