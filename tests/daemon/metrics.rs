//! Metrics and freshness of a running daemon: in `/metrics`, in `/v1/freshness`, in the verbose readiness check
//! and in `oddsd status`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::DaemonStack;
use super::fixture::{INVALIDATED, get};
use crate::harness::daemon::DaemonProcess;
use crate::harness::program::Program;
use oddsd_testkit::eventually;
use oddsd_testkit::upstash::UpstashStandIn;

/// A parsed page of metrics. The parser is strict: each sample belongs to the family that was announced just
/// before it, once, with help and type.
struct Metrics(BTreeMap<String, Family>);

#[derive(Default)]
struct Family {
    kind: String,
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    let first = bytes.next();
    first.is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Parses `a="b",c="d"}` and returns the rest of the text.
fn labels(mut text: &str) -> (BTreeMap<String, String>, &str) {
    let mut labels = BTreeMap::new();
    loop {
        let (name, rest) = text.split_once("=\"").expect("a label");
        assert!(is_name(name), "{name:?}");
        let (mut value, mut chars) = (String::new(), rest.char_indices());
        let end = loop {
            match chars.next().expect("a closed label") {
                (at, '"') => break at,
                (_, '\\') => match chars.next().expect("an escaped character").1 {
                    'n' => value.push('\n'),
                    c @ ('\\' | '"') => value.push(c),
                    other => panic!("\\{other} escapes nothing"),
                },
                (_, c) => value.push(c),
            }
        };
        assert_eq!(labels.insert(name.into(), value), None, "{name} twice");
        text = &rest[end + 1..];
        match text.split_at(1) {
            (",", rest) => text = rest,
            ("}", rest) => return (labels, rest),
            (other, _) => panic!("{other:?} after a label"),
        }
    }
}

impl Metrics {
    fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'));
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let mut current = String::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').expect("a name and its help");
                assert!(is_name(name) && words.len() > 10, "{line}");
                let announced = lines.next().expect("a type after the help");
                let kind = announced.strip_prefix(&format!("# TYPE {name} "));
                let kind = kind.unwrap_or_else(|| panic!("{announced} after {line}"));
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
                let kind = kind.to_owned();
                let family = Family {
                    kind,
                    ..Family::default()
                };
                assert!(families.insert(name.into(), family).is_none(), "{name}");
                current = name.into();
                continue;
            }
            let end = line.find(['{', ' ']).expect("a sample");
            let (name, rest) = line.split_at(end);
            let (labels, rest) = match rest.strip_prefix('{') {
                Some(rest) => labels(rest),
                None => (BTreeMap::new(), rest),
            };
            let value: f64 = rest
                .strip_prefix(' ')
                .expect("a value")
                .parse()
                .expect(line);
            let family = families.get_mut(&current).expect("announced");
            let suffix = name.strip_prefix(&current).expect(line);
            let allowed: &[&str] = match family.kind.as_str() {
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(is_name(name) && allowed.contains(&suffix), "{line}");
            let same = |(other, with, _): &(String, _, _)| other == name && *with == labels;
            assert!(!family.samples.iter().any(same), "{line} twice");
            family.samples.push((name.into(), labels, value));
        }
        let metrics = Self(families);
        for (name, family) in &metrics.0 {
            if family.kind == "counter" {
                assert!(
                    name.ends_with("_total") && !family.samples.is_empty(),
                    "{name}"
                );
            }
            if family.kind == "histogram" {
                metrics.assert_histogram(name);
            }
        }
        metrics
    }

    fn assert_histogram(&self, name: &str) {
        let samples = &self.0[name].samples;
        let buckets: Vec<(f64, f64)> = samples
            .iter()
            .filter(|(sample, ..)| sample.ends_with("_bucket"))
            .map(|(_, labels, count)| (labels["le"].parse().expect("a bound"), *count))
            .collect();
        assert!(
            buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1),
            "{name}"
        );
        let (bound, all) = buckets.last().expect("buckets");
        assert_eq!(*bound, f64::INFINITY);
        assert_eq!(*all, self.value(&format!("{name}_count"), &[]));
        assert!(self.value(&format!("{name}_sum"), &[]) >= 0.0);
    }

    fn find(&self, name: &str, with: &[(&str, &str)]) -> Option<f64> {
        let with: BTreeMap<String, String> = with
            .iter()
            .map(|(label, text)| (label.to_string(), text.to_string()))
            .collect();
        let mut samples = self.0.values().flat_map(|family| &family.samples);
        let found = samples.find(|(sample, labels, _)| sample == name && *labels == with);
        found.map(|(.., value)| *value)
    }

    fn value(&self, name: &str, with: &[(&str, &str)]) -> f64 {
        self.find(name, with)
            .unwrap_or_else(|| panic!("no {name} with {with:?}"))
    }
}

async fn metrics(url: &str) -> Metrics {
    let answer = get(&format!("{url}/metrics")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4");
    Metrics::parse(&answer.body)
}

#[tokio::test]
async fn metrics_exist_from_the_start_and_count_changes() {
    let (mut town, mut card) = DaemonStack::with_card().await;
    town.settings = town.settings.with("AUDIT", "true");
    let mut daemon = town.run();
    let url = daemon.url().await;
    let first = metrics(&url).await;
    for cause in [
        "lost",
        "late",
        "database_wait",
        "late_fill",
        "first_level_gap",
        "ttl_only",
    ] {
        first.value("oddsd_audit_offenders_total", &[("cause", cause)]);
    }
    for result in [
        "first_level_hit",
        "second_level_hit",
        "stale",
        "miss",
        "bypass",
    ] {
        let reads = first.value("oddsd_cache_reads_total", &[("result", result)]);
        assert_eq!(reads, 0.0, "no read yet");
    }
    for why in ["late", "lease", "epoch"] {
        first.value("oddsd_cache_fills_refused_total", &[("why", why)]);
    }
    let build = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("store", "postgres"),
        ("cache", "redis"),
    ];
    assert_eq!(first.value("oddsd_build_info", &build), 1.0);

    daemon.wait_for_log(INVALIDATED).await;
    card.set_price("7.5");
    town.serve(&card);
    daemon
        .wait_for_logs(["Cycle complete: 1 updated", INVALIDATED])
        .await;
    get(&format!("{url}/v1/races/by-stage")).await;
    let second = async || {
        let seen = metrics(&url).await;
        let changes = seen.value("oddsd_freshness_seconds_count", &[]);
        if changes >= 2.0 {
            Ok(seen)
        } else {
            Err(changes)
        }
    };
    let seen = eventually("the freshness of the second change", second).await;
    assert!(seen.value("oddsd_cycles_total", &[]) >= 2.0);
    let prices = |outcome| seen.value("oddsd_prices_total", &[("outcome", outcome)]);
    assert_eq!((prices("inserted"), prices("changed")), (48.0, 1.0));
    assert!(seen.value("oddsd_commit_to_readable_seconds_count", &[]) >= 2.0);
    // Whether Redis answered in time decides how the one read is counted.
    let reads = ["miss", "bypass", "second_level_hit", "first_level_hit"]
        .map(|result| seen.value("oddsd_cache_reads_total", &[("result", result)]));
    assert_eq!(reads.iter().sum::<f64>(), 1.0);
    seen.value("oddsd_outbox_pending", &[]);
    seen.value("oddsd_outbox_oldest_seconds", &[]);
    // The share depends on the machine; that there is one does not.
    let audited = async || {
        let seen = metrics(&url).await;
        seen.find("oddsd_changes_clean_ratio", &[("within", "2s")])
            .ok_or("no ratio")
    };
    let share = eventually("an audited change", audited).await;
    assert!((0.0..=1.0).contains(&share), "{share}");
    seen.value("oddsd_canary_age_seconds", &[]);
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn freshness_is_in_the_api_the_readiness_check_and_the_status() {
    let (mut town, _card) = DaemonStack::with_card().await;
    town.settings = town.settings.with("AUDIT", "true");
    let mut daemon = town.run();
    let url = daemon.url().await;
    daemon.wait_for_log(INVALIDATED).await;
    let fresh = async || {
        let report = get(&format!("{url}/v1/freshness")).await.json();
        let known = report["freshness"]["changes"].as_u64() >= Some(1);
        match known && report["canary"]["beats"].as_u64() >= Some(1) {
            true => Ok(report),
            false => Err(report),
        }
    };
    let report = eventually("the freshness of a change and of the canary", fresh).await;
    assert!(report["freshness"]["p50_ms"].is_number(), "{report}");
    assert!(report["commit_to_readable"]["p99_ms"].is_number());
    let verbose = get(&format!("{url}/readyz?verbose")).await.json();
    assert!(verbose["audit"]["canary"]["beats"].is_number(), "{verbose}");
    let page = get(&url).await.body;
    assert!(page.contains("Freshness p50 / p99"), "{page}");
    // The last report is stored with the lease.
    daemon.stop().await.expect_code(0);
    let oddsd = Program::new().with("DATABASE_URL", &town.database);
    let status = oddsd.run(&["status", "--json"]).await.expect_code(0).json();
    let audit = &status["state"]["audit"];
    assert!(audit["canary"]["beats"].as_u64() >= Some(1), "{audit}");
    assert!(audit["offenders"].is_array() && audit["clean"].is_object());
    let output = oddsd.run(&["status"]).await.expect_code(0);
    output.expect_texts(&[
        "fresh     feed to readable p50 ",
        "clean     ",
        " within 250ms",
        "canary    last",
    ]);
    // The canary's changes are not logged as removals.
    let logged = "SELECT count(*) FROM oddsd.removals WHERE keys LIKE '%canary%'";
    assert_eq!(town.number(logged).await, 0);
}

/// The count in the metrics and in `status` is what the service bills.
#[tokio::test]
async fn commands_of_a_billed_cache_are_counted() {
    let (mut stack, _card) = DaemonStack::with_card().await;
    let upstash = UpstashStandIn::start(stack.redis.port(), "up-secret").await;
    stack.settings = stack
        .settings
        .with("REDIS_URL", "")
        .with("UPSTASH_REDIS_REST_URL", upstash.url())
        .with("UPSTASH_REDIS_REST_TOKEN", "up-secret")
        .with("CANARY_SECONDS", "1")
        .with("AUDIT", "true");
    let mut daemon = stack.run();
    let url = daemon.url().await;
    daemon.wait_for_log(INVALIDATED).await;
    let counted = async || {
        let earlier = upstash.billed() as f64;
        let seen = metrics(&url).await;
        let (commands, later) = (
            seen.value("oddsd_cache_commands_total", &[]),
            upstash.billed() as f64,
        );
        // A command is counted by the service before its answer arrives here.
        match earlier > 20.0 && earlier == later && commands == later {
            true => Ok(()),
            false => Err((earlier, commands, later)),
        }
    };
    eventually("both count the same", counted).await;
    daemon.stop().await.expect_code(0);
    let oddsd = Program::new().with("DATABASE_URL", &stack.database);
    let status = oddsd.run(&["status", "--json"]).await.expect_code(0).json();
    let cache = &status["state"]["cache"];
    assert_eq!(cache["is_billed"], true, "{cache}");
    assert!(cache["commands"].as_u64() >= Some(1), "{cache}");
    let text = oddsd.run(&["status"]).await.expect_code(0);
    text.expect_texts(&["cost      ", "billed commands since the start"]);
}

#[tokio::test]
async fn freshness_without_audit_is_404() {
    let (mut town, _card) = DaemonStack::with_card().await;
    town.settings = town.settings.with("AUDIT", "false");
    let mut daemon: DaemonProcess = town.run();
    let url = daemon.url().await;
    daemon.wait_for_log(INVALIDATED).await;
    let answer = get(&format!("{url}/v1/freshness")).await;
    assert_eq!(answer.status, 404);
    assert!(
        answer.json()["hint"]
            .as_str()
            .is_some_and(|hint| hint.contains("AUDIT"))
    );
    let seen = metrics(&url).await;
    assert!(!seen.0.contains_key("oddsd_freshness_seconds"));
    seen.value("oddsd_outbox_pending", &[]);
    let verbose = get(&format!("{url}/readyz?verbose")).await.json();
    assert_eq!(verbose["audit"], Value::Null);
    daemon.stop().await.expect_code(0);
    let beat = "SELECT beat FROM oddsd.canary";
    assert_eq!(town.number(beat).await, 0, "no canary without an audit");
}
