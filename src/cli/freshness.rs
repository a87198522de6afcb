//! The part of `status` about freshness: percentiles, share of clean changes, canary and stale reads, from the
//! report that the leading daemon stored last.

use serde_json::Value;

use super::output::out;
use oddsd_core::model::sanitize_text;

/// Number of stale reads in the text; `--json` has all of them.
const SHOWN: usize = 5;

/// Prints the report; it is not an object if the daemon does not audit.
pub fn print_freshness(report: &Value) {
    let Some(clean) = report["clean"].as_object() else {
        return out!("fresh     unknown: no daemon has audited here (AUDIT)");
    };
    let commit = percentiles(&report["commit_to_readable"]);
    match &report["freshness"] {
        Value::Null => out!("fresh     commit to readable {commit}"),
        feed => out!(
            "fresh     feed to readable {}; commit to readable {commit}",
            percentiles(feed)
        ),
    }
    let shares = crate::audit::SLO_WINDOWS.iter().map(|(within, _)| {
        match clean.get(*within).and_then(Value::as_f64) {
            Some(share) => format!("{} % within {within}", percent(share)),
            None => format!("? within {within}"),
        }
    });
    out!(
        "clean     {} ({} changes audited)",
        shares.collect::<Vec<_>>().join(", "),
        report["looked_at"]
    );
    match report["canary"]["age_seconds"].as_f64() {
        Some(age) => out!("canary    last reached a reader {age:.1} s before this report"),
        None => out!("canary    none"),
    }
    let offenders = report["offenders"].as_array().into_iter().flatten();
    for offender in offenders.take(SHOWN) {
        let text = |name: &str| sanitize_text(offender[name].as_str().unwrap_or("?"), 120);
        out!(
            "offender  {} at {}: {} was old at the {} level from {} to {} ms after the commit",
            text("cause"),
            text("committed_at"),
            text("key"),
            text("level"),
            offender["first_seen_ms"],
            offender["last_seen_ms"]
        );
    }
}

/// Rounds down, so that only a full share shows 100.
fn percent(share: f64) -> f64 {
    (share * 1000.0).floor() / 10.0
}

fn percentiles(times: &Value) -> String {
    match (times["p50_ms"].as_f64(), times["p99_ms"].as_f64()) {
        (Some(p50), Some(p99)) => format!("p50 {p50:.1} ms, p99 {p99:.1} ms"),
        _ => "not measured lately".into(),
    }
}
