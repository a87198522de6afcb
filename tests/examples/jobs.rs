//! Tests of `examples/jobs`: the job system's file and reports of its tasks. The expected removals are
//! computed here, from the file alone.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Pages, file, set, shell_lines, text, words};
use crate::harness::daemon::{DaemonEnv, DaemonProcess};
use crate::harness::program::Program;
use crate::store::fixture::{DatabaseBackend, TestDatabase};
use oddsd_testkit::eventually;

const RULES: &str = "examples/jobs/rules.json";
const README: &str = "examples/jobs/README.md";
const TOKEN: &str = "change-me-to-a-long-random-text";
const RUNS: [&str; 2] = ["ab-12", "ab-13"];
/// The suffix that makes keys of a pattern.
const PAGES: [&str; 2] = ["1", "north"];

/// The example file, parsed as plain TOML.
struct Pipeline {
    /// Caches by task.
    tasks: BTreeMap<String, Vec<String>>,
    /// Keys by cache.
    caches: BTreeMap<String, String>,
}

impl Pipeline {
    fn read() -> Self {
        let file: Value = serde_json::from_str(&text(RULES)).expect("JSON");
        let word = |value: &Value| value.as_str().expect("a text").to_owned();
        let tasks = file["rules"].as_object().expect("tasks").iter();
        let caches = file["cache_keys"].as_object().expect("keys").iter();
        Self {
            tasks: tasks
                .map(|(task, rule)| {
                    let named = rule["invalidates_cache"].as_array().expect("caches");
                    (task.clone(), named.iter().map(word).collect())
                })
                .collect(),
            caches: caches
                .map(|(cache, key)| (cache.clone(), word(key)))
                .collect(),
        }
    }

    /// Keys and patterns that a task of this run makes wrong.
    fn targets(&self, task: &str, run: &str) -> BTreeSet<String> {
        let named = self.tasks.get(task).into_iter().flatten();
        named
            .map(|cache| self.caches[cache].replace("{run_id}", run))
            .collect()
    }

    /// Every key that some controller has for some run.
    fn keys(&self) -> BTreeSet<String> {
        let mut keys = set(&["sessions:1", "reports:archive", "climate", "report:ab-1"]);
        for template in self.caches.values() {
            for run in RUNS {
                let key = template.replace("{run_id}", run);
                match key.strip_suffix('*') {
                    // Of all runs: the narrower pattern has its keys.
                    Some(begin) if begin == template.trim_end_matches('*') => {}
                    Some(begin) => keys.extend(PAGES.map(|page| format!("{begin}{page}"))),
                    None => {
                        keys.insert(key);
                    }
                }
            }
        }
        keys
    }

    /// Patterns that name this key.
    fn patterns(&self, key: &str) -> Vec<String> {
        let every = self
            .caches
            .values()
            .flat_map(|template| RUNS.map(|run| template.replace("{run_id}", run)));
        let every: BTreeSet<String> = every.filter(|pattern| hits(pattern, key)).collect();
        every
            .into_iter()
            .filter(|pattern| pattern.ends_with('*'))
            .collect()
    }
}

fn hits(target: &str, key: &str) -> bool {
    match target.strip_suffix('*') {
        Some(begin) => key.starts_with(begin),
        None => key == target,
    }
}

struct Reporter {
    database: TestDatabase,
    pages: Pages,
    pipeline: Pipeline,
    client: reqwest::Client,
    url: String,
}

impl Reporter {
    /// Fills the cache, posts the report, waits until it is settled, and returns the removed keys.
    async fn gone_after(&mut self, body: String) -> BTreeSet<String> {
        let keys = self.pipeline.keys();
        for key in &keys {
            self.pages.put(key, &self.pipeline.patterns(key)).await;
        }
        assert_eq!(self.pages.names().await, keys);
        let request = self.client.post(&self.url).bearer_auth(TOKEN).body(body);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 202);
        let reports = "outbox WHERE kinds = 'task_completed'";
        eventually("the report is settled", async || {
            match self.database.count(reports).await {
                0 => Ok(()),
                waiting => Err(waiting),
            }
        })
        .await;
        let left = self.pages.names().await;
        assert!(left.is_subset(&keys));
        keys.difference(&left).cloned().collect()
    }
}

fn done(task: &str, run: &str) -> Value {
    json!({ "change": "task_completed", "task": task, "run_id": run })
}

/// The bodies of the README's commands.
fn sent() -> String {
    let lines = shell_lines(&text(README));
    let curl = lines.iter().find(|line| line.starts_with("curl "));
    let curl = words(curl.expect("a curl example"));
    assert!(curl.contains(&"Authorization: Bearer $REPORT_TOKEN".to_owned()));
    let at = curl.iter().position(|word| word == "-d").expect("a body");
    curl[at + 1].clone()
}

#[tokio::test]
async fn task_report_removes_exactly_its_caches() {
    let database = DatabaseBackend::Sqlite.migrated().await;
    let pages = Pages::open().await;
    let settings = DaemonEnv::default()
        .with("FEED", "simulator")
        .with("DATABASE_URL", database.url.as_str())
        .with("REDIS_URL", pages.server.url())
        .with("RULES_FILE", file(RULES).display().to_string())
        .with("LISTEN", "127.0.0.1:0")
        .with("REPORT_TOKEN", TOKEN)
        .with("AUDIT", "false")
        .with("LOG_FORMAT", "logfmt")
        // A second removal would meet the keys of the next step, and a slow machine is no fault.
        .with("CACHE_REMOVE_AGAIN_MS", "0")
        .with("CACHE_TIMEOUT_MS", "60000");
    let mut daemon = DaemonProcess::start(&settings, &["run"]);
    let url = format!("{}/v1/changes", daemon.url().await);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build();
    let mut reporter = Reporter {
        database,
        pages,
        pipeline: Pipeline::read(),
        client: client.expect("a client"),
        url,
    };
    let tasks: Vec<String> = reporter.pipeline.tasks.keys().cloned().collect();
    assert!((6..=8).contains(&tasks.len()));
    for task in &tasks {
        let gone = reporter.gone_after(done(task, RUNS[0]).to_string()).await;
        let targets = reporter.pipeline.targets(task, RUNS[0]);
        let mut meant = reporter.pipeline.keys();
        meant.retain(|key| targets.iter().any(|target| hits(target, key)));
        assert_eq!(gone, meant, "{task}");
        assert_eq!(meant.is_empty(), task == "send_mail");
    }

    let unknown = reporter.gone_after(done("defrost", RUNS[0]).to_string());
    assert_eq!(unknown.await, set(&[]), "a task that no rule knows");
    let no_run = json!({ "change": "task_completed", "task": "build_sales" });
    let gone = reporter.gone_after(no_run.to_string()).await;
    assert_eq!(gone, set(&["dashboard:index:v2"]), "what can be spelt goes");
    let wide = reporter.gone_after(done("build_climate", "*").to_string());
    assert_eq!(wide.await, set(&[]), "a run is no pattern");

    let by_hand = reporter.gone_after(sent()).await;
    let both = [
        done("build_climate", RUNS[0]),
        done("publish_report", RUNS[1]),
    ];
    let at_once = reporter.gone_after(json!(both).to_string()).await;
    let maps = set(&["climate:ab-12:v1", "runs:ab-12:status"]);
    assert!(by_hand.is_superset(&maps) && at_once.is_superset(&by_hand));
    assert!(at_once.contains("report:ab-13:page:1"));
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn task_targets_are_explained_before_the_removal() {
    let pipeline = Pipeline::read();
    let oddsd = Program::new();
    let rules = file(RULES).display().to_string();
    oddsd.run(&["rules", "check", &rules]).await.expect_code(0);
    for task in pipeline.tasks.keys() {
        let change = done(task, "ab-12").to_string();
        let explain = [
            "rules", "explain", "--rules", &rules, "--change", &change, "--json",
        ];
        let reported = oddsd.run(&explain).await.expect_code(0).json();
        let hits = reported["matched"].as_array().expect("rules").iter();
        let keys = hits.flat_map(|hit| hit["keys"].as_array().expect("keys"));
        let keys: BTreeSet<String> = keys
            .map(|key| key.as_str().expect("a key").to_owned())
            .collect();
        assert_eq!(keys, pipeline.targets(task, "ab-12"), "{task}");
    }
    let change = done("defrost", "ab-12").to_string();
    oddsd
        .run(&["rules", "explain", "--rules", &rules, "--change", &change])
        .await
        .expect_code(0)
        .expect_texts(&["no rule is for this change"]);

    // The README shows the same command and its exact answer.
    let readme = text(README);
    let lines = shell_lines(&readme);
    let shown = lines.iter().find(|line| line.contains("rules explain"));
    let mut shown = words(shown.expect("it is shown"));
    let named = shown.iter_mut().find(|word| *word == RULES);
    *named.expect("the file is named") = rules;
    let args: Vec<&str> = shown[1..].iter().map(String::as_str).collect();
    let shown = oddsd.run(&args).await.expect_code(0).stdout;
    assert!(readme.contains(shown.trim()), "{shown}");
}
