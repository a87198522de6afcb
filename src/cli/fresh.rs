//! The part of `status` that says how fresh readers are, as the leading daemon last told it.

use serde_json::Value;

use super::say::say;
use crate::model::plain_text;

/// Offenders that a person is shown; `--json` has all of them.
const SHOWN: usize = 5;

/// `audit`: what the daemon wrote down with its lease; anything else where it does not audit.
pub fn print_freshness(audit: &Value) {
    let Some(clean) = audit["clean"].as_object() else {
        return say!("fresh     not known: no daemon has audited here (AUDIT)");
    };
    let told = match &audit["freshness"] {
        Value::Null => format!("commit to readable {}", took(&audit["commit_to_readable"])),
        feed => format!(
            "feed to readable {}; commit to readable {}",
            took(feed),
            took(&audit["commit_to_readable"])
        ),
    };
    say!("fresh     {told}");
    let clean: Vec<String> = crate::audit::WITHIN
        .iter()
        .map(
            |(within, _)| match clean.get(*within).and_then(Value::as_f64) {
                Some(share) => format!("{} % within {within}", percent(share)),
                None => format!("? within {within}"),
            },
        )
        .collect();
    say!(
        "clean     {} ({} changes looked at)",
        clean.join(", "),
        audit["looked_at"]
    );
    match audit["canary"]["age_seconds"].as_f64() {
        Some(age) => say!("canary    last came through {age:.1} s before that was written"),
        None => say!("canary    none"),
    }
    let offenders = audit["offenders"].as_array().into_iter().flatten();
    for offender in offenders.take(SHOWN) {
        let text = |name: &str| plain_text(offender[name].as_str().unwrap_or("?"), 120);
        say!(
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

/// Never "100" of what was not all.
fn percent(share: f64) -> String {
    let tenths = (share * 1000.0).floor() / 10.0;
    format!("{tenths}")
}

fn took(took: &Value) -> String {
    let ms = |name: &str| took[name].as_f64();
    match (ms("p50_ms"), ms("p99_ms")) {
        (Some(p50), Some(p99)) => format!("p50 {p50:.1} ms, p99 {p99:.1} ms"),
        _ => "not measured of late".into(),
    }
}
